"""Which branches of decoders and of the engine's entry hostile sessions reach.

What counts is what bytes of a client meet before an op's own rule and kernel: all of the wire, the
engine, its stores, plans and checks, and programs up to their plans. What only a GPU, a profiler or
a client of this process calls is left out by name below, each with its reason.
"""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[2]
COUNTED = (
    "client/farspan/wire/frames.py", "client/farspan/wire/statics.py",
    "client/farspan/wire/checks.py", "client/farspan/wire/envelopes.py",
    "client/farspan/wire/events.py", "client/farspan/wire/control.py",
    "worker/farspan_worker/engine.py", "worker/farspan_worker/checks.py",
    "worker/farspan_worker/store.py", "worker/farspan_worker/plan.py",
    "worker/farspan_worker/direct.py", "worker/farspan_worker/programs/body.py",
    "worker/farspan_worker/programs/run.py",
)  # fmt: skip
#: Lines that no client's bytes reach.
EXCLUDED = (
    r"if TYPE_CHECKING:",
    r"def adopt\(self, id_",  # memory of this process, only on local:
    r"def stats\(self\)",  # an operator's question
    r"class Foreign",
    r"backend\.remote",  # a GPU's way
    r"def explained",
)


def measure(inputs: int, seed: str = "cover") -> tuple[float, list[tuple[str, float]]]:
    """Return the share of branches reached in all, and by file, in percent."""
    import coverage

    found = coverage.Coverage(
        branch=True, data_file=None, include=[str(HERE / name) for name in COUNTED]
    )
    for line in EXCLUDED:
        found.exclude(line)
    found.start()
    _run(inputs, seed)
    found.stop()
    rows, reached, possible = [], 0, 0
    for name in COUNTED:
        numbers = found._analyze(str(HERE / name)).numbers
        reached += numbers.n_executed_branches
        possible += numbers.n_branches
        share = 100 * numbers.n_executed_branches / max(1, numbers.n_branches)
        rows.append((f"{name} ({numbers.n_branches})", share))
    return 100 * reached / possible, rows


def _run(inputs: int, seed: str) -> None:
    """Run sessions, and a few messages for every other decoder, in this process."""
    import mmap

    from fuzzing import child, parsers
    from fuzzing.corpus import corpus

    warnings.simplefilter("ignore")
    corpus()
    findings = child.Findings(mmap.mmap(-1, child.PROGRESS.size))
    k = 0
    while findings.done < inputs:
        child.run_session(seed, k, findings, inputs - findings.done)
        k += 1
    for name, target in parsers.targets().items():
        rng = random.Random(f"{seed}:{name}")
        for data in (*target.samples, *(parsers.hostile(rng, target) for _ in range(inputs // 50))):
            try:
                target.decode(data)
            except target.errors:
                continue


def main(arguments: list[Any]) -> int:
    """Print the shares; the exit status is 1 below 90 %."""
    inputs = int(arguments[0]) if arguments else 30_000
    share, rows = measure(inputs)
    for name, own in rows:
        print(f"{own:6.1f} %  {name}")
    print(f"{share:6.1f} %  of all branches, by {inputs} inputs")
    return 0 if share >= 90 else 1
