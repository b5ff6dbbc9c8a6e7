"""Runs at the edges of what one program, one Call or one message can hold."""

from __future__ import annotations

from typing import Any

import farspan as torch
import pytest
from farspan.core import limits


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
