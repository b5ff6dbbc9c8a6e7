"""The operator's port: what Prometheus scrapes, health and readiness, and who may read them."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from farspan import wire
from farspan.core import limits
from farspan.core.errors import AuthError, BadValueError, CapacityError
from farspan_server import readiness, status
from farspan_server.certs import make_certificates
from farspan_server.cli import main
from farspan_server.config import GatewayConfig, OperatorPort
from farspan_server.totals import OTHERS, Durations, Totals
from prometheus_client.parser import text_string_to_metric_families
from test_gateway import (  # noqa: F401
    HASH,
    OTHER,
    PUT,
    TOKEN,
    U8,
    Bytes,
    Cluster,
    cluster,
    frame,
    get,
    put,
)

OPERATOR = "an-operators-token-for-tests"


def fetch(
    cluster: Cluster,  # noqa: F811
    path: str,
    token: str = "",
    body: bytes | None = None,
    tls: ssl.SSLContext | None = None,
) -> tuple[int, str]:
    assert cluster.gateway is not None
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    asked = urllib.request.Request(cluster.gateway.operations.address + path, body, headers)
    try:
        with urllib.request.urlopen(asked, timeout=10, context=tls) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def scrape(cluster: Cluster) -> dict[tuple[str, tuple[str, ...]], float]:  # noqa: F811
    """Return each sample by its name and the values of its labels, sorted by their names."""
    status, text = fetch(cluster, "/metrics")
    assert status == 200
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, tuple(value for _, value in sorted(sample.labels.items()))
            assert key not in found, "a sample stands there once"
            found[key] = sample.value
    return found


def test_a_scrape_tells_what_sessions_did(cluster: Cluster) -> None:  # noqa: F811
    client = cluster.start(2, operator=OperatorPort()).connect()
    client.transport.send(put(1, b"hello"))
    client.transport.send(get(1, 7))
    client.value(7)
    client.synchronize()
    found = scrape(cluster)
    assert found["farspan_ready", ()] == 1
    assert found["farspan_sessions", ("open",)] == 1 and found["farspan_sessions", ("asleep",)] == 0
    assert found["farspan_session_frames_total", ("anna",)] == 2
    assert found["farspan_session_commands_total", ("anna",)] == 2
    assert found["farspan_received_bytes_total", ("anna",)] > 5
    assert found["farspan_sent_bytes_total", ("anna",)] > 5
    assert (
        found["farspan_workers", ("cpu", "busy")] == found["farspan_workers", ("cpu", "idle")] == 1
    )
    assert found["farspan_credits_used_frames", ()] == 0
    assert found["farspan_event_loop_lag_seconds_bucket", ("+Inf",)] >= 0
    assert found["process_resident_memory_bytes", ()] > 1e6

    Bytes.gate.clear()
    from test_gateway import HOLD, frame

    client.transport.send(frame((HOLD, [], ())))
    cluster.until(lambda: scrape(cluster)["farspan_credits_used_frames", ()] == 1)
    Bytes.gate.set()
    client.transport.close()
    cluster.until(lambda: scrape(cluster)["farspan_sessions", ("open",)] == 0)
    found = scrape(cluster)  # what ended sessions did still counts
    assert found["farspan_session_frames_total", ("anna",)] == 3
    assert found["farspan_sessions_opened_total", ("anna",)] == 1
    assert ("farspan_tenant_sessions", ("anna",)) not in found


def test_errors_are_counted_by_kind_and_uploads_by_bytes(cluster: Cluster) -> None:  # noqa: F811
    cluster.start(1, operator=OperatorPort())
    with pytest.raises(BadValueError):
        cluster.connect(devices="tpu:1")
    with pytest.raises(AuthError):
        cluster.connect(token="not the token at all")
    client = cluster.connect()
    before = scrape(cluster)["farspan_received_bytes_total", ("anna",)]
    client.transport.upload(5, 0, memoryview(bytes(3 * limits.MiB)))
    cluster.until(
        lambda: (
            scrape(cluster)["farspan_received_bytes_total", ("anna",)] >= before + 3 * limits.MiB
        )
    )
    found = scrape(cluster)
    assert found["farspan_errors_total", ("BadValueError",)] == 1
    assert found["farspan_errors_total", ("AuthError",)] == 1


def test_metrics_keep_prometheus_conventions(cluster: Cluster) -> None:  # noqa: F811
    cluster.start(1, operator=OperatorPort()).connect()
    session = cluster.clients[0].session_id
    _, text = fetch(cluster, "/metrics")
    assert session not in text, "no label grows with the number of sessions"
    helped = set(re.findall(r"^# HELP (\w+) \S", text, re.M))
    typed = dict(re.findall(r"^# TYPE (\w+) (\w+)", text, re.M))
    assert helped == set(typed) and typed
    for name, kind in typed.items():
        if not name.startswith("farspan_"):
            continue
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert (kind == "counter") == name.endswith("_total"), name
        assert kind != "histogram" or name.endswith("_seconds")
        assert not re.search(r"_(ms|us|millis\w*|kib|mb|kilo\w*|percent)(_|$)", name), name
        for unit in ("_seconds", "_bytes"):  # a unit stands at the end
            assert name.removesuffix("_total").endswith(unit) or f"{unit}_" not in name, name
    assert {"farspan_journal_sync_seconds", "farspan_recovery_seconds"} <= set(typed)
    for line in text.splitlines():
        if not line.startswith("#"):
            labels = re.findall(r'(\w+)="', line)
            ours = {"kind", "state", "tenant", "quota", "worker", "le"}
            theirs = {"generation", "implementation", "major", "minor", "patchlevel", "version"}
            assert set(labels) <= ours | theirs, line


def test_open_metrics_are_spoken_too(cluster: Cluster) -> None:  # noqa: F811
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse

    cluster.start(1, operator=OperatorPort()).connect()
    assert cluster.gateway is not None
    asked = urllib.request.Request(
        f"{cluster.gateway.operations.address}/metrics",
        headers={"Accept": "application/openmetrics-text; version=1.0.0"},
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:
        names = {family.name for family in parse(answer.read().decode())}
    assert "farspan_session_frames" in names


def test_tenants_beyond_a_bound_share_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TENANTS_SHOWN_MAX", 2)
    totals = Totals()
    assert [totals.label(t) for t in "abcab"] == ["a", "b", OTHERS, "a", "b"]
    totals.error("NoSuchError of a peer's making")
    assert totals.errors == {"ServiceError": 1}


def test_what_a_tenant_is_refused_and_waits_for_is_told_by_its_name(
    cluster: Cluster,  # noqa: F811
    tmp_path: Path,
) -> None:
    tenants = tmp_path / "tenants.toml"
    tenants.write_text("[default]\nsessions = 1\n[tenant.bert]\ncommands_per_s = 100\n")
    cluster.start(
        2, operator=OperatorPort(token=OPERATOR), tenants=tenants, journals=tmp_path / "journals"
    )
    anna, bert = cluster.connect(devices="cpu"), cluster.connect(devices="cpu", token=OTHER)
    with pytest.raises(CapacityError, match="quota of sessions"):
        cluster.connect()
    anna.transport.send(put(1, bytes(1_000)))
    anna.synchronize()
    many = [(PUT, [k], (U8, (1,), 0, 0)) for k in range(1, 151)]
    bert.transport.send(frame(*many, payloads=[b"x"]))  # a second's worth may come at once
    found = scrape(cluster)
    assert found["farspan_quota_hits_total", ("sessions", "anna")] == 1
    assert found["farspan_tenant_journal_bytes", ("anna",)] > 1_000
    assert found["farspan_tenant_devices", ("anna",)] == 1
    assert found["farspan_line_waits_total", ("anna",)] == 1
    assert found["farspan_line_wait_seconds_total", ("anna",)] >= 0
    cluster.until(lambda: ("farspan_quota_hits_total", ("commands", "bert")) in scrape(cluster))
    assert scrape(cluster)["farspan_slowed_seconds_total", ("bert",)] > 0
    assert cluster.gateway is not None
    environment = {
        "FARSPAN_OPERATOR": cluster.gateway.operations.address, "FARSPAN_OPERATOR_TOKEN": OPERATOR,
    }  # fmt: skip
    command = ["status", "--tenants", "--seconds", "0.1"]
    shown = CliRunner().invoke(main, command, env=environment).output
    (row,) = (line for line in shown.splitlines() if line.startswith("anna"))
    assert "1 open" in row and "sessions:1" in row
    told = {e["tenant"]: e for e in json.loads(
        CliRunner().invoke(main, [*command, "--json"], env=environment).output
    )}  # fmt: skip
    assert told["anna"]["commands"] == 1 and told["anna"]["commands_per_s"] == 0
    refused = CliRunner().invoke(main, command, env=environment | {"FARSPAN_OPERATOR_TOKEN": "x"})
    assert refused.exit_code == 1 and "refuses this operator" in refused.output
    assert fetch(cluster, "/tenants")[0] == 401
    assert CliRunner().invoke(main, ["status", "--tenants"]).exit_code == 2
    assert CliRunner().invoke(main, ["status"], env={"FARSPAN_ADDRESS": ""}).exit_code == 2


def test_rates_are_what_came_between_by_the_gateways_clock() -> None:
    def told(clock_s: float, commands: int) -> dict[str, Any]:
        return {
            "tenant": "anna", "clock_s": clock_s, "commands": commands, "received_bytes": 0,
            "sent_bytes": commands,
        }  # fmt: skip

    answers = [[told(5.0, 100)], [told(7.0, 300)], [told(5.0, 100)], [told(1.0, 3)]]
    asked = iter(answers)
    waited: list[float] = []
    (found,) = status.rates(lambda: next(asked), 1.5, waited.append)
    assert waited == [1.5] and found["commands_per_s"] == found["sent_bytes_per_s"] == 100
    (found,) = status.rates(lambda: next(asked), 1.5, waited.append)
    assert found["commands_per_s"] == 0, "another gateway has begun since"


def test_a_histogram_counts_what_lies_on_a_bound_below_it() -> None:
    durations = Durations((0.1, 1.0))
    for each in (0.05, 0.1, 0.5, 7.0):
        durations.add(each)
    assert durations.read() == ([("0.1", 2), ("1.0", 3), ("+Inf", 4)], pytest.approx(7.65))


# --- health --------------------------------------------------------------------------------------
def serving(cluster: Cluster, service: str = wire.SERVICE) -> bool:  # noqa: F811
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(cluster.address.removeprefix("grpc://")) as channel:
        asked = health_pb2.HealthCheckRequest(service=service)
        answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=5)
    return answer.status == health_pb2.HealthCheckResponse.SERVING


def test_without_workers_it_is_alive_and_not_ready(cluster: Cluster) -> None:  # noqa: F811
    cluster.start(0, operator=OperatorPort())
    assert fetch(cluster, "/healthz") == (200, "ok\n")
    assert fetch(cluster, "/readyz") == (503, "no worker is reached\n")
    assert serving(cluster, "") and not serving(cluster)
    assert scrape(cluster)["farspan_ready", ()] == 0


def test_it_is_ready_with_a_worker_and_not_without_it_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setattr(readiness, "PATIENCE_S", 0.1)
    cluster.start(1, operator=OperatorPort())
    cluster.until(lambda: serving(cluster))
    assert fetch(cluster, "/readyz") == (200, "ready\n")
    cluster.workers[0].close()
    cluster.until(lambda: not serving(cluster))
    assert fetch(cluster, "/readyz")[0] == 503


def test_a_full_disk_keeps_sessions_away(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    free = limits.DISK_FREE_BYTES_MIN
    monkeypatch.setattr(readiness, "_free_bytes", lambda path: free)
    cluster.start(1, operator=OperatorPort(), journals=tmp_path)
    cluster.until(lambda: serving(cluster))
    free -= 1
    cluster.until(lambda: not serving(cluster))
    status, text = fetch(cluster, "/readyz")
    assert status == 503 and "disk has 511 MiB left" in text and str(tmp_path) not in text
    free += 1
    cluster.until(lambda: serving(cluster))


def test_a_loop_that_hangs_is_not_alive(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    from farspan_server import operator_port

    cluster.start(0, operator=OperatorPort())
    monkeypatch.setattr(operator_port, "_ANSWER_S", 0.2)
    hangs, goes_on = threading.Event(), threading.Event()
    cluster._loop.call_soon_threadsafe(lambda: (hangs.set(), goes_on.wait(10)))
    assert hangs.wait(5)
    assert fetch(cluster, "/healthz") == (503, "the gateway does not answer\n")
    goes_on.set()
    cluster.until(lambda: fetch(cluster, "/healthz")[0] == 200)


# --- who may -------------------------------------------------------------------------------------
def test_off_loopback_only_with_a_token_over_tls_or_a_flag(tmp_path: Path) -> None:
    def check(**port: Any) -> None:
        made = {"tokens": {TOKEN: "anna"}, "table_hash": HASH, "operator": OperatorPort(**port)}
        GatewayConfig(**made).check()

    for host in ("0.0.0.0", "::", "example.org"):
        with pytest.raises(AuthError, match="metrics-open"):
            check(host=host)
        with pytest.raises(AuthError, match="in clear"):
            check(host=host, token=OPERATOR)
        check(host=host, open_to_all=True)
    with pytest.raises(AuthError, match="16 characters"):
        check(token="short")
    assert OPERATOR not in repr(OperatorPort(token=OPERATOR))


def test_from_other_machines_metrics_need_the_token(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    made = make_certificates(tmp_path, ["localhost", "127.0.0.1"])
    tls = {"tls_certificate": made.server_certificate, "tls_key": made.server_key}
    monkeypatch.setattr(OperatorPort, "loopback", False)  # as if 127.0.0.1 were not
    cluster.start(0, operator=OperatorPort(token=OPERATOR), **tls)
    context = ssl.create_default_context(cafile=str(made.ca_certificate))
    assert cluster.gateway is not None and cluster.gateway.operations.address.startswith("https")
    assert fetch(cluster, "/metrics", tls=context)[0] == 401
    assert fetch(cluster, "/metrics", OPERATOR + "x", tls=context)[0] == 401
    assert fetch(cluster, "/metrics", TOKEN, tls=context)[0] == 401  # a tenant is no operator
    assert fetch(cluster, "/metrics", OPERATOR, tls=context)[0] == 200
    assert fetch(cluster, "/healthz", tls=context) == (200, "ok\n")

    new = make_certificates(tmp_path / "new", ["localhost", "127.0.0.1"])
    made.server_certificate.write_bytes(new.server_certificate.read_bytes())
    operations = cluster.gateway.operations
    cluster.run(operations.look())  # the key is not the certificate's yet: the old pair stays
    assert fetch(cluster, "/healthz", tls=context) == (200, "ok\n")
    made.server_key.write_bytes(new.server_key.read_bytes())
    cluster.run(operations.look())
    renewed = ssl.create_default_context(cafile=str(new.ca_certificate))
    assert fetch(cluster, "/healthz", tls=renewed) == (200, "ok\n")


@pytest.mark.parametrize("token", ["", OPERATOR])
def test_nothing_changes_without_the_token(cluster: Cluster, token: str) -> None:  # noqa: F811
    cluster.start(1, operator=OperatorPort(token=token))
    for given in ("", "wrong", TOKEN):
        assert fetch(cluster, "/drain", given, b'{"worker": "static-0"}')[0] == 401
        assert fetch(cluster, "/workers", given)[0] == 401
    assert fetch(cluster, "/nothing")[0] == 404


def test_hostile_requests_are_bounded_and_end(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    from farspan_server import operator_port

    monkeypatch.setattr(operator_port._Handler, "timeout", 0.2)
    monkeypatch.setattr(limits, "OPERATOR_CALLS_MAX", 4)
    cluster.start(0, operator=OperatorPort(token=OPERATOR))
    assert cluster.gateway is not None
    where = cluster.gateway.operations.address.removeprefix("http://").split(":")
    slow = [socket.create_connection((where[0], int(where[1]))) for _ in range(10)]
    for each in slow:
        each.sendall(b"GET /metr")
    assert fetch(cluster, "/healthz") == (200, "ok\n")
    for each in slow:
        each.settimeout(10)
        assert each.recv(100) == b""  # it is over with each, one way or another
        each.close()
    for body in (b"[1]", b"{", b"x" * 5000):
        assert fetch(cluster, "/drain", OPERATOR, body)[0] == 400
    with socket.create_connection((where[0], int(where[1])), timeout=10) as sock:
        sock.sendall(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n")
        assert b"414" in sock.recv(100)


def test_a_taken_port_is_an_error_and_the_gateway_ends(cluster: Cluster) -> None:  # noqa: F811
    from farspan_server.gateway import Gateway

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = OperatorPort(port=taken.getsockname()[1])
        gateway = Gateway(GatewayConfig(tokens={TOKEN: "a"}, table_hash=HASH, operator=port))
        with pytest.raises(OSError):
            cluster.run(gateway.start())
        cluster.run(gateway.stop(0.1))


def test_json_of_workers_is_json(cluster: Cluster) -> None:  # noqa: F811
    cluster.start(1, operator=OperatorPort(token=OPERATOR))
    status, text = fetch(cluster, "/workers", OPERATOR)
    assert status == 200 and isinstance(json.loads(text), list)


def test_the_dashboard_and_the_docs_name_metrics_that_exist(cluster: Cluster) -> None:  # noqa: F811
    cluster.start(1, operator=OperatorPort()).connect()
    cluster.until(lambda: "farspan_worker_frames_total" in fetch(cluster, "/metrics")[1])
    _, text = fetch(cluster, "/metrics")
    there = set(re.findall(r"^# TYPE (\w+)", text, re.M))
    there |= {f"{name}_bucket" for name in there}
    root = Path(__file__).resolve().parent.parent
    dashboard = json.loads((root / "examples" / "operations" / "grafana.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\b(?:farspan|process)_\w+", target["expr"])
    }
    assert asked and asked <= there, asked - there
    told = set(re.findall(r"`(farspan_\w+)`", (root / "docs" / "operations.md").read_text()))
    assert told <= there, told - there
    shown = {n for n in there if n.startswith("farspan_") and not n.endswith("_bucket")}
    assert shown <= told, shown - told


def test_an_operators_token_that_is_none_is_no_silent_refusal(tmp_path: Path) -> None:
    token, own = tmp_path / "operator", tmp_path / "tokens"
    token.write_text("\n")
    own.write_text("t" * 40)
    given = ["--token-file", str(own), "--metrics-port", "0", "--operator-token-file", str(token)]
    done = CliRunner().invoke(main, ["serve", *given])
    assert done.exit_code == 2 and "holds no token" in done.output
