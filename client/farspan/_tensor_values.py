"""Reading a tensor's values: as numbers, lists, arrays, by DLPack. These are the only waits.

What crosses from one memory to another, and what may be shared, is `_interop.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import _dispatch
from ._gather import Fields
from .core.call import Value, fn
from .core.dtype import DTYPES, DType, uint64
from .core.errors import ArgumentError, AutogradError, BadValueError, DTypeError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._tensor import Tensor


class ValueMethods(Fields):
    """Methods of Tensor that need its values, or hand them out."""

    __slots__ = ()

    def _fetch(self) -> np.ndarray[Any, Any]:
        """Return the values in a fresh array of their own. Waits."""
        answer = self._ref.session.get(self._ref)
        dtype = DTYPES[answer.dtype].numpy
        assert answer.data is not None
        array = (
            np.frombuffer(answer.data, np.uint8).view(dtype) if answer.data else np.empty(0, dtype)
        )
        return array.reshape(answer.shape)

    def item(self) -> Any:
        """Return the one element as a Python number. Waits."""
        if self._spec.numel != 1:
            raise ShapeError(
                f"a Tensor with {self._spec.numel} elements cannot be converted to Scalar"
            )
        values = self._fetch()
        if values.dtype.isbuiltin == 1:  # numpy's own, none of ml_dtypes'
            return values.item()
        return values.reshape(()).astype(_python_type(self.dtype)).item()

    def tolist(self) -> Any:
        """Return nested lists of Python numbers. Waits."""
        return self._fetch().astype(_python_type(self.dtype)).tolist()

    def numpy(self, *, force: bool = False) -> np.ndarray[Any, Any]:
        """Return the values as an array. Waits.

        On `local:` it shares memory with the tensor. Over a wire it is a private copy, read-only
        where torch's array would alias the tensor, so that a lost write shows.
        """
        if not force:
            if _dispatch.mode.grad and self.requires_grad:
                raise AutogradError(
                    "Can't call numpy() on Tensor that requires grad. "
                    "Use tensor.detach().numpy() instead."
                )
            if self.device.type != "cpu":
                raise ArgumentError(
                    f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to "
                    "copy the tensor to host memory first."
                )
        if self.dtype.name == "bfloat16":
            raise ArgumentError("Got unsupported ScalarType BFloat16")
        from ._interop import export, guard

        shared = None if force and self.device.type != "cpu" else export(self)
        if shared is not None:
            return shared
        array = self._fetch()
        if force or getattr(self, "_copied", False):
            return array.copy()
        return guard(array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            return array.astype(dtype)
        return array.copy() if copy else array

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        from ._creation import from_numpy

        return from_numpy(np.asarray(array))

    __array_priority__ = 1000

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[Any, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Share memory by DLPack, on `local:` only; ``copy=True`` exports a copy from anywhere.

        Raises BufferError where memory cannot be shared, and for a tensor that requires a gradient.
        """
        if self.requires_grad:
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
        from ._interop import dlpack

        return dlpack(self, stream, max_version, dl_device, copy)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __array_namespace__(self, /, *, api_version: str | None = None) -> Any:
        """Return `farspan.array_api`: the array API standard. ValueError for unknown versions."""
        from . import array_api

        known = ("2021.12", "2022.12", "2023.12", "2024.12")
        if api_version is not None and api_version not in known:
            raise BadValueError(f"array API {api_version!r}: there are {', '.join(known)}")
        return array_api

    def to_device(self, device: Any, /, *, stream: Any = None) -> Tensor:
        """Return the tensor on a device of its session; itself if it is there."""
        if stream is not None:
            raise BadValueError("to_device(stream=...): a session has no streams to wait for")
        return self.to(device)  # type: ignore[attr-defined, no-any-return]

    def __bool__(self) -> bool:
        if self._spec.numel != 1:
            if not self._spec.numel:
                raise ShapeError("Boolean value of Tensor with no values is ambiguous")
            raise ShapeError("Boolean value of Tensor with more than one value is ambiguous")
        return bool(self.item())

    def __float__(self) -> float:
        return float(self._one())

    def __int__(self) -> int:
        return int(self._one())

    def __complex__(self) -> complex:
        return complex(self._one())

    def _one(self) -> Any:
        if self._spec.numel != 1:  # as torch: a ValueError here, a RuntimeError from item()
            raise BadValueError("only one element tensors can be converted to Python scalars")
        return self.item()

    def __index__(self) -> int:
        if self.dtype.category > 1 or self._spec.numel != 1:
            raise TypeError("only integer tensors of a single element can be converted to an index")
        return int(self.item())

    def __len__(self) -> int:
        if not self._spec.shape:
            raise TypeError("len() of a 0-d tensor")
        return self._spec.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if not self._spec.shape:
            raise TypeError("iteration over a 0-d tensor")
        return iter(fn.unbind(self, 0))

    def __contains__(self, x: Any) -> bool:
        if not isinstance(x, (Value, bool, int, float, complex, np.generic)):
            raise DTypeError(
                "Tensor.__contains__ only supports Tensor or scalar, but you passed in a "
                f"{type(x)}."
            )
        return bool(fn.any(fn.eq(self, x)))

    def data_ptr(self) -> int:
        """Return the address of the first element, 0 without elements. Waits.

        On `local:` it is where the tensor lives; over a wire, where a copy of the values it has now
        lies on this machine, as long as the tensor's memory is held.
        """
        from ._interop import address

        return address(self)


_PYTHON_KINDS = {0: np.bool_, 1: np.int64, 2: np.float64, 3: np.complex128}


def _python_type(dtype: DType) -> Any:
    """Return the numpy type whose elements become Python numbers without loss."""
    return np.uint64 if dtype is uint64 else _PYTHON_KINDS[dtype.category]
