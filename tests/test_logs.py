"""What the service logs: fields by name, one line each, bounded repeats, and no secret or value."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import farspan as torch
import numpy as np
import pytest
from farspan.core.errors import FarspanError
from farspan_worker import logs

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that logs in a format and returns the lines."""

    def run(form: str, *given: tuple[str, tuple[Any, ...]], error: bool = False) -> list[str]:
        to = io.StringIO()
        monkeypatch.setenv(logs.FORMAT, form)
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        try:
            logs.begin("gateway", to)
            for template, arguments in given:
                log = logging.getLogger("farspan_server.test")
                if error:
                    try:
                        raise ValueError("no")
                    except ValueError:
                        log.exception(template, *arguments)
                else:
                    log.warning(template, *arguments)
        finally:
            root.handlers, root.level = handlers, level
        return to.getvalue().splitlines()

    return run


def test_a_line_of_json_names_what_it_is_about(told: Any) -> None:
    (line,) = told("json", ("session %s: lost worker %s: %s", ("ab12", "cpu:0", "it died")))
    found = json.loads(line)
    assert (found["session"], found["worker"]) == ("ab12", "cpu:0")
    assert found["message"] == "session ab12: lost worker cpu:0: it died"
    assert found["template"] == "session %s: lost worker %s: %s"
    assert (found["level"], found["part"], found["pid"]) == ("warning", "gateway", os.getpid())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["time"])
    (line,) = told(
        "json", ("session %s: opened by tenant %s, %d%% after frame %d", ("a", "b", 5, 7))
    )
    found = json.loads(line)
    assert (found["session"], found["tenant"], found["frame"]) == ("a", "b", 7)


def test_an_exception_is_one_line_of_json_and_readable_text(told: Any) -> None:
    (line,) = told("json", ("session %s", ("a",)), error=True)
    assert "ValueError: no" in json.loads(line)["exception"]
    assert "ValueError: no" in told("text", ("session %s", ("a",)), error=True)


@pytest.mark.parametrize("form", logs.FORMATS)
def test_what_a_peer_says_begins_no_line(told: Any, form: str) -> None:
    evil = "farspan/1\n2026-01-01 00:00:00 gateway INFO: all is well\x1b[2J\r\u2028\0"
    lines = told(form, ("session %s: opened by tenant %s, %s", ("a", "b", evil)))
    assert len(lines) == 1 and "\x1b" not in lines[0] and "\0" not in lines[0]
    assert len(told(form, ("it says %s", ("x" * 100_000,)))[0]) < 10_000


def test_repeats_are_bounded_and_counted() -> None:
    now = 0.0
    repeats = logs.Repeats(lambda: now)

    def passes(template: str) -> bool | int:
        record = logging.LogRecord("a", 30, "", 0, template, (), None)
        return repeats.filter(record) and (getattr(record, "suppressed", 0) or True)

    assert sum(bool(passes("no %s")) for _ in range(1_000)) == logs.REPEATS_MAX
    assert passes("another %s")
    now = logs.WINDOW_S
    assert passes("no %s") == 1_000 - logs.REPEATS_MAX
    for k in range(5_000):
        passes(f"made of words {k}")
    assert len(repeats._seen) <= 1_000


def test_templates_name_their_sessions() -> None:
    """What is about a session says "session %s", or its line of JSON could not be found by it."""
    for path in sorted((ROOT / "server").rglob("*.py")) + sorted((ROOT / "worker").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if ast.unparse(node.func.value) != "log" or len(node.args) < 2:
                continue
            about = [ast.unparse(each) for each in node.args[1:]]
            template = node.args[0]
            if isinstance(template, ast.Constant) and {"live.id", "body.session"} & set(about):
                assert "session %s" in template.value, f"{path}:{node.lineno}"
            if isinstance(template, ast.JoinedStr):
                raise AssertionError(f"{path}:{node.lineno}: a template, not a text made here")


CANARY = 7_351.140625  # exact in a float32, and nothing else's number


def test_no_secret_and_no_value_is_in_what_a_noisy_run_says(tmp_path: Path) -> None:
    errors = (tmp_path / "stderr").open("w+b")
    command = ["up", "--no-ray", "--workers", "cpu:1", "--spares", "1", "--threads", "1", "--json"]
    up = subprocess.Popen(
        [sys.executable, "-m", "farspan_server", *command, "--journal", str(tmp_path / "journal"),
         "--metrics-port", "0", "--log-format", "json", "--snapshot-every", "0.3"],
        stdout=subprocess.PIPE, stderr=errors, text=True,
    )  # fmt: skip
    try:
        assert up.stdout is not None
        ready = json.loads(up.stdout.readline())
        secrets = [
            path.read_text().strip()
            for path in Path(ready["token_file"]).parent.iterdir()
            if path.is_file()
        ]
        assert len(secrets) == 3
        token = Path(ready["token_file"]).read_text().strip()
        noise(ready["address"], token)
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.wait(20) == 0
    errors.seek(0)
    said = errors.read()
    errors.close()
    lines = [json.loads(line) for line in said.splitlines()]
    assert any("session" in line and "tenant" in line for line in lines)
    assert any("session" in line and "worker" in line for line in lines)
    assert {"gateway", "supervisor"} <= {line["part"] for line in lines}
    raw = np.array([CANARY], "float32").tobytes()
    hidden = [
        *(each.encode() for each in secrets),
        b"7351.14",
        b"7351140",
        raw,
        repr(raw)[2:-1].encode(),
    ]
    for each in [*hidden, b"another-token-that-is-wrong"]:
        assert each not in said, each


def noise(address: str, token: str) -> None:
    """Do what makes a service speak: errors, wrong tokens, killed workers, sessions closed."""
    values = np.full(40_000, CANARY, "float32")
    with pytest.raises(FarspanError):
        torch.connect(address, token="another-token-that-is-wrong", timeout=5)
    with torch.connect(address, token=token, timeout=30) as session:
        x = torch.tensor(values)
        small = torch.tensor([CANARY, CANARY])
        with contextlib.suppress(FarspanError, RuntimeError, ValueError):
            (x @ small).sum().item()
        with contextlib.suppress(FarspanError, RuntimeError, IndexError):
            small[torch.tensor([5_000])].sum().item()
        for _ in range(2):
            os.kill(session.transport.devices[0]["pid"], signal.SIGKILL)
            assert x.sum().item() > 0
            time.sleep(0.4)  # a snapshot
        with contextlib.suppress(FarspanError, RuntimeError, ValueError):
            torch.full((1 << 40,), CANARY).sum().item()
        assert float(small[0].item()) == CANARY
    with contextlib.suppress(FarspanError):
        torch.connect(address, token=token, devices="tpu:1", timeout=5)
