"""Creation functions: from Python's data, numpy, DLPack, or a shape."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import _creation, _shapes, _state
from .._tensor import Tensor
from ..core import dtype as dtypes
from ..core.call import fn
from ..core.dtype import Defaults, Device, DType, int64
from ..core.errors import ArgumentError, BadValueError
from ..core.family import number_dtype
from ._array import Array, array_of, cast, filled, own

__all__ = [
    "arange", "asarray", "empty", "empty_like", "eye", "from_dlpack", "full", "full_like",
    "linspace", "meshgrid", "ones", "ones_like", "tril", "triu", "zeros", "zeros_like",
]  # fmt: skip


def asarray(
    obj: Any,
    /,
    *,
    dtype: DType | None = None,
    device: Any | None = None,
    copy: bool | None = None,
) -> Array:
    """Return `obj` as an array: a tensor, number, nested sequence, numpy array, or like one.

    copy: True copies in any case; False raises ValueError where memory cannot be shared; None, the
    default, shares where it can: with tensors, and on `local:` with writable numpy arrays.
    Does not wait, unless tensors stand within a sequence.
    """
    if isinstance(obj, Tensor):
        return _of_tensor(obj, dtype, device, copy)
    obj = _as_numpy(obj)
    if isinstance(obj, np.ndarray):
        if copy is not True and _can_share(obj, dtype, device):
            return array_of(_creation.from_numpy(obj))
    if copy is False:
        raise BadValueError(
            f"asarray(copy=False): the values of a {type(obj).__name__} must be copied here"
        )
    if dtype is not None and isinstance(obj, (bool, int, float, complex)):
        return full((), obj, dtype=dtype, device=device)
    if dtype is dtypes.uint64 and isinstance(obj, (list, tuple)):
        obj = _wide(obj)
    return array_of(_creation.tensor(obj, dtype=dtype, device=device))


def _as_numpy(obj: Any) -> Any:
    """Return what arrays of other libraries and buffers hold as numpy's; other data as it is."""
    if isinstance(obj, (np.ndarray, np.generic, bool, int, float, complex, list, tuple, range)):
        return obj
    if hasattr(obj, "__array__"):
        return np.asarray(obj)
    if hasattr(obj, "__dlpack__"):
        return np.from_dlpack(obj)
    try:
        return np.asarray(memoryview(obj))
    except TypeError:
        return obj  # `tensor` says what is wrong with it


def _of_tensor(x: Tensor, dtype: DType | None, device: Any, copy: bool | None) -> Array:
    made = own(x)
    same_device = device is None or Device(device) is x.device
    if copy is False and not (same_device and dtype in (None, x.dtype)):
        raise BadValueError("asarray(copy=False): another dtype or device needs a copy")
    return made.to(dtype=dtype, device=device, copy=copy is True)


def _can_share(array: np.ndarray[Any, Any], dtype: DType | None, device: Any) -> bool:
    """Return whether a tensor of the local session may live in the array's memory."""
    session = _state.current()
    return (
        getattr(session.transport, "engines", None) is not None
        and array.flags.writeable
        and array.size > 0
        and all(s >= 0 and s % array.itemsize == 0 for s in array.strides)
        and dtype in (None, dtypes.BY_NAME.get(array.dtype.name))
        and (device is None or Device(device) is session.default_device)
    )


def _wide(obj: Any) -> Any:
    """Return nested sequences of large integers as numpy's uint64; what has tensors as it is."""
    try:
        return np.array(obj, np.uint64)
    except (TypeError, ValueError, OverflowError):
        return obj


def from_dlpack(x: object, /, *, device: Any | None = None, copy: bool | None = None) -> Array:
    """Return an array of what another library exports by DLPack; shared on `local:`, else copied.

    BufferError if `copy=False` and the values must be moved to the session's worker.
    """
    if isinstance(x, Tensor):
        return asarray(x, device=device, copy=copy)
    there = np.from_dlpack(x)
    if copy is False and not _can_share(there, None, device):
        raise BufferError("from_dlpack(copy=False): the values have to be copied to be here")
    return asarray(there, device=device, copy=copy)


def _placed(device: Any) -> Any:
    """Return the device of a factory: the argument, or the place that `with` or a default names."""
    session = _state.current()
    wanted = dtypes.PLACES.device if device is None else Device(device)
    return session.default_device if wanted is None else session.devices[session.index_of(wanted)]


def _filled(name: str) -> Any:
    make = getattr(fn, name)

    def create(
        shape: int | tuple[int, ...], *, dtype: DType | None = None, device: Any | None = None
    ) -> Array:
        size = (shape,) if isinstance(shape, int) else tuple(shape)
        return array_of(make(size, dtype=dtype, device=_placed(device)))

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"Return an array of this shape made by `{name}`; float by default."
    return create


def _filled_like(name: str) -> Any:
    make = getattr(fn, name)

    def create(x: Array, /, *, dtype: DType | None = None, device: Any | None = None) -> Array:
        made = make(own(x), dtype=dtype)
        return made if device is None else made.to(device)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"Return an array of the shape of x made by `{name}`; dtype of x by default."
    return create


