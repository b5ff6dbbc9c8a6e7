"""Array: a tensor whose operators and indexing follow the array API standard.

It is a `Tensor` in everything else, on the same memory and in the same graph. What differs: dtypes
promote by the standard (a 0-d array counts like any other), slices may have negative steps, integer
arrays of every dtype are indices, and `size` is a number (which may still be called, as torch's).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _creation, _dispatch, _state
from .._tensor import Tensor
from ..core.call import fn
from ..core.command import FUNCTIONAL
from ..core.dtype import FLOAT_KIND, INT_KIND, bool_, int64, result_dtype
from ..core.errors import ArgumentError, BadValueError, DTypeError
from ._promotion import promote, scalar_kind, with_scalar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..core.dtype import Device, DType

_INT64 = range(-(2**63), 2**63)  # what travels as a Python number


class Size(int):
    """How many elements an array has; called, it returns the shape, or one dim's size."""

    shape: tuple[int, ...]

    def __new__(cls, x: Tensor) -> Size:
        made = super().__new__(cls, x.numel())
        made.shape = x.shape
        return made

    def __call__(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]


class Array(Tensor):
    """A tensor by the array API standard. Made by `farspan.array_api.asarray` and its kind."""

    @classmethod
    def _apply(
        cls, op: Any, tensors: Sequence[Any], static: Any, scalars: tuple[Any, ...], form: int
    ) -> Any:
        result = _dispatch.apply(Tensor, op, tensors, static, scalars, form)
        return array_of(result) if form == FUNCTIONAL else result

    @property
    def size(self) -> Size:  # type: ignore[override]
        """The number of elements."""
        return Size(self)

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        return array_of(super().__array_wrap__(array, context, return_scalar))

    def __getitem__(self, key: Any) -> Array:
        key, turned = _plain_key(self, key)
        if not turned:
            return super().__getitem__(key)  # type: ignore[return-value]
        whole = super().__getitem__(turned.before)
        return fn.flip(whole, turned.dims)[turned.after]

    def __setitem__(self, key: Any, value: Any) -> None:
        key, turned = _plain_key(self, key)
        if not turned:
            super().__setitem__(key, _held(value, self))
            return
        part = Tensor.__getitem__(self, turned.before)
        flipped = fn.flip(part, turned.dims)
        flipped[turned.after] = value
        fn.copy_(part, fn.flip(flipped, turned.dims))


def array_of(result: Any) -> Any:
    """Return a fresh tensor, or several, as arrays: the same objects under another class."""
    if isinstance(result, Tensor):
        result.__class__ = Array
        return result
    if isinstance(result, (tuple, list)):
        for each in result:
            array_of(each)
    return result


def own(x: Any) -> Array:
    """Return an argument as an Array: itself, or a view of a plain tensor. TypeError for others."""
    if type(x) is Array:
        return x
    if isinstance(x, Tensor):
        return array_of(fn.alias(x))
    raise ArgumentError(f"expected an array, not {type(x).__name__}; asarray() makes one")


# ------------------------------------------------------------------------------------ operators --
def filled(shape: tuple[int, ...], value: complex, dtype: DType, device: Device) -> Array:
    """Return an array whose elements are all `value`, which any integer dtype may need."""
    if type(value) is int and value not in _INT64:  # it does not travel as a number
        one = np.array(value, dtype.numpy if dtype.category >= FLOAT_KIND else np.uint64)
        session = _state.current()
        return array_of(fn.clone(fn.expand(_creation.upload(session, one, dtype, device), shape)))
    return array_of(fn.full(shape, value, dtype=dtype, device=device))


def number_array(value: complex, like: Array) -> Array:
    """Return a Python number as a 0-d array of the dtype that it has beside `like`."""
    return filled((), value, with_scalar(like.dtype, scalar_kind(value)), like.device)


def _operand(value: Any, like: Array) -> Any:
    """Return a Python number as an operand of torch's: itself, or an array if it cannot travel."""
    if type(value) is int and value not in _INT64 and like.dtype.category == INT_KIND:
        return number_array(value, like)
    return value


def promoted(a: Array, b: Array) -> tuple[Array, Array]:
    """Return two arrays so that torch's promotion finds the standard's type."""
    if a.dtype is b.dtype:
        return a, b
    want = promote(a.dtype, b.dtype)
    if _torchs_type(a, b) is want:
        return a, b
    return cast(a, want), cast(b, want)


