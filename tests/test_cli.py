"""The `farspan` command, part by part: certificates, a worker and a gateway started by hand."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from farspan.core import link
from farspan.core.errors import FarspanError
from farspan.core.op import table_hash

FARSPAN = (sys.executable, "-m", "farspan_server")
CLIENT = {"ca": "ca.pem", "cert": "client.pem", "key": "client.key"}


@contextlib.contextmanager
def running(*arguments: str | Path) -> Iterator[dict[str, Any]]:
    """Run a subcommand; yield the line it says when it is ready."""
    command = [*FARSPAN, *map(str, arguments), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        assert process.wait(15) == 0


def secret(path: Path) -> Path:
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(link.KEY_BYTES))
    return path


def test_a_worker_and_a_gateway_by_hand_serve_a_session_over_mutual_tls(tmp_path: Path) -> None:
    from farspan._transport import connect_grpc

    key, token, certs = secret(tmp_path / "key"), secret(tmp_path / "token"), tmp_path / "certs"
    shown = subprocess.run([*FARSPAN, "certs", certs], capture_output=True, text=True, check=True)
    assert all(Path(line).exists() for line in shown.stdout.split())
    tls = ("--tls-certificate", certs / "server.pem", "--tls-key", certs / "server.key",
           "--tls-client-ca", certs / "ca.pem")  # fmt: skip
    with running("worker", "--listen", "tls:127.0.0.1:0", "--key-file", key) as worker:
        by_hand = f"{worker['address']}={key}"
        with running("serve", "--token-file", token, "--worker", by_hand, *tls) as gateway:
            transport = connect_grpc(
                gateway["address"],
                token.read_text(),
                devices="cpu",
                table_hash=table_hash(),
                tls={name: str(certs / file) for name, file in CLIENT.items()},
            )
            asked = ("status", "--address", gateway["address"], "--token-file", token)
            mutual = ("--cert", certs / "client.pem", "--key", certs / "client.key")
            text = subprocess.run(
                [*FARSPAN, *asked, "--ca", certs / "ca.pem", *mutual],
                capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
            assert str(worker["pid"]) in text
            (device,) = transport.devices
            assert device["pid"] == worker["pid"]
            transport.close()
            for less in (None, str(certs / "ca.pem")):  # without TLS, without a certificate
                with pytest.raises(FarspanError):
                    connect_grpc(gateway["address"], token.read_text(), table_hash=table_hash(),
                                 tls=less)  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("up", "--workers", "tpu:1"), "write cpu:2"),
        (("up", "--workers", "cpu:0"), "no worker at all"),
        (("up", "--port", "99999"), "0<=x<=65535"),
        (("up", "--workers", "cuda:1", "--no-ray"), "Ray assigns the GPUs"),
        (("demo", "--address", "grpc://127.0.0.1:1"), "no token given"),
        (("serve", "--token-file", "/dev/null"), "no token given"),
        (("serve", "--token-file", "{token}", "--host", "0.0.0.0"), "certificate"),
        (("serve", "--token-file", "{token}", "--supervisor-listen", "x:1"), "needs"),
        (
            ("status", "--address", "grpc://127.0.0.1:1", "--token-file", "{token}"),
            "no gateway answers at grpc://127.0.0.1:1: is it running",
        ),
        (("status", "--address", "grpc://127.0.0.1:1"), "no token given; --token-file"),
        (("status",), "'--address' (env var: 'FARSPAN_ADDRESS')"),
        (("status", "--tenants"), "'--operator' (env var: 'FARSPAN_OPERATOR')"),
        (("sessions", "list"), "'--address' (env var: 'FARSPAN_ADDRESS')"),
        (("certs", "{full}"), "is there already"),
        (("worker", "--listen", "0.0.0.0:0", "--key-file", "{token}"), "write tls:"),
    ],
)
def test_a_wrong_command_says_what_to_do(
    arguments: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    secret(tmp_path / "token")
    (tmp_path / "ca.pem").touch()
    filled = [a.format(token=tmp_path / "token", full=tmp_path) for a in arguments]
    done = subprocess.run([*FARSPAN, *filled], capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert says in done.stderr
    assert "Traceback" not in done.stderr
