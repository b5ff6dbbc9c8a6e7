"""What holds for every op of the table, with torch as the oracle. Adding an op adds no code here.

schema    our line is torch's                 meta      shape, dtype and strides are torch's
value     the kernel computes what torch does vjp       gradients equal torch's and differences,
replay    the same frames give the same bits            at first and second order
in place  `op_` is torch's `op_`               wire      decode(encode(frame)) == frame
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import warnings
from typing import Any

import farspan
import numpy as np
import pytest
import samples
import torch
from farspan import wire
from farspan._tensor import Tensor
from farspan.core.call import fn
from farspan.core.command import Frame
from farspan.core.op import Op, table
from farspan_worker.engine import Engine
from farspan_worker.store import Array
from samples import ALL, ROWS, BFloat16, Call, Heads, Maker, Row, Strided, default_calls

torch.set_num_threads(1)
samples.load()
#: Ops that return nothing (optimizer steps, seeds) have tests of their own.
TABLE = {name: op for name, op in table().items() if op.schema.returns}
#: What torch raises where it has no kernel for a dtype, or refuses a value.
REFUSALS = (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError)
PRIMITIVES = [n for n, op in TABLE.items() if op.body is None]
ATEN = [n for n, op in TABLE.items() if op.schema.namespace == "aten"]


@pytest.fixture(autouse=True)
def session() -> Any:
    with farspan.connect("local:") as s:
        yield s


def oracle(op: Op) -> Any:
    """Return torch's op of this name."""
    return getattr(getattr(torch.ops.aten, op.base), op.schema.overload)


def to_torch(x: Any) -> Any:
    if isinstance(x, Strided):
        t = to_torch(x.values)
        return t.movedim(0, -1).contiguous().movedim(-1, 0)
    if isinstance(x, Heads):
        return to_torch(x.values).transpose(1, 2).contiguous().transpose(1, 2)
    if isinstance(x, BFloat16):
        return torch.from_numpy(x.values.copy()).bfloat16()
    if isinstance(x, np.ndarray):
        return torch.from_numpy(x.copy())
    if isinstance(x, (list, tuple)):
        return type(x)(to_torch(i) for i in x)
    return getattr(torch, x.name) if isinstance(x, farspan.dtype) else x


def to_ours(x: Any) -> Any:
    if isinstance(x, Strided):
        t = to_ours(x.values)
        return t.movedim(0, -1).contiguous().movedim(-1, 0)
    if isinstance(x, Heads):
        return to_ours(x.values).transpose(1, 2).contiguous().transpose(1, 2)
    if isinstance(x, BFloat16):
        return farspan.tensor(x.values, dtype=farspan.bfloat16)
    if isinstance(x, np.ndarray):
        return farspan.tensor(x)
    if isinstance(x, (list, tuple)):
        return type(x)(to_ours(i) for i in x)
    return x


def run_ours(op: Op, c: Call, args: Any, kwargs: Any) -> Any:
    if op.body is not None:
        return op.body(*args, **kwargs)
    tensors, static, scalars = op.bind(*args, **kwargs)
    return Tensor._apply(op, tensors, static, scalars, 0)


def convert(c: Call, how: Any) -> tuple[Any, Any]:
    return [how(a) for a in c.args], {k: how(v) for k, v in c.kwargs.items()}


def as_tuple(x: Any) -> tuple[Any, ...]:
    return tuple(x) if isinstance(x, (list, tuple)) else (x,)


def values_of(x: Any) -> Any:
    """Return a farspan tensor as a torch tensor, for comparing."""
    array = x.detach()._fetch()
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    return torch.from_numpy(array.copy())