def of_one_type(a: Array, b: Array) -> tuple[Array, Array]:
    """Return two arrays cast to their common dtype, for products, which do not promote."""
    want = promote(a.dtype, b.dtype)
    return cast(a, want), cast(b, want)


def _torchs_type(a: Array, b: Array) -> DType | None:
    dims = [x.dtype for x in (a, b) if x._spec.shape]
    zeros = [x.dtype for x in (a, b) if not x._spec.shape]
    try:
        return result_dtype(dims, zeros)
    except DTypeError:  # it has no rule for the wide unsigned types
        return None


def cast(x: Array, dtype: DType) -> Array:
    """Return x with elements of `dtype`; itself if they are."""
    return x if x.dtype is dtype else fn._cast(x, dtype)


def _operator(name: str) -> Callable[[Any, Any], Any]:
    """Return ``__name__`` for two operands of any dtypes that promote."""
    plain = getattr(Tensor, name)

    def method(self: Array, other: Any) -> Any:
        if isinstance(other, Tensor):
            return plain(*promoted(self, own(other)))
        return plain(self, _operand(other, self))

    method.__name__ = method.__qualname__ = name
    return method


def _reflected(name: str) -> Callable[[Any, Any], Any]:
    """Return ``__rname__``: of a number, or of a plain tensor, which asks the subclass first."""
    plain, forward = getattr(Tensor, f"__r{name}__"), getattr(Array, f"__{name}__")

    def method(self: Array, other: Any) -> Any:
        if isinstance(other, Tensor):
            return forward(own(other), self)
        return plain(self, _operand(other, self))

    method.__name__ = method.__qualname__ = f"__r{name}__"
    return method


def _inplace(name: str) -> Callable[[Any, Any], Any]:
    """Return ``__iname__``, which keeps the dtype. TypeError if the result's is of another kind."""
    plain = getattr(Tensor, f"__i{name}__")

    def method(self: Array, other: Any) -> Any:
        if not isinstance(other, Tensor):
            return plain(self, _operand(other, self))
        return plain(self, _storable(self, own(other)))

    method.__name__ = method.__qualname__ = f"__i{name}__"
    return method


def floor_quotient(a: Array, b: Array) -> Array:
    """Return floor(a / b), which of an infinity is one too; torch's kernel says nan there."""
    exact = fn.floor_divide(a, b)
    if not exact.dtype.is_floating_point:
        return exact  # type: ignore[no-any-return]
    finite = fn.logical_and(fn.isfinite(a), fn.isfinite(b))
    return fn.where(finite, exact, fn.floor(fn.div(a, b)))  # type: ignore[no-any-return]


def _floordiv(self: Array, other: Any) -> Any:
    if not isinstance(other, (Tensor, bool, int, float)):
        return NotImplemented
    b = own(other) if isinstance(other, Tensor) else number_array(other, self)
    return floor_quotient(*promoted(self, b))


def _rfloordiv(self: Array, other: Any) -> Any:
    if not isinstance(other, (Tensor, bool, int, float)):
        return NotImplemented
    a = own(other) if isinstance(other, Tensor) else number_array(other, self)
    return floor_quotient(*promoted(a, self))


def _ifloordiv(self: Array, other: Any) -> Any:
    if isinstance(other, Tensor):
        other = _storable(self, own(other))
    quotient = _floordiv(self, other)
    return quotient if quotient is NotImplemented else fn.copy_(self, quotient)


def _storable(x: Array, other: Array) -> Array:
    """Return the operand of an operation in place, whose result x can hold: cast within a kind."""
    common = promote(x.dtype, other.dtype)
    if common.category > x.dtype.category:
        raise ArgumentError(f"the result in place is {common}, which an array of {x.dtype} is not")
    return other if _torchs_type(x, other) is common else cast(other, x.dtype)


def _moved(name: str) -> Callable[..., Any]:
    plain = getattr(Tensor, name)

    def method(self: Array, *args: Any, **kwargs: Any) -> Any:
        return array_of(plain(self, *args, **kwargs))

    method.__name__ = method.__qualname__ = name
    return method