empty, ones, zeros = _filled("empty"), _filled("ones"), _filled("zeros")
empty_like, ones_like, zeros_like = map(_filled_like, ("empty_like", "ones_like", "zeros_like"))


def full(
    shape: int | tuple[int, ...],
    fill_value: complex,
    *,
    dtype: DType | None = None,
    device: Any | None = None,
) -> Array:
    """Return an array whose elements are all `fill_value`; its dtype by default the number's."""
    size = (shape,) if isinstance(shape, int) else tuple(shape)
    return filled(size, fill_value, dtype or number_dtype(fill_value), _placed(device))


def full_like(
    x: Array, /, fill_value: complex, *, dtype: DType | None = None, device: Any | None = None
) -> Array:
    """Return an array of the shape of x whose elements are all `fill_value`; dtype of x."""
    x = own(x)
    return full(tuple(x.shape), fill_value, dtype=dtype or x.dtype, device=device or x.device)


def arange(
    start: float,
    /,
    stop: float | None = None,
    step: float = 1,
    *,
    dtype: DType | None = None,
    device: Any | None = None,
) -> Array:
    """Return numbers from `start` (0 if it stands alone) up to, without, `stop`.

    int64 by default if all are ints, else the default float. Empty if no step leads to `stop`.
    """
    if stop is None:
        start, stop = 0, start
    if step == 0:
        raise BadValueError("arange: step must not be zero")
    numbers = (start, stop, step)
    dtype = dtype or (int64 if all(isinstance(n, int) for n in numbers) else Defaults.dtype)
    count = _steps(start, stop, step)
    if not count:
        return zeros((0,), dtype=dtype, device=device)
    place = _placed(device)
    if all(isinstance(n, int) for n in numbers):  # exact, however large
        found = fn.arange(count, dtype=int64 if dtype.category == 1 else dtype, device=place)
        if (start, step) != (0, 1):
            narrow = dtype.category == 1 and dtype is not dtypes.uint64
            found = cast(array_of(found), dtype) if not narrow else array_of(found)
            found = found * step + start
        return cast(array_of(found), dtype)
    return array_of(fn.arange(start, stop, step, dtype=dtype, device=place))


def _steps(start: float, stop: float, step: float) -> int:
    if isinstance(start, int) and isinstance(stop, int) and isinstance(step, int):
        return len(range(start, stop, step))
    return max(0, math.ceil((stop - start) / step))


def linspace(
    start: complex,
    stop: complex,
    /,
    num: int,
    *,
    dtype: DType | None = None,
    device: Any | None = None,
    endpoint: bool = True,
) -> Array:
    """Return `num` numbers at equal distances from `start` to `stop`, with it if `endpoint`."""
    if num < 0:
        raise BadValueError(f"linspace: num must not be negative, got {num}")
    if dtype is None:
        is_complex = isinstance(start, complex) or isinstance(stop, complex)
        dtype = dtypes.scalar_dtype("c" if is_complex else "f")
    place = _placed(device)
    steps = num if endpoint else num + 1
    found = array_of(fn.linspace(start, stop, steps, dtype=dtype, device=place))
    return found[:num]


def eye(
    n_rows: int,
    n_cols: int | None = None,
    /,
    *,
    k: int = 0,
    dtype: DType | None = None,
    device: Any | None = None,
) -> Array:
    """Return a matrix of zeros with ones on the k-th diagonal."""
    n_cols = n_rows if n_cols is None else n_cols
    place = _placed(device)
    if not k:
        return array_of(fn.eye(n_rows, n_cols, dtype=dtype, device=place))
    k = sorted((-n_rows, k, n_cols))[1]  # beyond there is nothing
    rows = fn.unsqueeze(fn.arange(n_rows, device=place), 1)
    ones = fn.eq(fn.add(rows, k), fn.arange(n_cols, device=place))
    return array_of(fn._cast(ones, dtype or Defaults.dtype))


def meshgrid(*arrays: Array, indexing: str = "xy") -> list[Array]:
    """Return coordinate arrays of the grid that 1-d arrays span; "xy" swaps the first two dims."""
    if indexing not in ("xy", "ij"):
        raise BadValueError(f"meshgrid: indexing must be 'xy' or 'ij', got {indexing!r}")
    owned = [own(a) for a in arrays]
    if any(a.ndim > 1 for a in owned):
        raise ArgumentError("meshgrid: arrays must have one dim")
    if len({a.dtype for a in owned}) > 1:
        raise BadValueError("meshgrid: arrays must have one dtype")
    if not owned:
        return []
    return array_of(list(_shapes.meshgrid(*owned, indexing=indexing)))


def tril(x: Array, /, *, k: int = 0) -> Array:
    """Return matrices with zeros above the k-th diagonal."""
    return fn.tril(own(x), k)


def triu(x: Array, /, *, k: int = 0) -> Array:
    """Return matrices with zeros below the k-th diagonal."""
    return fn.triu(own(x), k)
