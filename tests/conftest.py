"""What all tests share: a service on this machine, and a session on each kind of transport."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(__file__))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("SCIPY_ARRAY_API", "1")  # SciPy reads it once, at its import
os.environ.pop("FARSPAN_ADDRESS", None)
_CACHE = tempfile.TemporaryDirectory(  # goes with this process, whose threads may still write
    prefix="farspan-cache-", ignore_cleanup_errors=True
)
os.environ["XDG_STATE_HOME"] = _CACHE.name  # what a service keeps that a test starts
os.environ["FARSPAN_CACHE"] = _CACHE.name  # what a user's cache holds must not matter
os.environ.pop("FARSPAN_TOKEN", None)
# Bytecode is kept, as it is for users. Where it is not, each process that a test starts compiles
# all of farspan again: a third to a half of the CPU time until a service is there.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it puts into the background deaf to Ctrl-C, which some tests press.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-names", metavar="FOLDER", help="see tests/recorder.py")


def pytest_configure(config: pytest.Config) -> None:
    folder = config.getoption("--record-names")
    if folder:
        from recorder import Recorder

        config.pluginmanager.register(Recorder(Path(folder)), "record-names")


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what is there by now: tests that call it are many."""
    gc.collect()
    gc.freeze()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many processes run the tests: two, but one for those that start clusters."""
    return 0 if config.option.markexpr == "slow" else 2


@pytest.fixture(scope="session")
def service() -> Iterator[tuple[str, str]]:
    """Return (address, token) of a gateway with two workers, each a process; all of it ends."""
    command = ["up", "--no-ray", "--workers", "cpu:2", "--threads", "1", "--no-journal", "--json"]
    up = subprocess.Popen(
        [sys.executable, "-m", "farspan_server", *command], stdout=subprocess.PIPE, text=True
    )
    try:
        assert up.stdout is not None
        ready = json.loads(up.stdout.readline())
        yield ready["address"], Path(ready["token_file"]).read_text().strip()
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.wait(20) == 0


@pytest.fixture(params=["local", "grpc"])
def session(request: pytest.FixtureRequest) -> Iterator[object]:
    """Return an open session with two CPU devices, current while the test runs."""
    import farspan

    if request.param == "local":
        made = farspan.connect("local:", devices="cpu:2")
    else:
        address, token = request.getfixturevalue("service")
        made = farspan.connect(address, token=token, devices="cpu:2", timeout=20)
    with made:
        yield made
