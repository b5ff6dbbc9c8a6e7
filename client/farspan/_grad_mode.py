"""The modes that switch recording: `no_grad`, `enable_grad`, `inference_mode`, `set_grad_enabled`.

Each thread has its own mode. All work as contexts and as decorators, of generators too.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

from ._dispatch import mode


class _GradContext:
    """Sets the grad mode inside of a ``with`` or of a decorated function."""

    wanted = True

    def __init__(self) -> None:
        self._before: list[bool] = []

    def __new__(cls, function: Any = None) -> Any:
        context = super().__new__(cls)
        if not callable(function):
            return context
        context.__init__()  # type: ignore[misc]
        return context(function)  # a decorator without parentheses

    def __enter__(self) -> None:
        self._before.append(mode.grad)
        mode.grad = self.wanted

    def __exit__(self, *exc: object) -> None:
        mode.grad = self._before.pop()

    def __call__(self, function: Any) -> Any:
        if inspect.isgeneratorfunction(function):
            return _resumed(self.wanted, function)

        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with _of(self.wanted):
                return function(*args, **kwargs)

        return inside


def _of(wanted: bool) -> _GradContext:
    """Return a fresh context: a decorated function may call itself, or run in two threads."""
    context = _GradContext()
    context.wanted = wanted
    return context


def _resumed(wanted: bool, function: Any) -> Any:
    """Return the generator function with the mode set while it runs, not while it is suspended."""

    @functools.wraps(function)
    def generator(*args: Any, **kwargs: Any) -> Any:
        made = function(*args, **kwargs)
        step, value = made.send, None
        while True:
            try:
                with _of(wanted):
                    produced = step(value)
            except StopIteration as end:
                return end.value
            try:
                value = yield produced
                step = made.send
            except GeneratorExit:
                with _of(wanted):
                    made.close()
                raise
            except BaseException as e:
                step, value = made.throw, e

    return generator


class no_grad(_GradContext):
    """Nothing inside is recorded."""

    wanted = False


class enable_grad(_GradContext):
    """Ops inside are recorded, also within `no_grad`."""

    wanted = True


class inference_mode(_GradContext):
    """As `no_grad`; with ``False``, as if it were not there."""

    wanted = False

    def __new__(cls, mode: Any = True) -> Any:
        return super().__new__(cls, mode)

    def __init__(self, mode: Any = True) -> None:
        super().__init__()
        if mode is False:
            self.wanted = is_grad_enabled()


class set_grad_enabled(_GradContext):
    """Set the mode now; as a context, set it back at its end; as a decorator, set it inside."""

    def __new__(cls, mode: bool) -> Any:
        return object.__new__(cls)

    def __init__(self, mode: bool) -> None:
        super().__init__()
        self.wanted = bool(mode)
        self._before = [is_grad_enabled()]
        self.__enter__()

    def __enter__(self) -> None:
        mode.grad = self.wanted

    def __call__(self, function: Any) -> Any:
        mode.grad = self._before[0]
        return super().__call__(function)


def is_grad_enabled() -> bool:
    """Return whether ops are recorded now, in this thread."""
    return mode.grad
