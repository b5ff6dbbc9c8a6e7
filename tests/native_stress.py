"""What C code gets wrong first: threads, Ctrl-C, wrong arguments, leaks, the interpreter's end.

Run as a script with the path of a built `_fast`, in a process of its own; silent if all is well.
"""

from __future__ import annotations

import gc
import random
import signal
import struct
import sys
import threading
import weakref
from typing import Any

from native_programs import Recording, load

_sessions: list[Any] = []


def opened() -> Any:
    from farspan import _state
    from farspan._session import Session

    transport = Recording()
    session = transport.session = Session(transport, "recorded:", False)  # type: ignore[arg-type]
    _state.push(session)
    _sessions.append(session)
    return session


def forget() -> None:
    from farspan import _state

    for session in _sessions:  # nobody would answer the last wait
        _state.forget(session)


def commands_of(session: Any) -> list[tuple[int, list[int], int]]:
    """Return (opcode, ids, number) of all that left."""
    from farspan.wire import decode_frame

    session.flush()
    found = []
    for data, lines in session.transport.noted:
        frame = decode_frame(bytes.fromhex(data))
        assert len(lines) == len(frame)
        at = 0
        for opcode, count, number in zip(frame.opcodes, frame.counts, frame.numbers, strict=True):
            found.append((opcode, frame.ids[at : at + count], number))
            at += count
    return found


def check_sent(session: Any, at_least: int) -> None:
    """Each number left once, each id was made once, and freed once after its last use."""
    gc.collect()
    made: set[int] = set()
    freed: set[int] = set()
    numbers: list[int] = []
    for opcode, ids, number in commands_of(session):
        assert freed.isdisjoint(ids)
        if opcode == 0:
            freed.update(ids)
            continue
        assert ids[-1] not in made
        made.add(ids[-1])
        numbers.append(number)
    assert len(numbers) == len(set(numbers)) >= at_least
    assert freed <= made
    session.transport.noted.clear()


def threads(torch: Any) -> None:
    """Four threads issue, drop, and make cycles at once."""
    session = opened()
    a, b = torch.ones(2, 3), torch.ones(2, 3)

    def work() -> None:
        for k in range(3_000):
            c = a + b
            c = -(c + a)
            if k % 50 == 0:
                ring: list[Any] = [c]
                ring.append(ring)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    check_sent(session, 36_000)


def interrupts(torch: Any) -> None:
    """A Ctrl-C at any moment loses no command and sends none twice."""
    session = opened()
    a = torch.ones(2, 3)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    caught = 0
    for _ in range(60):
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0005, 0.003))
            for _ in range(100_000):  # it comes long before
                c = a + a
                c = c.exp()
        except KeyboardInterrupt:
            caught += 1
    assert caught
    c = None
    check_sent(session, caught)


