"""Snapshots that refer to files of earlier ones: nothing else is copied, and damage is found."""

from __future__ import annotations

import hashlib
import random
import zlib
from pathlib import Path
from typing import Any

import farspan as torch
import numpy as np
import pytest
from farspan import nn
from farspan.core import limits
from farspan.core.errors import ProtocolError
from farspan.core.words import StateFile
from farspan_worker import snapshot, snapshot_files, unchanged
from farspan_worker.engine import Engine
from test_snapshot import recorded, state, steady


class Files:
    """The snapshots of an engine in a directory, as a gateway keeps them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.number = 0
        self.memo: unchanged.Remembered | None = None
        self.parts: dict[int, list[int]] = {}  # by number: what it needs, its own first

    def take(self, engine: Engine) -> snapshot.Taken:
        """Take the next snapshot, on the one before."""
        self.number += 1
        taken = snapshot.taken(engine, None, 0, self.number, self.memo)
        self.memo = taken.memo
        self.path(self.number).write_bytes(b"".join(taken.pieces))
        self.parts[self.number] = [self.number, *taken.older]
        return taken

    def path(self, number: int) -> Path:
        return self.directory / f"snapshot-{number}-0"

    def told(self) -> tuple[StateFile, ...]:
        """What a worker is told of the files of the last one."""
        found = []
        for number in self.parts[self.number]:
            data = self.path(number).read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            found.append(StateFile(str(self.path(number)), len(data), digest))
        return tuple(found)

    def loaded(self, files: tuple[StateFile, ...] | None = None) -> snapshot.Restorer:
        """Return what a new engine has read from the files."""
        restorer = snapshot.Restorer(steady())
        assert snapshot_files.load(restorer, files or self.told(), lambda: False)
        restorer.finish()
        return restorer


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let memories of any size stay in their files."""
    monkeypatch.setattr(limits, "SNAPSHOT_KEPT_BYTES_MIN", 1)


def fine_tuning() -> Any:
    """Train the head of a net whose body is frozen; writes by way of .data and of a program."""
    torch.manual_seed(3)
    body, head = nn.Linear(300, 200), nn.Linear(200, 30)
    for p in body.parameters():
        p.requires_grad_(False)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
    halve = torch.compile(lambda x: (x * 0.5).relu())
    average = head.weight.detach().clone()
    x, y = torch.randn(5, 300), torch.tensor([0, 2, 1, 1, 0])
    for _ in range(4):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head(body(x)), y)
        loss.backward()
        optimizer.step()
        average.data.mul_(0.9).add_(head.weight.detach(), alpha=0.1)
        kept = halve(average)
        loss.item()
    return body, head, average, kept


@pytest.mark.usefixtures("short")
def test_a_chain_of_snapshots_restores_what_a_whole_one_does(tmp_path: Path) -> None:
    engine, files = steady(), Files(tmp_path)
    referred = 0
    for k, (frame, transfers) in enumerate(recorded(fine_tuning)):
        engine.handle(frame, {k: bytearray(v) for k, v in transfers.items()})
        taken = files.take(engine)
        referred += len(taken.older)
        if k % 5 == 4:
            restored = files.loaded()
            mine, theirs = state(engine), state(restored._engine)
            assert mine[1] == theirs[1], f"command {k}: memories"
            assert mine[0] == theirs[0], f"command {k}: structure"
        if k % 30 == 29:  # go on as after a death: what was restored is known to be there
            engine, files.memo = restored._engine, restored.memo
    assert referred > 20


@pytest.mark.parametrize("stride", [1, 4, 9])
@pytest.mark.usefixtures("short")
def test_no_write_goes_uncounted(stride: int) -> None:
    """After some commands, memory that counts as unchanged has the same bytes as before."""
    engine = steady()
    known: dict[int, int] = {}
    memo = unchanged.Remembered(1, {1: 1})
    same = 0
    for at, (frame, transfers) in enumerate(recorded(fine_tuning)):
        engine.handle(frame, {k: bytearray(v) for k, v in transfers.items()})
        if at % stride:
            continue
        writer = snapshot._Writer()
        for x in engine.tensors.values():
            writer.entry(x)
        writer.tables()
        now = [zlib.crc32(storage.flat) for storage in writer.roots]
        for k, place in memo.find(writer.roots).items():
            assert now[k] == known[place.offset]
            same += 1
        memo = unchanged.Remembered(1, {1: 1})
        known = dict(enumerate(now))
        for k, storage in enumerate(writer.roots):
            memo.add(storage, unchanged.Place(1, k, max(1, storage.nbytes)))
    assert same > 30


def test_memory_that_a_program_uses_again_counts_as_written(tmp_path: Path) -> None:
    engine, kept, session = engine_with(200_000)
    with session:
        engine.steady = True
        files = Files(tmp_path)
        more = torch.compile(lambda x, y: (x + y).clamp(max=200))
        homes = set()
        for k in range(8):
            y = more(kept[0], torch.full((1,), k, dtype=torch.uint8))
            session.synchronize()
            files.take(engine)
            found = state(files.loaded()._engine)[1]
            assert found == state(engine)[1] and bytes([k]) * 200_000 in found
            homes.add(id(next(reversed(engine.tensors.values()))._storage))
            del y
        assert len(homes) < 7, "no memory was used again: nothing is tested"


