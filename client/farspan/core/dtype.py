"""DType and Device: what elements are and where they live, with torch's promotion rules.

Codes are part of the wire and never change. numpy has no bfloat16: ml_dtypes supplies it at first
use. Promotion: https://pytorch.org/docs/stable/tensor_attributes.html#type-promotion-doc
"""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from .errors import BadValueError, DeviceError, DTypeError

if TYPE_CHECKING:
    from collections.abc import Iterable

BOOL_KIND, INT_KIND, FLOAT_KIND, COMPLEX_KIND = 0, 1, 2, 3


class DType:
    """The type of a tensor's elements. There is one object a type, compared by identity."""

    __slots__ = (
        "c_name", "category", "code", "is_complex", "is_floating_point", "is_signed", "itemsize",
        "name",
    )  # fmt: skip

    def __init__(self, code: int, name: str, kind: int, itemsize: int, c_name: str) -> None:
        self.code = code
        self.name = name
        self.c_name = c_name  # as ATen's messages and `x.type()` call it
        # BOOL_KIND < INT_KIND < FLOAT_KIND < COMPLEX_KIND. Not `kind`: libraries that look for it
        # expect a letter of numpy there.
        self.category = kind
        self.itemsize = itemsize  # bytes
        self.is_floating_point = kind == FLOAT_KIND
        self.is_complex = kind == COMPLEX_KIND
        self.is_signed = kind > INT_KIND or name[0] == "i"

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy dtype with the same elements."""
        return _numpy_dtype(self.name)

    @property
    def is_reduced(self) -> bool:
        """Whether arithmetic happens in float32 and is rounded once: float16 and bfloat16."""
        return self.category == FLOAT_KIND and self.itemsize == 2

    def to_complex(self) -> DType:
        """Return the complex type with parts of this precision."""
        return {"float64": complex128, "complex128": complex128}.get(self.name, complex64)

    def to_real(self) -> DType:
        """Return the type of the real part."""
        return {"complex128": float64, "complex64": float32}.get(self.name, self)

    def __repr__(self) -> str:
        return f"torch.{self.name}"

    def __reduce__(self) -> str:
        return self.name

    def __copy__(self) -> DType:
        return self

    def __deepcopy__(self, memo: object) -> DType:
        return self


bool_: Final = DType(0, "bool", BOOL_KIND, 1, "Bool")
uint8: Final = DType(1, "uint8", INT_KIND, 1, "Byte")
int8: Final = DType(2, "int8", INT_KIND, 1, "Char")
int16: Final = DType(3, "int16", INT_KIND, 2, "Short")
int32: Final = DType(4, "int32", INT_KIND, 4, "Int")
int64: Final = DType(5, "int64", INT_KIND, 8, "Long")
float16: Final = DType(6, "float16", FLOAT_KIND, 2, "Half")
bfloat16: Final = DType(7, "bfloat16", FLOAT_KIND, 2, "BFloat16")
float32: Final = DType(8, "float32", FLOAT_KIND, 4, "Float")
float64: Final = DType(9, "float64", FLOAT_KIND, 8, "Double")
complex64: Final = DType(10, "complex64", COMPLEX_KIND, 8, "ComplexFloat")
complex128: Final = DType(11, "complex128", COMPLEX_KIND, 16, "ComplexDouble")
# These three have what numpy gives, and no place in torch's lattice of promotion.
uint16: Final = DType(12, "uint16", INT_KIND, 2, "UInt16")
uint32: Final = DType(13, "uint32", INT_KIND, 4, "UInt32")
uint64: Final = DType(14, "uint64", INT_KIND, 8, "UInt64")

DTYPES: Final = (
    bool_, uint8, int8, int16, int32, int64,
    float16, bfloat16, float32, float64, complex64, complex128, uint16, uint32, uint64,
)  # fmt: skip
_LONE: Final = frozenset((uint16, uint32, uint64))
BY_NAME: Final = {d.name: d for d in DTYPES}
#: What C++ calls the elements, as messages of ATen have it.
CPP_NAMES: Final = {
    "bool": "bool", "uint8": "unsigned char", "int8": "signed char", "int16": "short int",
    "int32": "int", "int64": "long int", "float16": "c10::Half", "bfloat16": "c10::BFloat16",
    "float32": "float", "float64": "double", "complex64": "c10::complex<float>",
    "complex128": "c10::complex<double>",
}  # fmt: skip


@functools.cache
def _numpy_dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16" or name.startswith(("float8", "float4")):
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name.removesuffix("_x2")))
        return found
    return np.dtype(name)


def from_numpy(dtype: np.dtype[Any]) -> DType:
    """Return the DType of a numpy dtype. TypeError if there is none."""
    found = BY_NAME.get(dtype.name)
    if found is None:
        names = ", ".join(BY_NAME)
        raise TypeError(f"can't convert a numpy array of dtype {dtype}; supported are {names}")
    return found


class Defaults:
    """The dtype that Python floats and floating-point factories take. torch keeps it globally too.

    An engine sets it from the frame it runs; a client by ``set_default_dtype``.
    """

    dtype: DType = float32


class _Places(threading.local):
    """Where factories of this thread make tensors; the stack is of ``with torch.device(...)``."""

    device: Device | None = None

    def __init__(self) -> None:
        self.before: list[Device | None] = []


PLACES: Final = _Places()


@functools.cache
def promote(a: DType, b: DType) -> DType:
    """Return the smallest type that holds both, by torch's lattice for tensors of equal rank.

    DTypeError for uint16, uint32 or uint64 with any other type but a real floating one.
    """
    if a is b:
        return a
    if (a in _LONE and not b.is_floating_point) or (b in _LONE and not a.is_floating_point):
        raise DTypeError(
            "Promotion for uint16, uint32, uint64 types is not supported, attempted to promote "
            f"{a.c_name} and {b.c_name}"
        )
    if a.category > b.category:
        a, b = b, a
    if a.category == b.category:
        if a.category == INT_KIND:
            return _promote_ints(a, b)
        if a.category == FLOAT_KIND:
            if a.itemsize == b.itemsize:  # float16 with bfloat16
                return float32
            return a if a.itemsize > b.itemsize else b
        return complex128  # the two complex types
    if b.category == COMPLEX_KIND and a.category == FLOAT_KIND:
        return complex128 if float64 in (a, b.to_real()) else complex64
    return b


def _promote_ints(a: DType, b: DType) -> DType:
    if uint8 in (a, b):
        other = b if a is uint8 else a
        return int16 if other is int8 else other
    return a if a.itemsize > b.itemsize else b


SCALAR_DTYPES: Final[dict[str, DType]] = {"b": bool_, "i": int64}


def scalar_dtype(code: str) -> DType:
    """Return the type that a Python scalar alone has: code b, i, f or c (see `schema`)."""
    if code == "f":
        return Defaults.dtype
    if code == "c":
        return Defaults.dtype.to_complex()
    return SCALAR_DTYPES[code]


def result_dtype(
    dimensioned: Iterable[DType], zero_dim: Iterable[DType] = (), scalars: Iterable[str] = ()
) -> DType:
    """Return the type of a mixed operation: a lower rank counts only if its kind is higher.

    dimensioned: types of tensors with dims; zero_dim: of tensors without; scalars: codes of Python
    numbers. Source: `result_type` in ATen/native/TypeProperties.cpp.
    """
    wrapped = _fold(scalar_dtype(code) for code in scalars)
    return _combine(_fold(dimensioned), _combine(_fold(zero_dim), wrapped)) or Defaults.dtype


def _fold(dtypes: Iterable[DType]) -> DType | None:
    found: DType | None = None
    for dtype in dtypes:
        found = dtype if found is None else promote(found, dtype)
    return found


def _combine(higher: DType | None, lower: DType | None) -> DType | None:
    if higher is None or lower is None:
        return higher or lower
    if higher.is_complex:
        return higher
    if higher.is_floating_point:
        return higher.to_complex() if lower.is_complex else higher
    if higher is bool_ or lower.category >= FLOAT_KIND:
        return promote(higher, lower)
    return higher


def to_floating(dtype: DType) -> DType:
    """Return the type of a function with real values, such as sqrt, on elements of `dtype`."""
    return dtype if dtype.category >= FLOAT_KIND else Defaults.dtype


# ------------------------------------------------------------------------------------- devices --
_KINDS: Final = ("cpu", "cuda", "meta")


class Device:
    """Where a tensor lives, as torch names it: ``cpu``, ``cpu:1``, ``cuda:0``. Interned."""

    __slots__ = ("index", "type")
    _interned: ClassVar[dict[tuple[str, int | None], Device]] = {}
    type: str
    index: int | None

    def __new__(cls, type: str | Device | int, index: int | None = None) -> Device:
        if isinstance(type, Device):
            return type
        if isinstance(type, int):
            return cls("cuda", type)
        if not isinstance(type, str):
            raise TypeError(f"device(): argument 'type' must be str, not {type.__class__.__name__}")
        if ":" in type:
            if index is not None:
                raise BadValueError(f"device(): {type!r} has an index, and index={index} was given")
            type, _, text = type.partition(":")
            if not text.isdigit() or (len(text) > 1 and text[0] == "0"):
                raise DeviceError(f"Invalid device string: '{type}:{text}'; write e.g. '{type}:0'")
            index = int(text)
        if type not in _KINDS:
            raise DeviceError(f"Invalid device string: '{type}'; expected one of {_KINDS}")
        key = (type, index)
        found = cls._interned.get(key)
        if found is None:
            found = object.__new__(cls)
            found.type, found.index = type, index
            found = cls._interned.setdefault(key, found)
        return found

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        if self.index is None:
            return f"device(type='{self.type}')"
        return f"device(type='{self.type}', index={self.index})"

    def __enter__(self) -> Device:
        """Let factories without ``device=`` make tensors here, in this thread."""
        PLACES.before.append(PLACES.device)
        PLACES.device = self
        return self

    def __exit__(self, *error: object) -> None:
        PLACES.device = PLACES.before.pop()

    def __reduce__(self) -> tuple[Any, ...]:
        return (Device, (self.type, self.index))

    def __deepcopy__(self, memo: object) -> Device:
        return self


CPU: Final = Device("cpu")
