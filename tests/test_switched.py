"""Switches to compiled loops in the gateway's machine, its journal and the worker's queue."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from farspan import wire
from farspan.core import limits, link, words
from farspan.core.command import Frame
from farspan.core.words import Switch
from farspan_server import history, live
from farspan_server import session_messages as messages
from farspan_server.disk import RealDisk
from farspan_server.history import History, Part, open_
from farspan_server.journal import JournalDamagedError
from farspan_server.session import Session
from farspan_server.switched import Placed
from test_worker_server import Recorder, Rig, encoded

ONE, TWO = Switch(0, f"{1:032}"), Switch(3, f"{2:032}")


def frame(sequence: int, epoch: int = 1) -> messages.FrameIn:
    made = wire.decode_frame(encoded(sequence))
    made.epoch = epoch
    data = wire.encode_frame(made)
    return messages.FrameIn(wire.frame_header(data), data)


def shown(outputs: list[Any]) -> list[Any]:
    """Return what goes to the journal and to workers, in short."""
    found: list[Any] = []
    for out in outputs:
        if isinstance(out, messages.Append | messages.Forward):
            found.append((type(out).__name__, wire.frame_header(out.data).sequence))
        elif isinstance(out, messages.Note | messages.Do):
            found.append((type(out).__name__, out.switch))
    return found


class Machine:
    """A session's machine; each call returns `shown` of what follows."""

    def __init__(self, made: Session | None = None) -> None:
        self.it = made or Session(("cpu",), 60.0, journalled=True, syncs=True)
        self.sequence = self.it.received

    def __call__(self, given: messages.Input) -> list[Any]:
        return shown(self.it.handle(given, 0.0))

    def frames(self, count: int) -> list[Any]:
        found = []
        for _ in range(count):
            self.sequence += 1
            found += self(frame(self.sequence, self.it.epoch))
        return found


def test_a_frame_waits_for_a_switch_until_it_survives() -> None:
    machine = Machine()
    machine.frames(1)
    machine(messages.Assigned())
    assert machine(messages.Ready(0, ONE)) == [("Note", ONE)]
    assert machine(messages.Ready(0, ONE)) == [], "it is on its way"
    assert machine.frames(1) == [("Append", 2)]
    assert machine(messages.Synced(2)) == []
    assert machine(messages.Noted(1)) == [("Do", ONE), ("Forward", 2)]
    assert machine.frames(1) == [("Append", 3), ("Forward", 3)]


def test_where_nothing_survives_the_gateway_a_switch_waits_for_no_disk() -> None:
    machine = Machine(Session(("cpu",), 60.0, journalled=True))
    machine.frames(1)
    machine(messages.Assigned())
    assert machine(messages.Ready(0, ONE)) == [("Note", ONE), ("Do", ONE)]


def test_without_a_journal_or_a_worker_nothing_is_switched() -> None:
    assert Machine(Session(("cpu",), 60.0))(messages.Ready(0, ONE)) == []
    assert Machine()(messages.Ready(0, ONE)) == []


def test_other_workers_get_switches_where_the_first_had_them() -> None:
    machine = Machine()
    machine.frames(2)
    machine(messages.Assigned())
    machine(messages.Ready(0, ONE))
    machine(messages.Noted(1))
    machine.frames(1)
    machine(messages.Ready(0, TWO))
    machine.frames(1)  # it is held: the switch before it is not synced
    machine(messages.Bereft("gone"))
    machine(messages.Assigned())
    given = [machine(messages.Again(frame(k).header, frame(k).data)) for k in (1, 2, 3)]
    assert given == [[("Forward", 1)], [("Forward", 2), ("Do", ONE)], [("Forward", 3)]]
    assert machine(messages.Noted(2)) == [("Do", TWO), ("Forward", 4)]


def test_after_a_gateways_death_no_switch_comes_among_frames_that_were_shown() -> None:
    """Frames that a loss of power took are sent again; their values may have been seen."""
    found = Session.woken(
        ("cpu",), 60.0, 1, 0, {1: (0, 9), 2: (0, 9)}, switches=(Placed(1, 0, ONE),)
    )
    machine = Machine(found)
    machine(messages.Resumed(1, 0, 5))
    machine(messages.Assigned())
    for k in (1, 2):
        machine(messages.Again(frame(k).header, frame(k).data))
    assert machine(messages.Ready(0, TWO)) == []
    before = []
    while not any(kind == "Note" for kind, _ in before):
        before += machine.frames(1)
        machine(messages.EventsIn(0, machine.sequence, b""))
    last = 5 + limits.CREDIT_FRAMES
    assert before[-3:] == [("Append", last), ("Note", TWO), ("Forward", last)]
    assert machine.frames(1) == [("Append", last + 1)]
    assert machine(messages.Noted(1)) == [("Do", TWO), ("Forward", last + 1)]


def test_a_machine_holds_so_many_switches_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SWITCHES_MAX", 3)
    machine = Machine()
    machine.frames(1)
    machine(messages.Assigned())
    told = [machine(messages.Ready(0, Switch(0, f"{k:032}"))) for k in range(5)]
    assert [len(each) for each in told] == [1, 1, 1, 0, 0]


