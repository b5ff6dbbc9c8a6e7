"""Loops over rows: softmaxes, and elements that meet what their own row was reduced to."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import farspan
import numpy as np
import pytest
import torch
from farspan.core.dtype import float32
from farspan.core.op import OPS
from farspan_worker.kernels.cpu import loops
from farspan_worker.kernels.cpu.loops import Group, loop_for, team
from test_loops import Given, Step, run, tables, with_threads

pytestmark = pytest.mark.skipif(bool(loops.missing()), reason=loops.missing())

SHAPES = [(4, 7), (64, 10), (33, 100), (3, 5, 64), (9, 2_000), (5, 8_192), (2, 1, 3), (40, 16)]
FORWARD, BACKWARD = ["_softmax", "_log_softmax"], ["_softmax_backward_data",
                                                   "_log_softmax_backward_data"]  # fmt: skip


def one(name: str, arrays: list[Any], *rest: Any) -> tuple[Group, Any]:
    """Return a group of one step, and what the table's kernel makes of it in float64."""
    op = OPS[name]
    _, static, scalars = op.bind(*[Given(a) for a in arrays], *rest)
    step = Step(op, static, tuple(range(len(arrays))), tuple(scalars))
    specs = tuple([Given(a)._spec for a in arrays])
    wide, _ = tables(op, static, [a.astype("f8") for a in arrays], tuple(scalars))
    return Group(specs, (step,), ((len(arrays), specs[0]),), False), wide


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FORWARD + BACKWARD)
def test_a_map_of_rows_is_near_float64(name: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(shape) * 5).astype("f4")
    if name in FORWARD:
        group, wide = one(name, [x], -1, False)
        arrays = [x]
    else:
        y = torch.softmax(torch.from_numpy(x), -1)
        y = (y if name == BACKWARD[0] else y.log()).numpy()
        arrays = [rng.standard_normal(shape).astype("f4"), y]
        group, wide = one(name, arrays, -1, float32)
    outs = run(group, arrays)
    assert outs is not None
    np.testing.assert_allclose(outs[0], wide, rtol=3e-6, atol=2e-6 if shape[-1] < 8_000 else 2e-5)


@pytest.mark.parametrize("name", FORWARD)
def test_rows_at_the_edges_of_the_numbers_are_torchs(name: str) -> None:
    inf, nan = np.inf, np.nan
    rows = [[1, 2, 3], [-inf, 1, 2], [-inf] * 3, [inf, 1, 2], [nan, 1, 2], [1, 2, nan],
            [3e38, -3e38, 0], [-100, 0, 3], [nan, nan, nan], [inf, -inf, 0], [88, -88, 1e-40],
            [0, -87.3, -87.4], [0, -103, -110]]  # fmt: skip
    x = np.array([row * 7 for row in rows], "f4")
    group, _ = one(name, [x], -1, False)
    outs = run(group, [x])
    assert outs is not None
    right = getattr(torch, name[1:])(torch.from_numpy(x), -1)
    torch.testing.assert_close(
        torch.from_numpy(outs[0]), right, equal_nan=True, rtol=1e-5, atol=2e-38
    )
    if name == "_softmax":
        assert (outs[0][1, ::3] == 0).all(), "what is masked counts nothing at all"


def normed(x: Any, scale: Any) -> tuple[list[Step], Any]:
    """Return steps of (x - mean) / sqrt(mean square + eps) * scale + x, and the result."""
    ops = [
        ("mean.dim", (0,), ([-1], True)), ("sub.Tensor", (0, 2), ()), ("mul.Tensor", (3, 3), ()),
        ("mean.dim", (4,), ([-1], True)), ("add.Scalar", (5,), (1e-5,)), ("rsqrt", (6,), ()),
        ("mul.Tensor", (3, 7), ()), ("mul.Tensor", (8, 1), ()), ("add.Tensor", (9, 0), ()),
    ]  # fmt: skip
    values, steps = [x.astype("f8"), scale.astype("f8")], []
    for name, at, rest in ops:
        op = OPS[name]
        _, static, scalars = op.bind(*[Given(values[i]) for i in at], *rest)
        steps.append(Step(op, static, at, tuple(scalars)))
        values.append(tables(op, static, [values[i] for i in at], tuple(scalars))[0])
    return steps, values


