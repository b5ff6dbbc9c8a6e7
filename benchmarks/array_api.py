"""How much of the Python array API standard holds, by the standard's own test suite?

Prints how many of the suite's tests pass, fail and are skipped, and the names of those that fail.
The suite (https://github.com/data-apis/array-api-tests, with its submodule) is given as a path; it
needs pytest, hypothesis, ndindex and, for its header, pytest-json-report.

    python benchmarks/array_api.py PATH [--examples 100] [--only test_linalg] [--address grpc://...]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTCOME = re.compile(r"(\d+) (passed|failed|skipped|xfailed|error)")


def run(path: Path, examples: int, only: str, address: str | None) -> tuple[str, float]:
    """Return what pytest printed of the suite, and the seconds it took."""
    places = [str(ROOT / part) for part in ("client", "worker", "server")]
    environment = dict(os.environ, ARRAY_API_TESTS_MODULE="farspan.array_api")
    environment["PYTHONPATH"] = os.pathsep.join([*places, os.environ.get("PYTHONPATH", "")])
    environment.setdefault("OMP_NUM_THREADS", "1")
    if address:  # the first use of a tensor opens it
        environment["FARSPAN_ADDRESS"] = address
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line"]
    command += [f"--max-examples={examples}", "--disable-deadline", "array_api_tests/"]
    command += ["-k", only] if only else []
    begun = time.perf_counter()
    ended = subprocess.run(command, cwd=path, env=environment, stdout=subprocess.PIPE, text=True)
    return ended.stdout, time.perf_counter() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("path", type=Path, help="a checkout of array-api-tests")
    parser.add_argument("--examples", type=int, default=100, help="examples a test")
    parser.add_argument("--only", default="", help="an expression for pytest's -k")
    parser.add_argument("--address", help="a gateway; FARSPAN_TOKEN is its token")
    options = parser.parse_args()
    text, seconds = run(options.path, options.examples, options.only, options.address)
    lines = text.strip().splitlines()
    found = {word: int(count) for count, word in OUTCOME.findall(lines[-1] if lines else "")}
    passed, failed = found.get("passed", 0), found.get("failed", 0) + found.get("error", 0)
    if not passed + failed:
        print(text)
        return 2
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            print(line)
    total, skipped = passed + failed, found.get("skipped", 0)
    print(f"{passed} of {total} tests pass ({100 * passed / total:.2f} %), {skipped} are skipped")
    print(f"{options.examples} examples a test, {seconds:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
