"""Who stands between an op and its dispatch, while somebody does: vmap, hooks, modes, profilers.

The way of an op knows of none of them. While a handler is in, `Tensor._apply` is another function;
without one it is the plain one again, so nobody pays for what is not in use.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import TYPE_CHECKING, Any

from . import _dispatch
from ._tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    #: (next, op, tensors, static, scalars, form) -> results; `next` takes what follows it.
    Handler = Callable[..., Any]

_plain: Any = Tensor.__dict__["_apply"].__func__
_handlers: list[tuple[int, Handler]] = []  # by rank, the first to be asked first
_lock = threading.Lock()

#: The order in which handlers see an op.
VMAP, SAVED, INFERENCE, PROFILER = range(4)


def _rebuild() -> None:
    _dispatch.set_interposed(bool(_handlers))
    if not _handlers:
        Tensor._apply = classmethod(_plain)  # type: ignore[method-assign, assignment]
        return

    def last(op: Any, tensors: Any, static: Any, scalars: Any, form: int) -> Any:
        return _plain(Tensor, op, tensors, static, scalars, form)

    call: Any = last
    for _, handler in reversed(_handlers):
        call = functools.partial(handler, call)

    def interposed(
        cls: Any, op: Any, tensors: Any, static: Any, scalars: tuple[Any, ...], form: int
    ) -> Any:
        return call(op, tensors, static, scalars, form)

    Tensor._apply = classmethod(interposed)  # type: ignore[method-assign, assignment]


def add(rank: int, handler: Handler) -> None:
    """Let every op pass through `handler` until `remove`. A handler may be in several times."""
    with _lock:
        _counts[handler] = _counts.get(handler, 0) + 1
        if _counts[handler] == 1:
            _handlers.append((rank, handler))
            _handlers.sort(key=lambda entry: entry[0])
            _rebuild()


def remove(rank: int, handler: Handler) -> None:
    """Take back one `add`."""
    with _lock:
        _counts[handler] -= 1
        if not _counts[handler]:
            del _counts[handler]
            _handlers.remove((rank, handler))
            _rebuild()


_counts: dict[Any, int] = {}


@contextlib.contextmanager
def interposed(rank: int, handler: Handler) -> Iterator[None]:
    """Let ops inside pass through `handler`."""
    add(rank, handler)
    try:
        yield
    finally:
        remove(rank, handler)
