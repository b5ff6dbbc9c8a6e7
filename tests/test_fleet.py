"""The supervisor's state machine: slots are filled, the dead replaced, no epoch used twice."""

from __future__ import annotations

import random

import pytest
from farspan_server.fleet import (
    Announce,
    Connected,
    Ended,
    Fleet,
    Kill,
    Retired,
    Silent,
    Start,
    Started,
    Sync,
    Withdraw,
)


def up(process: int) -> Started:
    return Started(process, f"host:{process}", "host", 1000 + process)


def test_a_fleet_starts_its_slots_and_spares_and_announces_only_the_slots() -> None:
    fleet = Fleet({"cpu": 2}, {"cpu": 1}, first_epoch=7)
    assert fleet.begin() == [Start(1, "cpu"), Start(2, "cpu"), Start(3, "cpu")]
    assert fleet.handle(up(2)) == [Announce("cpu:0", "cpu", 7, up(2))]
    assert not fleet.complete
    assert fleet.handle(up(1)) == [Announce("cpu:1", "cpu", 8, up(1))]
    assert fleet.handle(up(3)) == []
    assert fleet.complete


def test_a_spare_takes_the_place_of_the_dead_at_once_under_a_higher_epoch() -> None:
    fleet = Fleet({"cpu": 1}, {"cpu": 1})
    fleet.begin()
    fleet.handle(up(2))
    fleet.handle(up(1))
    assert fleet.handle(Ended(2, "killed by signal 9")) == [
        Withdraw("cpu:0", 1, "killed by signal 9"),
        Announce("cpu:0", "cpu", 2, up(1)),
        Start(3, "cpu", 0.0),
    ]


def test_the_silent_and_the_retired_are_killed_once_and_replaced() -> None:
    fleet = Fleet({"cpu": 1}, first_epoch=5)
    fleet.begin()
    fleet.handle(up(1))
    (kill,) = fleet.handle(Silent(1))
    assert isinstance(kill, Kill) and "no heartbeat" in kill.reason
    assert fleet.handle(Retired("cpu:0", 5, "suspect")) == []
    assert fleet.handle(Ended(1, "signal 9")) == [
        Withdraw("cpu:0", 5, kill.reason),
        Start(2, "cpu", 0.0),
    ]
    for slot in ("cpu:0", "cpu:9", "tpu:0", ""):
        assert fleet.handle(Retired(slot, 5, "late")) == []


def test_a_worker_that_will_not_start_is_tried_ever_more_slowly() -> None:
    fleet = Fleet({"cpu": 1})
    (start,) = fleet.begin()
    delays = []
    for _ in range(9):
        (start,) = fleet.handle(Ended(start.process, "no"))
        delays.append(start.delay_s)
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    fleet.handle(up(start.process))
    assert fleet.handle(Ended(start.process, "died"))[-1].delay_s == 0


def test_a_gateway_that_connects_hears_of_every_worker() -> None:
    fleet = Fleet({"cpu": 2})
    fleet.begin()
    assert fleet.handle(Connected()) == [Sync()]
    fleet.handle(up(1))
    assert fleet.handle(Connected()) == [Announce("cpu:0", "cpu", 1, up(1)), Sync()]


@pytest.mark.parametrize("seed", range(20))
def test_random_lives_keep_the_fleet_whole(seed: int) -> None:
    draw = random.Random(seed)
    fleet = Fleet({"cpu": 3, "cuda": 2}, {"cpu": 2})
    starting, alive = set(), set()
    announced: dict[str, tuple[int, int]] = {}
    last_epoch = 0
    actions = fleet.begin()
    for step in range(400):
        for action in actions:
            match action:
                case Start(process):
                    starting.add(process)
                case Announce(slot, _, epoch, started):
                    assert slot not in announced and started.process in alive
                    assert epoch > last_epoch
                    last_epoch = epoch
                    announced[slot] = epoch, started.process
                case Withdraw(slot, epoch):
                    assert announced.pop(slot)[0] == epoch
        assert len(starting | alive) == 7
        if starting and (step > 350 or draw.random() < 0.6):
            process = draw.choice(sorted(starting))
            starting.discard(process)
            if step > 350 or draw.random() < 0.8:
                alive.add(process)
                actions = fleet.handle(up(process))
            else:
                actions = fleet.handle(Ended(process, "start failed"))
        elif alive and step <= 350:
            process = draw.choice(sorted(alive))
            held = next((slot for slot, at in announced.items() if at[1] == process), None)
            if held and draw.random() < 0.5:
                actions = fleet.handle(Retired(held, announced[held][0], "x"))
            else:
                actions = fleet.handle(Silent(process))
            assert [type(action) for action in actions] == [Kill]
            alive.discard(process)
            actions = fleet.handle(Ended(process, "gone"))
        else:
            actions = []
    assert fleet.complete and len(announced) == 5, f"seed {seed}"
