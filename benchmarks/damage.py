"""Flip and cut every byte of a synced journal: how many ways to damage it go unnoticed?

PYTHONPATH=client:server:worker:tests python benchmarks/damage.py --bytes 1048576
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import test_bytes_on_disk


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=64 * 1024)
    tried, wrong = test_bytes_on_disk.accepted(parser.parse_args().bytes)
    print(f"{tried} ways to damage a journal; accepted, or without file and place: {len(wrong)}")
    print("\n".join(wrong[:20]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