def _bind_operators() -> None:
    names = ("add", "sub", "mul", "truediv", "mod", "pow", "matmul", "and", "or",
             "xor", "lshift", "rshift")  # fmt: skip
    for name in names:
        setattr(Array, f"__{name}__", _operator(f"__{name}__"))
        setattr(Array, f"__r{name}__", _reflected(name))
        setattr(Array, f"__i{name}__", _inplace(name))
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        setattr(Array, f"__{name}__", _operator(f"__{name}__"))
    for method in (_floordiv, _rfloordiv, _ifloordiv):
        setattr(Array, f"_{method.__name__}__", method)
    for name in ("to", "cpu", "cuda"):  # a crossing makes its result by itself
        setattr(Array, name, _moved(name))
    Array.__hash__ = Tensor.__hash__  # type: ignore[method-assign]


_bind_operators()


# ------------------------------------------------------------------------------------- indexing --
class _Turned:
    """A key with negative steps in two: slices forward, then flips, then the rest of the key."""

    def __init__(self, before: tuple[Any, ...], dims: list[int], after: tuple[Any, ...]) -> None:
        self.before, self.dims, self.after = before, dims, after


def _plain_key(x: Array, key: Any) -> tuple[Any, _Turned | None]:
    """Return a key that torch's indexing understands, or what to do in its place."""
    items = key if type(key) is tuple else (key,)
    if not any(isinstance(i, (slice, Tensor)) for i in items):
        return key, None
    if isinstance(key, Tensor) and key.dtype is bool_:
        return _empty_mask(key, x), None
    items = tuple(_index(i) for i in items)
    if not any(isinstance(i, slice) and _is_back(i) for i in items):
        return (items if type(key) is tuple else items[0]), None
    consumed = sum(_dims_of(i) for i in items)
    before: list[Any] = [slice(None)] * x.ndim
    after: list[Any] = []
    dims: list[int] = []
    dim = 0
    for item in items:
        if isinstance(item, slice) and _is_back(item):
            if dim >= x.ndim:
                raise IndexError(f"too many indices for array of dimension {x.ndim}")
            before[dim] = _forward(item, x.shape[dim])
            dims.append(dim)
            after.append(slice(None))
        else:
            after.append(item)
        dim += x.ndim - consumed if item is Ellipsis else _dims_of(item)
    return key, _Turned(tuple(before), dims, tuple(after))


def _is_back(item: slice) -> bool:
    return item.step is not None and int(item.step) < 0


def _forward(item: slice, n: int) -> slice:
    """Return the slice with a positive step over the same elements."""
    places = range(n)[item]
    return slice(places[-1], places[0] + 1, -places.step) if places else slice(0, 0)


def _empty_mask(mask: Tensor, x: Array) -> Tensor:
    """Return a mask in which a size may be 0 for any: with the sizes of x, and nothing true."""
    sizes = x.shape[: mask.ndim]
    if 0 in mask.shape and mask.shape != sizes and mask.ndim <= x.ndim:
        if all(n in (0, size) for n, size in zip(mask.shape, sizes, strict=True)):
            return fn.zeros(sizes, dtype=bool_, device=x.device)
    return mask


def _index(item: Any) -> Any:
    """Return an index array with a dtype that torch takes for positions, or a mask."""
    if isinstance(item, Tensor) and item.dtype.category == INT_KIND and item.dtype is not int64:
        return fn._cast(item, int64)
    return item


def _dims_of(item: Any) -> int:
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    return item.ndim if isinstance(item, Tensor) and item.dtype is bool_ else 1


def _held(value: Any, x: Array) -> Any:
    """Return the value of an assignment; TypeError where its kind is higher than the array's."""
    if isinstance(value, Tensor):
        if value.dtype.category > x.dtype.category and value.dtype.category > FLOAT_KIND:
            raise ArgumentError(f"cannot assign {value.dtype} to an array of {x.dtype}")
        return value
    return _operand(value, x)


def check_axis(axis: int, ndim: int) -> int:
    """Return the axis counted from 0. IndexError, as of a sequence, if there is none."""
    if not -ndim <= axis < ndim:
        raise IndexError(f"axis {axis} is out of bounds for an array of {ndim} dims")
    return axis % ndim


def refuse(condition: bool, message: str) -> None:
    """Raise ValueError with the message if the condition holds."""
    if condition:
        raise BadValueError(message)