# --- the journal ---------------------------------------------------------------------------------
def written(where: Path, **about: Any) -> History:
    made = History.create(RealDisk(), where, "s", "digest", about={"kinds": ["cpu"], **about})
    for sequence in (1, 2):
        made.frame(sequence, frame(sequence).data)
    return made


def reopened(made: History, where: Path) -> History:
    made.journal.sync()
    made.journal.close()
    return open_(RealDisk(), where, "s")


def test_the_journal_keeps_switches_until_a_snapshot_has_them(tmp_path: Path) -> None:
    made = written(tmp_path / "s")
    assert not made.noted
    made.switch(Placed(2, 0, ONE))
    assert made.noted == 0
    made.synced(made.journal.sync())
    assert made.noted == 1
    made.frame(3, frame(3).data)
    made = reopened(made, tmp_path / "s")
    assert made.past.switches == (Placed(2, 0, ONE),)
    made.mark(1, 3)
    made.switch(Placed(3, 0, TWO))
    part = tmp_path / "s" / history.part_name(1, 0)
    part.write_bytes(b"")
    digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    made.commit(1, 3, (Part(part.name, 0, digest),))
    made = reopened(made, tmp_path / "s")
    assert made.past.switches == (Placed(3, 0, TWO),) and made.past.base == 3
    made.journal.close()


GOOD = {"format": 1, "sequence": 2, "device": 0, "program": 1, "plan": f"{5:032x}"}


@pytest.mark.parametrize("change", [
    {"sequence": 1}, {"sequence": 3}, {"sequence": "2"}, {"sequence": 2.0}, {"sequence": True},
    {"device": 1}, {"device": -1}, {"device": False}, {"program": 64}, {"program": -1},
    {"program": None}, {"plan": ""}, {"plan": "x" * 32}, {"plan": f"{5:033x}"}, {"plan": 5},
    {"format": 2}, {"format": None},
], ids=str)  # fmt: skip
def test_a_switch_that_means_nothing_is_damage(tmp_path: Path, change: dict[str, Any]) -> None:
    made = written(tmp_path / "s")
    made.journal.append(history.SWITCH, json.dumps(GOOD | change).encode())
    with pytest.raises(JournalDamagedError):
        reopened(made, tmp_path / "s")


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000], ids=len)
def test_bytes_that_are_no_switch_are_damage(tmp_path: Path, body: bytes) -> None:
    made = written(tmp_path / "s")
    made.journal.append(history.SWITCH, body)
    with pytest.raises(JournalDamagedError):
        reopened(made, tmp_path / "s")


def test_more_switches_than_there_may_be_are_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SWITCHES_MAX", 2)
    made = written(tmp_path / "s")
    for _ in range(4):
        made.switch(Placed(2, 0, ONE))
    made = reopened(made, tmp_path / "s")
    made.switch(Placed(2, 0, ONE))
    with pytest.raises(JournalDamagedError):
        reopened(made, tmp_path / "s")


def test_sessions_of_older_journals_have_their_loops_waited_for() -> None:
    """Their workers ran them from the first Call on, and their journals tell of no switch."""
    about = live.about_session("t", ("cpu",), live.DURABLE, 0.0, 6)
    assert about["switches"] and not live.about_session("t", ("cpu",), live.OFF, 0.0, 6)["switches"]
    body = link.Open("s", "t", 0, (link.Peer(0, "unix:x", "", 0),), 1, switches=True)
    told = link.pack_open(1, body)[link.HEADER_BYTES :]
    assert link.unpack_open(told).switches
    older = {k: v for k, v in json.loads(told).items() if k != "switches"}
    assert not link.unpack_open(json.dumps(older).encode()).switches


# --- the worker ----------------------------------------------------------------------------------
class Switching(Recorder):
    """An engine that notes between which frames it was switched, and asks once."""

    def __init__(self) -> None:
        super().__init__(None, threading.Lock())
        self.ask: Any = None
        self.order: list[Any] = []
        self.programs = SimpleNamespace(switches=self)
        self.take = self.order.append

    def handle(self, frame: Frame, transfers: dict[int, Any]) -> list[Any]:
        self.order.append(frame.sequence)
        if frame.sequence == 1 and self.ask is not None:
            self.ask(ONE)
        return super().handle(frame, transfers)


@pytest.mark.parametrize("switches", [True, False])
def test_a_worker_asks_and_switches_between_the_frames_as_it_is_told(
    tmp_path: Path, switches: bool
) -> None:
    rig, engine = Rig(f"unix:{tmp_path}/w"), Switching()
    rig.worker._make_engine = lambda name, memory_bytes_max: engine
    try:
        rig.open(5, steady=True, switches=switches)
        rig.frame(5, 1, transfers=(70,))  # it waits for its bytes, and so does all behind it
        rig.control.send(words.pack_switch(5, TWO))
        rig.frame(5, 2)
        rig.upload(5, 70, b"1234")
        asked = []
        if switches:
            header, payload = rig.control.receive()
            while header.kind != link.SWITCH:
                header, payload = rig.control.receive()
            asked.append(words.unpack_switch(payload))
        while rig.applied()[1] != 2:
            pass
        assert asked == [ONE] * switches
        assert engine.order == [1, TWO, 2]
    finally:
        rig.worker.close()
