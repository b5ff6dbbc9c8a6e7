"""How much memory a session's tensors take on each device: torch's questions, for CPUs as well.

A worker counts the bytes of live storages, each once however many views it has; there is no cache
of freed memory to count beside them. Every question waits for the commands before it.
"""

from __future__ import annotations

from typing import Any

from . import _state
from .core.dtype import Device


def _at(device: Any, kind: str) -> tuple[Any, int]:
    """Return the current session and the index in it of a device; None is the first of its kind."""
    session = _state.current()
    if isinstance(device, int):
        device = Device(kind, device)
    return session, session.index_of(Device(kind if device is None else device))


class Memory:
    """The questions for one kind of device, under torch's names."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def memory_allocated(self, device: Any = None) -> int:
        """Return the bytes of this session's tensors on the device now. Waits."""
        return self._counts(device)[0]

    def max_memory_allocated(self, device: Any = None) -> int:
        """Return the most bytes at once since the start, or since `reset_peak_memory_stats`."""
        return self._counts(device)[1]

    #: Freed memory goes back at once, so what is reserved is what is allocated.
    memory_reserved = memory_allocated
    max_memory_reserved = max_memory_allocated

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        """Return the bytes that this session may still take on the device, and its limit."""
        used, _, limit = self._counts(device)
        return max(limit - used, 0), limit

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        """Count the most bytes anew from here. Waits."""
        session, index = _at(device, self.kind)
        session.memory_of(index, anew=True)

    reset_max_memory_allocated = reset_accumulated_memory_stats = reset_peak_memory_stats

    def memory_stats(self, device: Any = None) -> dict[str, int]:
        """Return the counts under torch's keys, ``allocated_bytes.all.current`` and ``.peak``."""
        used, peak, limit = self._counts(device)
        return {
            "allocated_bytes.all.current": used,
            "allocated_bytes.all.peak": peak,
            "reserved_bytes.all.current": used,
            "reserved_bytes.all.peak": peak,
            "limit_bytes": limit,
        }

    def memory_summary(self, device: Any = None, abbreviated: bool = False) -> str:
        """Return a table of what the session's tensors take, for people."""
        session, index = _at(device, self.kind)
        used, peak, limit = session.memory_of(index)
        name = session.devices[index]
        live = session.stats()["live"][str(name)]
        rows = [
            ("tensors", f"{live['tensors']:,}"),
            ("allocated", _readable(used)),
            ("at most", _readable(peak)),
            ("limit", _readable(limit)),
        ]
        width = max(len(value) for _, value in rows)
        lines = [f"memory of session {session.id} on {name}"]
        return "\n".join([*lines, *(f"  {what:10} {value:>{width}}" for what, value in rows)])

    def empty_cache(self) -> None:
        """Give back what workers keep for later: freed memory, and room of programs. Waits."""
        session = _state.current()
        for index in range(len(session.devices)):
            session.release_memory(index)

    def _counts(self, device: Any) -> tuple[int, int, int]:
        session, index = _at(device, self.kind)
        counts: tuple[int, int, int] = session.memory_of(index)
        return counts


def _readable(count_bytes: int) -> str:
    if count_bytes < 1024:
        return f"{count_bytes} B"
    power = min((count_bytes.bit_length() - 1) // 10, 4)  # 1 at 1024, 2 at 1024 * 1024, …
    return f"{count_bytes / 1024**power:.1f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


NAMES = tuple(n for n in vars(Memory) if not n.startswith("_"))
