"""Hostile frames against the real engine: a ProtocolError or a Failed event, never more."""

from __future__ import annotations

import random
import time
from typing import Any

import farspan as torch
import numpy as np
import programs
import pytest
from farspan import wire
from farspan.core import command as cmd
from farspan.core.command import Failed, Frame, Value
from farspan.core.errors import FarspanError, ProtocolError, UnsupportedError
from farspan.core.op import OPS, table
from farspan_worker.engine import Engine

F32 = 8
MIB = 1 << 20
table()


def command(frame: Frame, opcode: Any, ids: Any, static: Any = (), scalars: Any = (),
            mode: int = 0) -> Frame:  # fmt: skip
    """Append a command; `opcode` may be an op's name."""
    frame.opcodes.append(OPS[opcode].opcode if isinstance(opcode, str) else opcode)
    frame.modes.append(mode)
    frame.counts.append(len(ids))
    frame.ids.extend(ids)
    frame.statics.append(static)
    frame.scalar_counts.append(len(scalars))
    frame.scalars.extend(scalars)
    frame.numbers.append(len(frame.numbers) + 1)
    return frame


def start() -> Frame:
    """Return a frame that makes tensor 1: float32 ones of (3, 4)."""
    frame = Frame(0, 1, default_dtype=F32, payloads=[np.ones(12, np.float32).tobytes()])
    return command(frame, cmd.PUT, [1], (torch.float32.code, (3, 4), 0, 0))


def run(frame: Frame, engine: Engine | None = None) -> list[Any]:
    frame.default_dtype = torch.float32.code
    return (engine or Engine(memory_bytes_max=64 * MIB)).handle(frame)


