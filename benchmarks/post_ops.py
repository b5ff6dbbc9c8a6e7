"""What do steps after a primitive save? Products and convolutions with and without, one thread.

Microseconds of the thread's CPU, medians of alternating rounds, in the sizes of vs_torch.py's rows.
"apart" is the primitive and then the op's own primitive or loop of numpy in place, as plans run it.

    python benchmarks/post_ops.py [--rounds 15]
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from farspan.core.dtype import float32
from farspan.core.op import OPS
from farspan.core.spec import Spec
from farspan_worker import kernels
from farspan_worker.kernels.cpu.bind import bound_for
from in_turn import in_turn, rounds

_REPEAT = 5
CASES = [
    ("linear", [(64, 784), (512, 784), (512,)], "relu", "MLP, 64 x 784 x 512"),
    ("linear", [(64, 512), (512, 512), (512,)], "relu", "MLP, 64 x 512 x 512"),
    ("convolution", [(64, 32, 14, 14), (64, 32, 3, 3), (64,)], "relu", "CNN, second convolution"),
    ("convolution", [(8, 64, 16, 16), (64, 64, 3, 3), (64,)], "add", "ResNet-18, first stage"),
    ("linear", [(1024, 256), (1024, 256), (1024,)], "gelu", "transformer, up (without gradients)"),
    ("linear", [(1024, 1024), (256, 1024), (256,)], "add", "transformer, down and residual"),
]
_STEPS = ((1, 1), (1, 1), (1, 1), False, (0, 0), 1)


def calls(op: str, shapes: list[tuple[int, ...]], then: str) -> list[Callable[[], Any]]:
    """Return the call with the step in the primitive, and the two calls apart."""
    given: Any = [Spec.make(s, float32) for s in shapes]
    static = _STEPS if op == "convolution" else ()
    recipe = OPS[op].recipe(OPS[op].bind(*given, *static)[1])
    (out,), _ = OPS[op].infer(recipe.args(given, ()))
    others = [out] if then == "add" else []
    made = []
    for steps in ((then,), ()):
        bound = bound_for(OPS[op], recipe, given, [out], exact=False, then=steps,
                          others=others if steps else ())  # fmt: skip
        assert bound is not None
        arrays = [np.ones(s, np.float32) for s in shapes]
        arrays += [np.ones(out.shape, np.float32) for _ in range(1 + bool(steps and others))]
        scratch = np.empty(bound.scratch_bytes + 64, np.uint8)
        for slot, array in enumerate(arrays):
            bound.place(slot, array.ctypes.data)
        bound.place_scratch(scratch.ctypes.data + -scratch.ctypes.data % 64)
        made.append((bound, arrays, scratch))
    (fused, *_), (plain, arrays, _) = made
    y, other = arrays[-1], np.ones(out.shape, np.float32)
    after: dict[str, Callable[[], Any]] = {
        "relu": lambda: np.maximum(y, 0, out=y), "add": lambda: np.add(y, other, out=y),
        "gelu": lambda: kernels.overrides()["gelu"].kernel(np, y, "none"),
    }  # fmt: skip
    keep = made

    def apart() -> Any:
        plain()
        return after[then](), keep

    return [fused, apart]


def main() -> None:
    count = rounds(__doc__)
    print(f"{'case':40}{'after':8}{'one us':>9}{'apart us':>9}{'one/apart':>10}")
    for op, shapes, then, label in CASES:
        both = calls(op, shapes, then)
        times = in_turn(both, [_REPEAT] * 2, count)
        one, two = map(statistics.median, times)
        ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
        print(f"{label:40}{then:8}{one:9.0f}{two:9.0f}{ratio:10.2f}", flush=True)


if __name__ == "__main__":
    main()