def assert_same(ours: Any, theirs: Any, row: Row, *what: Any) -> None:
    """Fail unless they are the same. `what` was called is written out only then: it takes long."""
    for a, b in zip(as_tuple(ours), as_tuple(theirs), strict=True):
        if b is None:
            assert a is None, what
            continue
        if isinstance(b, (list, tuple)):
            assert_same(a, b, row, *what)
            continue
        if isinstance(b, bool):
            assert a is b, what
            continue
        assert str(a.dtype) == str(b.dtype), f"{what}: dtype {a.dtype}, torch's is {b.dtype}"
        assert tuple(a.shape) == tuple(b.shape), f"{what}: {a.shape}, torch's is {b.shape}"
        if row.values:
            rtol, atol = row.rtol, row.atol
            if row.half and b.dtype in (torch.float16, torch.bfloat16):
                rtol, atol = row.half
            torch.testing.assert_close(
                values_of(a), b.detach(), rtol=rtol, atol=atol, equal_nan=True,
                msg=lambda m: f"{what}: {m}",
            )  # fmt: skip


def calls_of(op: Op, dtype: str) -> list[Call]:
    row = ROWS.get(op.name, Row())
    return row.make(Maker(dtype)) if row.make else default_calls(op, Maker(dtype))


def has_samples(op: Op) -> bool:
    row = ROWS.get(op.name)
    return (row is not None and row.make is not None) or op.family in ("pointwise", "reduction")


# ---------------------------------------------------------------------------------------- laws --
@pytest.mark.parametrize("name", ATEN)
def test_schema_is_torchs(name: str) -> None:
    op = TABLE[name]
    line = "aten::" + op.schema.line.removeprefix("aten::")
    assert str(oracle(op)._schema) == line


def test_formulas_mention_only_what_there_is() -> None:
    for op in TABLE.values():
        names = {a.name for a in op.args}
        legal = names | {f"{n}_spec" for n in names} | {"g", "out", "out_spec", "needed"}
        legal |= {f"out_{i}" for i in range(len(op.schema.returns))}
        for targets, formula in op.vjp.items():
            assert set(targets.split()) <= names, op.name
            assert set(inspect.signature(formula).parameters) <= legal, op.name


def test_every_op_has_samples() -> None:
    assert [n for n, op in TABLE.items() if not has_samples(op)] == []


CASES = [(n, d) for n in TABLE for d in (ROWS.get(n, Row()).dtypes or ALL)]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_values_and_metadata_are_torchs(name: str, dtype: str) -> None:
    op = TABLE[name]
    row = ROWS.get(name, Row())
    ran = 0
    for c in calls_of(op, dtype):
        reference = REFERENCES.get(name) or oracle(op)
        args, kwargs = convert(c, to_torch)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                theirs = reference(*args, **kwargs)
            except REFUSALS:
                continue  # torch has no kernel for this dtype, or refuses the value
        args, kwargs = convert(c, to_ours)
        ours = run_ours(op, c, args, kwargs)
        assert_same(ours, theirs, row, name, dtype, c)
        if row.strides and op.body is None:
            for a, b in zip(as_tuple(ours), as_tuple(theirs), strict=True):
                if a is not None and a.numel():
                    mine = [s for n, s in zip(a.shape, a.stride(), strict=True) if n != 1]
                    want = [s for n, s in zip(b.shape, b.stride(), strict=True) if n != 1]
                    assert mine == want, f"{name} {dtype} {c}: strides"
        ran += 1
    SKIPS[name, dtype] = ran


#: (op, dtype) -> samples that ran; torch refuses the rest.
SKIPS: dict[tuple[str, str], int] = {}


def segment_ids(x: Any, size: int, offsets: bool) -> Any:
    """Return how many segments end at or before each place; one past the last before the first."""
    ends = x[..., 1:] if offsets else x.cumsum(-1)
    at = torch.arange(size)
    ids = (at[:, None] >= ends[..., None, :]).sum(-1)
    return torch.where(at < x[..., :1], ends.shape[-1], ids) if offsets else ids


def _grid_double(of_input: Any, of_grid: Any, g: Any, x: Any, grid: Any, *modes: Any) -> Any:
    """Return the gradients of grid_sampler's gradients, as torch's autograd finds them."""
    inputs = [t.clone().requires_grad_() for t in (g, x, grid)]
    backward = getattr(torch.ops.aten, f"grid_sampler_{x.ndim - 2}d_backward")
    made = backward(*inputs, *modes, [True, True])
    return torch.autograd.grad(made, inputs, (of_input, of_grid))


