"""Which functions have an in-place method, ``x.add_(1)``: the ones that torch gives one.

Elementwise ops of the table do but for a few; others do if they are named here. Views that torch
changes in place (``x.t_()``) are metadata only: see `farspan._methods`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .op import Op

_WITHOUT: Final = frozenset(
    "_prelu_kernel elu fmax fmin gelu hardshrink hardsigmoid hardswish hardtanh isclose isfinite "
    "isinf isnan isneginf isposinf leaky_relu logaddexp logaddexp2 maximum minimum mish rsub "
    "signbit silu softplus softshrink threshold".split()
)
_WITH: Final = frozenset(
    "absolute addbmm addmm addmv addr arccos arccosh arcsin arcsinh arctan arctan2 arctanh "
    "baddbmm bernoulli cauchy clamp_max clamp_min clip conj_physical copy cumprod cumsum deg2rad "
    "divide exponential fill fix float_power geometric greater greater_equal index_add index_copy "
    "index_fill index_put index_reduce ldexp less less_equal log_normal masked_fill "
    "masked_scatter multiply mvlgamma negative not_equal put rad2deg random renorm scatter "
    "scatter_add scatter_reduce square subtract tril triu true_divide uniform zero".split()
)
#: Views that change what the tensor itself shows.
VIEWS: Final = ("as_strided", "squeeze", "swapaxes", "swapdims", "t", "transpose", "unsqueeze")


def has_inplace(op: Op) -> bool:
    """Return whether ``Tensor`` has the op's name with an underscore."""
    if op.base in VIEWS or op.base in _WITH:
        return True
    return op.family == "pointwise" and op.base not in _WITHOUT
