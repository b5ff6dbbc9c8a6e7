"""Private names of torch that libraries use: checks, a shape as a tensor, symbolic sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._tensor import Tensor
from .core.call import fn
from .core.errors import ShapeError, UnsupportedError

__all__ = [
    "SymBool", "SymFloat", "SymInt", "_assert", "_assert_async", "_check", "_check_index",
    "_check_is_size", "_check_not_implemented", "_check_tensor_all", "_check_tensor_all_with",
    "_check_type", "_check_value", "_check_with", "_shape_as_tensor",
]  # fmt: skip


class SymInt:
    """A size that a compiler does not know, in torch; sizes are ints here."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise UnsupportedError(f"torch.{type(self).__name__}: sizes and numbers are Python's here")


class SymFloat(SymInt):
    """A number that a compiler does not know, in torch."""


class SymBool(SymInt):
    """A truth that a compiler does not know, in torch."""


def _check_with(
    error_type: type[Exception], cond: bool, message: Callable[[], Any] | str | None = None
) -> None:
    """Raise the error with the message, a text or a function of none, unless `cond` is True."""
    if not isinstance(cond, bool):
        raise TypeError(f"cond must be a bool, but got {type(cond)}")
    if cond:
        return
    if message is None:
        raise error_type("Expected cond to be True, but got False.")
    if not callable(message) and not isinstance(message, str):
        raise TypeError("message must be a callable or a string")
    raise error_type(str(message() if callable(message) else message))


def _check(cond: bool, message: Any = None) -> None:
    """Raise RuntimeError with the message unless `cond`."""
    _check_with(RuntimeError, cond, message)


def _check_index(cond: bool, message: Any = None) -> None:
    """Raise IndexError with the message unless `cond`."""
    _check_with(IndexError, cond, message)


def _check_value(cond: bool, message: Any = None) -> None:
    """Raise ValueError with the message unless `cond`."""
    _check_with(ValueError, cond, message)


def _check_type(cond: bool, message: Any = None) -> None:
    """Raise TypeError with the message unless `cond`."""
    _check_with(TypeError, cond, message)


def _check_not_implemented(cond: bool, message: Any = None) -> None:
    """Raise NotImplementedError with the message unless `cond`."""
    _check_with(NotImplementedError, cond, message)


def _check_is_size(i: int, message: Any = None, *, max: int | None = None) -> None:
    """Raise RuntimeError unless 0 <= i, and i <= max if that is given."""
    _check(i >= 0, message)
    if max is not None:
        _check(i <= max, message)


def _check_tensor_all_with(error_type: type[Exception], cond: Tensor, message: Any = None) -> None:
    """Raise the error unless every element of a bool tensor is True. Waits."""
    if not isinstance(cond, Tensor):
        raise TypeError(f"cond must be a tensor, but got {type(cond)}")
    if cond.dtype.name != "bool":
        raise TypeError(f"cond tensor must have dtype torch.bool, but got {cond.dtype}")
    _check_with(error_type, bool(fn.all(cond)), message)


def _check_tensor_all(cond: Tensor, message: Any = None) -> None:
    """Raise RuntimeError unless every element of a bool tensor is True. Waits."""
    _check_tensor_all_with(RuntimeError, cond, message)


def _assert_async(input: Tensor, assert_msg: str = "") -> None:
    """Raise RuntimeError if the one element is zero. Waits."""
    if input.numel() != 1:
        count = "no values" if not input.numel() else "more than one value"
        raise ShapeError(f"Boolean value of Tensor with {count} is ambiguous")
    if not input.item():
        raise RuntimeError(assert_msg or "Expected Tensor with single nonzero value, but got zero")


def _assert(condition: Any, message: str) -> None:
    """Raise AssertionError with the message unless the condition holds."""
    assert condition, message


def _shape_as_tensor(self: Tensor) -> Tensor:
    """Return the sizes as an int64 vector."""
    from ._creation import tensor
    from .core.dtype import int64

    return tensor(list(self.shape), dtype=int64)
