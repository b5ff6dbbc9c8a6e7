"""Wrong bytes at every decoder: control messages, events, links, snapshots, journals."""

from __future__ import annotations

import random
import warnings

import pytest
from fuzzing.parsers import hostile, targets

INPUTS = {"snapshot": 400, "journal": 250}  # others cost a hundred times less


def run(name: str, seed: str, count: int) -> tuple[int, int]:
    """Return how many hostile messages were taken and refused; raise at anything else."""
    target = targets()[name]
    rng = random.Random(f"{seed}:{name}")
    taken = refused = 0
    for k in range(count):
        data = hostile(rng, target)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                target.decode(data)
            taken += 1
        except target.errors:
            refused += 1
        except BaseException as error:
            raise AssertionError(f"{name}: input {k} of seed {seed!r}: {data[:400]!r}") from error
    return taken, refused


@pytest.mark.parametrize("name", targets())
def test_wrong_bytes_are_refused_or_mean_something(name: str) -> None:
    for sample in targets()[name].samples:
        targets()[name].decode(sample)
    taken, refused = run(name, "fast", INPUTS.get(name, 1_500))
    print(f"{name}: {taken} taken, {refused} refused")


@pytest.mark.slow
@pytest.mark.parametrize("name", targets())
def test_many_wrong_bytes_are_refused_or_mean_something(name: str) -> None:
    taken, refused = run(name, "slow", 40 * INPUTS.get(name, 1_500))
    print(f"{name}: {taken} taken, {refused} refused")
