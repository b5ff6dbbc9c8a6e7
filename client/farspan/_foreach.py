"""``torch._foreach_add`` and the like: one operation on every tensor of a list.

Commands travel in batches anyway, so a list costs what its tensors cost.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from .core.call import fn
from .core.errors import DTypeError

_POINTWISE = (
    "abs acos add addcdiv addcmul asin atan ceil clamp_max clamp_min cos cosh div erf erfc exp "
    "expm1 floor frac lerp lgamma log log10 log1p log2 maximum minimum mul neg pow reciprocal "
    "round rsqrt sigmoid sign sin sinh sqrt sub tan tanh trunc"
).split()
_OUT_OF_PLACE = [*_POINTWISE, "clone", "max", "mm", "norm"]
_IN_PLACE = [*_POINTWISE, "copy", "zero"]
NAMES = [*(f"_foreach_{n}" for n in _OUT_OF_PLACE), *(f"_foreach_{n}_" for n in _IN_PLACE)]

# With a number for the second tensor, these are the operators.
_OF_NUMBERS = {"maximum": "clamp_min", "minimum": "clamp_max"}
# What torch's lists are called, and the operator's argument.
_RENAMED = {
    "scalars": "scalar", "tensors": "other", "tensors1": "end", "weights": "weight",
    "tensor1": "tensor1", "tensor2": "tensor2",
}  # fmt: skip


def function(name: str) -> Callable[..., Any]:
    """Return ``torch.<name>``: on lists of one length, where a number serves all tensors.

    It returns a tuple of results; in place, the list itself.
    """
    base = name.removeprefix("_foreach_")
    in_place = base.endswith("_")
    made = functools.partial(_each, base.removesuffix("_"), in_place)
    functools.update_wrapper(made, _each)
    return made


def _each(base: str, in_place: bool, self: Any, *args: Any, **named: Any) -> Any:
    """Return the operation's results on every tensor with its own arguments."""
    if base in ("addcmul", "addcdiv"):  # their numbers weigh the product
        if len(args) == 3:
            *args, named["value"] = args  # type: ignore[assignment]
        value = named.pop("scalars", named.get("value", 1))
        named["value"] = value.tolist() if getattr(value, "ndim", 0) else value
    columns = [self, *args]
    length = len(next(c for c in columns if isinstance(c, (list, tuple))))
    rows = zip(*[_column(c, length) for c in columns], strict=True)
    own = {_RENAMED.get(k, k): _column(v, length) for k, v in named.items()}
    made = tuple(
        _one(base, in_place, row, {k: v[i] for k, v in own.items()}) for i, row in enumerate(rows)
    )
    return self if in_place else made


def _column(argument: Any, length: int) -> Sequence[Any]:
    if not isinstance(argument, (list, tuple)):
        return [argument] * length
    if len(argument) != length:
        raise DTypeError(
            f"Tensor lists must have the same number of tensors, got {length} and {len(argument)}"
        )
    return argument


def _one(base: str, in_place: bool, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    if base == "norm":
        return fn.linalg_vector_norm(*args, **named)
    if base in _OF_NUMBERS and len(args) == 2 and isinstance(args[1], (int, float)):
        base = _OF_NUMBERS[base]
    return getattr(fn, base + "_" * in_place)(*args, **named)
