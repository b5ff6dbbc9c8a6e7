"""Processes of a real service die, freeze and come back while programs train: no byte differs."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import farspan as torch
import pytest
from chaos import PHASES, Chaos, Outcome, Service, by_phase, wait_until, worker_of
from chaos_client import Client
from chaos_heirs import frozen_client, inherited
from chaos_programs import MODELS, MODES, Chain, chain_states
from farspan.core import limits
from test_holding import live_streams

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


@pytest.mark.parametrize("frozen", [False, True], ids=["killed", "frozen"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_part_that_dies_or_freezes_in_any_phase_changes_no_byte(
    chaos: Chaos, phase: str, frozen: bool
) -> None:
    """benchmarks/chaos.py goes through all parts; here two take turns."""
    turn = PHASES.index(phase)
    part = ("gateway", "worker")[(turn + frozen) % 2]
    found = chaos.in_phase(part, phase, MODELS[turn % 3], random.Random(turn), frozen)
    print(f"\n{found}")
    assert found.phase == phase
    assert found.same and not found.error and not found.twice_or_lost


@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase != "snapshot"])
def test_a_client_that_dies_in_any_phase_leaves_what_its_commands_made(
    chaos: Chaos, phase: str
) -> None:
    turn = PHASES.index(phase)
    chaos.service.wait_for_gateway()
    assert inherited(chaos.service, MODELS[turn % 3], phase, turn) == ""


# --- frozen, not dead ----------------------------------------------------------------------------
def test_a_frozen_gateway_is_noticed_in_15_s_and_goes_on_where_it_stopped(chaos: Chaos) -> None:
    noticed: list[float] = []
    threads = []

    def freeze(session: Any) -> None:
        def until_noticed() -> None:
            with chaos.service.stopped("gateway"):
                ledger = session.transport._ledger
                noticed.append(wait_until(lambda: not ledger.connected, 25, "the notice"))

        threads.append(threading.Thread(target=until_noticed))
        threads[0].start()

    found = chaos.under("gateway", "mlp", "eager", random.Random(3), strike=freeze)
    threads[0].join()
    print(f"\nnoticed after {noticed[0]:.1f} s; {found}")
    assert found.same and not found.error and not found.twice_or_lost
    assert noticed[0] <= 20  # 15, and what a busy machine adds


def test_a_frozen_worker_is_replaced_and_its_return_changes_nothing(chaos: Chaos) -> None:
    frozen: list[int] = []

    def freeze(session: Any) -> None:
        frozen.append(worker_of(session))
        os.kill(frozen[0], signal.SIGSTOP)

    found = chaos.under("worker", "cnn", "eager", random.Random(4), strike=freeze)
    print(f"\n{found}")
    assert found.same and not found.error and not found.twice_or_lost
    # Its supervisor ends it; should it wake up before, it is one that nobody listens to.
    wait_until(lambda: not os.path.exists(f"/proc/{frozen[0]}"), limits.SILENT_S + 20, "its end")


def test_a_frozen_client_goes_on_when_it_wakes(chaos: Chaos) -> None:
    expected = chaos.expected("mlp", "replay")[0]
    chaos.service.wait_for_gateway()
    others = live_streams(chaos.service)
    with Client(chaos.service, "train", "mlp", "replay", chaos.steps) as client:
        while client.hear("step") != "3":
            pass
        os.kill(client.pid, signal.SIGSTOP)
        took = wait_until(lambda: live_streams(chaos.service) <= others, 20, "the notice")
        os.kill(client.pid, signal.SIGCONT)
        assert client.hear("digest") == expected
    print(f"\nnoticed after {took:.1f} s")
    assert took <= 20


@pytest.mark.parametrize("phase", ["upload", "backward", "fetch"])
def test_a_client_that_freezes_in_a_phase_comes_to_the_same(chaos: Chaos, phase: str) -> None:
    """For a second; benchmarks/chaos.py goes through all phases."""
    chaos.service.wait_for_gateway()
    assert frozen_client(chaos, "mlp", phase, 1) == ""


# --- all of it at once ---------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(4))
def test_client_gateway_and_worker_die_together_and_another_client_goes_on(
    chaos: Chaos, seed: int
) -> None:
    steps = 400
    rng = random.Random(seed)
    expected = chain_states(steps)
    with Client(chaos.service, "chain", steps) as client:
        name = client.hear("session")
        until = rng.randrange(20, 200)
        while (seen := int(client.hear("seen"))) < until:
            pass
        time.sleep(rng.uniform(0, 0.02))
        victims = [client.pid, chaos.service.gateway, *(w for w in worker_pids(chaos.service))]
        chaos.service.kill("gateway")
        for pid in rng.sample(victims, len(victims)):
            if pid != chaos.service.gateway:
                os.kill(pid, signal.SIGKILL)
    chaos.service.wait_for_gateway()
    token = chaos.service.token
    with torch.attach(name, chaos.service.address, token=token, timeout=60) as session:
        chain = Chain(session.kept["chain"])
        at = expected.index(chain.state())
        print(f"\nseen {seen}, found {at} of {steps}")
        assert at >= seen, "what a client had seen is gone"
        for number in range(at, steps):
            chain.step(number)
        assert chain.state() == expected[-1]


def worker_pids(service: Service) -> list[int]:
    """Return the worker processes that the supervisor has now."""
    path = f"/proc/{service.supervisor}/task/{service.supervisor}/children"
    with open(path) as children:
        return [int(pid) for pid in children.read().split()]
