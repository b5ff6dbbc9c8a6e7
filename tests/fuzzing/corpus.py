"""A few valid calls of every op of the table, as what a command holds: arguments and input bytes.

They come from the samples that the laws use, so that a new op is fuzzed without a line here.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import Any

import farspan
import numpy as np
import samples
from farspan._tensor import Tensor
from farspan.core.op import Op, table
from farspan.core.spec import Spec
from samples import ROWS, BFloat16, Heads, Maker, Row, Strided, default_calls

_INPUT_BYTES_MAX = 8_192  # of one tensor
_CALLS_MAX = 5  # of one op and dtype
_DTYPES = ("float32", "int64", "bool", "complex64", "bfloat16", "float64", "uint8")


@dataclasses.dataclass(frozen=True, slots=True)
class Input:
    """A tensor that a call takes: made by a Put of these bytes, C order."""

    dtype: int  # its code
    shape: tuple[int, ...]
    data: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Template:
    """One valid call of an op."""

    op: Op
    static: Any
    scalars: tuple[Any, ...]
    inputs: tuple[Input, ...]
    outs: tuple[Spec, ...]  # what it makes; of a dynamic op only how many is true
    mask: int  # inputs that a formula of the op gives a gradient to


def _bytes(x: Any) -> Any:
    """Return an argument of a sample as a tensor that remembers its bytes."""
    if isinstance(x, Strided | Heads):
        return _bytes(x.values)
    if isinstance(x, BFloat16):
        return _tensor(x.values, farspan.bfloat16)
    if isinstance(x, np.ndarray):
        return _tensor(x, None)
    if isinstance(x, list | tuple):
        return type(x)(map(_bytes, x))
    return x


class _Oversize(Exception):
    pass


_told: dict[int, tuple[Tensor, Input]] = {}  # by `id`, what a tensor was made of


def _tensor(values: Any, dtype: Any) -> Tensor:
    if values.nbytes > _INPUT_BYTES_MAX:
        raise _Oversize
    made = farspan.tensor(values, dtype=dtype)
    spec = made._spec
    held = np.ascontiguousarray(values).astype(spec.dtype.numpy)
    _told[id(made)] = made, Input(spec.dtype.code, spec.shape, held.tobytes())
    return made


def _template(op: Op, sample: Any) -> Template | None:
    tensors, static, scalars = op.bind(
        *map(_bytes, sample.args), **{k: _bytes(v) for k, v in sample.kwargs.items()}
    )
    inputs = []
    for t in tensors:
        told = _told.get(id(t))
        if told is None:
            return None  # the binder has made it of a number
        inputs.append(told[1])
    args = op.recipe(static).args([t._spec for t in tensors], scalars)
    outs, _ = op.infer(args)
    mask = (1 << len(inputs)) - 1
    floating = sum(1 << i for i, t in enumerate(tensors) if t._spec.dtype.category >= 2)
    plan = op.vjp_plan(static, mask & floating) if mask & floating else None
    found = plan.mask if plan is not None else 0
    return Template(op, static, tuple(scalars), tuple(inputs), tuple(outs), found)


def _captured(session: Any) -> list[Template]:
    """Return the calls of ops that have no samples, as optimizers and generators make them."""
    engine, made = session.transport.engines[0], []
    apply = engine._apply

    def watching(op: Op, mode: int, ids: Any, static: Any, scalars: Any) -> None:
        if not op.schema.returns:
            inputs = [engine.tensors[i] for i in ids]
            told = tuple(
                Input(x._spec.dtype.code, x._spec.shape, np.ascontiguousarray(x.array).tobytes())
                for x in inputs
            )
            made.append(Template(op, static, tuple(scalars), told, (), 0))
        apply(op, mode, ids, static, scalars)

    engine._apply = watching
    weights = [farspan.full((3, 4), 0.5).requires_grad_(), farspan.ones(5).requires_grad_()]
    optim = farspan.optim
    kinds = [getattr(optim, n) for n in optim.__all__ if isinstance(getattr(optim, n, None), type)]
    for kind in kinds:
        for extra in ({}, {"momentum": 0.9}, {"amsgrad": True}, {"maximize": True}):
            try:
                stepper = kind(weights, lr=0.1, **extra)
                for w in weights:
                    w.grad = farspan.ones_like(w)
                stepper.step()
                stepper.step()
            except (TypeError, ValueError, RuntimeError):
                continue
    matrices = [farspan.eye(3).requires_grad_()]
    matrices[0].grad = farspan.ones(3, 3)
    optim.Muon(matrices, lr=0.1).step()
    farspan.manual_seed(3)
    farspan.set_rng_state(farspan.get_rng_state())
    norm = farspan.nn.BatchNorm1d(4)
    norm(farspan.ones(6, 4) * 2)
    scaler = farspan.amp.GradScaler("cpu")
    stepper = optim.SGD(weights, lr=0.1)
    for w in weights:
        w.grad = farspan.ones_like(w)
    scaler.scale(weights[0].sum())
    scaler.step(stepper)
    scaler.update()
    average = optim.swa_utils.AveragedModel(farspan.nn.Linear(2, 2))
    average.update_parameters(farspan.nn.Linear(2, 2))
    average.update_parameters(farspan.nn.Linear(2, 2))
    session.synchronize()
    engine._apply = apply
    return made


@functools.cache
def corpus() -> tuple[Template, ...]:
    """Return the templates, the same in every process, in the order of the table."""
    samples.load()
    made: list[Template] = []
    with farspan.connect("local:", replay=False) as session, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, op in table().items():
            if op.body is not None:
                continue
            row = ROWS.get(name, Row())
            if row.make is None and op.family not in ("pointwise", "reduction"):
                continue
            for dtype in [d for d in _DTYPES if d in (row.dtypes or _DTYPES)][:4]:
                make = Maker(dtype)
                calls = row.make(make) if row.make else default_calls(op, make)
                for sample in calls[:_CALLS_MAX]:
                    try:
                        found = _template(op, sample)
                    except (farspan.FarspanError, TypeError, ValueError, _Oversize, IndexError):
                        continue
                    if found is not None:
                        made.append(found)
        _told.clear()
        captured = _captured(session)
        for name in {t.op.name for t in captured}:  # set order does not matter: sorted below
            made += [t for t in captured if t.op.name == name][:6]
    made.sort(key=lambda t: t.op.opcode)  # stable
    return tuple(made)
