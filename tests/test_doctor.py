"""`farspan doctor`: every check can fail, says why, and what to do."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from farspan.core import limits
from farspan.core.op import table_hash
from farspan_server import doctor, doctor_machine, doctor_service, doctor_tenants, token_file
from farspan_server.auth import new_token
from farspan_server.certs import make_certificates
from farspan_server.config import OperatorPort
from farspan_server.doctor import FAIL, OK, SKIP, WARN, Asked, Found
from test_gateway import TOKEN, Cluster, cluster  # noqa: F401

OPERATOR = "an-operators-token-for-tests"


def ready(cluster: Cluster) -> None:  # noqa: F811
    assert cluster.gateway is not None
    operations = cluster.gateway.operations
    cluster.until(lambda: operations.ready)


def levels(found: Any, check: str) -> list[str]:
    return [each.level for each in found if each.check == check]


def first(found: Any, check: str) -> Found:
    """Return the worst finding of a check, which must say what to do."""
    order = [FAIL, WARN, SKIP, OK]
    worst = min((f for f in found if f.check == check), key=lambda f: order.index(f.level))
    assert bool(worst.remedy) == (worst.level in (FAIL, WARN)), worst
    return worst


# --- this machine --------------------------------------------------------------------------------
def test_a_whole_installation_is_well() -> None:
    found = doctor.examine(Asked())
    assert doctor.status(found) == 0
    for check in ("versions", "protobuf", "kernels", "open files", "shared memory"):
        assert OK in levels(found, check)
    for check in ("journal", "certificates", "tokens", "tenants", "gateway", "workers", "ray"):
        assert levels(found, check) == [SKIP]


def test_old_and_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: [
        "numpy>=2.0", 'ray==2.60.*; extra == "server"', "grpcio>=1.66",
    ])  # fmt: skip
    there = {"farspan": "0.1.0", "numpy": "1.26.4", "grpcio": "1.66.0", "protobuf": "5.27"}

    def version(name: str) -> str:
        if name not in there:
            raise importlib.metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = list(doctor_machine.versions(Asked()))
    old = next(f for f in found if "numpy" in f.said and f.level == FAIL)
    assert "1.26.4 is older than 2.0" in old.said and "numpy>=2.0" in old.remedy
    assert next(f for f in found if "ray is missing" in f.said).level == WARN
    assert next(f for f in found if "ml_dtypes is missing" in f.said).level == FAIL
    assert not any("grpcio 1.66.0 is older" in f.said for f in found)


def test_slow_protobuf_and_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    from farspan.wire import runtime
    from farspan_worker import kernels

    monkeypatch.setattr(runtime, "protobuf", lambda: ("7.0", "python"))
    assert "pure Python" in first(doctor_machine.protobuf(Asked()), "protobuf").said
    monkeypatch.setattr(kernels, "missing", lambda: "no libgomp.so.1")
    assert "libgomp" in first(doctor_machine.kernels(Asked()), "kernels").said
    monkeypatch.setenv("FARSPAN_KERNELS", "plain")
    assert first(doctor_machine.kernels(Asked()), "kernels").level == WARN


def test_an_old_processor_few_files_and_no_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from farspan_worker import numerics

    monkeypatch.setattr(numerics, "numerics_key", lambda: "cpu t1 numpy-2.4 #00")
    assert "AVX2" in first(doctor_machine.processor(Asked()), "processor").said
    monkeypatch.setattr(doctor_machine.resource, "getrlimit", lambda what: (1024, 1024))
    assert "1024" in first(doctor_machine.files(Asked()), "open files").said
    monkeypatch.setattr(doctor_machine, "_free_bytes", lambda path: 64 * limits.MiB)
    assert "64 MiB" in first(doctor_machine.memory(Asked()), "shared memory").said

    def refused(name: str) -> int:
        raise PermissionError("not here")

    monkeypatch.setattr(os, "memfd_create", refused)
    assert "not here" in first(doctor_machine.memory(Asked()), "shared memory").said


# --- the journals' disk --------------------------------------------------------------------------
def test_a_disk_that_is_full_slow_open_or_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(doctor_machine, "_file_system", lambda path: "ext4")
    monkeypatch.setattr(doctor_machine, "_sync_times", lambda path: [0.001])
    asked = Asked(journal=tmp_path)
    assert set(levels(doctor_machine.journal(asked), "journal")) == {OK}
    with monkeypatch.context() as patch:
        patch.setattr(doctor_machine, "_free_bytes", lambda path: limits.DISK_FREE_BYTES_MIN - 1)
        full = first(doctor_machine.journal(asked), "journal")
        assert full.level == FAIL and "511 MiB are free" in full.said
    with monkeypatch.context() as patch:
        patch.setattr(doctor_machine, "_file_system", lambda path: "tmpfs")
        assert "tmpfs" in first(doctor_machine.journal(asked), "journal").said
    with monkeypatch.context() as patch:
        patch.setattr(doctor_machine, "_sync_times", lambda path: [0.05, 0.05, 0.001])
        assert "50.00 ms" in first(doctor_machine.journal(asked), "journal").said
    tmp_path.chmod(0o755)
    assert "mode 755" in first(doctor_machine.journal(asked), "journal").said
    gone = first(doctor_machine.journal(Asked(journal=tmp_path / "none")), "journal")
    assert gone.level == FAIL and "No such file" in gone.said


def test_syncs_are_measured_and_leave_nothing(tmp_path: Path) -> None:
    took = doctor_machine._sync_times(tmp_path)
    assert len(took) == 20 and all(each >= 0 for each in took)
    assert not list(tmp_path.iterdir())
    assert doctor_machine._file_system(Path("/proc")) == "proc"


# --- certificates --------------------------------------------------------------------------------
def test_certificates_that_end_soon_have_ended_or_are_none(
    tmp_path: Path,
) -> None:
    def found(days: int) -> Found:
        folder = tmp_path / str(time.monotonic_ns())
        made = make_certificates(folder, ["localhost"], valid_days=days)
        (one,) = doctor_machine.certificates(Asked(tls_certificates=(made.server_certificate,)))
        return first([one], "certificates")

    assert found(100).level == OK and "99 days" in found(100).said
    assert found(20).level == WARN
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nothing")
    (one,) = doctor_machine.certificates(Asked(ca=nonsense))
    assert one.level == FAIL and "PEM" in one.remedy
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    assert (
        "ended" in first([doctor_machine.lifetime("c", "it", now - 3 * day, now - day)], "c").said
    )
    assert (
        "clock" in first([doctor_machine.lifetime("c", "it", now + day, now + 9 * day)], "c").remedy
    )


# --- a gateway -----------------------------------------------------------------------------------
def test_a_gateway_that_is_well(cluster: Cluster) -> None:  # noqa: F811
    cluster.start(1, table_hash=table_hash())
    ready(cluster)
    found = list(doctor_service.gateway(Asked(address=cluster.address, token=TOKEN)))
    assert {each.level for each in found} == {OK}, found
    assert {each.check for each in found} == {
        "gateway", "tls", "token", "op table", "clocks", "ready",
    }  # fmt: skip
    assert cluster.gateway is not None
    cluster.until(lambda: not list(cluster.gateway.service.sessions))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("grpc://127.0.0.1:1", "nobody listens"),
        ("grpc://no-such-host.invalid:7070", "name is not known"),
        ("unix:/x", "is no address"),
        ("grpc://127.0.0.1", "is no address"),
    ],
)
def test_a_gateway_that_is_not_there(address: str, said: str) -> None:
    (found,) = doctor_service.gateway(Asked(address=address, token=TOKEN))
    assert first([found], "gateway").level == FAIL and said in found.said


def test_a_gateway_in_clear_far_away(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    cluster.start(0)
    monkeypatch.setattr(doctor_service, "loopback", lambda host: False)
    found = first(doctor_service.gateway(Asked(address=cluster.address, token=TOKEN)), "tls")
    assert found.level == WARN and "in clear" in found.said


@pytest.mark.parametrize("token", ["", "a wrong token, but a long one"])
def test_a_wrong_token(cluster: Cluster, token: str) -> None:  # noqa: F811
    cluster.start(0, table_hash=table_hash())
    found = list(doctor_service.gateway(Asked(address=cluster.address, token=token)))
    assert first(found, "token").level == FAIL
    assert not token or token not in doctor.table(found)


def test_a_stale_op_table(cluster: Cluster) -> None:  # noqa: F811
    cluster.start(1, table_hash="cd" * 32)
    found = first(doctor_service.gateway(Asked(address=cluster.address, token=TOKEN)), "op table")
    assert found.level == FAIL and "cdcdcd" in found.said and "same release" in found.remedy


def test_a_gateway_without_workers_is_not_ready(cluster: Cluster) -> None:  # noqa: F811
    cluster.start(0, table_hash=table_hash())
    found = first(doctor_service.gateway(Asked(address=cluster.address, token=TOKEN)), "ready")
    assert found.level == WARN


def test_clocks_that_differ(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    cluster.start(1, table_hash=table_hash())
    ask = doctor_service._opened_at
    for ahead_s, word in ((100.0, "ahead"), (-100.0, "behind")):
        monkeypatch.setattr(doctor_service, "_opened_at", lambda *a, s=ahead_s: ask(*a) + s)
        found = first(doctor_service.gateway(Asked(address=cluster.address, token=TOKEN)), "clocks")
        assert found.level == WARN and word in found.said and "100" in found.said


def test_tls_that_is_broken_says_how(cluster: Cluster, tmp_path: Path) -> None:  # noqa: F811
    made = make_certificates(tmp_path / "a", ["localhost"])
    others = make_certificates(tmp_path / "b", ["localhost"])
    tls = {"tls_certificate": made.server_certificate, "tls_key": made.server_key}
    cluster.start(1, table_hash=table_hash(), host="localhost", **tls)
    ready(cluster)
    port = cluster.address.rpartition(":")[2]

    def found(host: str = "localhost", **more: Any) -> list[Found]:
        return list(
            doctor_service.gateway(Asked(address=f"grpc://{host}:{port}", token=TOKEN, **more))
        )

    well = found(ca=made.ca_certificate)
    assert {each.level for each in well} == {OK} and "days more" in first(well, "tls").said
    assert "no --ca" in first(found(), "tls").said
    assert "not of the authority" in first(found(ca=others.ca_certificate), "tls").said
    wrong = first(found("127.0.0.1", ca=made.ca_certificate), "tls")
    assert wrong.level == FAIL and "--host 127.0.0.1" in wrong.remedy
    assert first(found(ca=made.server_key), "tls").level == FAIL


def test_tls_where_there_is_none_and_where_a_client_must_show_its_own(
    cluster: Cluster, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    made = make_certificates(tmp_path, ["localhost"])
    plain = Cluster()
    try:
        plain.start(0, table_hash=table_hash(), host="localhost")
        asked = Asked(address=plain.address, token=TOKEN, ca=made.ca_certificate)
        assert "does not speak TLS" in first(doctor_service.gateway(asked), "tls").said
    finally:
        plain.close()
    cluster.start(
        1, table_hash=table_hash(), host="localhost", tls_certificate=made.server_certificate,
        tls_key=made.server_key, tls_client_ca=made.ca_certificate,
    )  # fmt: skip
    asked = Asked(address=cluster.address, token=TOKEN, ca=made.ca_certificate)
    found = list(doctor_service.gateway(asked))
    assert doctor.status(found) == 1
    assert "--cert" in next(f for f in found if f.level == FAIL).remedy
    whole = Asked(address=cluster.address, token=TOKEN, ca=made.ca_certificate,
                  cert=made.client_certificate, key=made.client_key)  # fmt: skip
    assert doctor.status(doctor_service.gateway(whole)) == 0


# --- workers -------------------------------------------------------------------------------------
def test_workers_as_their_operator_sees_them(cluster: Cluster) -> None:  # noqa: F811
    cluster.start(2, operator=OperatorPort(token=OPERATOR))
    assert cluster.gateway is not None
    where = cluster.gateway.operations.address
    well = doctor_service.workers(Asked(operator=where, operator_token=OPERATOR))
    assert next(f.said for f in well) == "2 reached" and {f.level for f in well} == {OK}
    assert "refuses" in first(doctor_service.workers(Asked(operator=where)), "workers").said
    nobody = doctor_service.workers(Asked(operator="http://127.0.0.1:1", operator_token=OPERATOR))
    assert "--metrics-port" in first(nobody, "workers").remedy
    assert first(doctor_service.workers(Asked(operator="grpc://x")), "workers").level == FAIL


def test_workers_that_differ_or_are_not_there() -> None:
    def worker(name: str, **more: Any) -> dict[str, Any]:
        return {"worker": name, "kind": "cpu", "host": "h", "numerics": "v3 #1", **more}

    same = [worker("cpu:0"), worker("cpu:1"), worker("cuda:0", kind="cuda", numerics="t4 #2")]
    assert {f.level for f in doctor_service._workers(same)} == {OK}
    other = first(doctor_service._workers([*same, worker("cpu:2", numerics="v4 #3")]), "numerics")
    assert other.level == WARN and "cpu:2: v4 #3" in other.said and "--cpu-level" in other.remedy
    late = [worker("cpu:0", clock_ahead_s=-7.5)]
    assert "7.5 s behind" in first(doctor_service._workers(late), "clocks").said
    assert first(doctor_service._workers([]), "workers").level == FAIL


# --- Ray -----------------------------------------------------------------------------------------
def test_ray_that_is_not_there_or_lets_anybody_in(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    nobody = first(doctor_service.ray(Asked(ray_address="127.0.0.1:1")), "ray")
    assert nobody.level == FAIL and "nobody listens" in nobody.said
    assert first(doctor_service.ray(Asked(ray_address="nonsense")), "ray").level == FAIL
    cluster.start(0)
    where = cluster.address.removeprefix("grpc://")
    for answers, token, level in (
        ({None: True, tmp_path: True}, tmp_path, WARN),
        ({None: True}, None, WARN),
        ({None: False, tmp_path: True}, tmp_path, OK),
        ({None: False, tmp_path: False}, tmp_path, FAIL),
        ({None: False}, None, FAIL),
    ):
        monkeypatch.setattr(doctor_service, "_ray_answers", lambda where, t, a=answers: a[t])
        found = first(doctor_service.ray(Asked(ray_address=where, ray_token_file=token)), "ray")
        assert found.level == level


@pytest.mark.slow
def test_a_ray_that_wants_a_token_says_no_without_it(tmp_path: Path) -> None:
    from test_cluster import MEMORY

    token = tmp_path / "token"
    token.write_text("a" * 64)
    code = (
        "import ray, sys, time\n"
        f"ray.init(num_cpus=0, include_dashboard=False, object_store_memory={MEMORY})\n"
        "print(ray.get_runtime_context().gcs_address, flush=True)\n"
        "sys.stdin.read()\n"
    )
    environment = {
        **os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip
    head = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert head.stdout is not None
        address = head.stdout.readline().strip()
        wrong = tmp_path / "wrong"
        wrong.write_text("b" * 64)
        for given, level in ((token, OK), (wrong, FAIL), (None, FAIL)):
            found = doctor_service.ray(Asked(ray_address=address, ray_token_file=given))
            assert first(found, "ray").level == level
    finally:
        assert head.stdin is not None
        head.stdin.close()
        head.wait(30)


# --- what is shown -------------------------------------------------------------------------------
# --- tenants -------------------------------------------------------------------------------------
def test_a_file_of_tokens_that_lets_nobody_in_or_is_none(tmp_path: Path) -> None:
    path = tmp_path / "tokens"

    def found(*ends_s: tuple[str, float | None]) -> Found:
        lines = [token_file.line_of(new_token(name, 1.0, end)[1]) for name, end in ends_s]
        path.write_text("\n".join(lines))
        path.chmod(0o600)
        return first(doctor_tenants.tokens(Asked(tokens=path)), "tokens")

    assert found(("anna", None), ("bert", None)).level == OK
    ended = found(("anna", None), ("bert", 2.0))
    assert ended.level == WARN and "bert has ended" in ended.said
    soon = found(("anna", time.time() + 3_600), ("bert", None))
    assert soon.level == WARN and "anna ends within" in soon.said
    assert found(("anna", 2.0), ("anna", None)).level == OK, "it has another one"
    nobody = found(("anna", 2.0))
    assert nobody.level == FAIL and "nobody comes in" in nobody.said
    path.write_text("anna:a-secret-that-was-made-up\nanna sha256:zz\n")
    wrong = first(doctor_tenants.tokens(Asked(tokens=path)), "tokens")
    assert wrong.level == FAIL and "line 2" in wrong.said and "a-secret" not in str(wrong)
    path.write_text("anna:a-secret-that-was-made-up\n")
    path.chmod(0o644)
    assert "chmod 600" in first(doctor_tenants.tokens(Asked(tokens=path)), "tokens").remedy
    gone = first(doctor_tenants.tokens(Asked(tokens=tmp_path / "gone")), "tokens")
    assert gone.level == FAIL and "No such file" in gone.said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tenant.anna]\nsessions = 0", "can open no session"),
        ("[default]\ndevices = 0", "can open no session"),
        ('[tenant.anna]\ndevices = 8\nmemory = "8 GiB"\ndevice_memory = "2 GiB"', "for 4 of 2"),
        ('[default]\ndevice_memory = "64 GiB"', "at most 8 GiB"),
        ('[default]\nmemory = "64 MiB"\ndevices = 8', "has 8 MiB"),
        ('[default]\ndevice_memory = "4 GiB"\njournal = "6 GiB"', "less than two snapshots"),
        ("[tenant.anna]\nsessions = 5_000", "calls = 4096"),
        ("[default]\ncommand_seconds = 0", "for ever"),
        ("[tenant.nobody]\nsessions = 1", "nobody: no token"),
        ('[tenant.anna]\njournal = "9000 TiB"', "fill it for another"),
    ],
)
def test_quotas_that_keep_each_other_from_being_reached(
    tmp_path: Path, text: str, said: str
) -> None:
    tenants, tokens = tmp_path / "tenants", tmp_path / "tokens"
    tenants.write_text(text)
    tokens.write_text("anna:a-secret-that-was-made-up\n")
    asked = Asked(tokens=tokens, tenants=tenants, journal=tmp_path)
    found = list(doctor_tenants.quotas(asked))
    assert [each.level for each in found] == [WARN, OK]
    assert said in found[0].said and found[0].remedy


def test_a_tenants_file_that_is_well_and_one_that_cannot_be_read(tmp_path: Path) -> None:
    tenants = tmp_path / "tenants"
    tenants.write_text('[tenant.anna]\ndevices = 4\nmemory = "8 GiB"\njournal = "20 GiB"\n')
    (found,) = doctor_tenants.quotas(Asked(tenants=tenants))
    assert found.level == OK
    tenants.write_text("[tenant.anna]\nsesions = 4\n")
    wrong = first(doctor_tenants.quotas(Asked(tenants=tenants)), "tenants")
    assert wrong.level == FAIL and "sesions" in wrong.said
    gone = first(doctor_tenants.quotas(Asked(tenants=tmp_path / "gone")), "tenants")
    assert gone.level == FAIL and "No such file" in gone.said


def test_a_check_that_breaks_is_a_finding() -> None:
    def broken(asked: Asked) -> list[Found]:
        raise KeyError("oh")

    (found,) = doctor.examine(Asked(), [broken])
    assert found.level == FAIL and "broken" in found.check and "KeyError" in found.said


def test_the_command_in_words_and_as_json(tmp_path: Path) -> None:
    token = "a-secret-that-nobody-may-see"
    command = [sys.executable, "-m", "farspan_server", "doctor", "--address", "grpc://127.0.0.1:1"]
    environment = {**os.environ, "FARSPAN_TOKEN": token}
    shown = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert shown.returncode == 1 and "nobody listens there" in shown.stdout
    assert "-> start it" in shown.stdout and "1 fail" in shown.stdout
    assert all(len(line) <= 100 for line in shown.stdout.splitlines())
    told = subprocess.run([*command, "--json"], capture_output=True, text=True, env=environment)
    found = json.loads(told.stdout)
    assert told.returncode == 1
    assert {"check", "level", "said", "remedy"} == set(found[0])
    for each in (shown, told):
        assert token not in each.stdout + each.stderr
