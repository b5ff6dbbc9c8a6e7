"""The gateway's state machines by themselves: random histories, no I/O, the clock injected."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from farspan.core import limits
from farspan.wire import FrameHeader
from farspan_server import pool as pools
from farspan_server import session as sessions
from farspan_server import session_messages as messages


def frame(sequence: int, device: int = 0, size: int = 10, epoch: int = 1) -> messages.FrameIn:
    return messages.FrameIn(FrameHeader(sequence, epoch, device, 1, sequence), bytes(size))


def opened(devices: int = 1) -> sessions.Session:
    session = sessions.Session(("cpu",) * devices, 60.0)
    session.handle(messages.Reserve(), 0)
    session.handle(messages.Assigned(), 0)
    return session


def test_acks_of_several_devices_are_merged_in_order() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(50):
        session, devices = opened(3), [rng.randrange(3) for _ in range(40)]
        waiting: list[list[int]] = [[], [], []]
        acked, sent = 0, 0
        while acked < len(devices):
            if sent < len(devices) and rng.random() < 0.5:
                sent += 1
                device = devices[sent - 1]
                (out,) = session.handle(frame(sent, device), 0)
                assert out == messages.Forward(device, bytes(10))
                waiting[device].append(sent)
            device = rng.randrange(3)
            if waiting[device]:
                count = rng.randint(1, len(waiting[device]))
                done, waiting[device] = waiting[device][:count], waiting[device][count:]
                for out in session.handle(messages.EventsIn(device, done[-1], b""), 0):
                    assert isinstance(out, messages.EventsOut)
                    assert out.applied > acked
                    acked = out.applied
            rest = [s for device in waiting for s in device]
            assert acked == (min(rest) - 1 if rest else sent)


def test_a_frame_sent_again_is_dropped_and_a_gap_ends_the_session() -> None:
    session = opened()
    assert len(session.handle(frame(1), 0)) == 1
    assert session.handle(frame(1), 0) == []
    (end,) = session.handle(frame(3), 0)
    assert isinstance(end, messages.End) and end.kind == "ProtocolError"
    assert session.handle(frame(2), 0) == []


@pytest.mark.parametrize(
    "wrong", [frame(1, epoch=0), frame(1, epoch=2), frame(1, device=1), frame(0, epoch=3)]
)
def test_a_frame_of_another_epoch_or_device_ends_the_session(wrong: messages.FrameIn) -> None:
    (end,) = opened().handle(wrong, 0)
    assert isinstance(end, messages.End) and end.kind == "ProtocolError"


def test_credits_bound_frames_and_bytes() -> None:
    session = opened()
    for sequence in range(1, limits.CREDIT_FRAMES + 1):
        assert isinstance(session.handle(frame(sequence), 0)[0], messages.Forward)
    assert isinstance(session.handle(frame(limits.CREDIT_FRAMES + 1), 0)[0], messages.End)
    session, size = opened(), limits.FRAME_BYTES_MAX
    for sequence in range(1, limits.CREDIT_BYTES // size + 1):
        assert isinstance(session.handle(frame(sequence, size=size), 0)[0], messages.Forward)
    session.handle(messages.EventsIn(0, 1, b""), 0)
    (out,) = session.handle(frame(limits.CREDIT_BYTES // size + 1, size=size), 0)
    assert isinstance(out, messages.Forward)


def test_a_worker_that_acknowledges_what_it_was_not_sent_is_not_believed() -> None:
    session = opened(2)
    session.handle(frame(1, device=0), 0)
    (end,) = session.handle(messages.EventsIn(1, 1, b""), 0)
    assert isinstance(end, messages.End)


def test_events_for_a_client_that_does_not_read_are_bounded() -> None:
    session = opened()
    event = messages.EventsIn(0, 0, bytes(limits.MiB))
    outs = [session.handle(event, 0)[0] for _ in range(65)]
    assert isinstance(outs[-2], messages.EventsOut) and isinstance(outs[-1], messages.End)
    session = opened()
    for _ in range(200):
        session.handle(event, 0)
        session.handle(messages.Written(1), 0)
    assert session.state == sessions.OPEN


def test_the_lease_ends_at_its_time_and_not_before() -> None:
    session = opened()
    assert session.handle(messages.ClientGone(), 100.0) == []
    assert session.handle(messages.Tick(), 159.9) == []
    (end,) = session.handle(messages.Tick(), 160.0)
    assert isinstance(end, messages.End)


def test_frames_before_the_workers_are_held_and_claim_once() -> None:
    session = sessions.Session(("cpu",), 60.0)
    assert session.handle(frame(1), 0) == [messages.Claim()]
    assert session.handle(frame(2, size=3), 0) == []
    assert session.state == sessions.WAITING
    outs = session.handle(messages.Assigned(), 0)
    assert outs == [messages.Forward(0, bytes(10)), messages.Forward(0, bytes(3))]


def journalled(devices: int = 1) -> sessions.Session:
    session = sessions.Session(("cpu",) * devices, 60.0, journalled=True)
    session.handle(messages.Reserve(), 0)
    assert session.handle(messages.Assigned(), 0) == []
    return session


def test_bytes_uploaded_before_the_first_frame_are_replayed_too() -> None:
    session = journalled()
    assert session.handle(messages.Bereft("gone"), 1) == [messages.Rest(), messages.Claim()]
    assert session.handle(messages.Assigned(), 2) == [messages.Replay(1, 0)]
    assert session.handle(frame(1), 3)[1:] == [messages.Forward(0, bytes(10))]


def test_a_session_that_ends_every_worker_ends_itself() -> None:
    session = journalled()
    session.handle(frame(1), 0)
    for _ in range(limits.RECOVERIES_MAX):
        assert session.handle(messages.Bereft("gone"), 1)[0] == messages.Rest()
        session.handle(messages.Assigned(), 1)
    (end,) = session.handle(messages.Bereft("gone"), 1)
    assert isinstance(end, messages.End) and end.kind == "WorkerLostError"


def test_workers_lost_one_by_one_end_no_session_that_goes_on() -> None:
    session, now = journalled(), 0.0
    for k in range(5 * limits.RECOVERIES_MAX):
        if k % 2:
            now += 2 * limits.START_S  # idle, and its workers lived
        else:
            session.handle(frame(session.received + 1), now)
            session.handle(messages.EventsIn(0, session.received, b""), now)
        assert session.handle(messages.Bereft("gone"), now)[0] == messages.Rest()
        session.handle(messages.Assigned(), now)
        for sequence in range(1, session.received + 1):
            again = frame(sequence)
            session.handle(messages.Again(again.header, again.data), now)


def test_a_replay_gives_as_many_frames_as_the_client_had_under_way() -> None:
    session = journalled(2)
    for sequence in range(1, limits.CREDIT_FRAMES + 1):
        session.handle(frame(sequence, device=sequence > 1), 0)
    session.handle(messages.Bereft("gone"), 0)
    session.handle(messages.Assigned(), 0)
    for sequence in range(1, limits.CREDIT_FRAMES + 1):  # the first one waits for bytes behind
        assert session.room
        again = frame(sequence, device=sequence > 1)
        assert len(session.handle(messages.Again(again.header, again.data), 0)) == 1
        session.handle(messages.EventsIn(1, sequence if sequence > 1 else 0, b""), 0)
    assert not session.room
    session.handle(messages.EventsIn(0, 1, b""), 0)
    assert session.room


def test_without_a_way_back_the_lease_ends_a_journalled_session_too() -> None:
    session = journalled()
    session.handle(messages.ClientGone(), 0)
    (end,) = session.handle(messages.Tick(), 60.0)
    assert isinstance(end, messages.End)


def test_what_clients_leave_for_workers_that_do_not_come_is_bounded() -> None:
    session = sessions.Session(("cpu",), 60.0, journalled=True, syncs=True)
    most, sequence = limits.CREDIT_BYTES, 0
    for epoch in range(1, 10):
        while session.load.frame_bytes + most // 2 <= most:
            sequence += 1
            session.handle(frame(sequence, size=most // 2, epoch=epoch), 0)
        (out, *_) = session.handle(messages.Attached(), 0)
        if isinstance(out, messages.Refuse):
            assert out.for_now and session.epoch == epoch
            return
    raise AssertionError("as much as one likes")


def test_a_session_that_waits_for_workers_has_none_to_leave() -> None:
    session = journalled()
    session.handle(frame(1), 0)
    session.handle(messages.Bereft("gone"), 0)
    session.handle(messages.ClientGone(), 0)
    assert session.handle(messages.Attached(), 0)[0] == messages.Welcomed()
    assert session.handle(messages.Leave(), 0) == []
    assert session.replaced
    session.handle(messages.Assigned(), 0)
    assert not session.replaced


# --- pool ----------------------------------------------------------------------------------------
def worker(name: str, epoch: int = 1, kind: str = "cpu", supervised: bool = True) -> pools.Worker:
    return pools.Worker(name, epoch, "127.0.0.1:1", b"k" * 32, kind, "h", 1, supervised)


def test_random_histories_keep_the_pool_sound() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(30):
        pool, now = pools.Pool(2), 0.0
        up: dict[str, int] = {}
        claims: dict[str, pools.Claimed] = {}
        granted: dict[str, list[str]] = {}
        deadlines: dict[str, float] = {}
        for step in range(200):
            now += rng.random()
            draw = rng.random()
            given: pools.Input = pools.Tick()
            if draw < 0.2:
                name = f"w{rng.randrange(5)}"
                up[name] = up.get(name, 0) + 1
                given = pools.Joined(worker(name, up[name]))
            elif draw < 0.3 and up:
                name = rng.choice(sorted(up))
                given = pools.Left(name, up[name], "died")
            elif draw < 0.7:
                kinds = ("cpu",) * rng.randint(1, 2)
                given = pools.Claimed(f"s{step}", f"t{rng.randrange(2)}", kinds, now + 5)
                claims[f"s{step}"] = given
                deadlines[f"s{step}"] = now + 5
            elif claims:
                name = rng.choice(sorted(claims))
                given = pools.Released(name)
                granted.pop(name, None)
                deadlines.pop(name, None)
                del claims[name]
            for out in pool.handle(given, now):
                if isinstance(out, pools.Granted):
                    names = [w.worker for w in out.workers]
                    assert len(set(names)) == len(claims[out.session].kinds)
                    granted[out.session] = names
                    deadlines.pop(out.session)
                elif isinstance(out, pools.Bereft):
                    assert granted[out.session][out.device] == out.worker.worker
                    del granted[out.session], claims[out.session]
                elif isinstance(out, pools.Denied):
                    assert now >= deadlines.pop(out.session)
                    del claims[out.session]
            for each in {name for names in granted.values() for name in names}:
                sharers = [session for session, names in granted.items() if each in names]
                assert len(sharers) <= 2
                assert len({claims[session].tenant for session in sharers}) == 1


def test_nobody_overtakes_in_line() -> None:
    pool = pools.Pool(1)
    pool.handle(pools.Claimed("a", "t", ("cpu", "cpu"), 10), 0)
    (placed,) = pool.handle(pools.Claimed("b", "t", ("cpu",), 10), 0)[:1]
    assert placed == pools.Placed("b", 2)
    outs = pool.handle(pools.Joined(worker("w1")), 0)  # enough for b, but a comes first
    assert not [o for o in outs if isinstance(o, pools.Granted)]
    outs = pool.handle(pools.Joined(worker("w2")), 0)
    assert [o.session for o in outs if isinstance(o, pools.Granted)] == ["a"]
    assert pools.Placed("b", 1) in outs
    assert pools.Want("cpu", 1) in outs
    outs = pool.handle(pools.Released("a"), 0)
    assert [o.session for o in outs if isinstance(o, pools.Granted)] == ["b"]


def test_a_kind_that_is_short_does_not_hold_up_another() -> None:
    pool = pools.Pool(1)
    pool.handle(pools.Claimed("gpu", "t", ("cuda",), 10), 0)
    pool.handle(pools.Claimed("cpu", "t", ("cpu",), 10), 0)
    outs = pool.handle(pools.Joined(worker("w1")), 0)
    assert [o.session for o in outs if isinstance(o, pools.Granted)] == ["cpu"]


def test_who_waits_for_what_it_can_never_have_holds_up_nobody() -> None:
    pool = pools.Pool(1)
    pool.handle(pools.Joined(replace(worker("w1"), numerics="y")), 0)
    pool.handle(pools.Claimed("old", "t", ("cpu",), 10, numerics=("x",)), 0)
    outs = pool.handle(pools.Claimed("new", "u", ("cpu",), 10), 0)
    assert [o.session for o in outs if isinstance(o, pools.Granted)] == ["new"]


def test_a_session_that_is_asked_to_leave_goes_on_elsewhere_and_it_is_no_loss() -> None:
    session = journalled()
    session.handle(frame(1), 0)
    for _ in range(2 * limits.RECOVERIES_MAX):  # as often as one likes
        assert session.handle(messages.Leave(), 1) == [messages.Rest(), messages.Claim()]
        assert session.handle(messages.Leave(), 1) == []  # it has none now
        assert session.handle(messages.Assigned(), 1) == [messages.Replay(1, 1)]
        session.handle(messages.Again(frame(1).header, bytes(10)), 1)
    assert session.recoveries == 0 and session.moves == 2 * limits.RECOVERIES_MAX
    assert opened().handle(messages.Leave(), 0) == []  # without a journal there is no way


def test_a_drained_worker_gets_nothing_more_and_is_replaced_when_it_is_empty() -> None:
    pool = pools.Pool(2)
    pool.handle(pools.Joined(worker("w1")), 0)
    pool.handle(pools.Claimed("a", "t", ("cpu",), 10), 0)
    assert pool.handle(pools.Drain("w1"), 0) == []
    assert pool.states == {("cpu", "leaving"): 1}
    outs = pool.handle(pools.Claimed("b", "t", ("cpu",), 10), 0)  # which could share it
    assert not [o for o in outs if isinstance(o, pools.Granted)]
    outs = pool.handle(pools.Released("a"), 0)
    assert pools.Replace(worker("w1"), "it was drained") in outs
    assert pool.handle(pools.Drain("w1"), 0) == []  # once is enough
    outs = pool.handle(pools.Joined(worker("w1", 2)), 0)
    assert [o.session for o in outs if isinstance(o, pools.Granted)] == ["b"]
    assert pool.handle(pools.Drain("w9"), 0) == []


def test_a_session_goes_only_to_workers_that_compute_the_same_bits() -> None:
    pool = pools.Pool(4)
    mine = pools.Worker("a", 1, "", b"", "cpu", "here", 7, False, "x")
    pool.handle(pools.Joined(replace(mine, worker="other", numerics="y")), 0)
    outs = pool.handle(pools.Claimed("s", "t", ("cpu",), 10, numerics=("x",)), 0)
    assert not [each for each in outs if isinstance(each, pools.Granted)]
    (granted,) = [e for e in pool.handle(pools.Joined(mine), 1) if isinstance(e, pools.Granted)]
    assert [each.worker for each in granted.workers] == [mine.worker]
    pool.handle(pools.Left(mine.worker, mine.epoch, "gone"), 2)
    pool.handle(pools.Claimed("s", "t", ("cpu",), 10, numerics=("x",)), 2)
    (denied,) = [e for e in pool.handle(pools.Tick(), 11) if isinstance(e, pools.Denied)]
    assert "allow_numerics_change" in denied.message


def granted(outs: list[pools.Output]) -> list[str]:
    return [each.session for each in outs if isinstance(each, pools.Granted)]


def test_who_waits_for_other_bits_holds_up_nobody() -> None:
    """After an upgrade each session on disk waits so, when somebody comes for it."""
    pool = pools.Pool(1)
    new = replace(worker("new"), numerics="new")
    pool.handle(pools.Joined(new), 0)
    pool.handle(pools.Claimed("old", "t", ("cpu",), 60, numerics=("old",)), 0)
    assert granted(pool.handle(pools.Claimed("s", "u", ("cpu",), 60), 0)) == ["s"]
    pool.handle(pools.Claimed("next", "u", ("cpu",), 60), 0)
    again = pool.handle(pools.Joined(replace(worker("again"), numerics="old")), 1)
    assert granted(again) == ["old"], "what it waited for nobody else takes"


def test_who_waits_for_anothers_worker_that_none_replaces_does_not_hold_up_its_owner() -> None:
    pool = pools.Pool(2)
    pool.handle(pools.Joined(worker("w1", supervised=False)), 0)
    assert granted(pool.handle(pools.Claimed("a", "anna", ("cpu",), 60), 0)) == ["a"]
    assert not granted(pool.handle(pools.Claimed("b", "bert", ("cpu",), 60), 0))
    assert granted(pool.handle(pools.Claimed("c", "anna", ("cpu",), 60), 0)) == ["c"]
    assert granted(pool.handle(pools.Joined(worker("w2")), 1)) == ["b"]


@pytest.mark.parametrize("supervised", [True, False])
def test_a_worker_that_drains_for_long_is_no_worker_that_comes(supervised: bool) -> None:
    """Else who could have another's, which is idle and can be replaced, waits for the drain."""
    pool = pools.Pool(1)
    drained = worker("w1", supervised=supervised)
    pool.handle(pools.Joined(drained), 0)
    pool.handle(pools.Claimed("stays", "anna", ("cpu",), 60), 0)
    pool.handle(pools.Drain("w1"), 0)
    if not supervised:
        pool.handle(pools.Released("stays"), 0)
    pool.handle(pools.Joined(worker("w2")), 0)
    pool.handle(pools.Claimed("a", "anna", ("cpu",), 60), 0)
    pool.handle(pools.Released("a"), 0)
    outs = pool.handle(pools.Claimed("b", "bert", ("cpu",), 60), 0)
    assert pools.Replace(worker("w2"), "its tenant has left") in outs
    assert granted(pool.handle(pools.Joined(worker("w2", 2)), 1)) == ["b"]


