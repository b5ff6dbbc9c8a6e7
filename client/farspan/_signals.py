"""A Ctrl-C that waits: for the few lines that must not be left half done."""

from __future__ import annotations

import _signal  # `signal` itself makes enums of all numbers: a quarter of the time of a send
import os
import threading
from signal import SIGINT
from typing import Any, Final

_SIGINT: Final = int(SIGINT)
_main = threading.main_thread().ident


def _after_fork() -> None:
    global _main
    _main = threading.main_thread().ident  # the thread that forked


os.register_at_fork(after_in_child=_after_fork)


class Uninterrupted:
    """Lets a Ctrl-C wait until the body is done. Costs nothing but on the main thread.

    Handlers of other signals that raise are not held back.
    """

    __slots__ = ("_before", "_pressed")

    def __enter__(self) -> None:
        self._pressed: list[Any] = []
        self._before: Any = None
        if threading.get_ident() == _main:
            before = _signal.getsignal(_SIGINT)
            if callable(before):
                self._before = before
                _signal.signal(_SIGINT, self._press)

    def _press(self, *pressed: Any) -> None:
        self._pressed.append(pressed)

    def __exit__(self, *exc: object) -> None:
        if self._before is not None:
            _signal.signal(_SIGINT, self._before)
            if self._pressed:
                self._before(*self._pressed[0])
