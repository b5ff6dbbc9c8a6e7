"""Factories: tensors of constants and ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..call import fn
from ..family import creation, factory_spec, number_dtype, structured
from ..spec import Spec

if TYPE_CHECKING:
    from collections.abc import Sequence

_OPTIONS = "ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None"
_FORMAT = "MemoryFormat? memory_format=None"


def _spec(size: Sequence[int], dtype: Any, layout: Any, device: Any, pin: Any) -> Spec:
    return factory_spec(size, dtype, device)


def _like(self: Spec, dtype: Any, layout: Any, device: Any, pin: Any, memory_format: Any) -> Spec:
    if memory_format in (None, 1) and self.dense:
        return self.with_(dtype=dtype, device=device)
    return factory_spec(self.shape, dtype, device, like=self)


def _new(self: Spec, size: Sequence[int], dtype: Any, layout: Any, device: Any, pin: Any) -> Spec:
    return factory_spec(size, dtype, device, like=self)


def _zeros(xp: Any, size: Any, dtype: Any, *rest: Any) -> Any:
    from ..dtype import Defaults

    return xp.zeros(tuple(size), (dtype or Defaults.dtype).numpy)


def _ones(xp: Any, size: Any, dtype: Any, *rest: Any) -> Any:
    from ..dtype import Defaults

    return xp.ones(tuple(size), (dtype or Defaults.dtype).numpy)


creation(f"zeros(SymInt[] size, *, {_OPTIONS}) -> Tensor", meta=_spec, kernel=_zeros)
creation(f"ones(SymInt[] size, *, {_OPTIONS}) -> Tensor", meta=_spec, kernel=_ones)
# Fresh memory is zero, so that nothing of an earlier tenant can be read from it.
creation(
    f"empty.memory_format(SymInt[] size, *, {_OPTIONS}, {_FORMAT}) -> Tensor",
    meta=lambda size, dtype, layout, device, pin, fmt: factory_spec(size, dtype, device),
    kernel=_zeros,
)
creation(
    f"zeros_like(Tensor self, *, {_OPTIONS}, {_FORMAT}) -> Tensor",
    meta=_like,
    kernel=lambda xp, self, dtype, *rest: xp.zeros(
        self.shape, (dtype and dtype.numpy) or self.dtype
    ),
)
creation(
    f"ones_like(Tensor self, *, {_OPTIONS}, {_FORMAT}) -> Tensor",
    meta=_like,
    kernel=lambda xp, self, dtype, *rest: xp.ones(
        self.shape, (dtype and dtype.numpy) or self.dtype
    ),
)
creation(
    f"new_zeros(Tensor self, SymInt[] size, *, {_OPTIONS}) -> Tensor",
    meta=_new,
    kernel=lambda xp, self, size, dtype, *rest: xp.zeros(
        tuple(size), (dtype and dtype.numpy) or self.dtype
    ),
)
structured(
    "fill.Scalar(Tensor self, Scalar value) -> Tensor",
    meta=lambda self, value: self if self.dense else self.contiguous_,
    kernel=lambda xp, self, value: (
        xp.full(self.shape, value, self.dtype)
        if not isinstance(value, float) or self.dtype.kind not in "iub"
        else xp.full(self.shape, value, "float64").astype(self.dtype)
    ),
    vjp={"self": lambda g: fn.zeros_like(g)},
    moves=True,
    overwrites=True,
)
structured(
    "zero(Tensor self) -> Tensor",
    meta=lambda self: self if self.dense else self.contiguous_,
    kernel=lambda xp, self: xp.zeros(self.shape, self.dtype),
    vjp={"self": lambda g: fn.zeros_like(g)},
    moves=True,
    overwrites=True,
)
creation(
    f"full(SymInt[] size, Scalar fill_value, *, {_OPTIONS}) -> Tensor",
    meta=lambda size, fill_value, dtype, layout, device, pin: factory_spec(
        size, dtype, device, default=number_dtype(fill_value)
    ),
    kernel=lambda xp, size, fill_value, dtype, *rest: xp.full(
        tuple(size), fill_value, (dtype or number_dtype(fill_value)).numpy
    ),
)
