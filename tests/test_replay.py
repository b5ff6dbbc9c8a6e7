"""The replay law: frames run again by a fresh engine give the same bits and events."""

from __future__ import annotations

import contextlib
from typing import Any

import farspan as torch
import programs
import pytest
from farspan import wire
from farspan.core.errors import FarspanError
from farspan_worker.engine import Engine
from farspan_worker.store import Array


def state(engine: Engine) -> dict[int, Any]:
    """Return all that the next command could see of the tensors, as comparable data."""
    return {
        id_: (x._spec, x.array.tobytes(), x._storage.version, x._node is None)
        if isinstance(x, Array)
        else x.error
        for id_, x in engine.tensors.items()
    }


def replay(recording: programs.Recording, frames: list[Any]) -> tuple[Engine, list[Any]]:
    engine, told = Engine(memory_bytes_max=recording.engine.budget.limit), []
    for frame in frames:
        events = engine.handle(frame, recording.transfers_of(frame))
        told.append([_plain(event) for event in events])
    return engine, told


def _plain(event: Any) -> Any:
    data = getattr(event, "data", None)
    return (event.__class__, repr(event)[:40], None if data is None else bytes(data), event.error)


@pytest.mark.parametrize("seed", range(8))
def test_frames_run_again_give_the_same_bits(seed: int) -> None:
    session = torch.connect("local:")
    try:
        recording = programs.Recording(session)
        pool = programs.run(seed)
        with contextlib.suppress(FarspanError):
            session.synchronize()
        assert len(recording.frames) > 1 and pool
        data = [wire.encode_frame(frame) for frame in recording.frames]
        decoded = [wire.decode_frame(each) for each in data]
        assert decoded == recording.frames, "the wire law"
        assert [wire.encode_frame(frame) for frame in decoded] == data
        first, told = replay(recording, decoded)
        second, told_again = replay(recording, decoded)
        assert state(first) == state(recording.engine), "as it was the first time"
        assert state(first) == state(second) and told == told_again
        assert first.generators.keys() == second.generators.keys()
        assert first.stats() == second.stats()
    finally:
        session.close()


def test_any_cut_into_frames_gives_the_same_bits() -> None:
    session = torch.connect("local:")
    try:
        recording = programs.Recording(session)
        pool = programs.run(11)
        session.flush()
        cut = []
        for frame in recording.frames:
            rest = frame
            while len(rest) > 1:
                first, rest = rest.split(len(rest) // 2)
                cut.append(first)
            cut.append(rest)
        assert len(cut) > len(recording.frames)
        engine, _ = replay(recording, cut)
        assert state(engine) == state(recording.engine)
        assert pool
    finally:
        session._close(wait=False)
