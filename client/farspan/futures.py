"""torch.futures: results of calls between processes, which farspan does not make."""

from __future__ import annotations

from typing import Any, Generic, NoReturn, TypeVar

from .core.errors import UnsupportedError

__all__ = ["Future", "collect_all", "wait_all"]

T = TypeVar("T")


class Future(Generic[T]):
    """A result that another process will give, in torch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise UnsupportedError("torch.futures: use concurrent.futures; tensors never block anyway")


def collect_all(futures: list[Future[Any]]) -> NoReturn:
    """Raise UnsupportedError: there are no futures."""
    raise UnsupportedError("torch.futures: use concurrent.futures; tensors never block anyway")


wait_all = collect_all