def test_a_session_moves_at_once_or_not_at_all_whoever_waits() -> None:
    pool = pools.Pool(1)
    for name, key in (("w1", "x"), ("w2", "x"), ("w3", "y")):
        pool.handle(pools.Joined(replace(worker(name), numerics=key)), 0)
    claim = pools.Claimed("s", "t", ("cpu",), 60, 100, numerics=("x",))
    pool.handle(pools.Allowed("t", devices=2, memory_bytes=400), 0)
    assert granted(pool.handle(claim, 0)) == ["s"]
    waits = pools.Claimed("waits", "u", ("cpu", "cpu", "cpu"), 60)
    assert not granted(pool.handle(waits, 0))  # a worker that is let go may not become its own
    assert "allow_numerics_change" in pool.refusal(claim, ("w3",))
    assert "no worker w9" in pool.refusal(claim, ("w9",))
    assert "1 device" in pool.refusal(claim, ("w1", "w2"))
    assert "0 cuda" in pool.refusal(replace(claim, kinds=("cuda",), numerics=()))
    assert "no workers now" in pool.refusal(replace(claim, session="waits"))
    assert not pool.refusal(claim) and not pool.refusal(claim, ("w2",))
    moved = [e for e in pool.handle(pools.Moved(claim), 1) if isinstance(e, pools.Granted)]
    assert [(e.session, e.workers[0].worker) for e in moved] == [("s", "w2")]
    assert pool.used("t") == (1, 100)
    with_other_bits = replace(claim, numerics=())
    (moved_on,) = [
        e
        for e in pool.handle(pools.Moved(with_other_bits, ("w3",)), 2)
        if isinstance(e, pools.Granted)
    ]
    assert moved_on.workers[0].worker == "w3" and pool.used("t") == (1, 100)
    pool.handle(pools.Drain("w2"), 3)
    assert "w2" not in pool.refusal(claim, ("w9",))
    assert pool.refusal(claim, ("w2",))  # it leaves
    assert {w.worker: n for w, n in pool.workers} == {"w1": 0, "w2": 0, "w3": 1}
