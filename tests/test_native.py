"""The C module does what Python does, byte for byte, and Python serves where there is none.

It is built here from the sources, so that this holds wherever a compiler is.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from farspan import _native

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"


def builder() -> Any:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sources(folder: Path) -> Path:
    for path in (ROOT / "client/farspan").glob("_fast*.[ch]"):
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> str:
    built = builder().build(sources(tmp_path_factory.mktemp("native")))
    if built is None:
        pytest.skip("no compiler is at hand")
    return str(built)


def run(*command: str, pure: bool = False) -> str:
    environment = {**os.environ, "FARSPAN_PURE": "1" if pure else ""}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=TESTS, env=environment,
        timeout=500,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr[-4_000:]
    return done.stdout


def compare(module: str, seed: int, count: int, replay: str, *options: str) -> None:
    script = (*options, "native_programs.py", str(seed), str(count), replay)
    fast = json.loads(run(*script, module))
    plain = json.loads(run(*script, pure=True))
    assert fast["in C"] and not plain["in C"]
    for k, (have, want) in enumerate(zip(fast["programs"], plain["programs"], strict=True)):
        assert have == want, f"python tests/native_programs.py {seed + k} 1 {replay} MODULE"
    assert len({digest for digest, _ in plain["programs"]}) == count


@pytest.mark.parametrize("replay", ["0", "1"])
def test_both_ways_send_the_same_bytes_from_the_same_lines(module: str, replay: str) -> None:
    compare(module, 0, 12, replay)


@pytest.mark.slow
@pytest.mark.parametrize("replay", ["0", "1"])
def test_both_ways_send_the_same_bytes_for_many_programs(module: str, replay: str) -> None:
    compare(module, 1_000, 80, replay, "-X", "dev")


def test_threads_interrupts_wrong_arguments_and_the_end_do_no_harm(module: str) -> None:
    run("-X", "dev", "native_stress.py", module)


AGAIN = """
import gc, sys
import native_programs, native_stress
native_programs.load(sys.argv[1])
import farspan
session, x = native_stress.opened(), farspan.ones(2)
lane, before = session.lanes[0], farspan
native_stress.forget()
for name in [name for name in sys.modules if name.partition(".")[0] == "farspan"]:
    del sys.modules[name]
native_programs.load(sys.argv[1])
import farspan
from farspan import _native
assert farspan is not before and type(farspan.Tensor.__add__) is _native.fast.Quick
y = x + x  # of the one before, which goes on
del x, y
gc.collect()
assert len(lane.freed) == 2, lane.freed
native_stress._sessions.clear()
session, z = native_stress.opened(), farspan.ones(2)
del z
assert len(session.lanes[0].freed) == 1
native_stress.forget()
"""  # no session waits at the end for an answer that nobody gives


def test_farspan_may_be_imported_again(module: str) -> None:
    run("-c", AGAIN, module)


def test_without_a_compiler_nothing_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "/nonexistent/cc")
    assert builder().build(sources(tmp_path)) is None
    assert not list(tmp_path.glob("*.so"))


def test_python_serves_where_it_is_asked_to_and_says_so() -> None:
    code = "from farspan import _native, _gather; print(_native.fast, _native.describe())"
    said = run("-c", code, pure=True)
    assert said.startswith("None small operations in Python: FARSPAN_PURE")


def test_a_module_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        INTERFACE = _native.INTERFACE + 1

    monkeypatch.delenv("FARSPAN_PURE", raising=False)
    monkeypatch.setitem(sys.modules, "farspan._fast", Other)  # type: ignore[arg-type]
    found, why = _native._load()
    assert found is None and "other sources" in why
    text = (ROOT / "client/farspan/_fast.c").read_text()
    assert f'"INTERFACE", {_native.INTERFACE})' in text


def test_its_sources_are_short_too() -> None:
    for path in (ROOT / "client/farspan").glob("_fast*.[ch]"):
        text = path.read_text()
        assert text.startswith("/* ") and text.count("\n") <= 620
        assert max(map(len, text.splitlines())) <= 100
        bodies = re.findall(r"^\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
        assert all(body.count("\n") <= 70 for body in bodies)