def collections(torch: Any) -> None:
    """A collection in the middle of an operation takes nothing from it, whatever it runs."""
    from farspan import _quick

    session = opened()
    a = x = y = torch.ones(2, 3)
    kept: list[Any] = []

    def run(phase: str, info: Any) -> None:
        if phase == "start":
            _quick.forget()
            x._ref = a._ref  # nobody claims what x was
            session.flush()
            kept.append([(k, k, k, k) for k in range(100)])  # in the place of what was forgotten

    gc.callbacks.append(run)
    try:
        for k in range(40):
            gc.disable()
            x = torch.ones(2, 3)
            y = x + a
            kept.append([(n, n, n) for n in range(2_100)])  # none is kept for the next one
            count = gc.get_count()
            gc.set_threshold(count[0] + k // 2)
            gc.enable()
            y = x + a
            assert y._spec is a._spec
            assert x[0]._spec is x.view(6)[:3]._spec
    finally:
        gc.callbacks.remove(run)
        gc.enable()
        gc.set_threshold(700, 10, 10)
    assert y is not x  # both live
    check_sent(session, 120)


def pure_functions(fast: Any) -> None:
    """What is computed of columns is what Python computes."""
    from farspan._gather import transposed
    from farspan._outgoing import plain_live_slots
    from farspan._program import Form

    draw = random.Random(5)
    for _ in range(300):
        commands: list[Any] = [
            (draw.randrange(300), draw.choice((0, 1, 1 << 70)),
             tuple(draw.choices(range(99), k=draw.randrange(5))), (None, "x"),
             tuple(draw.choices((1.5, 2, True), k=draw.randrange(3))), k, (k,))
            for k in range(draw.randrange(1, 9))
        ]  # fmt: skip
        assert fast.columns(commands) == transposed(commands)
        ids = draw.sample(range(40), draw.randrange(1, 12))
        if draw.random() < 0.7:
            ids.sort()
        inputs = draw.randrange(len(ids) + 1)
        gone, used = (
            tuple(kind(draw.choices(range(-3, 45), k=draw.randrange(9))) for kind in kinds)
            for kinds in ((list, set, list), (set, list))
        )
        found = fast.live_slots(tuple(ids), inputs, gone, used)
        wanted = plain_live_slots(tuple(ids), inputs, gone, used)
        assert found == wanted or (found is None and ids[inputs:] != sorted(ids[inputs:]))
        form: Any = object.__new__(Form)
        form.slots = draw.choices(range(3), k=6)
        form.slots += range(3)
        form.first_at = [form.slots.index(k) for k in range(3)]
        from operator import itemgetter

        form._bind, form._spread = itemgetter(*form.first_at, 0), itemgetter(*form.slots, 0)
        mine = [10**12 + draw.choice((k, k, k, 1)) for k in form.slots]
        assert fast.bind(mine, form.first_at, form.slots) == form.bind_plainly(mine)


def bytes_of_columns(fast: Any) -> None:
    """Columns become the same bytes; what is no column is left to Python."""
    from farspan.wire.envelopes import _packed_plainly
    from farspan.wire.frames import _interned_plainly
    from farspan.wire.statics import encode_static

    draw = random.Random(6)
    for _ in range(300):
        column = [draw.getrandbits(draw.choice((0, 3, 7, 8, 14, 40, 63))) for _ in range(9)]
        assert fast.varints(column) == _packed_plainly(column)
        assert fast.fixed64(column) == struct.pack("<9Q", *column)
        kinds = [(draw.randrange(5), "x") for _ in range(draw.choice((1, 4, 70)))]
        statics = draw.choices(kinds, k=90)
        found = fast.places(statics)
        if found is None:
            assert len(set(map(id, statics))) > 64
            continue
        table = [encode_static(static) for static in found[1]]
        index, plain = _interned_plainly(statics)
        assert [table[k] for k in found[0]] == [plain[k] for k in index]
    for bad in ([-1], [1 << 63], [True], [1.0], ["x"], [None], (1,), b"x"):
        assert fast.varints(bad) is None and fast.fixed64(bad) is None
    assert fast.varints([]) == fast.fixed64([]) == b"" and fast.places([]) == ([], [])
    assert fast.places(()) is None


def wrong_arguments(torch: Any, fast: Any) -> None:
    """What no caller of ours does is an error, not a crash."""
    quick, view = torch.Tensor.__add__, torch.Tensor.view
    a = opened() and torch.ones(2, 3)
    calls: list[Any] = [
        lambda: fast.columns(None), lambda: fast.columns([()]), lambda: fast.columns([(1,) * 7]),
        lambda: fast.columns([(1, 2, (), (), [], 3, 4)]), lambda: fast.bind([1], [5], [0]),
        lambda: fast.bind([1], [-1], [0]), lambda: fast.bind([1], [0], [7]),
        lambda: fast.bind([1], ["x"], [0]), lambda: fast.bind([1], [0], [0, 0]),
        lambda: fast.live_slots((1,), 2, (), ()), lambda: fast.live_slots((1,), -1, (), ()),
        lambda: fast.live_slots(("x",), 0, (), ()), lambda: fast.live_slots((1,), 0, (3,), ()),
        lambda: fast.live_slots((1,), 0, (["x"],), ()),
        lambda: fast.live_slots((1 << 80,), 0, (), ()),
        lambda: fast.prepare(int, int, int, set(), None), lambda: fast.Quick(), lambda: quick(),
        lambda: quick(a), lambda: quick(a, a, "x"), lambda: quick(a, a, 10_000),
        lambda: quick(a, a, depth=None), lambda: fast.Quick({}, 1, (), None, 3, {}, None),
        lambda: fast.Quick({}, 1, (), None, 2, {}, None)(a, a),
        lambda: type("T", (fast.Quick,), {}), lambda: fast.Quick({}, 1, (), None, 2),
        lambda: view(), lambda: view(a, [None]), lambda: view(3, 2), lambda: view(a, x=2),
        lambda: fast.View({}, None, None)(a), lambda: fast.View([], None, None),
        lambda: fast.View({}, len, None)(a, 1, 1), lambda: fast.View(),
        lambda: type("T", (fast.View,), {}),
    ]  # fmt: skip
    for k, call in enumerate(calls):
        try:
            call()
        except (TypeError, ValueError, IndexError, OverflowError, AttributeError):
            continue
        raise AssertionError(f"call {k} was taken")
    claim = fast.Claim()
    assert not hasattr(claim, "id") and weakref.ref(claim)() is claim
    claim.lane = claim  # a cycle, and no lane: nothing is freed


def leaks(torch: Any, fast: Any) -> None:
    """Ten thousand rounds leave as many blocks of memory as a hundred."""
    session = opened()
    a, row, w = torch.ones(2, 3), torch.ones(3), torch.ones(2, 3, requires_grad=True)
    commands = [(1, 0, (1, 2), (), (1.0,), 3, None)] * 5

    def rounds(count: int) -> int:
        for _ in range(count):
            c = a + a
            c = -(c + row)
            (w * c + w).relu()
            c = c[0][1:].view(-1).view((1, -1)).t().T
            try:
                c.view(7), c[9]
            except (RuntimeError, IndexError):
                pass
            fast.columns(commands)
            fast.bind([7, 8, 7], [0, 1], [0, 1, 0])
            fast.bind([7, 8, 9], [0, 1], [0, 1, 0])
            fast.live_slots((7, 8, 9), 1, ([8],), ({9},))
            fast.varints([1, 300]), fast.varints([-1]), fast.fixed64([1 << 40])
            fast.fixed64([-1]), fast.places([(), (1,), ()]), fast.places([object()] * 9)
            for bad in ([1], [(1, 2, (3,), (), 5, 6, 7)]):
                try:
                    fast.columns(bad)
                except TypeError:
                    pass
        del c
        session.flush()
        session.transport.noted.clear()
        session._recent.clear()  # frames that the session remembers, so many at most
        gc.collect()
        return sys.getallocatedblocks()

    rounds(100)
    few = rounds(100)
    many = rounds(10_000)
    assert many - few < 1_000, (few, many)


def main() -> None:
    load(sys.argv[1])
    import farspan
    from farspan import _native

    fast = _native.fast
    assert fast is not None and type(farspan.Tensor.__add__) is fast.Quick
    try:
        pure_functions(fast)
        bytes_of_columns(fast)
        wrong_arguments(farspan, fast)
        leaks(farspan, fast)
        collections(farspan)
        threads(farspan)
        interrupts(farspan)
        opened()
        # These live when the interpreter ends.
        farspan.left_over = [farspan.ones(2) + farspan.ones(2)]  # type: ignore[attr-defined]
    finally:
        forget()


if __name__ == "__main__":
    main()