def _ctc_backward(g: Any, *args: Any) -> Any:
    """Return torch's gradient; it wants the forward's alpha, which ours computes again."""
    *inputs, loss, blank, zero_infinity = args
    alpha = torch.ops.aten._ctc_loss.Tensor(*inputs, blank, zero_infinity)[1]
    backward = torch.ops.aten._ctc_loss_backward.Tensor
    return backward(g, *inputs, loss, alpha, blank, zero_infinity)


#: farspan:: ops have no namesake in torch; they are compared with these.
REFERENCES: dict[str, Any] = {
    "_data": lambda x: x.data,
    "_cast": lambda x, dtype: x.to(dtype),
    "_get_rng_state": torch.get_rng_state,
    "_native_batch_norm": torch.native_batch_norm,
    "_reversed_cumsum": lambda x, dim: x.flip(dim).cumsum(dim).flip(dim) if x.ndim else x + 0,
    "_von_mises": lambda loc, k, r, size: torch.empty(size, dtype=torch.float64),
    "_one_hot": lambda x, n: torch.nn.functional.one_hot(x, n),
    "_window": lambda x, base, size, stride, offset: x.as_strided(size, stride, offset).clone(),
    "_window_add": lambda g, n, s, size, stride, offset: torch.ops.aten.as_strided(
        torch.zeros(n, requires_grad=True), size, stride, offset
    ).grad_fn(g),
    "_as_strided": lambda x, size, stride, offset: x.as_strided(size, stride, offset),
    "_border_pad_backward": lambda g, size, padding, mode: torch.nn.functional.pad(
        torch.zeros(size, requires_grad=True), padding, mode
    ).grad_fn(g),
    "_window_scatter": lambda x, src, base, size, stride, offset: torch.as_strided_scatter(
        x, src, size, stride, offset
    ),
    "_bag_frequencies": lambda x: (x[:, None] == x).sum(1),
    "_bag_of": lambda offsets, n: torch.searchsorted(offsets, torch.arange(n), side="right") - 1,
    "_batched_mm": torch.matmul,
    "_total_norm": lambda xs, ord: torch.nn.utils.get_total_norm(xs, ord, foreach=False),
    "_ctc_loss": lambda *args: torch.ops.aten._ctc_loss.Tensor(*args)[0],
    "_ctc_loss_backward": _ctc_backward,
    "_integers": lambda values: torch.tensor(values, dtype=torch.int64),
    "_rrelu_with_noise": lambda x, lower, upper: (x.contiguous(), x.contiguous()),
    "_grid_sampler_double_backward": _grid_double,
    "_contract": torch.einsum,
    "_lu_unpack": torch.lu_unpack,
    "_combinations": lambda n, r, repeats: torch.combinations(torch.arange(n), r, repeats),
    "_unravel_index": lambda x, shape: torch.stack(torch.unravel_index(x, shape), -1),
    "_segment_ids": lambda x, n, offsets, unsafe: segment_ids(x, n, offsets),
    "_from_front": lambda x, n: torch.where(x < 0, x + n, x),
    "_linalg_householder_product": torch.linalg.householder_product,
    "_ormqr": torch.ormqr,
    "_lobpcg": lambda a, b, x, ik, k, n, tol, largest: torch.lobpcg(
        a, k, b, x, largest=largest, tol=tol, niter=n
    ),
    "_positive": torch.clone,
    "_cofactors": lambda x: torch.linalg.det(x)[..., None, None] * torch.linalg.inv(x).mT,
}


DIFFERENTIABLE = [
    n
    for n, op in TABLE.items()
    if (op.vjp or op.body is not None)
    and op.schema.returns != ("b",)
    and ROWS.get(n, Row()).grad
    and n not in REFERENCES
]


def leaves(args: Any) -> list[Any]:
    found = []
    for a in args:
        if isinstance(a, (list, tuple)):
            found += leaves(a)
        elif hasattr(a, "requires_grad") and (a.is_floating_point() or a.is_complex()):
            found.append(a)
    return found


