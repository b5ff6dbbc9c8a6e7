"""The law of fast kernels: each equals the table's, over the table's samples and larger ones.

Which one runs follows from metadata alone, so that a replay gives the same bits; without the
library, or with FARSPAN_KERNELS=plain, numpy computes everything.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import farspan
import numpy as np
import pytest
import samples
import torch
from farspan.core.op import Op, table
from farspan_worker import kernels, plan
from farspan_worker.kernels.cpu import onednn, product
from farspan_worker.kernels.cpu.loops import rows as named_rows
from many_threads import in_threads
from samples import ALL, ROWS, Call, Heads, Maker, Row, Strided, call
from test_laws import (
    REFERENCES,
    REFUSALS,
    as_tuple,
    calls_of,
    convert,
    oracle,
    run_ours,
    to_ours,
    to_torch,
    values_of,
)

samples.load()
OPS = table()
FAST = {n: f for n, f in kernels.overrides().items() if OPS[n].schema.returns}
NEEDS_LIBRARY = pytest.mark.skipif(bool(onednn.available()), reason="oneDNN is not installed")


@pytest.fixture(autouse=True)
def session() -> Iterator[Any]:
    with farspan.connect("local:") as s:
        yield s


class Choice:
    """A switch between the fast kernels, for tensors of any size, and the table's."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ran: set[str] = set()
        patch.setattr(product, "_SMALL", 1)
        patch.setattr(product, "_NARROW", 1)
        patch.setattr(named_rows, "SMALL", 1)
        small = {
            n: dataclasses.replace(f, least=min(f.least, 1), kernel=self._noted(n, f.kernel))
            for n, f in FAST.items()
        }
        self._use = lambda found: patch.setattr(kernels, "overrides", lambda: found)
        self._tables: tuple[Any, Any] = ({}, small)

    def _noted(self, name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            self.ran.add(name)
            return kernel(*args)

        return run

    def both(self, op: Op, c: Call) -> tuple[Any, Any]:
        """Return what the fast kernel and the table's make of a call: values or exceptions."""
        found = []
        for fast in (True, False):
            plan._plans.clear()
            self._use(self._tables[fast])
            args, kwargs = convert(c, to_ours)
            try:
                made = as_tuple(run_ours(op, c, args, kwargs))
                # Reading waits: only then has it run, with these kernels.
                found.append([(x.stride(), values_of(x)) for x in made])
            except REFUSALS as error:
                found.append(error)
        return found[0], found[1]


@pytest.fixture
def choice(monkeypatch: pytest.MonkeyPatch) -> Iterator[Choice]:
    yield Choice(monkeypatch)
    plan._plans.clear()


def images(make: Maker, *shape: int) -> Any:
    """Return images with channels innermost."""
    return Strided(make(*shape))


def larger(name: str, make: Maker) -> list[Call]:
    """Return calls with sizes as in training, in the layouts that programs make."""
    rows, cubes = make(65, 257), make(33, 7, 65)
    if name in ("convolution", "convolution_backward"):
        return _convolutions(name, make)
    if "pool2d" in name:
        return _pools(name, make)
    two = [call(rows, make(65, 257)), call(Strided(cubes), Strided(make(33, 7, 65)))]
    return {
        "gelu": [call(x, approximate=a) for x in (rows, Strided(cubes)) for a in ("none", "tanh")],
        "gelu_backward": [Call(c.args, {"approximate": a}) for c in two for a in ("none", "tanh")],
        "silu_backward": two,
        "mm": [call(rows, make(257, 31)), call(Strided(rows), make(257, 64))],
        "bmm": [call(cubes, make(33, 65, 9)), call(Strided(cubes), Strided(make(33, 65, 4)))],
        "_batched_mm": [
            call(make(3, 4, 33, 20), Heads(make(3, 4, 20, 41))),
            call(Heads(make(2, 5, 17, 65)), Strided(make(2, 5, 65, 9))),
            call(make(3, 4, 33, 20), make(4, 20, 8)),
        ],
        "linear": [call(cubes, make(16, 65), make(16)), call(rows, Strided(make(40, 257)), None)],
        "_softmax": [call(x, d, False) for x in (rows, Strided(cubes)) for d in (0, -1)],
        "_log_softmax": [call(x, d, False) for x in (rows, Strided(cubes)) for d in (0, -1)],
        "native_layer_norm": [
            call(x, [65], make(65), make(65), 1e-5) for x in (cubes, Strided(cubes))
        ] + [call(cubes, [7, 65], None, None, 1e-3)],
        "_native_batch_norm": [
            call(x, make(7), make(7), None, None, True, 0.1, 1e-5)
            for x in (make(9, 7), make(9, 7, 33), make(5, 7, 9, 11), images(make, 5, 7, 9, 11))
        ],
    }.get(name, [])  # fmt: skip


def _convolutions(name: str, make: Maker) -> list[Call]:
    calls = []
    for x, w, *steps in [
        ((8, 16, 14, 14), (32, 16, 3, 3), (1, 1), (1, 1), (1, 1), False, (0, 0), 1),
        ((4, 3, 33, 31), (17, 3, 7, 5), (2, 3), (3, 2), (1, 2), False, (0, 0), 1),
        ((4, 32, 9, 9), (32, 1, 3, 3), (1, 1), (1, 1), (1, 1), False, (0, 0), 32),
        ((4, 16, 7, 7), (16, 4, 4, 4), (2, 2), (1, 1), (1, 1), True, (1, 1), 2),
        ((4, 16, 50), (8, 16, 5), (2,), (2,), (2,), False, (0,), 1),
        ((2, 4, 8, 9, 7), (6, 2, 3, 2, 3), (1, 2, 1), (1, 0, 2), (1, 1, 2), False, (0, 0, 0), 2),
    ]:
        for how in (lambda a: a, Strided) if len(x) == 4 else (lambda a: a,):
            input, weight = make(*x), make(*w)
            if name == "convolution":
                channels = w[1] * steps[-1] if steps[3] else w[0]
                calls.append(call(how(input), how(weight), make(channels), *steps))
                continue
            with torch.device("meta"):
                out = torch.convolution(torch.empty(x), torch.empty(w), None, *steps).shape
            calls += [
                call(how(make(*out)), how(input), how(weight), [out[1]], *steps, list(mask))
                for mask in ((True, True, True), (False, True, False), (True, False, True))
            ]
    return calls


def _pools(name: str, make: Maker) -> list[Call]:
    calls = []
    for kernel, stride, padding, ceil in [
        ((2, 2), [], (0, 0), False),
        ((3, 3), (2, 2), (1, 1), False),
        ((3, 2), (2, 3), (1, 1), True),
        ((5, 4), (1, 2), (2, 0), False),
    ]:
        x = make(3, 5, 17, 18)
        if name == "max_pool2d_with_indices":
            calls.append(call(x, kernel, stride, padding, (1, 1), ceil))
        elif name.startswith("avg"):
            for inside in (False, True):
                rest = (kernel, stride, padding, ceil, inside, None)
                out = torch.ops.aten.avg_pool2d(torch.from_numpy(x), *rest).shape
                lead = () if name == "avg_pool2d" else (make(*out),)
                calls.append(call(*lead, x, *rest))
    return calls


DTYPES = ("float32", "bfloat16", "float64", "int64")
CASES = [(n, d) for n in FAST for d in DTYPES if d in (ROWS.get(n, Row()).dtypes or ALL)]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_fast_kernel_equals_the_tables(name: str, dtype: str, choice: Choice) -> None:
    make = Maker(dtype)
    for c in [*calls_of(OPS[name], dtype), *(larger(name, make) if dtype == "float32" else [])]:
        assert_equal(name, c, choice)
    assert name in choice.ran or dtype != "float32", "no sample of it reaches the fast kernel"


def assert_equal(name: str, c: Call, choice: Choice) -> None:
    ours, theirs = choice.both(OPS[name], c)
    if isinstance(theirs, Exception):
        assert type(ours) is type(theirs), f"{name} {c}"
        return
    for (stride, a), (expected, b) in zip(ours, theirs, strict=True):
        assert stride == expected, f"{name} {c}"
        torch.testing.assert_close(a, b, equal_nan=True, msg=lambda m: f"{name} {c}: {m}")


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1e30, 100.0, -100.0, 1e-42])
def test_values_at_the_edge_are_the_tables_or_torchs(
    name: str, value: float, choice: Choice
) -> None:
    calls = larger(name, Maker("float32"))
    for c in calls:
        arrays = [getattr(a, "values", a) for a in c.args]
        first = next(a for a in arrays if isinstance(a, np.ndarray))
        first.reshape(-1)[[0, 5, first.size // 2, -1]] = value
    if "softmax" in name and calls:
        whole = Maker("float32")(40, 70)
        whole[3], whole[:, 5] = value, value
        calls += [call(whole, dim, False) for dim in (0, 1)]
    for c in calls:
        ours, tables = choice.both(OPS[name], c)
        args, kwargs = convert(c, to_torch)
        torchs = as_tuple((REFERENCES.get(name) or oracle(OPS[name]))(*args, **kwargs))
        for (_, a), (_, b), t in zip(ours, tables, torchs, strict=True):
            # torch's own kernels differ there from layout to layout: gelu(inf) is inf or nan.
            assert close(a, b) or close(a, t), f"{name} {c}"


def close(a: Any, b: Any) -> bool:
    """Return whether a is b, up to rounding by the size of the largest element of b."""
    size = float(b.abs().nan_to_num(0, 0, 0).max()) if b is not None and b.numel() else 0
    return b is not None and torch.allclose(
        a, b.to(a.dtype), rtol=1e-5, atol=1e-5 + 1e-6 * size, equal_nan=True
    )


_TRAIN = """
import farspan as torch
from farspan_worker import kernels
torch.connect("local:")
torch.manual_seed(0)
net = torch.nn.Sequential(
    torch.nn.Conv2d(3, 16, 3, padding=1, bias=False), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
    torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(16 * 64, 128), torch.nn.GELU(),
    torch.nn.LayerNorm(128), torch.nn.Linear(128, 10), torch.nn.LogSoftmax(1))
step = torch.optim.Adam(net.parameters(), 1e-3)
x, y = torch.randn(32, 3, 16, 16), torch.randint(0, 10, (32,))
for _ in range(3):
    loss = torch.nn.functional.nll_loss(net(x), y)
    step.zero_grad()
    loss.backward()
    step.step()
print(len(kernels.overrides()), kernels.missing())
print(b"".join(p.detach().numpy().tobytes() for p in net.parameters()).hex()[:200_000])
"""


def trained(**environment: str) -> tuple[str, np.ndarray[Any, Any]]:
    """Return what a fresh process says of its kernels, and what it trained."""
    done = subprocess.run(
        [sys.executable, "-c", _TRAIN], env={**os.environ, **environment}, text=True,
        capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    said, bits = done.stdout.splitlines()
    assert not done.stderr
    return said, np.frombuffer(bytes.fromhex(bits), np.float32)


def test_training_goes_the_same_way_without_the_library() -> None:
    plain_said, plain_run = trained(FARSPAN_KERNELS="plain")
    none_said, none_run = trained(FARSPAN_ONEDNN="")
    broken_said, broken_run = trained(FARSPAN_ONEDNN="/nowhere/libdnnl.so.3")
    assert plain_said == "0 "
    assert none_said.endswith(" the package onednn-cpu-gomp is not installed")
    assert "/nowhere/libdnnl.so.3" in broken_said
    assert np.array_equal(plain_run, none_run) and np.array_equal(plain_run, broken_run)
    np.testing.assert_allclose(trained()[1], plain_run, rtol=1e-3, atol=1e-4)


def test_a_worker_without_the_library_says_so_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from farspan_worker import warm; warm.warm_engine()"],
        env={**os.environ, "FARSPAN_ONEDNN": ""}, text=True, capture_output=True, check=True,
        timeout=120,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if "onednn-cpu-gomp" in line]
    assert len(said) == 1 and "numpy computes" in said[0] and "farspan[cpu]" in said[0]


@NEEDS_LIBRARY
def test_another_process_trains_the_same_bits() -> None:
    (said, first), (_, second) = trained(), trained()
    assert int(said) > 20
    assert np.array_equal(first, second)


@NEEDS_LIBRARY
def test_one_route_serves_many_threads() -> None:
    rng = np.random.default_rng(0)
    pairs = [rng.standard_normal((2, 65, 65), np.float32) for _ in range(8)]
    wanted = [a.astype("float64") @ b for a, b in pairs]
    wrong = []

    def work(i: int) -> None:
        for _ in range(50):
            if not np.allclose(product.multiply(*pairs[i]), wanted[i], 1e-4, 1e-4):
                wrong.append(i)

    in_threads(work)
    assert not wrong


@NEEDS_LIBRARY
def test_a_failed_call_says_which_and_why() -> None:
    x = onednn.plain((2, 3))
    with pytest.raises(onednn.OneDnnError, match="oneDNN: matmul returned status") as caught:
        onednn.Kind("matmul", x, x, None, x)
    assert not caught.value.unimplemented


@NEEDS_LIBRARY
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"decoupled": True}])
def test_adams_step_equals_the_tables(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    names = ["lr", "beta1", "beta2", "weight_decay", "eps", "amsgrad", "maximize", "decoupled"]
    given = [1e-2, 0.9, 0.999, 0.0, 1e-8, False, False, False]
    given = [options.get(n, v) for n, v in zip(names, given, strict=True)]
    if options.get("decoupled"):
        given[3] = 0.1
    shapes = [(300, 1000), (7,), (65, 64), (0,)]
    both = []
    for kernel in (kernels.overrides()["_adam_step_"].kernel, OPS["_adam_step_"].kernel):
        rng = np.random.default_rng(0)
        lists = [[rng.standard_normal(s, np.float32) for s in shapes] for _ in range(3)]
        lists.append([rng.random(s, np.float32) for s in shapes])
        lists[0][2] = np.asfortranarray(lists[0][2])
        steps = [np.zeros((), np.float32) for _ in shapes]
        for _ in range(3):
            assert kernel(np, *lists, [], steps, *given) == ()
        both.append([a for each in (*lists, steps) for a in each])
    for a, b in zip(*both, strict=True):
        torch.testing.assert_close(torch.from_numpy(a), torch.from_numpy(b))


@pytest.mark.skipif(bool(kernels.missing()), reason="no oneDNN here")
@pytest.mark.parametrize("window", [(1, 255), (15, 17), (2, 2)])
def test_the_places_of_every_window_that_is_taken_fit_into_bytes(window: tuple[int, int]) -> None:
    """A window of 256 elements has places of four bytes, which once went beyond their array."""
    from farspan_worker.kernels.cpu import pool

    def places_bytes(kernel: tuple[int, int]) -> int:
        size = tuple(2 * k for k in kernel)
        wide, narrow = onednn.plain((1, 3, *size)), onednn.plain((1, 3, 2, 2))
        steps = pool.steps_given(size, (2, 2), kernel, kernel, (0, 0))
        kind = onednn.Kind("pooling_forward", onednn.TRAINING, pool.MAX, wide, narrow, *steps)
        return kind.desc(onednn.WORKSPACE).nbytes

    assert window[0] * window[1] <= pool.WINDOW_MAX
    assert places_bytes(window) == 12
    assert places_bytes((1, pool.WINDOW_MAX + 1)) > 12
