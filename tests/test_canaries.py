"""Secrets, tensors' values and the server's paths appear nowhere but where they belong.

A service at debug level computes with values that stand out, and fails in many ways; then all that
it has written, told or answered is searched, and so is all that the client logs, raises and shows.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import struct
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import farspan
import pytest
from farspan.core.errors import FarspanError
from test_adversary import BOMBS, Target

HERE = Path(__file__).resolve().parent
VALUE = 7.318531071795865e77  # of tensors; nobody computes it by chance
TEXT = "canary-1a2b3c"  # in a name that a client gives, and in the server's paths
NEEDLES = {
    "a value": b"7.31853107179586",
    "its bytes": struct.pack("<d", VALUE),
    "its hex": struct.pack("<d", VALUE).hex().encode(),
}


def failures(session: Any) -> list[BaseException]:
    """Fail in the ways that programs do, with the canary at hand; return what was raised."""
    x = farspan.full((3, 4), VALUE, dtype=farspan.float64)
    ways = [
        lambda: x.mm(x),
        lambda: farspan.linalg.inv(x * 0),
        lambda: farspan.linalg.cholesky(farspan.full((3, 3), -VALUE, dtype=farspan.float64)),
        lambda: farspan.tensor([1, 2])[farspan.tensor([9])],
        lambda: farspan.multinomial(-x, 2),
        lambda: farspan.zeros(2**44, dtype=farspan.float64),
        lambda: farspan.nn.functional.nll_loss(x, farspan.tensor([7, 8, 9])),
        lambda: x.gather(0, farspan.full((3, 4), 12)),
        lambda: farspan.poisson(-x),
        lambda: x.view(5),
    ]
    raised: list[BaseException] = []
    for way in ways:
        try:
            way()
            session.synchronize()
        except (FarspanError, RuntimeError, ValueError, IndexError, TypeError) as error:
            raised.append(error)
    assert (x + 0).sum().item() == pytest.approx(12 * VALUE), "the values were really there"
    return raised


def noisy(target: Target, secret: str) -> list[str]:
    """Use and abuse the service; return all that was shown to its client."""
    shown = []
    with farspan.connect(target.address, token=target.token, timeout=60) as session:
        raised = failures(session)
        assert len(raised) >= 6
        shown += [f"{e!r} {e} {e.__notes__ if hasattr(e, '__notes__') else ''}" for e in raised]
        shown += [repr(session), repr(session.transport), str(vars(type(session)))]
        assert secret not in repr(vars(session)), "not even its fields, as somebody prints them"
    for token in ("wrong", secret[:-1], secret + "x"):
        with pytest.raises(FarspanError) as caught:
            farspan.connect(target.address, token=token, timeout=10)
        shown.append(repr(caught.value))
    for name in list(BOMBS)[:6]:
        shown += target.say(BOMBS[name]())
    return shown


def test_canaries_are_in_no_log_no_error_no_metric_and_no_repr(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = os.pathsep.join([str(HERE / "audited"), os.environ.get("PYTHONPATH", "")])
    home = tmp_path / TEXT
    home.mkdir()
    command = ["up", "--no-ray", "--workers", "cpu:1", "--threads", "1", "--json",
               "--journal", str(home), "--metrics-port", "0"]  # fmt: skip
    log = tmp_path / "log"
    with log.open("wb") as errors, caplog.at_level(logging.DEBUG):
        up = subprocess.Popen(
            [sys.executable, "-m", "farspan_server", *command], stdout=subprocess.PIPE,
            stderr=errors, text=True,
            env={**os.environ, "PYTHONPATH": path, "FARSPAN_TELL_ALL": "1"},
        )  # fmt: skip
        try:
            assert up.stdout is not None
            ready = json.loads(up.stdout.readline())
            secret = Path(ready["token_file"]).read_text().strip()
            target = Target(ready["address"], secret, up.pid)
            shown = noisy(target, secret)
            shown.append(_metrics(ready))
        finally:
            up.send_signal(signal.SIGTERM)
            assert up.wait(30) == 0
    told = {"the service's log": log.read_bytes(), "the client's log": caplog.text.encode(),
            "what a client was shown": "\n".join(shown).encode()}  # fmt: skip
    assert b" DEBUG " in told["the service's log"], "it was at debug level"
    needles = {**NEEDLES, "the token": secret.encode()}
    found = [f"{what} in {where}" for where, text in told.items()
             for what, needle in needles.items() if needle in text]  # fmt: skip
    # The operator's own log may say where the operator's files lie; a client must not hear of it.
    for where in ("the client's log", "what a client was shown"):
        found += [f"a path in {where}"] * (TEXT.encode() in told[where])
        found += [f"our files in {where}"] * (b"farspan_server/" in told[where])
        found += [f"a worker's files in {where}"] * (b"farspan_worker/" in told[where])
    print({where: len(text) for where, text in told.items()}, found)
    assert not found


def _metrics(ready: dict[str, Any]) -> str:
    operator = Path(ready["operator_token_file"]).read_text().strip()
    address = ready["metrics"] if "//" in ready["metrics"] else f"http://{ready['metrics']}"
    asked = urllib.request.Request(
        f"{address}/metrics", headers={"Authorization": f"Bearer {operator}"}
    )
    with urllib.request.urlopen(asked, timeout=20) as answer:
        text: str = answer.read().decode()
    assert "farspan_" in text and operator not in text
    return text
