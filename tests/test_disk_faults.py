"""Disks that fill up or fail under a gateway: one session hears of it, and what survived stays."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from farspan import wire
from farspan.core.errors import CapacityError, FarspanError, JournalError
from farspan_server import service
from farspan_server.disk import Buffer, RealDisk, RealFile, TimedDisk
from farspan_server.history import part_name
from farspan_server.journal import Journal
from farspan_server.live import about_session
from farspan_server.quota_disk import QuotaDisk
from farspan_server.shelf import Shelf
from test_gateway import Client, Cluster, get, put
from test_sleeping import asked, states

Troubles = dict[tuple[str, str], int]


class Disk(TimedDisk):
    """The disk of this machine, with errors: by session and call, the errno."""

    troubles: ClassVar[Troubles] = {}

    @classmethod
    def check(cls, path: Path, call: str) -> None:
        session = path.parent.name.removeprefix("failed-")
        number = cls.troubles.get((session, call)) or cls.troubles.get(("", call))
        if number is not None:
            raise OSError(number, os.strerror(number), str(path))

    def create(self, path: Path) -> RealFile:
        self.check(path, "append")
        return File(super().create(path), path)

    def read(self, path: Path) -> bytes:
        self.check(path, "read")
        return super().read(path)

    def sync(self, path: Path) -> None:
        self.check(path, "sync")
        super().sync(path)


class File(RealFile):
    def __init__(self, file: RealFile, path: Path) -> None:
        super().__init__(file._fd)
        self._path = path

    def append(self, parts: Sequence[Buffer]) -> None:
        Disk.check(self._path, "append")
        super().append(parts)

    def sync(self) -> None:
        Disk.check(self._path, "sync")
        super().sync()


@pytest.fixture
def troubles(monkeypatch: pytest.MonkeyPatch) -> Troubles:
    monkeypatch.setattr(service, "TimedDisk", Disk)
    made: Troubles = {}
    monkeypatch.setattr(Disk, "troubles", made)
    return made


@pytest.fixture
def clustered(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Start a gateway on the directory, and end the one before."""
    running: list[Cluster] = []

    def start(**config: Any) -> Cluster:
        while running:
            before = running.pop()
            for client in before.clients:  # who closes a session ends it
                client._stream.cancel()
            before.clients.clear()
            before.close()
        running.append(Cluster())
        return running[-1].start(2, journals=tmp_path, **config)

    yield start
    while running:
        running.pop().close()


def opened(cluster: Cluster, value: bytes = b"abc", **more: Any) -> Client:
    """Return a client with a tensor 1 that survives."""
    client = cluster.connect(devices="cpu", **more)
    client.transport.send(put(1, value))
    client.synchronize()
    cluster.until(lambda: client.transport._ledger.durable == 1)
    return client


def id_of(client: Client) -> str:
    return str(client.transport.session_id)


def listed(cluster: Cluster) -> dict[str, str]:
    told = json.loads(asked(cluster, "list", "--json").output)
    return {each["session"]: each["state"] for each in told}


@pytest.mark.parametrize("durability", ["durable", "snapshot-only"])
def test_a_full_disk_ends_one_session_and_loses_nothing_of_it(
    troubles: Troubles, clustered: Callable[..., Cluster], durability: str
) -> None:
    cluster = clustered()
    one = cluster.connect(devices="cpu", durability=durability)
    one.transport.send(put(1, b"abc"))
    one.synchronize()
    other = opened(cluster, b"other")
    session = id_of(one)
    troubles[session, "append"] = errno.ENOSPC
    one.transport.send(put(2, b"late"))
    lost = one.lost()
    assert lost.kind == "JournalError" and "errno 28" in lost.message
    assert f'farspan.attach("{session}")' in lost.message
    other.transport.send(get(1, 5))
    assert other.value(5).data == b"other"
    assert listed(cluster) == {session: "failed", id_of(other): "open"}
    cluster.until(lambda: sum(w.counts()["sessions"] for w in cluster.workers) == 1)
    with pytest.raises(JournalError, match="errno 28"):
        cluster.connect(attach=session)
    assert listed(cluster)[session] == "failed"
    del troubles[session, "append"]
    again = cluster.connect(attach=session)
    again.transport.send(get(1, 9))
    assert again.value(9).data == b"abc" and again.transport.sequence == 2
    assert listed(cluster)[session] == "open"


