"""Adam's step in three passes of oneDNN over each parameter, instead of thirteen of numpy.

m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2; p <- p - s m / (sqrt(v) + e). What differs from
step to step (s and e, with both bias corrections in them) is memory, so that primitives stay.
Measured on an MLP of 670,000 parameters, in ms: here 0.64, numpy 1.28,
torch 0.97, its fused step 0.31.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from farspan.core.op import table
from farspan.core.ops.optim import skipped

from .. import Fast, Registry
from .onednn import DST, SRC, SRC_1, After, Kind, Route, cached, operand, plain

_ADD, _MULTIPLY, _SQRT, _LINEAR, _POWER = 0x1FFF0, 0x1FFF1, 37, 38, 48
#: Parameters smaller than this are done in numpy before oneDNN has begun.
_SMALL: Final = 4_096
#: Elements taken at a time, so that the four arrays stay in a cache between the passes.
_BLOCK: Final = 1 << 16


@cached
def _routes(n: int, beta1: float, beta2: float) -> tuple[Route, Route, Route]:
    """Return the three passes over n elements; numbers are arrays of one element."""
    row, one = plain((1, 1, n, 1)), plain((1, 1, 1, 1))
    average = Kind("binary", _MULTIPLY, row, one, row, then=[After(alpha=beta1)])
    square = Kind(
        "binary", _MULTIPLY, row, row, row,
        then=[After(_LINEAR, 1 - beta2, 0.0), After(alpha=beta2)],
    )  # fmt: skip
    steps = [
        After(_SQRT, 0.0), After(_ADD, other=one), After(_POWER, 1.0, -1.0),
        After(_MULTIPLY, other=row), After(_MULTIPLY, other=one), After(),
    ]  # fmt: skip
    update = Kind("binary", _MULTIPLY, row, one, row, then=steps)
    others = [(operand(1), one), (operand(3), row), (operand(4), one)]
    return (
        Route(average, [(SRC, row), (SRC_1, one)], [(DST, row)]),
        Route(square, [(SRC, row), (SRC_1, row)], [(DST, row)]),
        Route(update, [(SRC, row), (SRC_1, one), *others], [(DST, row)]),
    )


def _step(
    param: Any, grad: Any, average: Any, square: Any, numbers: Any, beta1: float, beta2: float
) -> None:
    """Update one parameter. numbers: 1 - beta1, 1, eps and -step, both with their corrections."""
    weight, one, eps, rate = (numbers.ctypes.data + 4 * i for i in range(4))
    starts = [a.ctypes.data for a in (param, grad, average, square)]
    for first in range(0, param.size, _BLOCK):
        n = min(_BLOCK, param.size - first)
        p, g, m, v = (at + 4 * first for at in starts)
        to_average, to_square, to_param = _routes(n, beta1, beta2)
        to_average(g, weight, m)
        to_square(g, g, v)
        to_param(v, one, eps, m, rate, p)


def _adam(plain_kernel: Any) -> Any:
    def kernel(
        xp: Any, self: Sequence[Any], grads: Sequence[Any], exp_avgs: Sequence[Any],
        exp_avg_sqs: Sequence[Any], max_exp_avg_sqs: Sequence[Any], state_steps: Sequence[Any],
        lr: float, beta1: float, beta2: float, weight_decay: float, eps: float, amsgrad: bool,
        maximize: bool, decoupled: bool, rate: Any = None, found_inf: Any = None,
    ) -> tuple[()]:  # fmt: skip
        options = (lr, beta1, beta2, weight_decay, eps, amsgrad, maximize, decoupled, rate)
        lists = (self, grads, exp_avgs, exp_avg_sqs)
        plain_step = amsgrad or maximize or (weight_decay and not decoupled) or eps <= 0
        if plain_step or skipped(found_inf):
            return plain_kernel(xp, *lists, max_exp_avg_sqs, state_steps, *options, found_inf)
        lr = lr if rate is None else float(rate)
        rest = []
        for i, arrays in enumerate(zip(*lists, strict=True)):
            if arrays[0].size < _SMALL or not all(a.flags.c_contiguous for a in arrays):
                rest.append(i)
                continue
            state_steps[i][...] += 1
            step = float(state_steps[i])
            scale = (1 - beta2**step) ** 0.5
            if weight_decay:
                arrays[0][...] *= 1 - lr * weight_decay
            slope = -lr / (1 - beta1**step) * scale
            numbers = np.array([1 - beta1, 1, eps * scale, slope], np.float32)
            _step(*arrays, numbers, beta1, beta2)
        if rest:
            few = [[each[i] for i in rest] for each in (*lists, state_steps)]
            plain_kernel(xp, *few[:4], [], few[4], *options, None)
        return ()

    return kernel


def _when(self: Any, grads: Any, exp_avgs: Any, exp_avg_sqs: Any, *rest: Any) -> bool:
    return all(
        s.dtype.name == "float32" for each in (self, grads, exp_avgs, exp_avg_sqs) for s in each
    )


def register(registry: Registry) -> None:
    """Enter Adam's step, and with it AdamW's."""
    registry["_adam_step_"] = Fast(_adam(table()["_adam_step_"].kernel), _when)
