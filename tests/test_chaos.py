"""Processes of a real service die, freeze and come back while programs train: no byte differs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
from chaos import Chaos, Outcome, Service, by_phase
from chaos_programs import MODELS, MODES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chaos() -> Iterator[Chaos]:
    with Service() as service:
        yield Chaos(service)


def programs() -> Iterator[tuple[str, str]]:
    """Return models and modes for ever, the modes changing fastest."""
    return itertools.cycle(itertools.product(MODELS, MODES))


def judge(outcomes: list[Outcome]) -> None:
    """Print what was struck, and demand that all went on with the same bytes, each frame once."""
    freed = sum(o.freed for o in outcomes)
    times = sorted(o.pause_s for o in outcomes)
    print(f"\n{outcomes[0].part}: {len(outcomes)} faults by phase {by_phase(outcomes)}; {freed} "
          f"with frames freed by the client; pause median {times[len(times) // 2]:.2f} s, worst "
          f"{times[-1]:.2f} s")  # fmt: skip
    assert not [o for o in outcomes if not o.phase], "no fault struck"
    assert not [o for o in outcomes if o.error]
    assert not [o for o in outcomes if not o.same]
    assert not [o for o in outcomes if o.twice_or_lost]
    assert not [o for o in outcomes if not o.window], "nothing was under way"
    assert 2 * freed >= len(outcomes)


def test_twenty_killed_workers_change_no_byte(chaos: Chaos) -> None:
    rng = random.Random(1)
    judge([
        chaos.under("worker", name, mode, rng, freed=k % 2 == 0)
        for k, (name, mode) in zip(range(20), programs(), strict=False)
    ])  # fmt: skip


def test_twenty_killed_gateways_lose_no_frame_and_apply_none_twice(chaos: Chaos) -> None:
    rng = random.Random(2)
    before = chaos.service.restarts
    judge([
        chaos.under("gateway", name, mode, rng, freed=k % 2 == 0)
        for k, (name, mode) in zip(range(20), programs(), strict=False)
    ])  # fmt: skip
    assert chaos.service.restarts == before + 20
