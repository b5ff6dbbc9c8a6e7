"""Random factories: `rand`, `randn`, `randint`, `randperm` and their likes.

The numbers are those of `core/random.py`, which are torch's. Nothing here keeps a generator: the
engine passes the one that the command names. Read next: `sampling.py`, draws into a tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import random as draw
from ..dtype import CPP_NAMES, INT_KIND, Defaults, DType, bool_, int64
from ..errors import ParameterError, UnsupportedError
from ..family import creation, factory_spec
from ..memory_order import in_c_order, in_memory_order
from ..spec import Spec
from .create import FORMAT, OPTIONS, like_spec

if TYPE_CHECKING:
    from collections.abc import Callable

#: The keyword of all that draws, as schemas have it.
GENERATOR = "Generator? generator=None"
_INTEGERS = OPTIONS.replace("dtype=None", "dtype=4")  # torch's number of int64


def refuse(name: str, dtype: DType, kinds: str) -> None:
    """Raise if torch has no kernel `name` for the kind of dtype: b, i, f or c."""
    if "bifc"[dtype.category] in kinds:
        raise UnsupportedError(f'"{name}" not implemented for {dtype.c_name!r}')


def _factory(
    name: str, kernel_name: str, kinds: str, fill: Callable[..., Any], **scattered: bool
) -> None:
    """Declare `name`, `name_like` and their overloads with a generator of the caller's.

    scattered: what fill is told, besides, where the result is not to be contiguous.
    """

    def meta(size: Any, dtype: Any, layout: Any, device: Any, pin: Any) -> Spec:
        spec = factory_spec(size, dtype, device)
        refuse(kernel_name, spec.dtype, kinds)
        return spec

    def like_meta(self: Spec, dtype: Any, *rest: Any) -> Spec:
        refuse(kernel_name, dtype or self.dtype, kinds)
        return like_spec(self, dtype, *rest)

    def kernel(xp: Any, gen: Any, size: Any, dtype: Any, *rest: Any) -> Any:
        return fill(gen, tuple(size), (dtype or Defaults.dtype).numpy)

    def like_kernel(xp: Any, gen: Any, self: Any, dtype: Any, *rest: Any) -> Any:
        wanted = dtype.numpy if dtype else self.dtype
        path = {} if in_c_order(self, rest[-1]) else scattered
        return in_memory_order(self, lambda shape: fill(gen, shape, wanted, **path), rest[-1])

    creation(f"{name}(SymInt[] size, *, {OPTIONS}) -> Tensor", meta=meta, kernel=kernel,
             random=True)  # fmt: skip
    creation(
        f"{name}.generator(SymInt[] size, *, Generator? generator, {OPTIONS}) -> Tensor",
        meta=lambda size, generator, *rest: meta(size, *rest),
        kernel=lambda xp, gen, size, generator, *rest: kernel(xp, gen, size, *rest),
        random=True,
    )
    creation(
        f"{name}_like(Tensor self, *, {OPTIONS}, {FORMAT}) -> Tensor",
        meta=like_meta,
        kernel=like_kernel,
        random=True,
    )
    creation(
        f"{name}_like.generator(Tensor self, *, Generator? generator, {OPTIONS}, {FORMAT})"
        " -> Tensor",
        meta=lambda self, generator, *rest: like_meta(self, *rest),
        kernel=lambda xp, gen, self, generator, *rest: like_kernel(xp, gen, self, *rest),
        random=True,
    )


_factory("rand", "check_uniform_bounds", "bi", draw.uniform)
_factory("randn", "normal_kernel_cpu", "bi", draw.normal, contiguous=False)


def check_interval(low: int, high: int) -> None:
    if low >= high:
        raise ParameterError(
            f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}"
        )


def _check_fits(low: int, high: int, spec: Spec) -> Spec:
    """Return the spec if its dtype, of integers or bools, holds every number from low to high - 1.

    Raises ParameterError otherwise.
    """
    dtype = spec.dtype
    if dtype.category > INT_KIND:
        return spec
    least, most = (0, 1) if dtype is bool_ else _limits(dtype)
    for name, number in (("from", low), ("to - 1", high - 1)):
        if not least <= number <= most:
            cpp = CPP_NAMES.get(dtype.name, dtype.name)
            raise ParameterError(f"{name} is out of bounds for {cpp}")
    return spec


def _limits(dtype: DType) -> tuple[int, int]:
    info = np.iinfo(dtype.numpy)
    return int(info.min), int(info.max)


def _randint_meta(
    low: int, high: int, size: Any, generator: Any, dtype: Any, layout: Any, device: Any, pin: Any
) -> Spec:
    check_interval(low, high)
    return _check_fits(low, high, factory_spec(size, dtype, device, default=int64))


def _randint_kernel(
    xp: Any, gen: Any, low: int, high: int, size: Any, generator: Any, dtype: Any, *rest: Any
) -> Any:
    return draw.randint(gen, tuple(size), (dtype or int64).numpy, low, high)


creation(
    f"randint(SymInt high, SymInt[] size, *, {_INTEGERS}) -> Tensor",
    meta=lambda high, size, *rest: _randint_meta(0, high, size, None, *rest),
    kernel=lambda xp, gen, high, size, *rest: _randint_kernel(xp, gen, 0, high, size, None, *rest),
    random=True,
)
creation(
    f"randint.low(SymInt low, SymInt high, SymInt[] size, *, {_INTEGERS}) -> Tensor",
    meta=lambda low, high, size, *rest: _randint_meta(low, high, size, None, *rest),
    kernel=lambda xp, gen, low, high, size, *rest: _randint_kernel(
        xp, gen, low, high, size, None, *rest
    ),
    random=True,
)
creation(
    f"randint.generator(SymInt high, SymInt[] size, *, Generator? generator, {_INTEGERS})"
    " -> Tensor",
    meta=lambda high, *rest: _randint_meta(0, high, *rest),
    kernel=lambda xp, gen, high, *rest: _randint_kernel(xp, gen, 0, high, *rest),
    random=True,
)
creation(
    "randint.low_generator(SymInt low, SymInt high, SymInt[] size, *, Generator? generator,"
    f" {_INTEGERS}) -> Tensor",
    meta=_randint_meta,
    kernel=_randint_kernel,
    random=True,
)


def _randint_like_meta(self: Spec, low: int, high: int, *options: Any) -> Spec:
    check_interval(low, high)
    return _check_fits(low, high, like_spec(self, *options))


def _randint_like_kernel(
    xp: Any, gen: Any, self: Any, low: int, high: int, dtype: Any, *rest: Any
) -> Any:
    wanted = dtype.numpy if dtype else self.dtype
    return in_memory_order(
        self, lambda shape: draw.randint(gen, shape, wanted, low, high), rest[-1]
    )


creation(
    f"randint_like(Tensor self, SymInt high, *, {OPTIONS}, {FORMAT}) -> Tensor",
    meta=lambda self, high, *rest: _randint_like_meta(self, 0, high, *rest),
    kernel=lambda xp, gen, self, high, *rest: _randint_like_kernel(xp, gen, self, 0, high, *rest),
    random=True,
)
creation(
    "randint_like.low_dtype(Tensor self, SymInt low, SymInt high, *,"
    f" {OPTIONS}, {FORMAT}) -> Tensor",
    meta=_randint_like_meta,
    kernel=_randint_like_kernel,
    random=True,
)


def _randperm_meta(n: int, generator: Any, dtype: Any, layout: Any, device: Any, pin: Any) -> Spec:
    if n < 0:
        raise ParameterError(f"n must be non-negative, got{n}")
    spec = factory_spec((n,), dtype, device, default=int64)
    refuse("randperm", spec.dtype, "bc")
    if spec.dtype.category == INT_KIND and n - 1 > _limits(spec.dtype)[1]:
        raise ParameterError(
            f"value cannot be converted to type {spec.dtype.name}_t without overflow"
        )
    return spec


creation(
    f"randperm(SymInt n, *, {_INTEGERS}) -> Tensor",
    meta=lambda n, *rest: _randperm_meta(n, None, *rest),
    kernel=lambda xp, gen, n, dtype, *rest: draw.randperm(gen, n, (dtype or int64).numpy),
    random=True,
)
creation(
    f"randperm.generator(SymInt n, *, Generator? generator, {_INTEGERS}) -> Tensor",
    meta=_randperm_meta,
    kernel=lambda xp, gen, n, generator, dtype, *rest: draw.randperm(
        gen, n, (dtype or int64).numpy
    ),
    random=True,
)
