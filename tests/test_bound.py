"""What a program's steps call equals, bit for bit, what the engine's kernels give one by one.

Every op that the engine runs here is bound as well, and both results are compared as bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import farspan
import numpy as np
import pytest
import samples
from farspan.core.op import table
from farspan_worker import engine, kernels, plan
from farspan_worker.kernels.cpu import onednn, product
from samples import Maker
from test_kernels import larger
from test_laws import calls_of, convert, run_ours, to_ours

samples.load()
OPS = table()
pytestmark = pytest.mark.skipif(bool(kernels.missing()), reason="oneDNN is not installed")

if not onednn.available():
    from farspan_worker.kernels.cpu import bind
    from farspan_worker.kernels.cpu.bound import Bound


class Memory:
    """Values of a bound op at addresses of their own."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.at: list[int] = []
        self.whole = []
        for nbytes in sizes:
            memory = np.zeros(nbytes + 64, np.uint8)
            skip = -memory.ctypes.data % 64
            self.whole.append(memory[skip:])
            self.at.append(memory.ctypes.data + skip)

    def array(self, i: int, spec: Any) -> Any:
        size = spec.dtype.itemsize
        strides = [s * size for s in spec.stride]
        return np.ndarray(spec.shape, spec.dtype.numpy, self.whole[i], 0, strides)


def span(spec: Any) -> int:
    return max(spec.span(), 1) * spec.dtype.itemsize


def run_bound(made: Bound, inputs: Sequence[Any], specs: Sequence[Any], outs: Sequence[Any]) -> Any:
    """Return the outputs of an op whose values are all plain."""
    memory = Memory([*[span(s) for s in (*specs, *outs)], made.scratch_bytes])
    for i, array in enumerate(inputs):
        memory.array(i, specs[i])[...] = array
    for i in range(len(specs) + len(outs)):
        made.place(i, memory.at[i])
    made.place_scratch(memory.at[-1])
    made()
    return [memory.array(len(specs) + i, s).copy() for i, s in enumerate(outs)]


class Seen:
    """Notes each op that the engine runs, with its inputs and results."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ops: list[tuple[Any, Any, list[Any], list[Any], list[Any], list[Any], list[Any]]] = []
        before = plan.run

        def run(op: Any, tensors: Any, static: Any, scalars: Any, form: int, *rest: Any) -> Any:
            given = [t.array.copy() for t in tensors]
            outs = before(op, tensors, static, scalars, form, *rest)
            if form == 0 and outs:
                self.ops.append((
                    op, static, list(scalars), given, [t._spec for t in tensors],
                    [t.array.copy() for t in outs], [t._spec for t in outs],
                ))  # fmt: skip
            return outs

        patch.setattr(plan, "run", run)
        patch.setattr(engine.Engine, "compute", staticmethod(run))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    plan._plans.clear()
    # The samples are small: let them all go to the library, here and in the engine.
    found = {n: dataclasses.replace(f, least=0) for n, f in kernels.overrides().items()}
    monkeypatch.setattr(kernels, "overrides", lambda: found)
    monkeypatch.setattr(product, "_SMALL", 1)
    monkeypatch.setattr(product, "_NARROW", 1)
    with farspan.connect("local:"):
        yield Seen(monkeypatch)
    plan._plans.clear()


NAMES = [] if onednn.available() else sorted(bind.entries())


@pytest.mark.parametrize("name", NAMES)
def test_bound_op_gives_the_bits_of_the_engines_kernel(name: str, seen: Seen) -> None:
    make = Maker("float32")
    for c in [*calls_of(OPS[name], "float32"), *larger(name, make)]:
        args, kwargs = convert(c, to_ours)
        try:
            found = run_ours(OPS[name], c, args, kwargs)
            [x.numpy() for x in (found if isinstance(found, tuple) else (found,))]
        except Exception:
            continue
    ran = 0
    for op, static, scalars, given, specs, results, outs in seen.ops:
        made = op.name == name and bind.bound_for(op, op.recipe(static), specs, outs, scalars)
        if not made:
            continue
        ran += 1
        for a, b in zip(run_bound(made, given, specs, outs), results, strict=True):
            assert a.tobytes() == b.tobytes(), (name, static, specs, abs(a - b).max())
    print(name, ran)
    assert ran or name.startswith("max_pool2d"), "no sample of it was bound"