@pytest.mark.parametrize("restarted", [False, True])
def test_what_was_not_synced_is_not_believed_after_a_sync_failed(
    troubles: Troubles, clustered: Callable[..., Cluster], tmp_path: Path, restarted: bool
) -> None:
    cluster = clustered()
    one = opened(cluster)
    session = id_of(one)
    troubles[session, "sync"] = errno.EIO
    one.transport.send(put(1, b"def"))  # it may be read in the file, which means nothing
    assert one.lost().kind == "JournalError"
    cluster.until(lambda: os.listdir(tmp_path) == [f"failed-{session}"])
    del troubles[session, "sync"]
    if restarted:
        cluster = clustered()
    again = cluster.connect(attach=session)
    assert again.transport.sequence == 1  # the frame that was synced, and no other
    again.transport.send(get(1, 9))
    assert again.value(9).data == b"abc"
    assert os.listdir(tmp_path) == [session]


def test_a_sync_that_fails_as_a_gateway_stops_is_not_believed_either(
    troubles: Troubles, clustered: Callable[..., Cluster], tmp_path: Path
) -> None:
    one = clustered().connect(devices="cpu", durability="snapshot-only", reconnect_s=0)
    session = id_of(one)
    one.transport.send(put(1, b"abc"))
    one.synchronize()
    troubles[session, "sync"] = errno.EIO
    cluster = clustered()
    assert os.listdir(tmp_path) == [f"failed-{session}"]
    with pytest.raises(JournalError, match=r"errno 5"):
        cluster.connect(attach=session)
    assert listed(cluster) == {session: "failed"}
    troubles.clear()
    again = cluster.connect(attach=session)
    assert again.transport.sequence == 0  # as it was synced when it was opened
    assert listed(cluster) == {session: "open"} and os.listdir(tmp_path) == [session]


def test_a_call_that_the_journal_fails_under_is_told_and_so_is_the_session(
    troubles: Troubles, clustered: Callable[..., Cluster]
) -> None:
    cluster = clustered()
    for call in (
        lambda client: client.transport.keep("name", "{}"),
        lambda client: client.transport.upload(7, 0, memoryview(b"xyz")),
    ):
        one = opened(cluster)
        session = id_of(one)
        troubles[session, "append"] = errno.ENOSPC
        with pytest.raises(JournalError):
            call(one)
        assert one.lost().kind == "JournalError"
        assert listed(cluster) == {session: "failed"}
        del troubles[session, "append"]
        again = cluster.connect(attach=session)
        again.transport.send(get(1, 9))
        assert again.value(9).data == b"abc"
        again.transport.close()
        cluster.until(lambda: not listed(cluster))


