"""The modes that switch recording: `no_grad`, `enable_grad`, `inference_mode`, `set_grad_enabled`.

Each thread has its own mode. All work as contexts and as decorators, of generators too.
"""

from __future__ import annotations

import functools
import inspect
import threading
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
            return _resumed(self._fresh, function)

        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with self._fresh():
                return function(*args, **kwargs)

        return inside

    def _fresh(self) -> _GradContext:
        """Return a fresh context: a decorated function may call itself, or run in two threads."""
        context = _GradContext()
        context.wanted = self.wanted
        return context


def _resumed(context: Any, function: Any) -> Any:
    """Return the generator function with the mode set while it runs, not while it is suspended."""

    @functools.wraps(function)
    def generator(*args: Any, **kwargs: Any) -> Any:
        made = function(*args, **kwargs)
        step, value = made.send, None
        while True:
            try:
                with context():
                    produced = step(value)
            except StopIteration as end:
                return end.value
            try:
                value = yield produced
                step = made.send
            except GeneratorExit:
                with context():
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
    """As `no_grad`, and what is made inside stays outside of every graph; False: normal mode."""

    wanted = False

    def __new__(cls, mode: Any = True) -> Any:
        return super().__new__(cls, mode)

    def __init__(self, mode: Any = True) -> None:
        super().__init__()
        self.inference = mode is not False
        self._inside: list[bool] = []

    def __enter__(self) -> None:
        self._inside.append(mode.inference)
        self._before.append(mode.grad)
        if self.inference:
            mode.grad = False
        elif mode.inference:
            mode.grad = True
        _switch_inference(self.inference)

    def __exit__(self, *exc: object) -> None:
        _switch_inference(self._inside.pop())
        super().__exit__(*exc)

    def _fresh(self) -> _GradContext:
        return inference_mode(self.inference)

    def clone(self) -> inference_mode:
        return inference_mode(self.inference)


def _switch_inference(wanted: bool) -> None:
    """Enter or leave inference mode in this thread; ops are looked at only while one is in it."""
    if wanted == mode.inference:
        return
    from . import _interpose

    mode.inference = wanted
    (_interpose.add if wanted else _interpose.remove)(_interpose.INFERENCE, _mark)


def _mark(call: Any, op: Any, tensors: Any, static: Any, scalars: Any, form: int) -> Any:
    """Mark what an op makes as an inference tensor; a view is one if its base is."""
    made = call(op, tensors, static, scalars, form)
    if mode.inference and form == 0:
        several = made if isinstance(made, tuple) else (made,)
        for x in several if made is not None else ():
            if op.family != "view":
                x._inference = True
            elif not x._inference:
                x._in_no_grad = "inference"
    return made


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


def is_inference_mode_enabled() -> bool:
    """Return whether this thread is in inference mode."""
    return mode.inference


class _Setting:
    """A switch of this thread: set when made, set back at the end of a ``with``."""

    name = ""

    def __init__(self, value: bool) -> None:
        self.prev = getattr(_settings, self.name)
        self.mode = value
        setattr(_settings, self.name, value)

    def __call__(self, function: Any) -> Any:
        setattr(_settings, self.name, self.prev)

        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with type(self)(self.mode):
                return function(*args, **kwargs)

        return inside

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        setattr(_settings, self.name, self.prev)

    def clone(self) -> _Setting:
        return type(self)(self.mode)


class _Settings(threading.local):
    multithreading = True
    layout = True


_settings = _Settings()


class set_multithreading_enabled(_Setting):
    """Kept as set, for programs that look: workers run backward in the order of the tape."""

    name = "multithreading"

    def __init__(self, mode: bool) -> None:
        super().__init__(mode)


class enforce_grad_layout_policy(_Setting):
    """Whether a gradient has its parameter's strides. It always has; False may relax it in torch.

    That is a licence, not a duty: with False torch may keep another layout where that saves a copy.
    """

    name = "layout"

    def __init__(self, enable: bool = True) -> None:
        super().__init__(enable)
