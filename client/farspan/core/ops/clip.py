"""Gradient clipping over lists: one operator for the norm of all, one to scale all.

Both take tensors of one device and one dtype of single or double precision; the rest goes tensor
by tensor (`nn/utils/clip_grad.py`). The norm is the norm of the tensors' norms, as torch has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import DTypeError, ShapeError
from ..family import common_device, structured
from ..op import declare
from ..spec import Spec
from .moments import _norm

if TYPE_CHECKING:
    from collections.abc import Sequence


def _common(self: Sequence[Spec]) -> Spec:
    """Return the first spec; raise unless the others have its device and dtype."""
    if not self:
        raise ShapeError("clipping needs at least one tensor")
    common_device(self)
    for spec in self:
        if spec.dtype is not self[0].dtype or spec.dtype.category != 2:
            raise DTypeError(
                f"clipping needs floating tensors of one dtype, got {self[0].dtype.name} and "
                f"{spec.dtype.name}"
            )
    return self[0]


def _total_norm_meta(self: Sequence[Spec], ord: Any) -> Spec:
    first = _common(self)
    return Spec.make((), first.dtype, first.device)


def _total_norm_kernel(xp: Any, self: Sequence[Any], ord: Any) -> Any:
    norms = [_norm(xp, array, ord, None, False, None) for array in self]
    return _norm(xp, xp.stack(norms), ord, None, False, None)


structured(
    "farspan::_total_norm(Tensor[] self, Scalar ord) -> Tensor",
    meta=_total_norm_meta,
    kernel=_total_norm_kernel,
)


def _scale_meta(self: Sequence[Spec], factor: Spec) -> tuple[()]:
    first = _common(self)
    if factor.shape or factor.dtype is not first.dtype:
        raise DTypeError(f"the factor must be a scalar of {first.dtype.name}, got {factor}")
    return ()


def _scale_kernel(xp: Any, self: Sequence[Any], factor: Any) -> tuple[()]:
    for array in self:
        array *= factor
    return ()


declare(
    "farspan::_scale_(Tensor(a!)[] self, Tensor factor) -> ()",
    "step",
    meta=_scale_meta,
    kernel=_scale_kernel,
)