@pytest.mark.parametrize("shape", [(8, 33), (300, 600), (2, 3, 64)], ids=str)
def test_elements_meet_two_reductions_of_their_row(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, scale = rng.standard_normal(shape).astype("f4"), rng.standard_normal(shape[-1]).astype("f4")
    steps, values = normed(x, scale)
    spec, row = Given(x)._spec, Given(np.zeros((*shape[:-1], 1), "f4"))._spec
    outputs = ((10, spec), (7, row), (3, spec))
    group = Group((spec, Given(scale)._spec), tuple(steps), outputs, False)
    work = lambda: run(group, [x, scale])  # noqa: E731
    outs = work()
    assert outs is not None
    for out, (at, _) in zip(outs, outputs, strict=True):
        np.testing.assert_allclose(out, values[at], rtol=2e-5, atol=1e-5)
    if team.symbols() and x.size > team.PARALLEL:
        assert "GOMP" in loop_for(group).text  # type: ignore[union-attr]
        for count in (2, 5):
            again = with_threads(count, work)
            assert all(np.array_equal(a, b) for a, b in zip(again, outs, strict=True))


def test_outputs_may_lie_where_inputs_do() -> None:
    """Of early and of late values: no walk over a row reads what another one has stored."""
    rng = np.random.default_rng(0)
    x, scale = rng.standard_normal((9, 70)).astype("f4"), rng.standard_normal((9, 70)).astype("f4")
    steps, values = normed(x, scale)
    spec = Given(x)._spec
    for outputs in ((3, 10), (10, 4), (8, 3)):
        stored = tuple([(at, spec) for at in outputs])
        loop = loop_for(Group((spec, spec), tuple(steps), stored, False))
        assert loop is not None
        a, b = x.copy(), scale.copy()
        loop.function(a.ctypes.data, b.ctypes.data, a.ctypes.data, b.ctypes.data)
        for out, at in zip((a, b), outputs, strict=True):
            np.testing.assert_allclose(out, values[at], rtol=2e-5, atol=1e-5)


def fused_of(session: Any) -> list[list[str]]:
    programs = session.transport.engines[0].programs._programs.values()
    plans = [plan for program in programs for plan in program.plans]
    return [[s.name for s in step.fused] for p in plans for step in p.graph.steps if step.fused]


@pytest.mark.parametrize(
    ("name", "function", "groups"),
    [
        ("masked", lambda x, m: torch_of(x).softmax(x * 0.125 + m, -1) * 2, 1),
        ("normed", lambda x, m: (x - x.mean(-1, True)) * (x.var(-1, keepdim=True) + 1).rsqrt(), 0),
        ("shares", lambda x, m: (x.exp() / x.exp().sum(-1, keepdim=True)).log() + m, 1),
        ("centred", lambda x, m: (x - x.mean(-1, keepdim=True)).square().mean(-1, True) + 1, 1),
        ("columns", lambda x, m: torch_of(x).softmax(x + m, 0), 0),
        ("turned", lambda x, m: torch_of(x).softmax(x.T * 2, -1), 0),
        ("two ways", lambda x, m: (x / x.sum(-1, keepdim=True)).sum(0), 0),
        ("in place", lambda x, m: (x * 2).sub_(m).softmax(-1).mul_(m).exp_(), 1),
        ("in place early", lambda x, m: written(x * 2, m), 0),
        ("ended", lambda x, m: torch_of(x).log_softmax(x, -1).sum(-1), 2),
    ],
)
def test_programs_fuse_rows_with_what_stands_around_them(
    name: str, function: Any, groups: int
) -> None:
    rng = np.random.default_rng(0)
    x, m = (rng.standard_normal((30, 30)).astype("f4") for _ in range(2))
    right = function(torch.from_numpy(x), torch.from_numpy(m))
    with farspan.connect("local:") as session:
        a, b = farspan.tensor(x), farspan.tensor(m)
        f = farspan.compile(lambda: function(a, b))
        f(), f()
        assert f.ready()
        found = [f() for _ in range(3)][-1]
        both = zip(found, right, strict=True) if isinstance(right, tuple) else [(found, right)]
        for ours, theirs in both:
            ours = torch.from_numpy(ours.numpy())
            torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)
        if groups:
            assert len(fused_of(session)) == groups, fused_of(session)


def written(y: Any, m: Any) -> Any:
    y.mul_(3.0)
    return (y / y.sum(-1, keepdim=True)).add_(m), y.add_(1)


def torch_of(x: Any) -> Any:
    return torch if isinstance(x, torch.Tensor) else farspan


_LENGTHS = """
import farspan
from farspan.nn import functional as f
with farspan.connect("local:", replay=False):
    for n in (1, 2, 3, 15, 17, 88, 90, 95, 104, 111, 125, 141):
        x = farspan.randn(3, n)
        step = farspan.compile(lambda x: (f.softmax(x, -1), f.log_softmax(x, -1) * x))
        for _ in range(2):
            one, two = step(x)
        assert farspan.allclose(one.log() * x, two, atol=1e-5), n
"""


def test_rows_of_no_length_end_the_process() -> None:
    """LLVM aborts where its models of cost disagree, as they do for 88 to 95 if it may choose."""
    environment = dict(os.environ, FARSPAN_LOOPS="wait", FARSPAN_CACHE="off")
    done = subprocess.run(
        [sys.executable, "-c", _LENGTHS], env=environment, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()[-600:]