REFUSED: dict[str, Any] = {
    "unknown opcode": (9_999, [1, 2]),
    "reserved opcode": (7, [1]),
    "reserved call": (cmd.CALL, [1]),
    "unknown tensor": ("neg", [77, 2]),
    "output that exists": ("neg", [1, 1]),
    "too few tensors": ("add.Tensor", [1], (None,)),
    "no output": ("neg", [1]),
    "too many outputs": ("neg", [1, 2, 3]),
    "unknown form": ("neg", [1, 2], (), (), 3),
    "in place on nothing": ("ones", [2], ((2,), None, None, None, None), (), cmd.INPLACE),
    "in place with two results": ("sort.stable", [1], (None, 0, False), (), cmd.INPLACE | 4),
    "get of nothing known": (cmd.GET, [77], (1, 0, 0)),
    "get with rubbish": (cmd.GET, [1], ("x",)),
    "put without bytes": (cmd.PUT, [2], (8, (3,), 5, 0)),
    "put of a transfer that is not there": (cmd.PUT, [2], (8, (3,), -1, 7)),
    "put of other size": (cmd.PUT, [2], (8, (99,), 0, 0)),
    "put of unknown dtype": (cmd.PUT, [2], (99, (3,), 0, 0)),
    "put over a tensor": (cmd.PUT, [1], (8, (3, 4), 0, 0)),
    "put of a negative shape": (cmd.PUT, [2], (8, (-3, -4), 0, 0)),
    "backward of nothing": (cmd.BACKWARD, [77, 77], (1, 0)),
    "backward of too many": (cmd.BACKWARD, [1, 1], (9, 0)),
    "backward of an odd count": (cmd.BACKWARD, [1, 1, 1], (1, 0)),
    "backward of minus one": (cmd.BACKWARD, [1, 1], (-1, 0)),
    "grow of two": (cmd.GROW, [1, 1], (64,)),
    "grow of nothing known": (cmd.GROW, [77], (64,)),
    "grow with rubbish": (cmd.GROW, [1], ("x",)),
    "link of one": (cmd.LINK, [1]),
    "link of nothing known": (cmd.LINK, [1, 77]),
    "link with rubbish": (cmd.LINK, [1, 1], (3,)),
    "backward with rubbish": (cmd.BACKWARD, [1, 1], (None, "x")),
}
FAILS: dict[str, Any] = {
    "2^62 elements": ("ones", [2], ((2**62,), None, None, None, None)),
    "2^124 elements": ("ones", [2], ((2**62, 2**62), None, None, None, None)),
    "a rank of 1000": ("ones", [2], ((1,) * 1_000, None, None, None, None)),
    "a negative shape": ("ones", [2], ((-1,), None, None, None, None)),
    "strings for a shape": ("ones", [2], ("xy", None, None, None, None)),
    "a view outside": ("as_strided", [1, 2], ((100,), (1,), 0)),
    "a view before": ("as_strided", [1, 2], ((2,), (1,), -5)),
    "a view with huge strides": ("as_strided", [1, 2], ((3,), (2**61,), 0)),
    "a view with negative strides": ("as_strided", [1, 2], ((3,), (-1,), 0)),
    "a slice of text": ("slice.Tensor", [1, 2], ("x", 0, 1, 1)),
    "shapes that do not fit": ("mm", [1, 1, 2]),
    "a huge repetition": ("repeat", [1, 2], ((2**40, 2**20),)),
    "a store that does not fit": ("expand", [1, 2], ((9, 3, 4), False), (), cmd.INPLACE),
    "an unsound gather": ("gather", [1, 1, 1, 2], (0, False)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_frames_no_client_sends_are_refused(name: str) -> None:
    with pytest.raises(ProtocolError):
        run(command(start(), *REFUSED[name]))


@pytest.mark.parametrize("name", FAILS)
def test_arguments_no_client_sends_fail_alone(name: str) -> None:
    engine = Engine(memory_bytes_max=64 * MIB)
    frame = command(start(), *FAILS[name])
    command(frame, "neg", [1, 3])
    command(frame, cmd.GET, [3], (1, cmd.GET_BYTES, 0))
    try:
        *failed, value = run(frame, engine)
    except ProtocolError:
        return
    assert all(isinstance(event, Failed) for event in failed)
    assert isinstance(value, Value) and value.data is not None
    assert bytes(value.data) == (-np.ones(12, np.float32)).tobytes()


def test_a_gradient_for_what_has_none_is_refused_or_fails() -> None:
    for mode in (4, 8, 2**70, 4 | cmd.INPLACE):
        frame = command(start(), "neg", [1, 2][: 2 - (mode & 1)], (), (), mode)
        command(frame, cmd.BACKWARD, [1, 1, 1, 9], (1, 0))
        try:
            run(frame)
        except ProtocolError:
            pass


# --- mutations -----------------------------------------------------------------------------------
INTS = [-(2**63), 2**63 - 1, 2**62, 2**40, -5, -2, -1, 0, 1, 2, 3, 7, 100]
SMALL = [-5, -1, 0, 1, 2, 3, 7, 100]  # for views: an endless one is no error, only slow
SCALARS = [0, -1, 2**62, 1e308, -1e308, float("nan"), float("inf"), True, 1j, 0.5]


def mutated_value(choose: random.Random, value: Any, ints: list[int]) -> Any:
    if isinstance(value, tuple) and value and choose.random() < 0.8:
        at = choose.randrange(len(value))
        return (*value[:at], mutated_value(choose, value[at], ints), *value[at + 1 :])
    if isinstance(value, tuple) and choose.random() < 0.5:
        return value + value + (choose.choice(ints),)
    if isinstance(value, bool) and choose.random() < 0.5:
        return not value
    return choose.choice([None, True, "x", "cpu:1", "f", (), ((1,), 2), *ints, *ints])


def mutate(choose: random.Random, frame: Frame, names: list[int]) -> None:
    """Change one thing in a frame."""
    at = choose.randrange(len(frame))
    kind = choose.choice(
        ["static"] * 4 + ["id"] * 3 + ["opcode", "mode", "scalar", "count", "form"]
    )
    if kind == "static":
        views = frame.opcodes[at] >= cmd.FIRST_OPCODE and _is_view(frame.opcodes[at])
        ints = SMALL if views else INTS
        changed = mutated_value(choose, frame.statics[at], ints)
        frame.statics[at] = changed if isinstance(changed, tuple) else (changed,)
    elif kind == "id" and frame.ids:
        frame.ids[choose.randrange(len(frame.ids))] = choose.choice([*names, 10**9, 1])
    elif kind == "opcode":
        frame.opcodes[at] = choose.randrange(16 + len(OPS))
    elif kind == "mode":
        frame.modes[at] = choose.choice([3, 4, 8, 12, 2**65])
    elif kind == "form":
        frame.modes[at] = frame.modes[at] & ~3 | choose.randrange(4)
    elif kind == "scalar" and frame.scalars:
        frame.scalars[choose.randrange(len(frame.scalars))] = choose.choice(SCALARS)
    elif kind == "count":
        other = choose.randrange(len(frame))
        if frame.counts[at]:
            frame.counts[at] -= 1
            frame.counts[other] += 1


def _is_view(opcode: int) -> bool:
    return any(op.opcode == opcode and op.family == "view" for op in OPS.values())


def test_mutated_frames_are_refused_or_fail() -> None:
    session = torch.connect("local:")
    recording = programs.Recording(session)
    pool = programs.run(5)
    session.flush()
    session._errors.clear()
    session._close(wait=False)
    assert pool
    frames = recording.frames
    choose = random.Random(20)
    ends = {"refused": 0, "failed": 0, "ran": 0}
    deadline = time.monotonic() + 6
    for turn in range(3_000):
        if time.monotonic() > deadline:
            break
        engine = Engine(memory_bytes_max=64 * MIB)
        frame = wire.decode_frame(wire.encode_frame(choose.choice(frames[:2])))
        for _ in range(choose.randrange(1, 4)):
            mutate(choose, frame, list(range(1, 200)))
        try:
            if turn % 2:  # as it comes over the wire; else as `local:` hands it over
                frame = wire.decode_frame(wire.encode_frame(frame))
            first = frames[0]
            if frame.sequence != first.sequence:
                engine.handle(first, recording.transfers_of(first))
            events = engine.handle(frame, dict.fromkeys(_transfers(frame), b"1234"))
        except ProtocolError:
            ends["refused"] += 1
            continue
        assert all(isinstance(event, (Failed, Value)) for event in events)
        ends["failed" if events else "ran"] += 1
    assert ends["refused"] > 10 and ends["failed"] > 10, ends


def _transfers(frame: Frame) -> list[int]:
    try:
        return frame.transfers()
    except (TypeError, IndexError):
        return []


def test_mutated_bytes_are_refused_or_run() -> None:
    session = torch.connect("local:")
    recording = programs.Recording(session)
    pool = programs.run(6, 40)
    session.flush()
    session._errors.clear()
    session._close(wait=False)
    assert pool
    data = wire.encode_frame(recording.frames[0])
    choose = random.Random(21)
    refused = 0
    deadline = time.monotonic() + 4
    for _ in range(2_000):
        if time.monotonic() > deadline:
            break
        wrong = bytearray(data)
        for _ in range(choose.randrange(1, 4)):
            wrong[choose.randrange(len(wrong))] = choose.randrange(256)
        try:
            frame = wire.decode_frame(bytes(wrong))
            if any(_endless(static) for static in frame.statics):
                continue
            Engine(memory_bytes_max=64 * MIB).handle(frame, dict.fromkeys(_transfers(frame), b""))
        except ProtocolError:
            refused += 1
    assert refused > 50


def _endless(value: Any) -> bool:
    """Return whether an argument could stand for a loop of hours over an expanded view."""
    if isinstance(value, tuple):
        return any(map(_endless, value))
    return isinstance(value, int) and abs(value) > 100_000


# --- through the gateway -------------------------------------------------------------------------
def test_a_hostile_session_ends_and_others_are_served(service: Any) -> None:
    address, token = service
    with torch.connect(address, token=token, timeout=20) as good:
        kept = torch.ones(3)
        for name in ("unknown opcode", "unknown tensor", "output that exists"):
            with torch.connect(address, token=token, timeout=20) as bad:
                torch.ones(3).sum().item()
                opcode, ids, *rest = (*REFUSED[name], ())[:3]
                opcode = OPS[opcode].opcode if isinstance(opcode, str) else opcode
                bad.issue(0, opcode, 0, ids, *rest)
                with pytest.raises(ProtocolError):
                    bad.synchronize()
                with pytest.raises(ProtocolError):
                    torch.ones(2)
            assert (kept + 1).tolist() == [2, 2, 2], "the other session on that worker goes on"
        good.synchronize()
        with pytest.raises(FarspanError):
            torch.ones((1,) * 40)


def test_a_bool_in_an_ints_place_leaves_nothing_behind() -> None:
    """True equals 1: a recipe memoised for the one must serve the other exactly as if new."""
    op = table()["slice.Tensor"]
    wrong, right = (True, False, 3, True), (1, 0, 3, 1)
    op.recipes.pop(right, None)
    op.recipe(wrong)
    args = op.recipe(right).args(["self"], ())
    assert args == ["self", 1, 0, 3, 1] and {type(a) for a in args[1:]} == {int}


def test_an_engine_refuses_a_device_that_it_has_no_kernels_for() -> None:
    with pytest.raises(UnsupportedError, match="cuda:7"):
        Engine("cuda:7")
