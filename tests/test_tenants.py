"""What keeps tenants apart at the gateway: tokens, quotas, turns; machines and files by themselves.

`test_tenants_gateway.py` asks the same of real gateways.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import threading
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from farspan.core.errors import AuthError, BadValueError, CapacityError
from farspan_server import auth, quotas, token_file
from farspan_server import pool as pools
from farspan_server.audit import Audit
from farspan_server.cli import main
from farspan_server.disk import RealDisk
from farspan_server.door import (
    DELAY_S_MAX,
    DELAYED_MAX,
    FAILURES_FREE,
    FORGET_S,
    HELLOS_MAX,
    PEERS_MAX,
    Door,
    address_of,
)
from farspan_server.quota_disk import QuotaDisk, QuotaError
from farspan_server.quotas import Bucket, Quota
from farspan_server.watched import Watched
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PLAIN = "a-token-for-tests"


def bearer(token: str) -> list[tuple[str, str | bytes]]:
    return [("authorization", f"Bearer {token}")]


# --- tokens --------------------------------------------------------------------------------------
def test_a_token_is_found_and_no_other() -> None:
    token, kept = auth.new_token("anna", 1.0)
    tokens = auth.Tokens({PLAIN: "bert"}, [kept])
    caller = tokens.caller(bearer(token))
    assert caller is not None and (caller.tenant, caller.token) == ("anna", kept.id)
    assert tokens.tenant(bearer(PLAIN)) == "bert"
    for wrong in ("", token[:-1], token + "x", kept.id, kept.digest.hex(), token.upper()):
        assert tokens.caller(bearer(wrong)) is None
    assert tokens.caller([("authorization", f"Basic {token}")]) is None
    assert tokens.caller([("authorization", b"Bearer " + token.encode())]) is None
    assert tokens.caller(None) is None


def test_what_is_kept_of_tokens_shows_none_of_them() -> None:
    token, kept = auth.new_token("anna", 1.0)
    tokens = auth.Tokens({PLAIN: "bert"}, [kept])
    caller = tokens.caller(bearer(token))
    shown = repr(tokens) + repr(kept) + repr(caller) + token_file.line_of(kept)
    assert PLAIN not in shown and token.rpartition("_")[2] not in shown
    assert kept.digest.hex() not in repr(kept) + repr(caller)
    assert len(token.rpartition("_")[2]) == 64, "256 bits"


def test_tokens_end_at_their_time_and_when_they_are_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auth, "TOKENS_MAX", 2)
    token, kept = auth.new_token("anna", 1.0, expires_s=10.0)
    tokens = auth.Tokens({}, [kept])
    caller = tokens.caller(bearer(token), 9.9)
    assert caller is not None and tokens.knows(caller, 9.9)
    assert tokens.caller(bearer(token), 10.0) is None and not tokens.knows(caller, 10.0)
    other, kept_other = auth.new_token("anna", 1.0)
    tokens.put([kept_other])
    assert tokens.caller(bearer(token), 5.0) is None and not tokens.knows(caller, 5.0)
    assert tokens.tenant(bearer(other)) == "anna"
    with pytest.raises(AuthError, match="at most"):
        tokens.put(auth.new_token("anna", 1.0)[1] for _ in range(3))
    assert tokens.tenant(bearer(other)) == "anna", "what was there stays"
    tokens.put([])
    assert tokens.tenant(bearer(other)) is None, "the last one was revoked"
    with pytest.raises(AuthError, match="no token"):
        auth.Tokens({})


def test_a_token_that_changes_its_tenant_is_not_the_same_caller() -> None:
    token, kept = auth.new_token("anna", 1.0)
    tokens = auth.Tokens({}, [kept])
    caller = tokens.caller(bearer(token))
    assert caller is not None
    tokens.put([auth.Token(kept.id, "bert", kept.digest)])
    assert not tokens.knows(caller) and tokens.tenant(bearer(token)) == "bert"


def test_a_file_of_tokens_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    made = [auth.new_token(f"t{k}", 1e9 + k, 2e9 if k % 2 else None)[1] for k in range(5)]
    for each in made:
        token_file.change(path, lambda lines, each=each: lines.append(token_file.line_of(each)))
    assert list(token_file.read(path)) == made
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text(f"# ours\n{PLAIN}\nanna:{PLAIN}-2\n\n{token_file.line_of(made[0])}\n")
    assert [t.tenant for t in token_file.read(path)] == ["default", "anna", "t0"]


@pytest.mark.parametrize(
    "line",
    [
        "short",
        "anna:short",
        "an na sha256:00 - -",
        "id anna sha256:00 - -",
        "id anna md5:" + "0" * 64 + " - -",
        "id ../x sha256:" + "0" * 64 + " - -",
        "id anna sha256:" + "0" * 64 + " - tomorrow",
        "id anna sha256:" + "z" * 64 + " - -",
        "id anna sha256:" + "0" * 64,
        f"{PLAIN}\n{PLAIN}",
        f"a/b:{PLAIN}",
    ],
)
def test_a_line_that_is_none_is_named_and_not_shown(line: str) -> None:
    with pytest.raises(AuthError, match=r"line \d of the tokens") as caught:
        token_file.parse(line)
    assert not any(len(word) > 4 and word in str(caught.value) for word in line.split())


def test_tokens_of_the_environment_are_words() -> None:
    found = token_file.plain(f" {PLAIN}\nanna:{PLAIN}-2 ")
    assert found == {PLAIN: "default", f"{PLAIN}-2": "anna"}
    assert auth.Tokens(found).tenant(bearer(f"{PLAIN}-2")) == "anna"
    with pytest.raises(AuthError, match="16 characters"):
        auth.Tokens(token_file.plain("anna:short"))


def _add(path: str, count: int) -> None:
    for _ in range(count):
        kept = auth.new_token("anna", 1.0)[1]
        token_file.change(
            Path(path), lambda lines, kept=kept: lines.append(token_file.line_of(kept))
        )


def test_what_two_processes_add_at_once_is_all_there(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_add, args=(str(path), 20)) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join(60)
        assert each.exitcode == 0
    assert len(token_file.read(path)) == 40
    assert sorted(p.name for p in tmp_path.iterdir()) == [".tokens.lock", "tokens"]


def test_the_command_makes_lists_and_revokes(tmp_path: Path) -> None:
    path, run = tmp_path / "tokens", CliRunner().invoke
    file = ["--file", str(path)]
    made = run(main, ["token", "new", "anna", *file, "--expires", "90d"])
    assert made.exit_code == 0, made.output
    token = made.stdout.strip()
    assert token not in path.read_text() and token not in made.stderr
    tokens = auth.Tokens({}, token_file.read(path))
    caller = tokens.caller(bearer(token))
    assert caller is not None and caller.tenant == "anna"
    assert run(main, ["token", "new", "bert", *file]).exit_code == 0
    rows = json.loads(run(main, ["token", "list", "--json", *file]).stdout)
    assert [(row["tenant"], row["good"]) for row in rows] == [("anna", True), ("bert", True)]
    assert rows[1]["expires"] == "-" and rows[0]["id"] == caller.token
    assert token not in run(main, ["token", "list", *file]).output
    assert run(main, ["token", "revoke", caller.token, *file]).exit_code == 0
    assert [t.tenant for t in token_file.read(path)] == ["bert"]
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    wrong = run(main, ["token", "revoke", "nobody", *file])
    assert wrong.exit_code == 1 and "no token nobody" in wrong.output
    assert run(main, ["token", "new", "../etc", *file]).exit_code == 1
    assert run(main, ["token", "new", "anna", *file, "--expires", "soon"]).exit_code == 2
    assert path.read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_leaves_the_file_to_the_gateways_user(tmp_path: Path) -> None:
    path, run = tmp_path / "tokens", CliRunner().invoke
    file = ["--file", str(path)]
    assert run(main, ["token", "new", "anna", *file]).exit_code == 0
    os.chown(path, 1234, 2345)
    assert run(main, ["token", "new", "bert", *file]).exit_code == 0
    found = path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (1234, 2345, 0o600)


def test_times_without_a_zone_are_utc() -> None:
    line = f"1a anna sha256:{'0' * 64} - 2030-01-02T03:04:05"
    (token,) = token_file.parse(line)
    assert token_file.time_of(token.expires_s) == "2030-01-02T03:04:05Z"


def test_a_file_is_read_again_when_it_changes_and_an_error_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("1")

    def read() -> int:
        try:
            return int(path.read_text())
        except ValueError:
            raise BadValueError("no number") from None

    file = Watched((path,), read)
    assert file.value == 1 and not file.look()
    path.write_text("22")
    assert file.look() and file.value == 22 and not file.look()
    path.write_text("none")
    with pytest.raises(BadValueError):
        file.look()
    assert not file.look() and file.value == 22
    path.unlink()
    with pytest.raises(OSError):
        file.look()
    assert not file.look() and file.value == 22
    (tmp_path / "g").write_text("22")
    os.replace(tmp_path / "g", path)
    assert file.look() and file.look(again=True)


# --- quotas --------------------------------------------------------------------------------------
def test_a_tenants_file_says_what_each_may_have() -> None:
    found = quotas.parse(
        """
        [default]
        sessions = 100
        memory = "4 GiB"
        [tenant.anna]
        devices = 4
        device_memory = "1.5 GiB"
        commands_per_s = 5_000
        command_seconds = 2.5
        weight = 2
        certificates = ["anna.example.org"]
        [tenant."b.c-d_e"]
        memory = 1_000
        journal = "10 MB"
        devices = 4
        """
    )
    anna = found.of("anna")
    assert (anna.sessions, anna.devices, anna.memory_bytes) == (100, 4, 4 << 30)
    assert anna.device_memory(8 << 30) == 3 << 29 and anna.device_memory(1 << 30) == 1 << 30
    assert anna.certificates == {"anna.example.org"} and anna.weight == 2
    assert (anna.commands_per_s, anna.command_s) == (5_000, 2.5)
    other = found.of("b.c-d_e")
    assert (other.journal_bytes, other.device_memory(1 << 30)) == (10_000_000, 250)
    assert found.of("nobody") == Quota(sessions=100, memory_bytes=4 << 30)
    assert quotas.parse("").of("anna") == Quota()


@pytest.mark.parametrize(
    "text",
    [
        "[defaults]",
        "[tenant]\nanna = 1",
        "default = 3",
        "[default]\nmemroy = 1",
        "[default]\nsessions = -1",
        "[default]\nsessions = true",
        "[default]\nsessions = 1.5",
        '[default]\nmemory = "4 Gib"',
        '[default]\nmemory = "-4"',
        "[default]\nmemory = 10\ndevice_memory = 20",
        "[default]\ncommands_per_s = 1",
        '[default]\ncommands_per_s = "x"',
        "[default]\ncommands_per_s = nan",
        "[default]\ncommand_seconds = -1",
        "[default]\ncommand_seconds = nan",
        "[default]\ncommand_seconds = true",
        "[default]\nweight = 0",
        '[default]\ncertificates = "x"',
        '[tenant."../x"]',
        "[default",
    ],
)
def test_a_tenants_file_with_a_mistake_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(BadValueError, match="tenants"):
        quotas.parse(text)


@given(
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 500)), min_size=1, max_size=60),
    st.sampled_from([100.0, 1000.0]),
)
@settings(max_examples=100, deadline=None)
def test_a_rate_is_kept_in_every_stretch_of_time(
    takes: list[tuple[float, int]], rate: float
) -> None:
    bucket, now, ran = Bucket(), 0.0, []
    for pause, count in takes:
        now += pause
        ran.append((now + bucket.take(count, rate, now), count))
    assert [at for at, _ in ran] == sorted(at for at, _ in ran), "in their order"
    for k, (begin, _) in enumerate(ran):
        for m in range(k, len(ran)):
            # What comes last in a stretch has been waited for already: it went into debt.
            inside = sum(count for _, count in ran[k : m + 1]) - ran[k][1]
            assert inside <= (ran[m][0] - begin) * rate + rate * quotas.BURST_S + 1e-6
    if sum(count for _, count in takes) <= rate * quotas.BURST_S:
        assert all(at == t for (at, _), t in zip(ran, _times(takes), strict=True)), "no wait"


def _times(takes: list[tuple[float, int]]) -> list[float]:
    now, found = 0.0, []
    for pause, _ in takes:
        now += pause
        found.append(now)
    return found


def test_a_disk_counts_what_is_on_it_and_refuses_more(tmp_path: Path) -> None:
    limit: dict[str, int | None] = {"anna": 100, "bert": None}
    disk = QuotaDisk(RealDisk(), limit.__getitem__)
    for name, tenant in (("s1", "anna"), ("s2", "anna"), ("s3", "bert")):
        disk.own(name, tenant)
        disk.make_directory(tmp_path / name)
    one, two = disk.create(tmp_path / "s1" / "a"), disk.create(tmp_path / "s2" / "b")
    one.append([b"x" * 60])
    two.append([b"x" * 30, memoryview(b"yy")])
    with pytest.raises(QuotaError, match="quota") as caught:
        two.append([b"x" * 9])
    assert caught.value.errno == errno.EDQUOT
    assert caught.value.reason.startswith(
        "the tenant's quota of bytes of journals: requested 9, used 92, limit 100"
    )
    other = disk.create(tmp_path / "s3" / "c")
    other.append([bytes(1000)])
    assert (tmp_path / "s2" / "b").stat().st_size == 32
    assert (disk.used("anna"), disk.used("bert"), disk.used("carl")) == (92, 1000, 0)
    two.truncate(30)
    assert disk.used("anna") == 90
    first = tmp_path / "s1"
    disk.replace(first / "w", b"12345")
    disk.replace(first / "w", b"1234567890")
    assert disk.used("anna") == 100
    limit["anna"] = 10  # less than there is: nothing is lost, nothing more comes
    disk.rename(first / "w", first / "v")
    disk.remove(first / "v")
    disk.remove(first / "a")
    disk.remove(first / "a")
    assert disk.used("anna") == 30
    with pytest.raises(QuotaError):
        two.append([b"x"])
    two.truncate(5)
    assert disk.used("anna") == 5
    disk.forget("s2")
    two.append([b"late"])
    assert disk.used("anna") == 0, "its directory is removed"
    for each in (one, two, other):
        each.close()


def test_what_an_earlier_gateway_left_is_counted(tmp_path: Path) -> None:
    disk = QuotaDisk(RealDisk(), lambda tenant: 100)
    left = tmp_path / "s1"
    left.mkdir()
    (left / "f").write_bytes(bytes(1000))
    file = disk.create(left / "g")  # as a journal that is reopened, before its tenant is known
    file.append([bytes(10)])
    disk.own("s1", "anna", left)
    assert disk.used("anna") == 1010
    disk.remove(left / "f")
    file.append([bytes(50)])
    assert disk.used("anna") == 60
    file.close()


def test_a_disk_is_counted_by_many_threads(tmp_path: Path) -> None:
    disk = QuotaDisk(RealDisk(), lambda tenant: 100_000)
    refused = Counter[int]()

    def write(k: int) -> None:
        disk.own(str(k), "anna")
        disk.make_directory(tmp_path / str(k))
        file = disk.create(tmp_path / str(k) / "a")
        for _ in range(500):
            try:
                file.append([b"x" * 70])
            except QuotaError:
                refused[k] += 1
        file.close()

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    on_disk = sum(path.stat().st_size for path in tmp_path.glob("*/a"))
    assert on_disk == disk.used("anna") <= 100_000
    assert on_disk == (100_000 // 70) * 70 and sum(refused.values()) == 2000 - 100_000 // 70


# --- the door ------------------------------------------------------------------------------------
def test_wrong_tokens_cost_ever_more_time_and_are_forgotten() -> None:
    door = Door()
    delays = [door.refuse("a", 0.0).delay_s for _ in range(FAILURES_FREE + 12)]
    assert delays[:FAILURES_FREE] == [0.0] * FAILURES_FREE
    assert delays == sorted(delays) and delays[-1] == DELAY_S_MAX
    assert door.refuse("b", 0.0).delay_s == 0.0, "another address"
    assert door.refuse("a", FORGET_S + 1).delay_s == 0.0


def test_refusals_that_wait_are_bounded_and_so_are_the_addresses() -> None:
    door = Door()
    for _ in range(FAILURES_FREE):
        door.refuse("a", 0.0)
    waiting = [door.refuse("a", 0.0) for _ in range(DELAYED_MAX + 50)]
    assert sum(each.delay_s > 0 for each in waiting) == DELAYED_MAX
    for each in waiting:
        door.refused(each)
    assert door.refuse("a", 0.0).delay_s > 0, "there is room again"
    for k in range(PEERS_MAX + 100):
        door.refuse(f"p{k}", 0.0)
    assert len(door._failures) == PEERS_MAX
    assert sum(door.refuse("z", 0.0).noted for _ in range(500)) < 20, "a flood is not written down"


def test_calls_and_silent_streams_are_bounded_for_each_by_itself() -> None:
    door = Door()
    for _ in range(3):
        door.enter("anna", 3)
    with pytest.raises(CapacityError, match="3 calls"):
        door.enter("anna", 3)
    door.enter("bert", 3)
    door.leave("anna")
    door.enter("anna", 3)
    for _ in range(HELLOS_MAX):
        door.await_hello("a")
    with pytest.raises(CapacityError, match="hello"):
        door.await_hello("a")
    door.await_hello("b")
    door.heard("a")
    door.await_hello("a")
    for _ in range(HELLOS_MAX):
        door.heard("a")
    assert "a" not in door._hellos, "nothing is kept of who has gone"


def test_addresses_have_no_ports() -> None:
    assert address_of("ipv4:10.0.0.7:41234") == "10.0.0.7"
    assert address_of("ipv6:[::1]:41234") == address_of("ipv6:%5B::1%5D:9") == "::1"
    assert address_of("") == "unknown" and len(address_of("ipv4:" + "9" * 500 + ":1")) == 64


# --- the audit log -------------------------------------------------------------------------------
def test_the_audit_log_is_lines_of_json_that_rotate(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    audit = Audit(path, file_bytes=2_000, files_max=2)
    for k in range(100):
        audit.note("session opened", tenant='a"\n', session=f"s{k}", count=k, nothing=None)
    audit.close()
    files = sorted(tmp_path.iterdir())
    assert [f.name for f in files] == ["audit", "audit.1", "audit.2"]
    assert all(f.stat().st_mode & 0o777 == 0o600 and f.stat().st_size <= 2_000 for f in files)
    lines = [json.loads(line) for f in reversed(files) for line in f.read_text().splitlines()]
    assert lines[-1] == {
        "at_s": lines[-1]["at_s"], "what": "session opened", "tenant": 'a"\n', "session": "s99",
        "count": 99,
    }  # fmt: skip
    numbers = [line["count"] for line in lines]
    assert numbers == list(range(numbers[0], 100))
    again = Audit(path)
    again.note("x")
    again.close()
    assert len(path.read_text().splitlines()) > 1, "what was there stays"


def test_an_audit_log_that_cannot_be_written_is_said_once_and_hurts_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    audit = Audit(tmp_path / "audit")
    assert audit._handler is not None and audit._handler.stream is not None
    audit._handler.stream.close()
    audit._handler.stream = open("/dev/full", "w")
    for _ in range(3):
        audit.note("x")
    assert len([r for r in caplog.records if "audit log" in r.message]) == 1
    with pytest.raises(OSError):
        Audit(tmp_path / "no" / "audit")
    Audit(None).note("x")


# --- turns ---------------------------------------------------------------------------------------
def worker(name: str, epoch: int = 1, tenant: str = "", supervised: bool = True) -> pools.Worker:
    return pools.Worker(
        name, epoch, "127.0.0.1:1", b"k" * 32, "cpu", "h", 1, supervised, tenant=tenant
    )


class World:
    """A pool with a supervisor that replaces what is to be replaced, and all that follows."""

    def __init__(self, workers: int, share: int = 1) -> None:
        self.pool = pools.Pool(share)
        self.now = 0.0
        self.epochs = dict.fromkeys((f"w{k}" for k in range(workers)), 1)
        self.pasts: dict[str, str] = {}  # process -> tenant that has used it
        self.tenants: dict[str, str] = {}  # session -> tenant
        self.has: dict[str, tuple[str, ...]] = {}
        self.waiting: dict[str, pools.Claimed] = {}
        self.places: dict[str, int] = {}
        self.order: list[str] = []  # grants
        self.denied: dict[str, str] = {}
        self.claims: dict[str, pools.Claimed] = {}
        self.bereft: set[str] = set()
        for name in self.epochs:
            self.give(pools.Joined(worker(name)))

    def give(self, given: pools.Input) -> list[pools.Output]:
        outs = self.pool.handle(given, self.now)
        for out in outs:
            match out:
                case pools.Granted(session, workers):
                    tenant = self.tenants[session]
                    for each in workers:
                        process = f"{each.worker}/{each.epoch}"
                        assert self.pasts.setdefault(process, tenant) == tenant, "handed over"
                    self.has[session] = tuple(w.worker for w in workers)
                    self.order.append(session)
                    del self.waiting[session]
                    self.places.pop(session, None)
                case pools.Placed(session, place):
                    self.places[session] = place
                case pools.Denied(session, message):
                    self.denied[session] = message
                    self.waiting.pop(session, None)
                    self.places.pop(session, None)
        for out in outs:
            if isinstance(out, pools.Replace):
                name = out.worker.worker
                self.give(pools.Left(name, self.epochs[name], out.reason))
                self.epochs[name] += 1
                self.give(pools.Joined(worker(name, self.epochs[name])))
        return outs

    def claim(self, session: str, tenant: str, devices: int = 1, memory: int = 0) -> None:
        claim = pools.Claimed(session, tenant, ("cpu",) * devices, self.now + 1e9, memory)
        self.tenants[session] = tenant
        self.claims[session] = claim
        self.waiting[session] = claim
        self.give(claim)

    def kill(self, name: str, survive: bool) -> None:
        """End a worker; its sessions claim others, or end."""
        gone = [session for session, names in self.has.items() if name in names]
        for session in gone:
            del self.has[session]
            self.bereft.add(session)
        self.give(pools.Left(name, self.epochs[name], "died"))
        for session in gone:
            self.bereft.discard(session)
            if survive:
                self.give(pools.Rested(session))
                self.again(session)
            else:
                self.give(pools.Released(session))
        self.epochs[name] += 1
        self.give(pools.Joined(worker(name, self.epochs[name])))

    def again(self, session: str) -> None:
        claim = self.claims[session]
        self.waiting[session] = claim
        self.give(claim)

    def release(self, session: str) -> None:
        self.has.pop(session, None)
        self.waiting.pop(session, None)
        self.places.pop(session, None)
        self.give(pools.Released(session))


def test_a_tenant_that_floods_the_line_does_not_hold_up_another() -> None:
    world = World(1)
    world.claim("a0", "anna")
    for k in range(1, 101):
        world.claim(f"a{k}", "anna")
    world.claim("b0", "bert")
    world.claim("b1", "bert")
    assert world.places["b0"] <= 2 and world.places["b1"] <= 4
    for _ in range(6):
        world.release(world.order[-1])
    assert world.order[:7] in (
        ["a0", "a1", "b0", "a2", "b1", "a3", "a4"],
        ["a0", "b0", "a1", "b1", "a2", "a3", "a4"],
    )


def test_weights_give_turns_in_proportion() -> None:
    world = World(1)
    world.give(pools.Allowed("anna", weight=3))
    world.claim("hold", "carl")
    for k in range(40):
        world.claim(f"a{k}", "anna")
        world.claim(f"b{k}", "bert")
    world.release("hold")
    while len(world.order) < 41:
        world.release(world.order[-1])
    served = Counter(world.tenants[session] for session in world.order[1:])
    assert abs(served["anna"] - 30) <= 1 and abs(served["bert"] - 10) <= 1


def test_who_waits_for_a_quota_holds_up_only_its_own_tenant() -> None:
    world = World(4)
    world.give(pools.Allowed("anna", devices=2, memory_bytes=100))
    world.claim("a0", "anna", memory=40)
    world.claim("a1", "anna", memory=70)
    outs = world.give(pools.Tick())
    assert not [o for o in outs if isinstance(o, pools.Held)], "said once"
    world.claim("a2", "anna", memory=1)
    world.claim("b0", "bert", devices=3)
    assert world.order == ["a0", "b0"], "nobody overtakes within a tenant"
    assert world.pool.used("anna") == (1, 40)
    world.release("b0")
    world.give(pools.Allowed("anna", devices=2, memory_bytes=200))
    assert world.order == ["a0", "b0", "a1"]
    world.now = 2e9
    world.give(pools.Tick())
    message = "the tenant's quota of devices: requested 1, used 2, limit 2"
    assert world.denied["a2"].startswith(message)
    world.release("a0")
    assert world.pool.used("anna") == (1, 70)


def test_who_loses_its_workers_loses_neither_its_quota_nor_its_turn() -> None:
    world = World(2)
    world.give(pools.Allowed("anna", devices=1))
    world.claim("a0", "anna")
    world.claim("a1", "anna")  # waits for the quota
    world.claim("b0", "bert")
    world.claim("b1", "bert")  # waits for a worker
    (name,) = world.has["a0"]
    del world.has["a0"]
    world.give(pools.Left(name, 1, "died"))
    assert world.order == ["a0", "b0"] and world.pool.used("anna") == (1, 0)
    world.give(pools.Rested("a0"))
    world.again("a0")
    assert world.places["a0"] == 1
    world.epochs[name] = 2
    world.give(pools.Joined(worker(name, 2)))
    assert world.order == ["a0", "b0", "a0"] and world.pool.used("anna") == (1, 0)
    world.release("a0")
    world.release("b0")
    assert world.order[3:] in (["a1", "b1"], ["b1", "a1"])
    world.release("a1")
    assert world.pool.used("anna") == (0, 0)


def test_a_worker_that_says_whose_it_was_is_nobody_elses() -> None:
    pool = pools.Pool(4)
    pool.handle(pools.Joined(worker("w", tenant="anna", supervised=False)), 0)
    outs = pool.handle(pools.Claimed("b", "bert", ("cpu",), 10), 0)
    assert not [o for o in outs if isinstance(o, pools.Granted | pools.Replace)]
    outs = pool.handle(pools.Claimed("a", "anna", ("cpu",), 10), 0)
    assert [o.session for o in outs if isinstance(o, pools.Granted)] == ["a"], "b never can have w"
    outs = pool.handle(pools.Joined(worker("w", 2, supervised=False)), 0)  # started anew
    assert [o.session for o in outs if isinstance(o, pools.Granted)] == ["b"]
    pool.handle(pools.Claimed("c", "anna", ("cpu",), 10), 0)
    outs = pool.handle(pools.Joined(worker("v", tenant="carl")), 0)  # a gateway before this one
    assert [o.worker.worker for o in outs if isinstance(o, pools.Replace)] == ["v"]


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["claim", "claim", "release", "release", "kill", "allow", "tick"]),
        st.integers(0, 4),
        st.integers(1, 3),
        st.integers(0, 10_000),
    ),
    max_size=80,
)


@given(EVENTS, st.integers(1, 5), st.integers(1, 3))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_histories_of_many_tenants_are_sound_and_end_with_everybody_served(
    events: list[tuple[str, int, int, int]], workers: int, share: int
) -> None:
    world, allowed = World(workers, share), {}
    for number, (what, tenant, size, draw) in enumerate(events):
        name = f"t{tenant}"
        live = sorted({*world.has, *world.waiting})
        if what == "claim":
            world.claim(f"s{number}", name, min(size, workers), memory=draw % 50)
        elif what == "release" and live:
            world.release(live[draw % len(live)])
        elif what == "kill":
            world.kill(f"w{draw % workers}", survive=bool(draw % 3))
        elif what == "allow":
            allowed[name] = pools.Allowed(name, size + 2, 150 + draw % 100, size)
            world.give(allowed[name])
        _check(world, share)
    for name, each in allowed.items():  # whatever was taken from somebody is given back
        world.give(pools.Allowed(name, None, None, each.weight))
    for _ in range(len(events) + 1):
        if not world.waiting:
            break
        before = len(world.order)
        for session in list(world.has):
            world.release(session)
        assert not world.waiting or len(world.order) > before, "somebody is served"
    assert not world.waiting
    for session in list(world.has):
        world.release(session)
    assert all(world.pool.used(f"t{k}") == (0, 0) for k in range(5))


def _check(world: World, share: int) -> None:
    used = Counter[str]()
    for session, names in world.has.items():
        used[world.tenants[session]] += len(names)
    for session in {*world.waiting, *world.bereft} & set(world.order):  # what they have is kept
        used[world.tenants[session]] += len(world.claims[session].kinds)
    for tenant in set(world.tenants.values()):
        assert world.pool.used(tenant)[0] == used[tenant]
    for name in world.epochs:
        sharers = [s for s, names in world.has.items() if name in names]
        assert len(sharers) <= share and len({world.tenants[s] for s in sharers}) <= 1
    assert sorted(world.places.values()) == list(range(1, len(world.waiting) + 1))
    mine: dict[str, list[str]] = {}
    for session in sorted(world.waiting, key=world.places.__getitem__):
        mine.setdefault(world.tenants[session], []).append(session)
    for line in mine.values():
        new = [session for session in line if session not in world.order]
        assert new == sorted(new, key=lambda s: int(s[1:])), "a tenant's own come in order"
        assert line[len(line) - len(new) :] == new, "after those that have lost their workers"


def test_nobody_starves_whatever_others_do() -> None:
    """One claim of three devices, among tenants that come and go for ever."""
    world = World(3)
    for k in range(3):
        world.claim(f"x{k}", f"t{k}")
    world.claim("big", "anna", devices=3)
    number = 0
    while "big" not in world.has:
        number += 1
        assert number < 50
        world.claim(f"y{number}", f"t{number % 3}")
        world.release(world.order[-1] if number % 2 else min(world.has))
