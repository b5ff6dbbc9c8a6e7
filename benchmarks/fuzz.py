"""Fuzz whole sessions: inputs a second, what they end in, branches covered, and every finding.

    PYTHONPATH=client:server:worker:tests python benchmarks/fuzz.py --inputs 2000000 --seed 7
    PYTHONPATH=client:server:worker:tests python benchmarks/fuzz.py --coverage

A finding is repeated by `--repeat SEED:SESSION`, which prints every frame of that session.
`--coverage` measures (with `coverage`, five times slower) which branches of the frame decoder and of
the engine's entry 30,000 inputs reach.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fuzzing import cover, run

if __name__ == "__main__":
    if "--coverage" in sys.argv:
        sys.exit(cover.main())
    sys.exit(run.main())
