"""The main job, for real: gateway, supervisor, Ray, a worker; beside torch from the same seed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
DEMO = [sys.executable, "-m", "farspan_server", "demo"]


def run(out: Path, *flags: str) -> tuple[str, list[float]]:
    """Run the demo; return what it printed and its losses."""
    done = subprocess.run(
        [*DEMO, "--out", str(out), *flags], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, json.loads((out / "losses.json").read_text())


def accuracy(text: str) -> float:
    match = re.fullmatch(r"held-out accuracy ([\d.]+) %", text.strip().splitlines()[-1])
    assert match, text
    return float(match[1])


def test_demo_trains_on_a_ray_worker_as_torch_does(tmp_path: Path) -> None:
    text, losses = run(tmp_path / "farspan")
    reference, wanted = run(tmp_path / "torch", "--backend", "torch")
    assert accuracy(text) >= 97
    assert abs(accuracy(text) - accuracy(reference)) <= 1
    assert losses[:10] == pytest.approx(wanted[:10], abs=1e-4)
    described = json.loads(next(line for line in text.splitlines() if line.startswith("{")))
    assert described["devices"][0]["pid"] != os.getpid()
    assert re.search(r"counted \d{4,} commands", text)
    assert (tmp_path / "farspan" / "digits.png").read_bytes()[:4] == b"\x89PNG"
    from safetensors.numpy import load_file

    weights = load_file(tmp_path / "farspan" / "digits.safetensors")
    assert weights["0.weight"].shape == (16, 1, 3, 3)


def test_demo_in_float64_equals_torch_over_the_whole_run(tmp_path: Path) -> None:
    _, losses = run(tmp_path / "local", "--backend", "local", "--dtype", "float64")
    _, wanted = run(tmp_path / "torch", "--backend", "torch", "--dtype", "float64")
    assert losses == pytest.approx(wanted, abs=1e-8)


def test_killing_the_described_worker_stops_the_run_with_an_error(tmp_path: Path) -> None:
    demo: Any = subprocess.Popen(
        [*DEMO, "--out", str(tmp_path), "--epochs", "500"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        described = next(line for line in demo.stdout if line.startswith("{"))
        pid = json.loads(described)["devices"][0]["pid"]
        os.kill(pid, signal.SIGKILL)
        _, errors = demo.communicate(timeout=60)
    finally:
        demo.kill()
    assert demo.returncode != 0
    assert "WorkerLostError" in errors and str(pid) in errors
