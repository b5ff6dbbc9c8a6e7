"""Runs at the edges of what one program, one Call or one message can hold."""

from __future__ import annotations

import array
from typing import Any

import farspan as torch
import pytest
from farspan import wire
from farspan._outgoing import Outgoing
from farspan._program import Commands
from farspan.core import command as cmd
from farspan.core import limits
from farspan.core.command import Frame


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_a_run_of_as_many_commands_as_a_program_may_have(session: Any, over: int) -> None:
    session.replay = True
    x, count = torch.zeros(1, dtype=torch.int64), limits.PROGRAM_COMMANDS_MAX + over
    for i in range(6):
        for _ in range(count):
            x.add_(1)
        assert x.item() == count * (i + 1)
    if session.address == "local:":  # over a wire it may take longer than commands are held
        assert session.stats()["replay"]["hits"] >= 3


def test_a_program_too_long_for_one_message_is_none(session: Any) -> None:
    """Each command has arguments of some 600 bytes, no two the same."""
    session.replay, x, ones = True, torch.arange(5000.0), (1,) * 32
    for _ in range(4):
        total = torch.zeros(())
        for k in range(3700):
            view = x.as_strided(ones, ones, k)
        total = total + view.sum()
        assert total.item() == 3699.0
    f = torch.compile(lambda x: [x.as_strided(ones, ones, k) for k in range(3700)][-1] + 1)
    for _ in range(3):
        assert f(x).item() == 3700.0
    assert "no one frame" in f.explain(show=False)


def test_a_call_never_names_more_tensors_than_a_command_may(session: Any) -> None:
    session.replay, many = True, limits.TENSORS_PER_COMMAND_MAX * 3 // 5
    numbers = [torch.full((), 1.0) for _ in range(many)]
    for i in range(5):
        whole = torch.stack(numbers) + float(i)
        parts = (whole * 2).exp().log().split(1)
        assert parts[-1].item() == pytest.approx(2.0 + 2 * i) and len(parts) == many


def test_more_tensors_may_die_in_a_run_than_one_command_frees(session: Any) -> None:
    session.replay = True
    x = torch.ones(4)
    for _ in range(4):
        many = [x + 1 for _ in range(4)] + [torch.zeros(()) for _ in range(20_000)]
        assert float(many[0].sum()) == 8.0
        y = x * 2 + 1
        del many
        y = (y * 2).exp().log()
        assert y.tolist() == pytest.approx([6.0] * 4)
    assert session.stats()["replay"]["hits"] >= 1
    session.synchronize()
    assert session.stats()["live"]["cpu"]["tensors"] < 100


def test_values_of_python_are_held_only_so_long(session: Any) -> None:
    """A run may go as predicted, and then bring ever more values."""
    session.replay, x = True, torch.ones(2)
    for i in range(5):
        y = ((x + 1) * 2).exp().log()
        values = [torch.tensor([float(k)]) for k in range(6000 if i == 4 else 2)]
        y = y + values[-1]
        assert y.tolist() == pytest.approx([4.0 + len(values) - 1] * 2)


def test_a_runs_values_may_be_more_than_one_frame_carries(session: Any) -> None:
    """What rides along is bounded by a message; 40 values of 60 KB are more, and one run."""
    session.replay = True
    made = [torch.zeros(15_000)]
    for i in range(8):
        for k in range(40):
            made[0].add_(torch.tensor([float(k + i)]).expand(15_000) * torch.tensor([0.5]))
            made[0].add_(torch.tensor(array.array("f", [float(k)] * 15_000)))
        expected = sum(40 * j * 0.5 + 780 * 1.5 for j in range(i + 1))
        assert made[0][7].item() == pytest.approx(expected)
    assert session.stats()["replay"]["hits"] >= 1


def test_what_rides_with_a_call_is_spread_over_frames() -> None:
    run = Commands()
    run.default_dtype, run.numbers, run.sites = 0, [30, 31], ["a", "b"]
    size = limits.PAYLOAD_BYTES_MAX
    run.puts = [(k + 1, (0, (size // 4,), 0, 0), bytes(size), k + 1, "put") for k in range(11)]
    out = Outgoing(Frame(0), [])
    out.call(run, (1, 2), 5, (), [], [])
    frames = [frame for frame, _ in out.finish()]
    assert [len(frame.payloads) for frame in frames] == [4, 4, 3]
    assert [i for frame in frames for i in frame.ids] == [*range(1, 12), 1, 2]
    assert frames[-1].opcodes[-1] == cmd.CALL
    for frame in frames:
        assert len(wire.encode_frame(frame)) < limits.FRAME_BYTES_MAX