def test_a_session_whose_journal_failed_is_closed_like_any_other(
    troubles: Troubles, clustered: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = clustered()
    for call in ("append", "sync"):
        session = id_of(opened_and_failed(cluster, troubles, call))
        cluster.until(lambda: len(os.listdir(tmp_path)) == 1)
        assert asked(cluster, "close", session).exit_code == 0
        cluster.until(lambda: not os.listdir(tmp_path))
        assert listed(cluster) == {}


def opened_and_failed(cluster: Cluster, troubles: Troubles, call: str) -> Client:
    one = opened(cluster)
    troubles[id_of(one), call] = errno.ENOSPC
    one.transport.send(put(2, b"late"))
    assert one.lost().kind == "JournalError"
    return one


def test_a_session_whose_journal_failed_ends_with_its_retention(
    troubles: Troubles,
    clustered: Callable[..., Cluster],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "_RETENTION_LOOK_S", 0.0)
    cluster = clustered(retention_s=0.5)
    opened_and_failed(cluster, troubles, "append")
    cluster.until(lambda: not states(cluster) and not os.listdir(tmp_path))


def test_two_who_attach_at_once_open_a_failed_journal_once(
    troubles: Troubles, clustered: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    cluster = clustered()
    session = id_of(opened_and_failed(cluster, troubles, "append"))
    troubles.clear()
    assert cluster.gateway is not None
    shelf, openings = cluster.gateway.service._shelf, []
    assert shelf is not None
    open_ = shelf.open
    monkeypatch.setattr(shelf, "open", lambda name: (openings.append(name), open_(name))[1])

    def attach(_: int) -> int:
        with contextlib.suppress(FarspanError):  # another one was later
            return int(cluster.connect(attach=session).transport.sequence)
        return 0

    with ThreadPoolExecutor(4) as several:
        found = list(several.map(attach, range(4)))
    assert openings == [session] and max(found) == 1 and states(cluster) == ["open"]


def _a_directory(session: Path) -> None:
    (segment, *_) = sorted(session.glob("*.journal"))
    segment.unlink()
    segment.mkdir()


def _a_file(session: Path) -> None:
    session.rename(session.with_name("elsewhere"))
    session.write_bytes(b"no directory")


@pytest.mark.parametrize("damage", [_a_directory, _a_file, None])
def test_one_unreadable_journal_stops_no_gateway(
    troubles: Troubles,
    clustered: Callable[..., Cluster],
    tmp_path: Path,
    damage: Callable[[Path], None] | None,
) -> None:
    cluster = clustered()
    one, other = opened(cluster, reconnect_s=0), opened(cluster, b"other", reconnect_s=0)
    session = id_of(one)
    if damage is not None:
        damage(tmp_path / session)
    else:
        troubles[session, "read"] = errno.EIO
    cluster = clustered()
    told = listed(cluster)
    assert told.pop(id_of(other)) == "asleep"
    assert told in ({}, {session: "damaged"})  # none: it does not even tell whose it was
    with pytest.raises(FarspanError, match=r"cannot be read|no such session"):
        cluster.connect(attach=session)
    again = cluster.connect(attach=id_of(other))
    again.transport.send(get(1, 9))
    assert again.value(9).data == b"other"
    if damage is None:  # the disk works again
        troubles.clear()
        cluster = clustered()
        again = cluster.connect(attach=session)
        again.transport.send(get(1, 9))
        assert again.value(9).data == b"abc"


def test_a_gateway_that_starts_on_a_full_disk_serves_and_its_sessions_wait_for_room(
    troubles: Troubles, clustered: Callable[..., Cluster]
) -> None:
    session = id_of(opened(clustered(), reconnect_s=0))
    troubles["", "append"] = errno.ENOSPC
    cluster = clustered()
    assert listed(cluster) == {session: "asleep"}
    with pytest.raises(JournalError, match=r"errno 28"):
        cluster.connect(attach=session)
    assert listed(cluster) == {session: "failed"}
    with pytest.raises(JournalError):
        cluster.connect(devices="cpu")
    troubles.clear()
    again = cluster.connect(attach=session)
    again.transport.send(get(1, 9))
    assert again.value(9).data == b"abc"


def failed_meanwhile(
    cluster: Cluster, troubles: Troubles, monkeypatch: pytest.MonkeyPatch, reconnect_s: float
) -> Client:
    """Return a client whose journal could not be written while its stream was broken."""
    one = opened(cluster, reconnect_s=reconnect_s)
    assert cluster.gateway is not None
    gateway = cluster.gateway.service
    (live,) = gateway.sessions

    def later(*_: Any) -> Any:
        raise CapacityError("later")

    with monkeypatch.context() as away:
        away.setattr(gateway, "resume", later)
        one.transport._stream.cancel()
        cluster.until(lambda: states(cluster) == ["detached"])
        one.transport.send(put(2, b"late"))
        troubles[live.id, "append"] = errno.ENOSPC
        with pytest.raises(JournalError):
            cluster.run(gateway.keep(live, wire.KeepRequest(live.id, 1, "name", "{}")))
        assert "errno 28" in live.failure
    return one


def test_a_client_whose_journal_stays_broken_is_told_so_and_how_to_attach(
    troubles: Troubles, clustered: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = clustered()
    one = failed_meanwhile(cluster, troubles, monkeypatch, 1.5)
    session = id_of(one)
    lost = one.lost()
    assert lost.kind == "JournalError", lost
    assert "errno 28" in lost.message
    assert f'farspan.attach("{session}")' in lost.message
    assert listed(cluster) == {session: "failed"}
    troubles.clear()
    again = cluster.connect(attach=session)
    again.transport.send(get(1, 9))
    assert again.value(9).data == b"abc"


def test_a_client_that_missed_the_word_goes_on_when_there_is_room(
    troubles: Troubles, clustered: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stream broke as the disk filled up; it comes back, and sends again what was not taken."""
    cluster = clustered()
    one = failed_meanwhile(cluster, troubles, monkeypatch, 30)
    cluster.until(lambda: one.transport._tries > 3)  # refused, for now
    troubles.clear()
    one.transport.send(get(2, 9))
    assert one.value(9).data == b"late"


@pytest.mark.parametrize("about", [b"[]", b'{"opened_at_s": null}', b"\xff", b"[" * 100_000])
def test_what_is_written_of_a_damaged_session_stops_no_gateway(
    tmp_path: Path, about: bytes
) -> None:
    session = "a" * 32
    (tmp_path / f"damaged-{session}").mkdir()
    (tmp_path / f"damaged-{session}" / "about.json").write_bytes(about)
    shelf = Shelf(tmp_path, RealDisk())
    assert shelf.take() == [] and list(shelf.damaged) == [session]
    shelf.release()


def test_a_file_that_cannot_be_measured_stops_no_gateway(
    clustered: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = clustered()
    one, other = opened(cluster, reconnect_s=0), opened(cluster, b"other", reconnect_s=0)
    session = id_of(one)
    (tmp_path / session / "elsewhere").symlink_to(tmp_path / "nothing")
    cluster = clustered()
    assert listed(cluster) == {session: "damaged", id_of(other): "asleep"}
    again = cluster.connect(attach=id_of(other))
    again.transport.send(get(1, 9))
    assert again.value(9).data == b"other"


def test_what_a_failed_sync_costs_counts_no_more_when_it_is_removed(tmp_path: Path) -> None:
    disk = QuotaDisk(RealDisk(), lambda tenant: 150_000)
    shelf, session = Shelf(tmp_path, disk), "a" * 32
    shelf.take()
    disk.own(session, "anna")
    about = about_session("anna", ("cpu",), "durable", 1.0, wire.MINOR)
    shelf.create(session, about, "").journal.close()
    held = disk.used("anna")
    part = disk.create(shelf.path(session) / part_name(1, 0))  # of a snapshot under way
    part.append([bytes(100_000)])
    part.close()
    shelf.doubt(session)
    made = shelf.open(session)
    assert made is not None and disk.used("anna") == disk.held(session) == held
    part = disk.create(shelf.path(session) / part_name(1, 0))
    part.append([bytes(100_000)])  # there is room for it again
    part.close()
    made.journal.close()
    shelf.release()


def opened_below(directory: Path) -> list[str]:
    """Return the files below a directory that this process has open."""
    found = []
    for each in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{each}"))
    return [each for each in found if each.startswith(f"{directory}/")]


@pytest.mark.parametrize("call", ["append", "sync", "directory"])
def test_a_session_that_cannot_be_made_leaves_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Who tries again and again would use up all files that the gateway may have open."""

    def fails(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    if call == "directory":
        synced, calls = RealDisk.sync_directory, []

        def later(self: RealDisk, directory: Path) -> None:
            calls.append(directory)
            synced(self, directory) if directory != tmp_path else fails()

        monkeypatch.setattr(RealDisk, "sync_directory", later)
    else:
        monkeypatch.setattr(RealFile, call, fails)
    shelf = Shelf(tmp_path, RealDisk())
    for k in range(3):
        with pytest.raises(JournalError):
            shelf.create(f"{k:032x}", about_session("anna", ("cpu",), "durable", 1.0, 9), "")
    assert not opened_below(tmp_path)


def test_a_sync_that_fails_leaves_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError(errno.EIO, "it fails")

    journal = Journal.create(RealDisk(), tmp_path / "s", "s")
    for _ in range(3):
        journal.roll()
    monkeypatch.setattr(RealFile, "sync", fails)
    with pytest.raises(JournalError):
        journal.sync()
    assert len(opened_below(tmp_path)) == 4
    journal.close()
    assert not opened_below(tmp_path)