def engine_with(*sizes: int) -> tuple[Engine, list[Any], Any]:
    """Return the engine of a session with so many bytes in each of its tensors."""
    session = torch.connect("local:")
    kept = [torch.zeros(size, dtype=torch.uint8) for size in sizes]
    session.synchronize()
    return session.transport.engines[0], kept, session  # type: ignore[attr-defined]


def test_what_is_frozen_is_neither_copied_nor_written_again(tmp_path: Path) -> None:
    engine, (frozen, trained), session = engine_with(4_000_000, 1_000_000)
    with session:
        files = Files(tmp_path)
        first = sum(p.nbytes for p in files.take(engine).pieces)
        assert first > 5_000_000
        for _ in range(3):
            trained.add_(1)
            session.synchronize()
            taken = files.take(engine)
            assert taken.older == [1]
            assert 1_000_000 < sum(p.nbytes for p in taken.pieces) < 1_010_000
        assert not np.array(frozen.numpy()).any()
        assert state(files.loaded()._engine)[1] == state(engine)[1]


def test_a_file_that_is_hardly_used_is_let_go_of(tmp_path: Path) -> None:
    engine, (large, small), session = engine_with(1_000_000, 500_000)
    with session:
        files = Files(tmp_path)
        files.take(engine)
        large.add_(1)
        session.synchronize()
        taken = files.take(engine)  # a third of the first file: rather written again
        assert not taken.older and sum(p.nbytes for p in taken.pieces) > 1_500_000
        assert state(files.loaded()._engine)[1] == state(engine)[1]
        del small


def test_no_more_files_than_a_few(tmp_path: Path) -> None:
    count = limits.SNAPSHOT_FILES_MAX + 3
    engine, kept, session = engine_with(*[100_000] * 1)
    with session:
        files = Files(tmp_path)
        for k in range(count):
            assert len(files.take(engine).older) <= limits.SNAPSHOT_FILES_MAX
            kept.append(torch.full((100_000 + k,), k, dtype=torch.uint8))
            session.synchronize()
        taken = files.take(engine)
        assert len(taken.older) == limits.SNAPSHOT_FILES_MAX
        assert state(files.loaded()._engine)[1] == state(engine)[1]


def test_damage_of_any_file_is_found(tmp_path: Path) -> None:
    engine, kept, session = engine_with(100_000, 70_000)
    rng = random.Random(3)
    with session:
        files = Files(tmp_path)
        files.take(engine)
        kept[1].add_(1)
        session.synchronize()
        assert files.take(engine).older == [1]
        told = files.told()
        files.loaded(told)
        for number in (1, 2):
            path = files.path(number)
            whole = path.read_bytes()
            header = range(0, 400, 7)
            for at in [*header, *(rng.randrange(len(whole)) for _ in range(40)), len(whole) - 1]:
                changed = bytearray(whole)
                changed[at] ^= 1 << rng.randrange(8)
                for data in (bytes(changed), whole[:at], whole + b"x"):
                    path.write_bytes(data)
                    with pytest.raises(snapshot_files.DamagedError, match=path.name):
                        files.loaded(told)
            path.unlink()
            with pytest.raises(snapshot_files.UnreachableError):
                files.loaded(told)
            path.symlink_to(tmp_path / "elsewhere")
            with pytest.raises(snapshot_files.UnreachableError):
                files.loaded(told)
            path.unlink()
            path.write_bytes(whole)
        files.loaded(told)


def test_files_of_another_order_or_number_are_refused(tmp_path: Path) -> None:
    engine, kept, session = engine_with(100_000, 70_000)
    with session:
        files = Files(tmp_path)
        files.take(engine)
        kept[1].add_(1)
        session.synchronize()
        files.take(engine)
        newest, older = files.told()
        for wrong in ((newest,), (older, newest), (newest, older, older), (newest, newest)):
            with pytest.raises(ProtocolError):
                files.loaded(wrong)


def test_a_step_that_fails_halfway_counts_as_a_write(tmp_path: Path) -> None:
    with torch.connect("local:") as session:
        first, second = (torch.ones(20_000).requires_grad_() for _ in range(2))
        frozen = torch.ones(200_000)  # for which the first file stays in use
        optimizer = torch.optim.Adamax([first, second])
        for p in (first, second):
            p.grad = torch.ones(20_000)
        optimizer.step()
        optimizer.state[second]["step"].fill_(-1)  # the next one divides by 1 - beta ** 0
        session.synchronize()
        (engine,) = session.transport.engines
        files = Files(tmp_path)
        files.take(engine)
        before = first[0].item()
        with pytest.raises(torch.ProgramError, match="ZeroDivisionError"):
            optimizer.step()
            session.synchronize()
        assert first[0].item() != before, "nothing was written: nothing is tested"
        assert files.take(engine).older, "all is written again: nothing is tested"
        assert state(files.loaded()._engine)[1] == state(engine)[1]
        assert frozen[0].item() == 1
