"""Other names that ATen has for ops of the table: numpy's, and longer words. Import this last."""

from __future__ import annotations

from typing import Any

from ..call import fn
from ..family import composite
from ..op import OPS

#: alias -> the op it is another name of, with every overload that it has
ALIASES: dict[str, str] = {
    "absolute": "abs", "negative": "neg", "subtract": "sub", "multiply": "mul", "divide": "div",
    "true_divide": "div", "greater": "gt", "greater_equal": "ge", "less": "lt", "less_equal": "le",
    "not_equal": "ne", "clip": "clamp", "fix": "trunc", "arccos": "acos", "arcsin": "asin",
    "arctan": "atan", "arccosh": "acosh", "arcsinh": "asinh", "arctanh": "atanh",
    "arctan2": "atan2", "special_erf": "erf", "special_erfc": "erfc", "special_erfinv": "erfinv",
    "special_expit": "sigmoid", "special_expm1": "expm1", "special_exp2": "exp2",
    "special_digamma": "digamma", "special_gammaln": "lgamma", "special_log1p": "log1p",
    "special_logit": "logit", "special_sinc": "sinc", "special_psi": "digamma",
    "special_i0": "i0", "special_gammainc": "igamma", "special_gammaincc": "igammac",
    "special_multigammaln": "mvlgamma", "special_polygamma": "polygamma",
    "special_logsumexp": "logsumexp",
}  # fmt: skip
#: overloads of the op that the alias does not have
_WITHOUT = {"true_divide": ("div.Tensor_mode", "div.Scalar_mode")}


def _forward(name: str) -> Any:
    return lambda *args, **kwargs: getattr(fn, name)(*args, **kwargs)


for _alias, _name in ALIASES.items():
    for _op in [o for o in OPS.values() if o.base == _name]:
        if _op.name not in _WITHOUT.get(_alias, ()):
            composite(_alias + _op.line.removeprefix(_name))(_forward(_name))
