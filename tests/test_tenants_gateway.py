"""Tenants at real gateways: tokens and certificates that change, quotas, floods, what is noted."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import test_gateway
from farspan import wire
from farspan.core import limits
from farspan.core.errors import (
    AuthError,
    CapacityError,
    ConnectError,
    FarspanError,
    JournalError,
)
from farspan.core.op import table_hash
from farspan_server import auth, door, floor, gateway, tenancy, token_file
from farspan_server.certs import make_certificates
from farspan_server.shelf import Shelf
from farspan_worker.server import Worker
from test_cli import running
from test_gateway import KEY, OTHER, TOKEN, Bytes, Client, Cluster, frame, get, put


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    Bytes.gate.clear()
    made = Cluster()
    yield made
    made.close()


def bearer(token: str = TOKEN) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def look(cluster: Cluster) -> None:
    """Let the gateway look at its files now."""

    async def now() -> None:
        cluster.gateway.tenancy.look()

    cluster.run(now())


def add(path: Path, tenant: str) -> tuple[str, str]:
    """Add a token to a file and return it and its id."""
    token, kept = auth.new_token(tenant, 1.0)
    token_file.change(path, lambda lines: lines.append(token_file.line_of(kept)))
    return token, kept.id


def revoke(path: Path, name: str) -> None:
    def edit(lines: list[str]) -> None:
        lines[:] = token_file.without(lines, name)

    token_file.change(path, edit)


def notes(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- tokens --------------------------------------------------------------------------------------
@pytest.mark.parametrize("ends", [False, True])
def test_tokens_change_while_the_gateway_serves(
    cluster: Cluster, tmp_path: Path, ends: bool
) -> None:
    path = tmp_path / "tokens"
    first, name = add(path, "anna")
    cluster.start(tokens={}, token_files=(path,), end_revoked=ends)
    client = cluster.connect(token=first)
    client.transport.send(put(1, b"x"))
    client.synchronize()
    second, _ = add(path, "anna")
    with pytest.raises(AuthError):
        cluster.connect(token=second)
    look(cluster)
    other = cluster.connect(token=second)
    revoke(path, name)
    look(cluster)
    with pytest.raises(AuthError):
        cluster.connect(token=first)
    other.transport.send(put(1, b"y"))
    other.synchronize()
    if ends:
        assert client.lost().kind == "AuthError"
    else:
        client.transport.send(get(1, 2))
        assert client.value(2).data == b"x"


def test_the_last_token_can_be_revoked_too(cluster: Cluster, tmp_path: Path) -> None:
    path, audit = tmp_path / "tokens", tmp_path / "audit"
    only, name = add(path, "anna")
    cluster.start(0, tokens={}, token_files=(path,), audit=audit)
    cluster.connect(token=only).transport.close()
    revoke(path, name)
    look(cluster)
    assert notes(audit)[-1] | {"at_s": 0} == {
        "at_s": 0,
        "what": "config reloaded",
        "file": "tokens",
    }
    with pytest.raises(AuthError):
        cluster.connect(token=only)


def test_a_file_of_tokens_is_watched_and_one_that_is_none_changes_nothing(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenancy, "LOOK_S", 0.05)
    path, audit = tmp_path / "tokens", tmp_path / "audit"
    token, _ = add(path, "anna")
    cluster.start(0, tokens={}, token_files=(path,), audit=audit)
    for nonsense in ("anna:short", ""):
        path.write_text(nonsense)
        count = len(notes(audit))
        cluster.until(lambda count=count: len(notes(audit)) > count)
        assert notes(audit)[-1]["what"] == "config refused"
        cluster.connect(token=token).transport.close()
    path.unlink()
    new, _ = add(path, "bert")
    cluster.until(lambda: cluster.gateway.tenancy.tokens.tenant(bearer(new)) == "bert")
    with pytest.raises(AuthError):
        cluster.connect(token=token)


def test_wrong_tokens_wait_and_right_ones_of_the_same_address_do_not(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "DELAYED_MAX", 3)
    monkeypatch.setattr(door, "DELAY_S_MAX", 60.0)
    cluster.start(0)
    gate = cluster.gateway.tenancy.door
    for _ in range(20):
        gate.refused(gate.refuse("127.0.0.1", time.monotonic()))
    with grpc.insecure_channel(cluster.address.removeprefix("grpc://")) as channel:
        call = channel.unary_unary(f"/{wire.SERVICE}/List")
        waiting = [call.future(b"", metadata=bearer("x" * 40)) for _ in range(3)]
        cluster.until(lambda: gate._delayed == 3)
        call(wire.encode(wire.ListRequest()), metadata=bearer(), timeout=20)
        with pytest.raises(grpc.RpcError) as caught:  # no room to wait in: at once
            call(b"", metadata=bearer("y" * 40), timeout=20)
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert not any(each.done() for each in waiting)
        for each in waiting:
            each.cancel()
        cluster.until(lambda: gate._delayed == 0)


# --- quotas --------------------------------------------------------------------------------------
def test_sessions_and_devices_of_a_tenant_are_bounded_and_the_bounds_change(
    cluster: Cluster, tmp_path: Path
) -> None:
    tenants, audit = tmp_path / "tenants.toml", tmp_path / "audit"
    tenants.write_text("[default]\nsessions = 3\n[tenant.anna]\ndevices = 2\nsessions = 3\n")
    cluster.start(4, tenants=tenants, audit=audit)
    with pytest.raises(CapacityError, match="quota of devices: requested 3, used 0, limit 2"):
        cluster.connect(devices="cpu:3")
    first = cluster.connect(devices="cpu")
    cluster.connect(devices="cpu")
    with pytest.raises(CapacityError, match="quota of devices: requested 1, used 2, limit 2"):
        cluster.connect(devices="cpu", timeout=0.5)
    cluster.connect(devices="cpu:2", token=OTHER)  # whom it does not concern
    tenants.write_text("[default]\nsessions = 3\n[tenant.anna]\ndevices = 3\nsessions = 3\n")
    look(cluster)
    cluster.connect(devices="cpu")
    with pytest.raises(CapacityError, match="quota of sessions: requested 1, used 3, limit 3"):
        cluster.connect()
    tenants.write_text("[default]\nsesions = 1\n")
    look(cluster)
    first.transport.close()
    cluster.until(lambda: cluster.gateway.tenancy.sessions("anna") == 2)
    cluster.connect(devices="cpu")
    hits = [(n["tenant"], n["quota"]) for n in notes(audit) if n["what"] == "quota hit"]
    assert set(hits) == {("anna", "devices"), ("anna", "sessions")}
    assert [n["what"] for n in notes(audit) if "config" in n["what"]] == [
        "config reloaded",
        "config refused",
    ]


def test_a_sessions_memory_is_its_share_and_the_shares_stay_within_the_quota(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []

    def worker(self: Cluster) -> tuple[Worker, str]:
        def engine(name: str, memory_bytes_max: int) -> Bytes:
            given.append(memory_bytes_max)
            return Bytes()

        made = Worker(KEY, engine)
        self.workers.append(made)
        return made, made.listen("127.0.0.1:0")

    monkeypatch.setattr(Cluster, "worker", worker)
    tenants = tmp_path / "tenants.toml"
    tenants.write_text('[tenant.anna]\nmemory = "100 MiB"\ndevice_memory = "40 MiB"\n')
    cluster.start(4, tenants=tenants)
    for _ in range(2):
        cluster.connect(devices="cpu")
    cluster.until(lambda: given == [40 * limits.MiB] * 2)
    with pytest.raises(CapacityError, match="quota of bytes of memory: requested 41943040"):
        cluster.connect(devices="cpu", timeout=0.5)
    cluster.connect(devices="cpu", token=OTHER)
    cluster.until(lambda: given[2:] == [cluster.gateway.config.memory_bytes_max])
    assert cluster.gateway.service.pool.used("anna") == (2, 80 * limits.MiB)
    # A new file is for new sessions; those that are there keep what they have.
    tenants.write_text('[tenant.anna]\nmemory = "90 MiB"\ndevice_memory = "10 MiB"\n')
    look(cluster)
    cluster.connect(devices="cpu")
    cluster.until(lambda: given[3:] == [10 * limits.MiB])
    assert cluster.gateway.service.pool.used("anna") == (3, 90 * limits.MiB)
    with pytest.raises(CapacityError, match="quota of bytes of memory: requested 10485760"):
        cluster.connect(devices="cpu", timeout=0.5)


def test_how_long_a_command_may_take_is_its_tenants_and_changes(
    cluster: Cluster, tmp_path: Path
) -> None:
    def limits_of() -> dict[str, float]:
        found = [s.body for w in cluster.workers for s in list(w._inbox.sessions.values())]
        return {body.session: body.command_s_max for body in found}

    tenants = tmp_path / "tenants.toml"
    tenants.write_text("[tenant.anna]\ncommand_seconds = 7.5\n")
    cluster.start(4, tenants=tenants, command_s_max=60.0)
    one, other = cluster.connect(devices="cpu"), cluster.connect(devices="cpu", token=OTHER)
    expected = {one.transport.session_id: 7.5, other.transport.session_id: 60.0}
    cluster.until(lambda: limits_of() == expected)
    tenants.write_text("[default]\ncommand_seconds = 0\n")
    look(cluster)
    expected[cluster.connect(devices="cpu").transport.session_id] = 0.0
    cluster.until(lambda: limits_of() == expected)
    Bytes.gate.clear()
    tenants.write_text("[tenant.anna]\ncommand_seconds = 1\n")
    look(cluster)
    last = cluster.connect(devices="cpu")
    ended = threading.Event()
    for worker in cluster.workers:
        worker._end_process = ended.set
    try:
        last.transport.send(frame((test_gateway.HOLD, [], ())))
        assert last.lost().kind == "CommandTimeoutError" and ended.wait(10)
    finally:
        Bytes.gate.set()


def test_a_session_keeps_its_limit_and_its_tenants_account_at_another_gateway(
    cluster: Cluster, tmp_path: Path
) -> None:
    tenants, journals = tmp_path / "tenants.toml", tmp_path / "journals"
    tenants.write_text('[tenant.anna]\ndevice_memory = "40 MiB"\n')
    cluster.start(1, tenants=tenants, journals=journals)
    client = cluster.connect(devices="cpu")
    client.transport.send(put(1, bytes(10_000)))
    client.synchronize()
    session = client.transport.session_id
    cluster.run(cluster.gateway.stop(0.1))
    tenants.write_text('[tenant.anna]\ndevice_memory = "20 MiB"\nsessions = 1\n')
    cluster.start(1, tenants=tenants, journals=journals)
    service = cluster.gateway.service
    assert service.asleep == 1 and not service.sessions
    cluster.run(service.wake("anna", session))
    live = service._sessions[session]
    assert live.memory_bytes == 40 * limits.MiB, "its replay must run out of it where it did"
    held = cluster.gateway.tenancy
    on_disk = sum(path.stat().st_size for path in (journals / session).iterdir())
    assert held.sessions("anna") == 1 and held.disk.used("anna") == on_disk > 10_000
    with pytest.raises(CapacityError, match="quota of sessions"):
        cluster.connect()


def test_a_session_that_slept_and_finds_no_room_stays_on_disk(
    cluster: Cluster, tmp_path: Path
) -> None:
    tenants = tmp_path / "tenants.toml"
    tenants.write_text("[tenant.anna]\ndevices = 1\n")
    cluster.start(2, tenants=tenants, journals=tmp_path / "journals", lease_s=0.2)
    first = cluster.connect(devices="cpu", timeout=0.5)
    first.transport.send(put(1, b"kept"))
    first.synchronize()
    session = first.transport.session_id
    first.transport.detach()
    cluster.until(lambda: test_gateway._states(cluster) == ["asleep"])
    second = cluster.connect(devices="cpu")
    again = cluster.connect(attach=session)
    again.transport.send(get(1, 1 << 50))
    lost = again.lost()
    assert lost.kind == "CapacityError"
    assert "quota of devices: requested 1, used 1, limit 1" in lost.message
    assert "stays on disk" in lost.message
    cluster.until(lambda: sorted(test_gateway._states(cluster)) == ["asleep", "open"])
    second.transport.close()
    cluster.until(lambda: test_gateway._states(cluster) == ["asleep"])
    third = cluster.connect(attach=session)
    third.transport.send(get(1, 1 << 51))
    assert third.value(1 << 51).data == b"kept"


def test_who_comes_to_a_session_when_the_disk_is_used_up_does_not_end_it(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants = tmp_path / "tenants.toml"
    tenants.write_text("")
    cluster.start(1, tenants=tenants, journals=tmp_path / "journals", lease_s=0.2)
    first = cluster.connect(devices="cpu")
    first.transport.send(put(1, b"kept"))
    first.synchronize()
    session = first.transport.session_id
    first.transport.detach()
    cluster.until(lambda: test_gateway._states(cluster) == ["asleep"])
    tenancy = cluster.gateway.tenancy
    quota = tenancy.quota("anna")
    with monkeypatch.context() as less:  # as an operator might do it
        less.setattr(tenancy, "quota", lambda tenant: replace(quota, journal_bytes=10))
        with pytest.raises(CapacityError, match="quota of bytes of journals"):
            cluster.connect(attach=session)
    with monkeypatch.context() as full:
        full.setattr(Shelf, "free_bytes", 10)
        with pytest.raises(CapacityError, match="disk is full"):
            cluster.connect(attach=session)
    again = cluster.connect(attach=session)
    again.transport.send(get(1, 1 << 50))
    assert again.value(1 << 50).data == b"kept"


def test_a_tenants_rate_slows_it_down_and_loses_nothing(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants = tmp_path / "tenants.toml"
    tenants.write_text("[tenant.anna]\ncommands_per_s = 100\n")
    waited: dict[str, list[float]] = {"anna": [], "bert": []}
    cluster.start(2, tenants=tenants)
    client, other = cluster.connect(), cluster.connect(token=OTHER)
    rate = cluster.gateway.tenancy.wait_s

    def short(tenant: str, commands: int) -> float:
        waited[tenant].append(rate(tenant, commands))
        return waited[tenant][-1] / 1000

    monkeypatch.setattr(cluster.gateway.tenancy, "wait_s", short)
    for each in (client, other):
        for k in range(1, 1001):
            each.transport.send(put(k, b"%d" % k))
        each.transport.send(get(1000, 1))
        assert each.value(1).data == b"1000"
    assert max(waited["anna"]) > 0, "more than a second's worth came at once"
    assert max(waited["bert"]) == 0


def test_a_journal_beyond_the_quota_ends_its_session_only(cluster: Cluster, tmp_path: Path) -> None:
    tenants = tmp_path / "tenants.toml"
    tenants.write_text('[tenant.anna]\njournal = "2 MiB"\n')
    cluster.start(2, tenants=tenants, journals=tmp_path / "journals")
    small, large, other = cluster.connect(), cluster.connect(), cluster.connect(token=OTHER)
    small.transport.send(put(1, b"small"))
    other.transport.upload(7, 0, bytes(4 * limits.MiB))
    with pytest.raises(JournalError, match="quota of bytes of journals: requested"):
        large.transport.upload(7, 0, bytes(4 * limits.MiB))
    lost = large.lost()
    assert lost.kind == "JournalError" and "quota of bytes of journals" in lost.message
    small.transport.send(get(1, 1))
    assert small.value(1).data == b"small"
    disk = cluster.gateway.tenancy.disk
    assert disk.used("anna") > limits.MiB  # it lies there, and counts
    tenants.write_text('[tenant.anna]\njournal = "1 MiB"\n')
    cluster.until(lambda: cluster.gateway.tenancy.quota("anna").journal_bytes == limits.MiB)
    with pytest.raises(CapacityError, match="quota of bytes of journals"):
        cluster.connect(attach=large.transport.session_id)
    tenants.write_text('[tenant.anna]\njournal = "9 MiB"\n')
    cluster.until(lambda: cluster.gateway.tenancy.quota("anna").journal_bytes == 9 * limits.MiB)
    again = cluster.connect(attach=large.transport.session_id)
    again.transport.upload(8, 0, bytes(4 * limits.MiB))
    again.transport.close()
    cluster.until(lambda: 0 < disk.used("anna") < limits.MiB)
    for client in (small, other):
        client.transport.close()
    cluster.until(lambda: disk.used("anna") == disk.used("bert") == 0)


def test_calls_and_silent_streams_are_bounded(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants = tmp_path / "tenants.toml"
    tenants.write_text("[tenant.anna]\ncalls = 4\n")
    monkeypatch.setattr(door, "HELLOS_MAX", 2)
    cluster.start(1, tenants=tenants)
    with grpc.insecure_channel(cluster.address.removeprefix("grpc://")) as channel:
        ends = threading.Event()

        def silent() -> Iterator[bytes]:
            ends.wait(20)
            yield from ()

        stream = channel.stream_stream(f"/{wire.SERVICE}/Session")
        gate = cluster.gateway.tenancy.door
        quiet = [stream(silent(), metadata=bearer()) for _ in range(2)]
        cluster.until(lambda: sum(gate._hellos.values()) == 2)
        with pytest.raises(CapacityError, match="hello"):
            cluster.connect()
        for each in quiet:
            each.cancel()
        cluster.until(lambda: not gate._hellos and not gate._calls)
        clients = [cluster.connect() for _ in range(4)]
        with pytest.raises(CapacityError, match="4 calls"):
            cluster.connect()
        cluster.connect(token=OTHER)
        clients[0].transport.close()
        cluster.until(lambda: gate._calls["anna"] == 3)
        cluster.connect()
        ends.set()


def test_a_message_of_tiny_frames_lets_others_have_their_turn(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floor, "SLICE_S", 1e-9)  # a turn for each
    client = cluster.start().connect()
    live = test_gateway._live(cluster, client)
    client.transport.send(put(1, b"x"))
    client.synchronize()
    frames = 1_000
    again = client.transport._stream  # the same frame over and over is dropped, each for itself
    turns = seen = 0
    give = cluster.gateway.service.give

    def counted(to: Any, given: Any) -> None:
        nonlocal seen
        if to is live and type(given).__name__ == "FrameIn":
            seen += 1
        give(to, given)

    async def count() -> None:
        nonlocal turns
        while seen < frames:
            await asyncio.sleep(0)
            turns += 1 if seen else 0

    monkeypatch.setattr(cluster.gateway.service, "give", counted)
    first = put(1, b"")
    first.sequence = first.epoch = 1
    data = wire.encode_frame(first)
    counting = asyncio.run_coroutine_threadsafe(count(), cluster._loop)
    again.put(wire.Up(frames=(data,) * frames))
    counting.result(10)
    assert turns >= frames - 2
    client.transport.send(get(1, 1))
    assert client.value(1).data == b"x"


# --- TLS -----------------------------------------------------------------------------------------
def test_certificates_change_while_the_gateway_serves(cluster: Cluster, tmp_path: Path) -> None:
    old = make_certificates(tmp_path / "old", ["localhost"])
    new = make_certificates(tmp_path / "new", ["localhost"])
    here = tmp_path / "here"
    here.mkdir()
    audit = tmp_path / "audit"

    def install(made: Any, *names: str) -> None:
        for name in names:
            part = here / "part"
            part.write_bytes(getattr(made, name).read_bytes())
            os.replace(part, here / name)

    install(old, "server_certificate", "server_key", "ca_certificate")
    cluster.start(
        host="localhost",
        tls_certificate=here / "server_certificate",
        tls_key=here / "server_key",
        tls_client_ca=here / "ca_certificate",
        audit=audit,
    )

    def tls(made: Any) -> dict[str, str]:
        return {
            "ca": str(made.ca_certificate),
            "cert": str(made.client_certificate),
            "key": str(made.client_key),
        }

    client = cluster.connect(tls=tls(old))
    install(new, "server_certificate")  # its key is still to come
    cluster.connect(tls=tls(old)).transport.close()
    assert notes(audit)[-1]["what"] != "config reloaded"
    install(new, "server_key", "ca_certificate")
    cluster.connect(tls=tls(new)).transport.close()
    with pytest.raises(ConnectError):
        cluster.connect(tls=tls(old), timeout=2)
    client.transport.send(put(1, b"still"))
    client.transport.send(get(1, 1))
    assert client.value(1).data == b"still"
    told = [n["what"] for n in notes(audit) if n.get("file") == "certificates"]
    assert told[0] == "config refused" and told[-1] == "config reloaded"


def test_a_tenant_may_be_bound_to_certificates(cluster: Cluster, tmp_path: Path) -> None:
    made = make_certificates(tmp_path, ["localhost"])
    tenants = tmp_path / "tenants.toml"
    tenants.write_text(
        '[tenant.anna]\ncertificates = ["farspan client"]\n'
        '[tenant.bert]\ncertificates = ["someone else"]\n'
    )
    cluster.start(
        0,
        host="localhost",
        tls_certificate=made.server_certificate,
        tls_key=made.server_key,
        tls_client_ca=made.ca_certificate,
        tenants=tenants,
    )
    ca, cert, key = map(str, (made.ca_certificate, made.client_certificate, made.client_key))
    tls = {"ca": ca, "cert": cert, "key": key}
    cluster.connect(tls=tls)
    with pytest.raises(AuthError, match="certificate"):
        cluster.connect(tls=tls, token=OTHER)


def test_who_only_connects_is_cut_off(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gateway.OPTIONS, "grpc.server_handshake_timeout_ms", 300)
    cluster.start(0)
    host, _, port = cluster.address.removeprefix("grpc://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as silent:
        while silent.recv(4096):
            pass  # the server's half of the handshake, then its end


# --- what is noted -------------------------------------------------------------------------------
def test_the_audit_log_says_who_did_what_and_no_secret(cluster: Cluster, tmp_path: Path) -> None:
    path, audit = tmp_path / "tokens", tmp_path / "audit"
    token, name = add(path, "carl")
    canary = b"canary-" + secrets.token_hex(8).encode()
    cluster.start(1, token_files=(path,), audit=audit)
    client = cluster.connect(token=token)
    client.transport.send(put(1, canary))
    client.synchronize()
    session = client.transport.session_id
    with pytest.raises(AuthError):
        cluster.connect(token="wrong-" + token)
    with pytest.raises(FarspanError):
        cluster.connect(token=token, devices="tpu:1-evil")
    client.transport.close()
    cluster.until(lambda: any(n["what"] == "session closed" for n in notes(audit)))
    found = {note["what"]: note for note in notes(audit)}
    opened = found["session opened"]
    assert (opened["tenant"], opened["session"], opened["token"]) == ("carl", session, name)
    assert opened["peer"] == "127.0.0.1" and opened["devices"] == "cpu"
    assert found["token refused"]["peer"] == "127.0.0.1"
    assert found["session refused"]["kind"] == "BadValueError"
    assert found["session closed"]["session"] == session
    text = audit.read_text()
    for secret in (token, token.rpartition("_")[2], TOKEN, canary.decode(), "evil"):
        assert secret not in text
    assert audit.stat().st_mode & 0o777 == 0o600


def test_a_gateway_process_takes_new_tokens_and_quotas_at_a_signal(tmp_path: Path) -> None:
    path, tenants, audit = tmp_path / "tokens", tmp_path / "tenants.toml", tmp_path / "audit"
    token, name = add(path, "anna")
    tenants.write_text("[default]\nsessions = 1\n")
    from farspan._transport import connect_grpc

    with running(
        "serve", "--token-file", path, "--tenants", tenants, "--audit", audit, "--end-revoked"
    ) as served:

        def connect(token: str) -> Client:
            return Client(
                connect_grpc(served["address"], token, table_hash=table_hash(), timeout=5.0)
            )

        first = connect(token)
        with pytest.raises(CapacityError, match="quota of sessions"):
            connect(token)
        tenants.write_text("[default]\nsessions = 2\n")
        new, _ = add(path, "anna")
        os.kill(served["pid"], signal.SIGHUP)
        deadline = time.monotonic() + 10
        while not any(n.get("file") == "tenants" for n in notes(audit)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        second = connect(new)
        revoke(path, name)
        assert first.lost(10).kind == "AuthError"
        second.transport.close()
        first.transport.close()
    assert token not in audit.read_text() and new not in audit.read_text()
    assert notes(audit)[0]["what"] == "session opened"
