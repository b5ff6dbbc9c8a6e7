"""`farspan up` as a user runs it: one line of JSON, a service behind it, and nothing left after."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from farspan.core.op import table_hash
from farspan_server import state_directory

WITHOUT_RAY = ("--no-ray",)
START_S = 60.0
END_S = 15.0


@contextlib.contextmanager
def up(*options: str, directory: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Run `farspan up` with its temporary files below `directory`."""
    command = [sys.executable, "-m", "farspan_server", "up", "--json", "--workers", "cpu:1"]
    environment = {**os.environ, "TMPDIR": str(directory), "XDG_STATE_HOME": f"{directory}/state"}
    errors = (directory / "stderr").open("w+")
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (directory / "stderr").read_text()
        yield process, json.loads(line)
        if process.poll() is None:
            process.terminate()
            assert process.wait(END_S) == 0
        assert process.stdout.read() == ""  # exactly one line
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(END_S)
        errors.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    # Shorter than pytest's own: sockets far below it have a bound of about 100 characters.
    with tempfile.TemporaryDirectory(prefix="u-") as path:
        yield Path(path)


def left(directory: Path) -> list[str]:
    """Return the commands of processes that were started with a file below `directory`."""
    found = []
    for status in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"TMPDIR={directory}".encode() in status.read_bytes():
                found.append((status.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def nothing_is_left(directory: Path) -> bool:
    deadline = time.monotonic() + END_S
    while time.monotonic() < deadline:
        if not left(directory) and not list(directory.glob("farspan-*")):
            return True
        time.sleep(0.1)
    raise AssertionError([*left(directory), *directory.iterdir()])


def connect(ready: dict[str, Any]) -> Any:
    from farspan._transport import connect_grpc

    token = Path(ready["token_file"]).read_text().strip()
    return connect_grpc(ready["address"], token, devices="cpu", table_hash=table_hash())


def check_service(ready: dict[str, Any]) -> None:
    pids = ready["pids"]
    assert set(pids) == {"gateway", "supervisor", "workers"}
    assert Path(ready["token_file"]).stat().st_mode & 0o777 == 0o600
    transport = connect(ready)
    (device,) = transport.devices
    assert (device["kind"], device["pid"], device["epoch"]) == ("cpu", pids["workers"][0], 1)
    transport.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_up_serves_and_a_signal_ends_all_of_it(directory: Path, number: int) -> None:
    with up(*WITHOUT_RAY, directory=directory) as (process, ready):
        check_service(ready)
        process.send_signal(number)
        assert process.wait(END_S) == 0
    assert nothing_is_left(directory)


def test_sigkill_of_up_leaves_no_process_and_no_file(directory: Path) -> None:
    with up(*WITHOUT_RAY, directory=directory) as (process, _):
        process.kill()
        process.wait(END_S)
        assert nothing_is_left(directory)


def test_sessions_are_kept_without_being_asked_for(directory: Path) -> None:
    import farspan as torch

    place = directory / "state" / "farspan" / "up"
    with up(*WITHOUT_RAY, directory=directory) as (_, ready):
        assert ready["journal"] == str(place)
        assert [p.stat().st_mode & 0o777 for p in (place, place.parent)] == [0o700] * 2
        token = Path(ready["token_file"]).read_text().strip()
        session = torch.connect(ready["address"], token=token, timeout=START_S)
        session.keep("x", torch.arange(50_000.0))
        assert state_directory_of(directory, 0) == place.with_name("up-2")  # this one is in use
        left = session.detach()
    with up(*WITHOUT_RAY, "--port", "0", directory=directory) as (_, ready):
        assert ready["journal"] == str(place)
        token = Path(ready["token_file"]).read_text().strip()
        with torch.attach(left, ready["address"], token=token, timeout=START_S) as session:
            assert session.kept["x"][-1].item() == 49_999
    assert nothing_is_left(directory)
    assert not list(place.iterdir())


def state_directory_of(directory: Path, port: int) -> Path:
    """Return where `farspan up --port` would keep sessions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", f"{directory}/state")
        return state_directory.journal_of(port)


def test_each_port_has_a_directory_of_its_own(tmp_path: Path, monkeypatch: Any) -> None:
    assert state_directory_of(tmp_path, 7070) == tmp_path / "state" / "farspan" / "port-7070"
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_directory.journal_of(0) == tmp_path / ".local" / "state" / "farspan" / "up"


def test_a_user_without_a_place_for_sessions_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for option in ((), ("--journal", "x", "--no-journal")):
        command = [sys.executable, "-m", "farspan_server", "up", *WITHOUT_RAY, *option]
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=START_S,
            env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "file")},
        )  # fmt: skip
        assert ended.returncode and "--no-journal" in ended.stderr
        assert "Traceback" not in ended.stderr


def children(process: subprocess.Popen[str]) -> dict[str, int]:
    """Return the pids of the gateway and the supervisor of `farspan up` at this moment."""
    found = {}
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"farspan_server" in words:
                found[words[3].decode()] = int(pid)
    return found


def killed_and_started_again(process: subprocess.Popen[str], part: str) -> None:
    """Kill a part and wait until there is another."""
    before = children(process)[part]
    os.kill(before, signal.SIGKILL)
    deadline = time.monotonic() + START_S
    while children(process).get(part, before) == before:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)


@pytest.mark.parametrize("part", ["supervisor", "serve"])
def test_a_part_that_dies_is_started_again_and_a_session_goes_on(
    directory: Path, part: str
) -> None:
    import farspan as torch

    journal = directory / "journal"
    with up(*WITHOUT_RAY, "--journal", str(journal), directory=directory) as (process, ready):
        token = Path(ready["token_file"]).read_text().strip()
        with torch.connect(ready["address"], token=token, timeout=START_S) as session:
            torch.manual_seed(3)
            x = torch.rand(1000)
            expected = x.numpy().tobytes()
            worker = session.transport.devices[0]["pid"]
            killed_and_started_again(process, part)
            y = torch.rand(3).numpy().tobytes()
            assert x.numpy().tobytes() == expected
            if part == "supervisor":  # its workers went with it
                assert session.transport.devices[0]["pid"] != worker
        with torch.connect(ready["address"], token=token, timeout=START_S):
            torch.manual_seed(3)
            assert torch.rand(1000).numpy().tobytes() == expected
            assert torch.rand(3).numpy().tobytes() == y
    said = (directory / "stderr").read_text()
    assert "ended with status -9; it is started again" in said
    assert nothing_is_left(directory)


@pytest.mark.slow
def test_a_part_that_dies_again_and_again_ends_up_with_a_reason(directory: Path) -> None:
    with up(*WITHOUT_RAY, directory=directory) as (process, _):
        for _ in range(5):
            killed_and_started_again(process, "serve")
        os.kill(children(process)["serve"], signal.SIGKILL)
        assert process.wait(END_S) == 1
    assert nothing_is_left(directory)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["gcs_server", "raylet/raylet"])
def test_a_ray_that_dies_is_started_again_and_a_session_goes_on(
    directory: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import farspan as torch

    # Ray's own patience with a GCS that is away is a minute.
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "5")
    with up("--journal", str(directory / "journal"), directory=directory) as (process, ready):
        token = Path(ready["token_file"]).read_text().strip()
        with torch.connect(ready["address"], token=token, timeout=2 * START_S) as session:
            torch.manual_seed(3)
            x = torch.rand(1000)
            expected = x.numpy().tobytes()
            worker = session.transport.devices[0]["pid"]
            (pid,) = processes(process.pid, part)
            os.kill(pid, signal.SIGKILL)
            assert x.numpy().tobytes() == expected  # the worker may be there still
            deadline = time.monotonic() + 2 * START_S
            while session.transport.devices[0]["pid"] == worker:
                assert time.monotonic() < deadline
                assert x.sum().item() > 0
                time.sleep(0.2)
            assert x.numpy().tobytes() == expected
    assert nothing_is_left(directory)


def processes(root: int, words: str) -> list[int]:
    """Return the processes below one whose command has these words."""
    from farspan_server.up import _descendants

    found = []
    for pid in _descendants(root):
        with contextlib.suppress(OSError):
            if words.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]:
                found.append(pid)
    return found


def test_status_shows_the_callers_sessions(directory: Path) -> None:
    with up(*WITHOUT_RAY, directory=directory) as (_, ready):
        command = [sys.executable, "-m", "farspan_server", "status", "--address", ready["address"]]
        command += ["--token-file", ready["token_file"]]
        transport = connect(ready)
        shown = subprocess.run(command, capture_output=True, text=True, check=True)
        assert transport.session_id in shown.stdout
        transport.close()


@pytest.mark.slow
def test_up_with_ray_serves_and_sigterm_ends_all_of_it(directory: Path) -> None:
    with up(directory=directory) as (process, ready):
        check_service(ready)
        process.terminate()
        assert process.wait(END_S) == 0
        assert nothing_is_left(directory)


@pytest.mark.slow
def test_sigkill_of_up_leaves_nothing_of_ray_either(directory: Path) -> None:
    with up(directory=directory) as (process, _):
        process.kill()
        process.wait(END_S)
        assert nothing_is_left(directory)


@pytest.mark.slow
def test_a_killed_ray_worker_is_replaced_for_the_next_session(directory: Path) -> None:
    with up(directory=directory) as (_, ready):
        first = ready["pids"]["workers"][0]
        os.kill(first, signal.SIGKILL)
        deadline = time.monotonic() + START_S
        while True:
            transport = connect(ready)
            (device,) = transport.devices
            transport.close()
            if device["pid"] != first:
                break
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert device["epoch"] > 1
