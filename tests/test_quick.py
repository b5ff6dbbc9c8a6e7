"""The quick ways of small ops: they do what dispatch does, and stand aside where it must decide."""

from __future__ import annotations

import copy
from typing import Any

import farspan as torch
import pytest
from farspan import _dispatch, _quick
from farspan._gather import Lane
from farspan.core import command as cmd
from farspan.core import limits


@pytest.fixture(autouse=True)
def local() -> Any:
    with torch.connect("local:") as session:
        yield session


def test_known_ops_do_not_pass_through_dispatch(monkeypatch: Any) -> None:
    a, b = torch.ones(4, 4), torch.ones(4)
    w = torch.nn.Parameter(torch.ones(4, 4))
    calls = (
        lambda: a + b, lambda: a * 2.0, lambda: a.relu(), lambda: torch.add(a, b),
        lambda: a.sum(1), lambda: w @ a, lambda: torch.addmm(b, a, w), lambda: a.t(),
        lambda: a @ b, lambda: a == b, lambda: -a,
    )  # fmt: skip
    before = [f().tolist() for f in calls]
    c = torch.zeros(4, 4)
    c += a
    c.mul_(2.0)

    def refuse(*args: Any) -> Any:
        raise AssertionError("the slow way")

    monkeypatch.setattr(_dispatch, "apply", refuse)
    after = [f() for f in calls]
    c += a
    c.mul_(2.0)
    monkeypatch.undo()
    assert c.tolist() == [[6.0] * 4] * 4 and c._version == 4
    assert [x.tolist() for x in after] == before


def test_quick_writes_stand_aside_where_a_write_means_more() -> None:
    x, y = torch.arange(4.0), torch.ones(4)
    leaf = torch.ones(4, requires_grad=True)
    count = torch.ones(4, dtype=torch.int64)
    for _ in range(2):
        x += y
        z = y * leaf
        z += x  # recorded
        assert z.requires_grad and z.grad_fn is not None
        with pytest.raises(RuntimeError, match="leaf Variable"):
            leaf += y
        with torch.no_grad():
            leaf += y
        with pytest.raises(RuntimeError, match="can't be cast"):
            count += 0.5
        count += True
        with pytest.raises(RuntimeError, match="doesn't match the broadcast shape"):
            y += torch.ones(3, 4)
        with pytest.raises(RuntimeError, match="more than one element"):
            y[:1].expand(4).add_(1.0)
        whole = torch.arange(6.0)
        part = whole.detach()[1:]
        with pytest.raises(RuntimeError, match="single memory location"):
            whole[:5].add_(part)
        whole.detach().mul_(2.0)
        assert whole.tolist() == [0, 2, 4, 6, 8, 10] and whole._version == 1
    saved = torch.ones(4)
    loss = (leaf * saved).sum()
    saved += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    assert leaf.tolist() == [3.0] * 4 and count.tolist() == [3] * 4
    assert leaf._version == 2 and y._version == 0
    assert x.tolist() == [2.0, 3.0, 4.0, 5.0]


def test_a_number_means_what_its_type_means() -> None:
    x = torch.ones(3, dtype=torch.int64)
    for number, dtype in ((2, torch.int64), (2.0, torch.float32), (True, torch.int64)):
        for _ in range(2):
            assert (x * number).dtype is dtype
    assert [x.sum(d).shape for d in (0, -1, 0)] == [(), (), ()]
    y = torch.ones(2, 3)
    assert [tuple(y.sum(d).shape) for d in (0, 1, 0)] == [(3,), (2,), (3,)]
    with pytest.raises(TypeError):
        y.sum(True)


def test_another_default_dtype_is_another_result() -> None:
    a, b = torch.ones(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64)
    assert (a / b).dtype is torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert (a / b).dtype is torch.float64
        assert (a / b).tolist() == [1, 1, 1]
    finally:
        torch.set_default_dtype(torch.float32)
    assert (a / b).dtype is torch.float32


def test_modes_are_felt_by_ops_that_were_quick_before() -> None:
    w, a = torch.ones(2, 2, requires_grad=True), torch.ones(2, 2)
    assert (w * a).requires_grad and (w @ a).requires_grad
    with torch.no_grad():
        assert not (w * a).requires_grad
    with torch.inference_mode():
        assert (a * a).is_inference()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (a @ a).dtype is torch.bfloat16
    assert (a @ a).dtype is torch.float32
    assert torch.vmap(lambda x: x * a)(torch.ones(3, 2, 2)).shape == (3, 2, 2)
    assert _quick.is_usual


def test_a_view_of_what_was_written_since_is_recorded_anew() -> None:
    base = torch.zeros(4)
    view = base[:2]
    (view + 1)
    base.mul_(torch.full((4,), 3.0, requires_grad=True))
    assert (view + 1).requires_grad
    assert view.relu().requires_grad and (view * 2.0).requires_grad


def test_gradients_of_quick_ops_are_checked_for_writes() -> None:
    w, a = torch.ones(3, requires_grad=True), torch.ones(3)
    out = (w * a).exp()
    out.sum().backward()
    assert w.grad is not None and w.grad.tolist() == pytest.approx([2.7182817] * 3)
    out = w * a
    a += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_tensors_of_two_sessions_are_refused() -> None:
    a = torch.ones(3)
    a + a
    with torch.connect("local:"):
        b = torch.ones(3)
        with pytest.raises(RuntimeError, match="two sessions"):
            a + b


def test_a_lane_frees_only_what_no_later_command_of_it_names(local: Any) -> None:
    lane = Lane(local, 0)
    for k in range(limits.GROWN_COMMANDS + 1):
        lane.add((cmd.FIRST_OPCODE, 0, (7, k + 10), (), (), k + 1, None))
    lane.freed.append(7)
    (frame, sites), count = lane.seal(all_frees=True)
    assert count == len(frame) == len(sites) == limits.GROWN_COMMANDS
    assert cmd.FREE not in frame.opcodes and list(lane.freed) == [7]
    del lane.commands[:count]
    (frame, _), count = lane.seal(all_frees=True)
    assert count == 1 and frame.opcodes == [cmd.FIRST_OPCODE, cmd.FREE]
    assert frame.ids == [7, limits.GROWN_COMMANDS + 10, 7] and not lane.freed


def test_a_frame_holds_no_more_ids_than_it_may(local: Any) -> None:
    lane = Lane(local, 0)
    many = tuple(range(limits.TENSORS_PER_COMMAND_MAX))
    for k in range(5):
        lane.add((cmd.FIRST_OPCODE, 0, many, (), (), k + 1, None))
    taken = 0
    while lane.commands:
        (frame, _), count = lane.seal(all_frees=False)
        assert 0 < len(frame.ids) <= limits.FLUSH_IDS
        taken += count
        del lane.commands[:count]
    assert taken == 5


def test_a_module_that_holds_a_method_of_views_is_copied() -> None:
    module = torch.nn.Identity()
    module.shape_it = torch.Tensor.reshape
    assert copy.deepcopy(module).shape_it is torch.Tensor.reshape
    assert copy.copy(torch.Tensor.view) is torch.Tensor.view