def cotangents(outs: list[Any]) -> list[Any]:
    rng = np.random.default_rng(3)
    made = []
    for o in outs:
        values = rng.uniform(-1, 1, tuple(o.shape))
        if "complex" in str(o.dtype):
            values = values + 1j * rng.uniform(-1, 1, tuple(o.shape))
        made.append(np.asarray(values))
    return made


def gradients(lib: Any, run: Any, args: Any, kwargs: Any, order: int) -> tuple[list[Any], Any]:
    """Return first- or second-order gradients of sum(out * cotangent) for all tensor inputs."""
    xs = leaves([*args, *kwargs.values()])
    for x in xs:
        x.requires_grad_()
    made = as_tuple(run())
    outs = [o for o in made if o is not None and o.requires_grad]
    if not outs:
        return [], xs
    seeds = [lib.tensor(v, dtype=o.dtype) for v, o in zip(cotangents(outs), outs, strict=True)]
    first = lib.autograd.grad(outs, xs, seeds, create_graph=order > 1, allow_unused=True)
    if order == 1:
        return list(first), xs
    again = [g for g in first if g is not None and g.requires_grad]
    if not again:
        return [], xs
    seeds = [lib.tensor(v, dtype=o.dtype) for v, o in zip(cotangents(again), again, strict=True)]
    return list(lib.autograd.grad(again, xs, seeds, allow_unused=True)), xs


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
@pytest.mark.parametrize("order", [1, 2])
def test_gradients_are_torchs(name: str, order: int, dtype: str) -> None:
    op = TABLE[name]
    row = ROWS.get(name, Row())
    if order == 2 and not row.second:
        pytest.skip(row.reason)
    if op.schema.namespace != "aten":
        pytest.skip("no oracle: see test_gradients_are_differences")
    for c in calls_of(op, dtype):
        args, kwargs = convert(c, to_torch)
        try:
            theirs, _ = gradients(
                torch, lambda a=args, k=kwargs: as_tuple(oracle(op)(*a, **k))[: row.outputs],
                args, kwargs, order,
            )  # fmt: skip
        except REFUSALS:
            continue
        args, kwargs = convert(c, to_ours)
        ours, _ = gradients(
            farspan, lambda a=args, k=kwargs: as_tuple(run_ours(op, c, a, k))[: row.outputs],
            args, kwargs, order,
        )  # fmt: skip
        what = (f"order {order} of {name}", c)
        if not ours and all(t is None or not t.any() for t in theirs):
            continue
        if not theirs and all(t is None or not (values_of(t).abs() > 1e-12).any() for t in ours):
            continue
        assert len(ours) == len(theirs), what
        for a, b in zip(ours, theirs, strict=True):
            if a is None or b is None:  # torch may give zeros where we give nothing
                assert (a is None or not values_of(a).any()) and (b is None or not b.any()), what
            else:
                assert_same(a, b, Row(rtol=1e-6, atol=1e-8), *what)


STEPPED = [n for n in DIFFERENTIABLE if n in PRIMITIVES and ROWS.get(n, Row()).differences]


@pytest.mark.parametrize("name", STEPPED)
def test_gradients_are_differences(name: str) -> None:
    """<grad, v> equals (f(x + e v) - f(x - e v)) / 2e for a random direction v."""
    op = TABLE[name]
    row = ROWS.get(name, Row())
    rng = np.random.default_rng(5)
    for c in calls_of(op, "float64"):
        args, kwargs = convert(c, to_ours)
        try:
            grads, xs = gradients(
                farspan, lambda a=args, k=kwargs: as_tuple(run_ours(op, c, a, k))[: row.outputs],
                args, kwargs, 1,
            )  # fmt: skip
        except REFUSALS:
            continue
        if not grads:
            continue
        # An input without a gradient stays where it is; that torch has none is the law above.
        xs = [x for x, g in zip(xs, grads, strict=True) if g is not None]
        directions = [farspan.tensor(rng.uniform(-1, 1, tuple(x.shape))) for x in xs]
        found = [g for g in grads if g is not None]
        slope = sum(float((g * v).sum()) for g, v in zip(found, directions, strict=True))

        def shifted(e: float) -> float:
            with farspan.no_grad():
                for x, v in zip(xs, directions, strict=True):
                    x.add_(v, alpha=e)
                made = as_tuple(run_ours(op, c, args, kwargs))[: row.outputs]
                outs = [values_of(o) for o in made if o is not None and o.dtype.category >= 2]
                total = sum(
                    float((o * torch.tensor(s).conj()).sum().real)
                    for o, s in zip(outs, cotangents(outs), strict=True)
                )
                for x, v in zip(xs, directions, strict=True):
                    x.add_(v, alpha=-e)
            return total

        e = 1e-6
        numeric = (shifted(e) - shifted(-e)) / (2 * e)
        if not np.isfinite(numeric):  # the sum of results with nan or inf has no differences
            continue
        assert slope == pytest.approx(numeric, rel=2e-3, abs=2e-4), f"{name}: {c}"


