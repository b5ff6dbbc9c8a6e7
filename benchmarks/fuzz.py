r"""Fuzz whole sessions: inputs a second, what they end in, branches covered, and every finding.

    PYTHONPATH=client:server:worker:tests python benchmarks/fuzz.py --inputs 2000000 --seed 7 \
        --processes 2
    PYTHONPATH=client:server:worker:tests python benchmarks/fuzz.py --coverage

A finding is repeated by `--repeat SEED:SESSION`, which prints every frame of that session.
`--coverage N` measures, with `coverage`, which branches of decoders and of the engine's entry N
inputs reach; it is several times slower.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fuzzing import cover, run

if __name__ == "__main__":
    if "--coverage" in sys.argv:
        sys.exit(cover.main(sys.argv[sys.argv.index("--coverage") + 1 :]))
    sys.exit(run.main())
