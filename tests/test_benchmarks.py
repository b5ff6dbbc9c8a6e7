"""Every benchmark runs, in its smallest form, so that none rots; and what they compute is right."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"


def run(script: str, *arguments: str, path: str | None = None) -> str:
    """Return what a benchmark prints; fail with its stderr if it fails. path: of its modules."""
    more = {} if path is None else {"PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", **more},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_benchmark_finds_what_it_imports() -> None:
    """One process imports them all; those that no test below runs have nothing else to tell it."""
    pytest.importorskip("torch")
    names = [path.stem for path in sorted(BENCHMARKS.glob("*.py"))]
    program = (
        f"import importlib, sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        f"for name in {names}:\n"
        "    importlib.import_module(name)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_vs_torch_measures_every_row_on_local(tmp_path: Path) -> None:
    """The script itself refuses rows on which the backends disagree."""
    pytest.importorskip("torch")
    path = tmp_path / "found.json"
    text = run("vs_torch.py", "--smoke", "--json", str(path))
    rows = json.loads(path.read_text())["threads1"]["rows"]
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from vs_rows import ROWS
    finally:
        sys.path.remove(str(BENCHMARKS))
    assert list(rows) == [row.name for row in ROWS]
    for name, row in rows.items():
        for backend in ("torch", "local"):
            cell = row["backends"][backend]
            assert "error" not in cell, (name, backend, cell)
            assert len(cell["wall_s"]) == 1 and cell["peak_bytes"] > 0, (name, backend)
    assert "bars (median ratio" in text


def found_by_peers(names: str, path: Path) -> dict[str, Any]:
    """Return the rows of `vs_peers.py --smoke`, which refuses losses that differ."""
    text = run("vs_peers.py", "--smoke", "--peers", names, "--json", str(path))
    rows: dict[str, Any] = json.loads(path.read_text())["rows"]
    assert len(rows) == 8 and text.count("1 rounds") == 8
    return rows


@pytest.mark.slow
def test_vs_peers_runs_every_row_of_torch_and_farspan(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    rows = found_by_peers("torch,farspan", tmp_path / "found.json")
    for name, row in rows.items():
        modes = ("eager", "compiled") if name.startswith(("tiny", "mlp")) else ("eager",)
        assert set(row["systems"]) == {"torch/eager", *(f"farspan/{mode}" for mode in modes)}
        assert all(cell["wall_s"] for cell in row["systems"].values()), (name, row)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("peer", "package"),
    [("rpc", "torch"), ("ray", "ray"), ("dask", "distributed"), ("monarch", "monarch"),
     ("tf", "tensorflow")],
)  # fmt: skip
def test_vs_peers_runs_a_peer_beside_torch(peer: str, package: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    rows = found_by_peers(f"torch,{peer}", tmp_path / "found.json")
    for name, row in rows.items():
        cells = {key: cell for key, cell in row["systems"].items() if key.startswith(peer)}
        assert cells and all(cell.get("wall_s") for cell in cells.values()), (name, cells)


def test_vs_peers_says_what_is_not_installed(tmp_path: Path) -> None:
    broken = tmp_path / "dask"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('not here')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    text = run("vs_peers.py", "--smoke", "--peers", "dask", "--rows", "read", path=path)
    assert "left out: dask: dask is not installed (pip install distributed)" in text
    assert "`a + b` and its value, us: 0 rounds" in text


def test_vs_peers_leaves_out_what_hangs_or_has_ended(tmp_path: Path) -> None:
    """A system that never answers is ended; asking one that has ended is an error in its row."""
    loop = tmp_path / "peer_loop.py"
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import vs_peers, pathlib\n"
        "vs_peers.HERE, vs_peers.REPLY_S = pathlib.Path(sys.argv[2]), float(sys.argv[3])\n"
        "system = vs_peers.System('rpc', sys.executable, True, None)\n"
        "system.started()\n"
        "system._process.wait() if not system.error else None\n"
        "print(system.error, '|', system.ask('memcpy'))\n"
        "system.close()"
    )
    told = []
    for does, reply_s in (("import time; time.sleep(600)", "0.1"), ("print('{}')", "60")):
        loop.write_text(does)
        command = [sys.executable, "-c", program, str(BENCHMARKS), str(tmp_path), reply_s]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        told.append(done.stdout.strip())
    assert told[0].startswith("its process ended with status -9 |")
    assert told[1] == "| {'error': 'its process ended with status 0'}"


def test_profile_writes_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    text = run("profile.py", "--smoke", "--trace", str(path))
    assert "worker: run" in text
    assert {e["ph"] for e in json.loads(path.read_text())["traceEvents"]} >= set("MXsf")


def test_overhead_and_growth_judge_their_bars() -> None:
    pytest.importorskip("torch")
    assert "read-back / bare ping" in run("overhead.py", "--smoke").partition("bars")[2]
    assert run("growth.py", "--smoke").count("ten times") == 3


def test_frames_measures_sessions_that_last_beside_others() -> None:
    assert run("frames.py", "--count", "20", "--rounds", "1").count("us of CPU a frame") == 2


def test_kernels_compares_one_with_torch() -> None:
    pytest.importorskip("torch")
    from farspan_worker import kernels

    if kernels.missing():
        pytest.skip(f"no fast kernels here: {kernels.missing()}")
    found = [json.loads(x) for x in run(
        "kernels.py", "--rounds", "1", "--only", "^silu$", "--json").splitlines()]  # fmt: skip
    assert {row["op"] for row in found} == {"silu"} and all(row["fast/torch"] > 0 for row in found)


def test_api_coverage_counts_names_that_no_test_has_called(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    assert "untested" in run("api_coverage.py", "--recorded", str(tmp_path))


def test_array_api_reports_what_a_suite_says(tmp_path: Path) -> None:
    folder = tmp_path / "array_api_tests"
    folder.mkdir()
    (tmp_path / "conftest.py").write_text(
        "def pytest_addoption(parser):\n"
        "    parser.addoption('--max-examples')\n"
        "    parser.addoption('--disable-deadline', action='store_true')\n"
    )
    (folder / "test_it.py").write_text("def test_it():\n    import farspan.array_api\n")
    assert "1 of 1 tests pass" in run("array_api.py", str(tmp_path))


def test_changing_numbers_are_timed_each_way() -> None:
    text = run("changing.py", "--rounds", "1", "--steps", "5")
    assert [line.split()[0] for line in text.splitlines()[1:]] == ["eager", "replay", "compile"]


def test_what_is_said_of_reliability_was_measured() -> None:
    assert run("chaos.py", "--table").strip() in (ROOT / "docs" / "reliability.md").read_text()


@pytest.mark.slow
def test_chaos_counts_what_a_session_survives(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    parts = ("workers", "gateways", "idle", "simulator", "recovery")
    few = ("--kills", "2", "--recoveries", "1", "--seeds", "20", "--sessions", "60")
    text = run("chaos.py", "--only", ",".join(parts), *few, "--json", str(path))
    found = json.loads(path.read_text())
    assert set(found) == set(parts)
    for part in ("workers", "gateways"):
        figures = found[part]["figures"]
        assert figures["kills"] == 2 and not figures["differing"] and not figures["lost"]
    assert found["simulator"]["figures"] == {"seeds": 20, "violations": 0, "bad": []}
    assert text.count("\n| ") == len(parts) + 1