INPLACE = [
    n
    for n, op in TABLE.items()
    if op.args and op.args[0].name == "self" and op.args[0].kind == "T"
    and op.family in ("pointwise", "structured") and hasattr(torch.ops.aten, op.base + "_")
    and hasattr(torch.Tensor, op.base + "_") and not op.random
]  # fmt: skip


def torchs_inplace(op: Op, args: Any, kwargs: Any) -> Any:
    """Run torch's method; for index_put_ its op, since the method takes no None for a dim."""
    if op.base == "index_put":
        return torch.ops.aten.index_put_(*args, **kwargs)
    return getattr(args[0], op.base + "_")(*args[1:], **kwargs)


@pytest.mark.parametrize("name", INPLACE)
def test_inplace_form_is_torchs(name: str) -> None:
    op = TABLE[name]
    row = ROWS.get(name, Row())
    for c in calls_of(op, "float32"):
        args, kwargs = convert(c, to_torch)
        try:
            theirs = torchs_inplace(op, args, kwargs)
        except REFUSALS:
            theirs = None
        args, kwargs = convert(c, to_ours)
        if theirs is None:
            with pytest.raises(REFUSALS):
                getattr(fn, op.base + "_")(*args, **kwargs)
            continue
        assert getattr(fn, op.base + "_")(*args, **kwargs) is args[0]
        assert_same(args[0], theirs, row, f"{name}_", c)


def recorded(op: Op) -> tuple[list[Frame], dict[int, bytes]]:
    """Run the op's samples; return the frames that went out and the bits that are there then."""
    frames: list[Frame] = []
    with farspan.connect("local:") as session:
        send = session.transport.send
        session.transport.send = lambda frame: (frames.append(frame), send(frame))[1]
        kept = []
        for c in calls_of(op, (ROWS.get(op.name, Row()).dtypes or ("float32",))[0]):
            args, kwargs = convert(c, to_ours)
            try:
                kept.append((args, kwargs, run_ours(op, c, args, kwargs)))
            except REFUSALS:
                continue
        with contextlib.suppress(farspan.ProgramError):
            session.synchronize()
        with contextlib.suppress(farspan.ProgramError):
            session.synchronize()
        return frames, bits_of(session.transport.engines[0])


def text_of(frame: Frame) -> str:
    """Return all of a frame, so that nan equals itself and 1, 1.0 and True do not."""
    return repr(dataclasses.replace(frame, payloads=[bytes(p) for p in frame.payloads]))


def bits_of(engine: Engine) -> dict[int, bytes]:
    return {i: x.array.tobytes() for i, x in engine.tensors.items() if isinstance(x, Array)}


@pytest.mark.parametrize("name", PRIMITIVES)
def test_frames_survive_the_wire_and_a_replay_gives_the_same_bits(name: str) -> None:
    frames, bits = recorded(TABLE[name])
    decoded = [wire.decode_frame(wire.encode_frame(frame)) for frame in frames]
    assert [text_of(f) for f in decoded] == [text_of(f) for f in frames]
    for _ in range(2):
        engine = Engine("cpu")
        for frame in decoded:
            engine.handle(frame, {})
        assert bits_of(engine) == bits
