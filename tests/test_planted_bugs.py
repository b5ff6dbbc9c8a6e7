"""Would the simulator find it? Bugs planted into the production classes, one at a time.

Each is a line of `session.py`, `switched.py`, `history.py`, `journal.py`, `live.py` or `_ledger.py`
that says something else.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest
from farspan import _ledger
from farspan_server import history, journal, live, session, switched
from simulator import World

SEEDS = 1_000
BUGS: dict[str, tuple[ModuleType, str, str]] = {
    "frames are not deduplicated": (
        session, "if header.sequence <= self._received:\n            return []",
        "if header.sequence <= self._received:\n            return [Forward(header.device, data)]",
    ),
    "a replay begins one frame late": (
        session, "replay.append(Replay(self._base + 1,", "replay.append(Replay(self._base + 2,",
    ),
    "a replay ends one frame early": (
        session, "self._replay_to = self._held[0][0] - 1 if self._held else self._received",
        "self._replay_to = self._held[0][0] - 1 if self._held else self._received - 1",
    ),
    "the first events after a replay are dropped": (
        session, "if applied < told or (applied == told and advances):", "if applied <= told:",
    ),
    "events are forgotten when they are sent": (
        session, "told += [EventsOut(data, 0, 0) for data in self._unconfirmed]", "pass",
    ),
    "events are covered by an ack before them": (
        session, "covered = max(applied if advances else applied + 1, self._acked + 1)",
        "covered = applied",
    ),
    "a snapshot counts before the client has confirmed": (
        session, "or cut.sequence > self._confirmed", "",
    ),
    "a snapshot counts before all devices have theirs": (session, "or cut.missing", ""),
    "a frame is acknowledged that another device still has": (
        session, "if self._acked >= self._applied[device]:",
        "if self._acked >= max(self._applied):",
    ),
    "durable is said before the sync": (
        session, "return [EventsOut(data, ack, 0 if self._syncs else ack), *more]",
        "return [EventsOut(data, ack, ack), *more]",
    ),
    "the journal is cut at a snapshot that is not on disk": (
        history, "self._commits.append((index, past.begin, old))",
        "self.journal.forget_before(past.begin)",
    ),
    "a file that the next snapshot refers to is removed": (
        history, "old = _names(past.parts) - _names(parts)", "old = _names(past.parts)",
    ),
    "a gateway that starts forgets the older files": (
        history, "known = _names(made.past.parts)", "known = {p.name for p in made.past.parts}",
    ),
    "a sync is told and not done": (journal, "            current.sync()\n", ""),
    "a file that is full is not synced": (journal, "                file.sync()\n", ""),
    "new files are not synced into their directory": (
        journal, "self._disk.sync_directory(self._directory)", "pass",
    ),
    "a reopened journal is not synced": (
        journal, "disk.sync(directory / f\"{start:020}{_SUFFIX}\")", "pass",
    ),
    "torn records are believed": (
        journal, "if found.digest()[:_DIGEST_BYTES] != digest or index != self.index:",
        "if index != self.index:",
    ),
    "the client forgets frames that are applied": (
        _ledger, "while self._kept and self._kept[0][0] <= self.durable:",
        "while self._kept and self._kept[0][0] <= self.applied:",
    ),
    "the client confirms what it is still fetching": (
        _ledger, "return min(self._held.values(), default=self.applied)", "return self.applied",
    ),
    "the client sends again what has arrived, and no more": (
        _ledger, "if each[0] > received)", "if each[0] > received + 1)",
    ),
    "a frame that was told as durable is dropped with its credit": (
        session, "self._durable = sequence\n", "self._durable = sequence + 1\n",
    ),
    "the journal is written after the frame is forwarded": (
        session, "return [*first, self._forward(header.sequence, header.device, data)]",
        "return [self._forward(header.sequence, header.device, data)]",
    ),
    "a client that takes over hears what the first one caused": (
        session,
        "[max(pair) for pair in zip(self._told, self._forwarded, strict=True)]", "self._told",
    ),
    "what a client without a journal was told is forgotten when it is sent": (
        session, "if not self.resumes:\n            for _",
        "if not self.journalled:\n            for _",
    ),
    "the client reports a failure twice": (
        _ledger, "if number in self._failed:", "if False:",
    ),
    "after a failed sync all that can be read is believed": (
        journal, " and not (self._doubtful and self.index > least)", "",
    ),
    "nobody notes that a sync has failed": (
        journal, "self.doubtful = True\n                raise", "raise",
    ),
    "a session whose journal failed ends": (
        session, "return [SetAside(message)]", "return [End(\"JournalError\", message)]",
    ),
    "a session goes on though its journal failed": (
        session, "self.state = FAILED\n", "self.state = OPEN\n",
    ),
    "a replay forgets what was switched": (
        switched, "self._told = 0\n\n    def forget", "pass\n\n    def forget",
    ),
    "a switch is done before it survives": (
        switched, "while self._told < most and", "while self._told < len(self._placed) and",
    ),
    "a frame overtakes a switch": (
        session, " and not self._switched.holds(self._held[0][0])", "",
    ),
    "a frame overtakes a switch that waits": (session, "or self._switched.waits or", "or"),
    "a switch is done at the end of a replay": (
        session, "return [forwarded, *self._switch(), *self._caught_up()]",
        "return [forwarded, *self._caught_up()]",
    ),
    "a snapshot is cut between a switch's note and the switch": (
        session, "if self._switched.waits:  # it stands", "if False:  # it stands",
    ),
    "a gateway that starts forgets what was switched": (
        history, "past.switches = tuple(self._switches)", "past.switches = ()",
    ),
    "switches are forgotten that a snapshot does not have": (
        switched, "sum(each.sequence < base", "sum(each.sequence <= base",
    ),
    "a call of a client that has lost its session is heard": (
        live, "if not self.is_secret(secret) if secret else fenced:", "if False:",
    ),
    "a call that waits is heard though another client has come": (
        live, "if owner is not None and owner != self.digest:", "if False:",
    ),
}  # fmt: skip


@contextmanager
def planted(module: ModuleType, right: str, wrong: str) -> Iterator[None]:
    """Let a module say something else for a while."""
    modules = (journal, switched, history, session, live, _ledger)
    sources = {each: inspect.getsource(each) for each in modules}
    source = sources[module]
    assert source.count(right) == 1, f"{right!r} stands {source.count(right)} times"
    before = {each: dict(vars(each)) for each in sources}
    try:
        for each, text in sources.items():  # all: they know each other's classes
            changed = text.replace(right, wrong) if each is module else text
            exec(compile(changed, each.__name__, "exec"), each.__dict__)
        yield
    finally:
        for each, names in before.items():  # the very classes that other modules hold
            vars(each).clear()
            vars(each).update(names)


def _found(seed: int) -> bool:
    try:
        World(seed).run()
    except Exception:  # a violation, or a class that no longer stands its own state
        return True
    return False


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str) -> None:
    with planted(*BUGS[name]):
        seed = next((s for s in range(SEEDS) if _found(s)), None)
    assert seed is not None, f"{name}: not found within {SEEDS} seeds"
    print(f"{name}: found by seed {seed}")


def test_without_a_bug_nothing_is_found() -> None:
    assert not any(_found(seed) for seed in range(50))
