"""The turns of threads that send on one control stream, at points that chance seldom chooses."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from farspan import wire
from farspan._stream import Stream


class Core:
    """Stands for gRPC's core: takes every message; `sent` is called when a test says so."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.sent: list[Callable[[], None]] = []

    def send(self, message: bytes, sent: Callable[[], None]) -> bool:
        self.messages.append(message)
        self.sent.append(sent)
        return True


class Turn:
    """A lock before which, once, another thread sends all that waits and ends its turn."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self._lock, self._meanwhile = threading.Lock(), [meanwhile]
        self.release = self._lock.release

    def acquire(self, blocking: bool) -> bool:
        if self._meanwhile:
            self._meanwhile.pop()()
        return self._lock.acquire(blocking=blocking)


@pytest.fixture
def stream() -> Any:
    made = Stream.__new__(Stream)
    made._waiting, made._turn, made._core = deque(), threading.Lock(), Core()  # type: ignore[assignment]
    made._confirms = lambda: 0
    return made


def test_what_another_thread_has_sent_meanwhile_is_sent_once(stream: Any) -> None:
    def meanwhile() -> None:
        stream._push()
        stream._core.sent.pop()()

    stream._turn = Turn(meanwhile)
    stream.put(b"first")
    stream.put(b"second")
    assert [wire.decode(wire.Up, m).frames for m in stream._core.messages] == [
        (b"first",),
        (b"second",),
    ]


def test_frames_that_wait_ride_together(stream: Any) -> None:
    for data in (b"1", b"2", b"3"):
        stream.put(data)
    assert len(stream._core.messages) == 1
    stream._core.sent.pop()()
    assert [wire.decode(wire.Up, m).frames for m in stream._core.messages] == [
        (b"1",),
        (b"2", b"3"),
    ]
