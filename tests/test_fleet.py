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


def up(epoch: int) -> Started:
    return Started(epoch, f"host:{epoch}", "host", 1000 + epoch)


def test_a_fleet_starts_its_slots_and_spares_and_announces_only_the_slots() -> None:
    fleet = Fleet({"cpu": 2}, {"cpu": 1}, first_epoch=7)
    assert fleet.begin() == [Start(7, "cpu"), Start(8, "cpu"), Start(9, "cpu")]
    assert fleet.handle(up(8)) == [Announce("cpu:0", "cpu", up(8))]
    assert not fleet.complete
    assert fleet.handle(up(7)) == [Announce("cpu:1", "cpu", up(7))]
    assert fleet.handle(up(9)) == []
    assert fleet.complete


def test_a_spare_takes_the_place_of_the_dead_at_once() -> None:
    fleet = Fleet({"cpu": 1}, {"cpu": 1})
    fleet.begin()
    fleet.handle(up(1))
    fleet.handle(up(2))
    assert fleet.handle(Ended(1, "killed by signal 9")) == [
        Withdraw("cpu:0", 1, "killed by signal 9"),
        Announce("cpu:0", "cpu", up(2)),
        Start(3, "cpu", 0.0),
    ]


def test_the_silent_and_the_retired_are_killed_once_and_replaced() -> None:
    fleet = Fleet({"cpu": 1})
    fleet.begin()
    fleet.handle(up(1))
    (kill,) = fleet.handle(Silent(1))
    assert isinstance(kill, Kill) and "no heartbeat" in kill.reason
    assert fleet.handle(Retired(1, "suspect")) == []
    assert fleet.handle(Ended(1, "signal 9")) == [
        Withdraw("cpu:0", 1, kill.reason),
        Start(2, "cpu", 0.0),
    ]
    assert fleet.handle(Retired(1, "late")) == []


def test_a_worker_that_will_not_start_is_tried_ever_more_slowly() -> None:
    fleet = Fleet({"cpu": 1})
    (start,) = fleet.begin()
    delays = []
    for _ in range(9):
        (start,) = fleet.handle(Ended(start.epoch, "no"))
        delays.append(start.delay_s)
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    fleet.handle(up(start.epoch))
    assert fleet.handle(Ended(start.epoch, "died"))[-1].delay_s == 0


def test_a_gateway_that_connects_hears_of_every_worker() -> None:
    fleet = Fleet({"cpu": 2})
    fleet.begin()
    assert fleet.handle(Connected()) == [Sync()]
    fleet.handle(up(1))
    assert fleet.handle(Connected()) == [Announce("cpu:0", "cpu", up(1)), Sync()]


@pytest.mark.parametrize("seed", range(20))
def test_random_lives_keep_the_fleet_whole(seed: int) -> None:
    draw = random.Random(seed)
    fleet = Fleet({"cpu": 3, "cuda": 2}, {"cpu": 2})
    starting, alive, epochs = set(), set(), set()
    announced: dict[str, int] = {}
    actions = fleet.begin()
    for step in range(400):
        for action in actions:
            match action:
                case Start(epoch):
                    assert epoch not in epochs
                    epochs.add(epoch)
                    starting.add(epoch)
                case Announce(slot, _, started):
                    assert slot not in announced and started.epoch in alive
                    announced[slot] = started.epoch
                case Withdraw(slot, epoch):
                    assert announced.pop(slot) == epoch
        assert len(starting | alive) == 7
        if starting and (step > 350 or draw.random() < 0.6):
            epoch = draw.choice(sorted(starting))
            starting.discard(epoch)
            if step > 350 or draw.random() < 0.8:
                alive.add(epoch)
                actions = fleet.handle(up(epoch))
            else:
                actions = fleet.handle(Ended(epoch, "start failed"))
        elif alive and step <= 350:
            epoch = draw.choice(sorted(alive))
            actions = fleet.handle(draw.choice([Silent(epoch), Retired(epoch, "x")]))
            alive.discard(epoch)
            actions += fleet.handle(Ended(epoch, "gone"))
        else:
            actions = []
    assert fleet.complete and len(announced) == 5, f"seed {seed}"
