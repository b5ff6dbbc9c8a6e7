"""What a gradient scaler asks of workers: unscale gradients and look for infinities; set the scale.

The client never sees whether a gradient was finite: the answer stays in a tensor, which the steps
of `optim.py` and `steps.py` take as `found_inf`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..dtype import float32, int32
from ..errors import DTypeError, ShapeError
from ..family import common_device
from ..op import declare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..spec import Spec


def _one_number(name: str, spec: Spec, dtype: Any = float32) -> None:
    if spec.numel != 1:
        raise ShapeError(f"{name} must be a 1-element tensor.")
    if spec.dtype is not dtype:
        raise DTypeError(f"{name} must be a {dtype.name} tensor.")


def _unscale_meta(self: Sequence[Spec], found_inf: Spec, inv_scale: Spec) -> tuple[()]:
    common_device([*self, found_inf, inv_scale])
    _one_number("inv_scale", inv_scale)
    _one_number("found_inf", found_inf)
    for spec in self:
        if spec.dtype.category != 2:
            raise DTypeError(f"gradients to unscale must be floating, got {spec.dtype.name}")
    return ()


def _unscale_kernel(xp: Any, self: Sequence[Any], found_inf: Any, inv_scale: Any) -> tuple[()]:
    factor = float(inv_scale.reshape(()))
    for array in self:
        wide = array.astype("float32") if array.dtype.itemsize == 2 else array
        if not xp.isfinite(wide).all():
            found_inf[...] = 1
        if factor != 1:
            array[...] = wide * factor
    return ()


declare(
    "_amp_foreach_non_finite_check_and_unscale_(Tensor(a!)[] self, Tensor(b!) found_inf, "
    "Tensor inv_scale) -> ()",
    "step",
    meta=_unscale_meta,
    kernel=_unscale_kernel,
)


def _update_meta(self: Spec, growth_tracker: Spec, found_inf: Spec, *rest: Any) -> tuple[()]:
    common_device([self, growth_tracker, found_inf])
    _one_number("growth_tracker", growth_tracker, int32)
    _one_number("current_scale", self)
    _one_number("found_inf", found_inf)
    return ()


def _update_kernel(
    xp: Any,
    self: Any,
    growth_tracker: Any,
    found_inf: Any,
    scale_growth_factor: float,
    scale_backoff_factor: float,
    growth_interval: int,
) -> tuple[()]:
    good = 0
    if found_inf.reshape(()) != 0:
        self *= scale_backoff_factor
    else:
        good = int(growth_tracker.reshape(())) + 1
        if good == growth_interval:
            grown = self * self.dtype.type(scale_growth_factor)
            if xp.isfinite(grown).all():
                self[...] = grown
            good = 0
    growth_tracker[...] = good
    return ()


declare(
    "farspan::_amp_update_scale_(Tensor(a!) self, Tensor(b!) growth_tracker, Tensor found_inf, "
    "float scale_growth_factor, float scale_backoff_factor, int growth_interval) -> ()",
    "step",
    meta=_update_meta,
    kernel=_update_kernel,
)
