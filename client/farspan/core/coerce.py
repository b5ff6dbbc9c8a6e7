"""Argument coercions that the generated binders call, by the kinds of `core/schema.py`.

Each takes what a user passed and returns the static form that travels, or raises ArgumentError in
torch's words. Nothing here looks at tensors.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import limits
from .dtype import BY_NAME, Device, DType
from .errors import ArgumentError, BadValueError, UnsupportedError


class Tagged(float):
    """A number that a program takes anew at each Call, if nothing looked at it on its way."""

    seen = False
    live = True  # the program is being made; later it is a number as others
    index = -1  # among a program's numbers

    def conjugate(self) -> Tagged:
        return self


def _noticed(name: str) -> Any:
    plain = getattr(float, name)

    def noticing(self: Tagged, *args: Any) -> Any:
        self.seen = self.seen or self.live
        return plain(self, *args)

    return noticing


for _name in (
    "eq ne lt le gt ge bool hash float int neg pos abs add radd sub rsub mul rmul truediv rtruediv "
    "floordiv rfloordiv mod rmod divmod rdivmod pow rpow round trunc ceil floor repr format"
).split():
    setattr(Tagged, f"__{_name}__", _noticed(f"__{_name}__"))
for _name in ("as_integer_ratio", "hex", "is_integer"):
    setattr(Tagged, _name, _noticed(_name))


_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1


def integer(x: Any) -> int:
    """Return an int of 64 bits; anything with ``__index__`` will do, but no bool silently."""
    if type(x) is int:
        if not _INT_MIN <= x <= _INT_MAX:
            raise BadValueError(f"Overflow when unpacking long long: {x} does not fit 64 bits")
        return x
    try:
        return integer(operator.index(x))
    except TypeError:
        raise ArgumentError(f"must be int, not {type(x).__name__}") from None


def integer_or_none(x: Any) -> int | None:
    return None if x is None else integer(x)


def integers(x: Any, size: int = 0) -> tuple[int, ...]:
    """Return a tuple of ints; a single int stands for a list of `size` (at least one).

    None is the empty list: the default of a pooling's stride.
    """
    if x is None:
        return ()
    if type(x) is int:
        return (x,) * max(size, 1)
    if not isinstance(x, Sequence) or isinstance(x, str):
        return (integer(x),) * max(size, 1)
    if len(x) > limits.INTS_PER_ATTR_MAX:
        raise BadValueError(f"a list of {len(x)} ints is longer than {limits.INTS_PER_ATTR_MAX}")
    if size > 1 and len(x) == 1:
        return (integer(x[0]),) * size
    return tuple([i if type(i) is int else integer(i) for i in x])


def integers_or_none(x: Any, size: int = 0) -> tuple[int, ...] | None:
    return None if x is None else integers(x, size)


def boolean(x: Any) -> bool:
    if x is True or x is False:
        return x
    if isinstance(x, (int, np.bool_)):
        return bool(x)
    raise ArgumentError(f"must be bool, not {type(x).__name__}")


def boolean_or_none(x: Any) -> bool | None:
    return None if x is None else boolean(x)


def string(x: Any) -> str:
    if not isinstance(x, str):
        raise ArgumentError(f"must be str, not {type(x).__name__}")
    if len(x) > limits.STRING_BYTES_MAX // 4:  # a character has at most four bytes
        raise BadValueError(f"a string of {len(x)} characters is longer than an argument may be")
    return str(x)


def string_or_none(x: Any) -> str | None:
    return None if x is None else string(x)


_PYTHON_DTYPES = {float: "float64", int: "int64", bool: "bool", complex: "complex128"}


def dtype(x: Any) -> int:
    """Return the code of a DType, or of the Python type that torch takes in its place."""
    if isinstance(x, DType):
        if x.code < 0:
            raise UnsupportedError(f"{x}: farspan has no tensors of this dtype")
        return x.code
    name = _PYTHON_DTYPES.get(x)
    if name is None:
        raise ArgumentError(f"must be torch.dtype, not {type(x).__name__}")
    return BY_NAME[name].code


def dtype_or_none(x: Any) -> int | None:
    return None if x is None else dtype(x)


def device(x: Any) -> str:
    return str(Device(x))


def device_or_none(x: Any) -> str | None:
    return None if x is None else str(Device(x))


def layout(x: Any) -> None:
    """Accept torch.strided, the one layout there is."""
    if x is not None and str(x) != "torch.strided":
        raise BadValueError(f"layout {x} is not supported; tensors are strided")


def memory_format(x: Any) -> int | None:
    """Return the code of a memory format (see `farspan.memory_format`), or None."""
    return None if x is None else int(getattr(x, "code", x))


def generator(x: Any) -> int | None:
    """Return the session's number of a Generator; None is the default one."""
    return None if x is None else integer(x._number())


def scalar(x: Any, default: Any, numbers: list[Any]) -> str | None:
    """Append the number and return its code b, i, f or c; None, sent as nothing, is the default."""
    if x is default or x is None:
        return None
    kind = type(x)
    if kind is float or kind is Tagged:
        numbers.append(x if kind is float or x.live else x.real)
        return "f"
    if kind is int:
        numbers.append(integer(x))
        return "i"
    if kind is bool:
        numbers.append(x)
        return "b"
    if isinstance(x, np.generic):
        return scalar(x.item(), default, numbers)
    if isinstance(x, (bool, int, float, complex)):
        base = next(t for t in (bool, int, float, complex) if isinstance(x, t))
        if kind is not complex:
            return scalar(base(x), None, numbers)  # type: ignore[arg-type]
        numbers.append(x)
        return "c"
    if hasattr(x, "item"):  # a tensor of one element: waits for its value, as torch does
        return scalar(x.item(), default, numbers)
    raise ArgumentError(f"must be Number, not {type(x).__name__}")


def number(x: Any, default: Any, numbers: list[Any]) -> str | None:
    """Append a float and return its code; None, sent as nothing, is the default."""
    if x is default or x is None:
        return None
    try:
        numbers.append(x if type(x) is Tagged and x.live else float(x))
    except (TypeError, ValueError):
        raise ArgumentError(f"must be float, not {type(x).__name__}") from None
    return "f"


def scalars(x: Any, default: Any, numbers: list[Any]) -> tuple[str | None, ...] | None:
    return None if x is None else tuple([scalar(i, None, numbers) for i in _short(x)])


def numbers(x: Any, default: Any, numbers: list[Any]) -> tuple[str | None, ...] | None:
    if x is not None and not isinstance(x, Sequence):
        x = (x,)
    return None if x is None else tuple([number(i, None, numbers) for i in _short(x)])


def _short(x: Sequence[Any]) -> Sequence[Any]:
    if len(x) > limits.INTS_PER_ATTR_MAX:
        raise BadValueError(f"a list of {len(x)} numbers; at most {limits.INTS_PER_ATTR_MAX}")
    return x
