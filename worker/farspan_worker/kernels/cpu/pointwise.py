"""Activations by oneDNN's eltwise: those whose numpy kernels take many passes.

exp, log and tanh stay with numpy, which has vector code for them (tanh of 2M: 0.37 ms, here 0.80).
Measured by benchmarks/kernels.py on 2M floats, fast / numpy / torch in ms: gelu 0.7 / 12.4 / 0.8,
backward 1.9 / 14.5 / 1.4; gelu's tanh form 1.1 / 2.3 / 2.5, backward 1.9 / 4.4 / 2.6; silu 0.8 /
1.7 / 0.5, backward 1.6 / 3.1 / 0.6; sigmoid 0.7 / 1.7 / 0.5; relu 0.3 / 0.7 / 0.2.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from .. import Fast, Registry, single
from .checks import has_nan
from .onednn import (
    DIFF_DST,
    DIFF_SRC,
    DST,
    INFERENCE,
    SRC,
    TRAINING,
    Kind,
    Route,
    cached,
    number,
    plain,
)

RELU, SIGMOID, GELU_TANH, SWISH, GELU = 32, 41, 43, 44, 49
_RELU_FROM_RESULT: Final = 0x100
#: Elements below which numpy is done before oneDNN has begun.
_SMALL: Final = 4_096
_SMALL_GELU: Final = 128
_SMALL_RELU: Final = 1 << 16  # numpy's maximum is two microseconds for 4,096


def forward_kind(n: int, algorithm: int, alpha: float) -> Kind:
    """Return the map of n elements."""
    row = plain((n,))
    return Kind("eltwise_forward", INFERENCE, algorithm, row, row, number(alpha), number(0))


def backward_kind(n: int, algorithm: int, alpha: float) -> Kind:
    """Return the product of n elements with its slopes."""
    row = plain((n,))
    given = (number(alpha), number(0))
    forward = Kind("eltwise_forward", TRAINING, algorithm, row, row, *given)
    return Kind("eltwise_backward", algorithm, row, row, row, *given, forward)


def relu_backward_kind(n: int) -> Kind:
    """Return the gradient of relu from its result."""
    return backward_kind(n, _RELU_FROM_RESULT, 0.0)


@cached
def _forward(n: int, algorithm: int, alpha: float) -> Route:
    row, kind = plain((n,)), forward_kind(n, algorithm, alpha)
    return Route(kind, [(SRC, row)], [(DST, row)])


@cached
def _backward(n: int, algorithm: int, alpha: float) -> Route:
    row, kind = plain((n,)), backward_kind(n, algorithm, alpha)
    return Route(kind, [(DIFF_DST, row), (SRC, row)], [(DIFF_SRC, row)])


def _map(x: Any, algorithm: int, alpha: float = 0.0) -> Any:
    """Return f of each element, in the layout of x, which has no gaps."""
    out = np.empty_like(x)
    _forward(x.size, algorithm, alpha)(x, out)
    return out


def _slope(g: Any, x: Any, algorithm: int, alpha: float = 0.0) -> Any:
    """Return g times the derivative of f at x; both have one layout without gaps."""
    out = np.empty_like(x)
    _backward(x.size, algorithm, alpha)(g, x, out)
    return out


def _relu(xp: Any, self: Any) -> Any:
    return xp.maximum(self, 0) if has_nan(self) else _map(self, RELU)


def _curve(approximate: str) -> int:
    return GELU_TANH if approximate == "tanh" else GELU


def _one(self: Any, *rest: Any) -> bool:
    """The rule of a map of one tensor: elements fill its memory."""
    return single(self) and self.dense


def _row(self: Any, *rest: Any) -> bool:
    """The rule of gelu: as in torch, whose other layouts go another way (gelu(inf) differs)."""
    return single(self) and self.contiguous


def _two(a: Any, b: Any, *rest: Any) -> bool:
    """The rule of a map of two: elements stand at equal places, and fill the memory."""
    return single(a, b) and a.dense and a.shape == b.shape and a.stride == b.stride


def register(registry: Registry) -> None:
    """Enter the activations."""
    registry["gelu"] = Fast(
        lambda xp, self, approximate: _map(self, _curve(approximate)), _row, _SMALL_GELU
    )
    registry["gelu_backward"] = Fast(
        lambda xp, g, self, approximate: _slope(g, self, _curve(approximate)), _two, _SMALL_GELU
    )
    registry["silu"] = Fast(lambda xp, self: _map(self, SWISH, 1.0), _one, _SMALL)
    registry["silu_backward"] = Fast(lambda xp, g, self: _slope(g, self, SWISH, 1.0), _two, _SMALL)
    registry["sigmoid"] = Fast(lambda xp, self: _map(self, SIGMOID), _one, _SMALL)
    registry["relu"] = Fast(_relu, _row, _SMALL_RELU)
