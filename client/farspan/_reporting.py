"""What a session tells of itself: where it runs, counts, profiles.

The reporting part of `_session.Session`, which owns the state. Nothing here is on a hot path.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ._replay import replay_stats
from ._sites import describe_site

if TYPE_CHECKING:
    from ._gather import Lane
    from ._profile import Profile
    from ._replay import Replay
    from ._session import Transport
    from ._sites import Site


class Reporting:
    """The reporting part of a session."""

    id: str
    address: str
    devices: tuple[Any, ...]
    transport: Transport
    lanes: list[Lane]
    _replays: list[Replay]
    _syncs: dict[Site | None, int]
    _calls: int
    _applied: int
    _sealed_commands: int

    if TYPE_CHECKING:

        def flush(self, device: int | None = None) -> None: ...
        def numerics(self) -> dict[str, Any]: ...

    def describe(self) -> dict[str, Any]:
        """Return where the session is: ``{"id", "address", "devices", "numerics"}``.

        devices: ``{"name", "kind", "host", "pid", "epoch", "worker"}`` of each; worker is what
        `move` calls it. numerics: ``"keys"``, one a device (equal keys compute equal bits), and
        ``"changes"``: for each the first command from which bits may differ, its op and your line
        where they are known, the frame before it, and the keys before and after. Waits for workers.
        """
        devices = [dict(d) for d in self.transport.devices]
        told = {"id": self.id, "address": self.address, "devices": devices}
        return {**told, "numerics": self.numerics()}

    def worker_stats(self) -> list[dict[str, Any]]:
        """Return what each device's worker counts of this session: commands, bytes, tensors."""
        self.flush()
        return self.transport.worker_stats()

    @property
    def commands(self) -> int:
        """How many commands were issued."""
        return self._sealed_commands + sum([len(lane.commands) for lane in self.lanes])

    def stats(self) -> dict[str, Any]:
        """Return counts: commands, frames, bytes each way, sync points by line, live tensors.

        `bulk`: bytes of long tensors by the way they took, and why there is no shared memory.
        """
        live = {}
        for device, lane in zip(self.devices, self.lanes, strict=True):
            gone = set(lane.freed)
            sizes = [n for i, n in list(lane.held.items()) if i not in gone]
            live[str(device)] = {"tensors": len(sizes), "bytes": sum(sizes)}
        syncs = {describe_site(site): n for site, n in self._syncs.items()}
        return {
            "commands": self.commands,
            "calls": self._calls,
            "applies": self._applied,
            "replay": replay_stats(self._replays),
            **self.transport.stats(),
            "sync_points": sum(syncs.values()),
            "sync_sites": syncs,
            "live": live,
        }

    def profile(self, path: str | os.PathLike[str] | None = None) -> Profile:
        """Return a context that records what becomes of the commands issued inside.

        path: where to write a trace for https://ui.perfetto.dev when it ends: client, wire, queue
        and kernels, an arrow a frame. Waits at both ends. ProgramError if one is on already.

        >>> import farspan
        >>> with farspan.connect("local:") as session, session.profile() as p:
        ...     y = farspan.ones(3).exp()
        >>> any(event["name"] == "exp" for event in p.events)
        True
        """
        from ._profile import Profile

        return Profile(self, path)  # type: ignore[arg-type]
