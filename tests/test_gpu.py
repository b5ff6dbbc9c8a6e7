"""The engine of a GPU without a GPU: a namespace that refuses what cupy refuses (fake_cupy.py).

Every op of the table gives on it what it gives on the CPU's engine; which of them run on the host
is a stated list, and nothing else does. What only a GPU can show stands in docs/gpu.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import farspan
import numpy as np
import pytest
import samples
from fake_cupy import FakeCupy
from farspan.core.errors import FarspanError, OutOfMemoryError, UnsupportedError
from farspan.core.op import Op, table
from farspan.core.random import Generator
from farspan_worker import kernels
from farspan_worker.backend import HOST
from farspan_worker.engine import Engine
from farspan_worker.kernels import cuda
from farspan_worker.kernels.cuda.copies import BLOCK_BYTES
from farspan_worker.kernels.cuda.hosted import HOSTED
from farspan_worker.kernels.cuda.philox import Philox, philox
from samples import ALL, ROWS, Call, Row
from test_laws import as_tuple, calls_of, has_samples, to_ours

samples.load()
OPS = {
    n: op
    for n, op in table().items()
    if op.kernel is not None and op.schema.returns and has_samples(op)
}
DTYPES = ("float32", "int64", "bool", "complex64", "bfloat16")


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A session with a CPU and a GPU that is the fake; numpy's kernels on both.

    With FARSPAN_TEST_GPU it is the machine's own: benchmarks/gpu.py runs this file so.
    """
    if not os.environ.get("FARSPAN_TEST_GPU"):
        monkeypatch.setattr(cuda, "_cupy", lambda index: FakeCupy())
    monkeypatch.setattr(kernels, "overrides", dict)
    before = dict(HOST.plans)
    HOST.plans.clear()
    with farspan.connect("local:", devices="cuda:1") as s:
        yield s
    HOST.plans.clear()
    HOST.plans.update(before)


def gpu(session: Any) -> Any:
    return session.transport.engines[1]


def run(op: Op, c: Call, device: str) -> list[Any]:
    """Return what a call gives on a device, read back; or the exception's class."""
    with farspan.device(device):
        args, kwargs = [to_ours(a) for a in c.args], {k: to_ours(v) for k, v in c.kwargs.items()}
    if any(a.name == "device" for a in op.args):
        kwargs["device"] = farspan.device(device)
    try:
        tensors, static, scalars = op.bind(*args, **kwargs)
        made = as_tuple(farspan.Tensor._apply(op, tensors, static, scalars, 0))
        assert all(x is None or x.device == farspan.device(device) for x in made) or not tensors
        return [x if x is None else (x.stride(), x.detach()._fetch()) for x in made]
    except (FarspanError, *NATIVE) as e:
        return [type(e)]


NATIVE = (TypeError, ValueError, IndexError, RuntimeError, NotImplementedError)


def same(a: Any, b: Any, row: Row) -> None:
    if a is None or b is None or isinstance(a, type) or isinstance(b, type):
        assert a is b
        return
    assert a[0] == b[0], "strides"
    a, b = a[1], b[1]
    assert a.dtype == b.dtype and a.shape == b.shape
    if not row.values:
        return
    if a.dtype.name == "bfloat16":
        a, b = a.astype(np.float32), b.astype(np.float32)
    np.testing.assert_allclose(a, b, rtol=1e-5 if a.dtype.itemsize > 2 else 1e-2, atol=1e-6)


@pytest.mark.parametrize("name", OPS)
def test_the_table_runs_on_a_gpu_as_on_the_cpu(session: Any, name: str) -> None:
    op, row = OPS[name], ROWS.get(name, Row())
    for dtype in [d for d in DTYPES if d in (row.dtypes or ALL)]:
        for c in calls_of(op, dtype):
            for a, b in zip(run(op, c, "cuda:0"), run(op, c, "cpu"), strict=True):
                same(a, b, row)
    assert gpu(session).backend.fallbacks == {}


@pytest.mark.parametrize("name", HOSTED)
def test_what_runs_on_the_host_could_not_run_on_the_gpu(
    session: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delitem(HOSTED, name)
    for dtype in [d for d in DTYPES if d in (ROWS.get(name, Row()).dtypes or ALL)]:
        for c in calls_of(OPS[name], dtype):
            run(OPS[name], c, "cuda:0")
    assert name in gpu(session).backend.fallbacks


def mlp(nn: Any) -> Any:
    return nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 3))


def cnn(nn: Any) -> Any:
    return nn.Sequential(
        nn.Unflatten(1, (1, 3, 4)), nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def transformer(nn: Any) -> Any:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.Unflatten(1, (3, 4)), layer, nn.Flatten(), nn.Linear(12, 3))


def train(make: Any, device: str, optimizer: str) -> list[Any]:
    """Return losses, parameters and last gradients of a short training on a device.

    A bias before a batch norm, and that of an attention's keys, have gradients of 0 in exact
    arithmetic and some 1e-8 of rounding here. With its own eps of 1e-8 an optimizer that divides by
    the gradients' size makes whole steps of that, which no two orders of adding have in common.
    """
    farspan.manual_seed(3)
    net = make(farspan.nn).to(device)
    options = {} if optimizer == "SGD" else {"eps": 1e-4}
    step = getattr(farspan.optim, optimizer)(net.parameters(), lr=0.01, **options)
    rng = np.random.default_rng(5)
    losses = []
    for _ in range(4):
        x = farspan.tensor(rng.normal(size=(6, 12)).astype(np.float32), device=device)
        y = farspan.tensor(rng.integers(0, 3, 6), device=device)
        loss = farspan.nn.functional.cross_entropy(net(x), y)
        step.zero_grad()
        loss.backward()
        step.step()
        losses.append(loss.item())
    kept = [x.detach().cpu().numpy() for p in net.parameters() for x in (p, p.grad)]
    return [np.array(losses), *kept]


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "RMSprop"])
@pytest.mark.parametrize("make", [mlp, cnn, transformer])
def test_training_on_a_gpu_is_training_on_the_cpu(session: Any, make: Any, optimizer: str) -> None:
    for a, b in zip(train(make, "cuda:0", optimizer), train(make, "cpu", optimizer), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    backend = gpu(session).backend
    assert backend.fallbacks == {} and backend.hosted == 0


def test_equal_places_keep_the_last_value_and_add_all(session: Any) -> None:
    place = farspan.tensor([2, 0, 2, 2, 0], device="cuda:0")
    values = farspan.tensor([1.0, 2.0, 3.0, 4.0, 5.0], device="cuda:0")
    zeros = farspan.zeros(4, device="cuda:0")
    for stored in (
        zeros.scatter(0, place, values),
        zeros.index_put((place,), values),
        zeros.index_copy(0, place, values),
        zeros.put(place, values),
    ):
        assert stored.tolist() == [5.0, 0.0, 4.0, 0.0]
    assert zeros.index_add(0, place, values).tolist() == [7.0, 0.0, 8.0, 0.0]
    assert zeros.scatter_add(0, place, values).tolist() == [7.0, 0.0, 8.0, 0.0]


def test_a_failure_on_a_gpu_poisons_only_what_depends_on_it(session: Any) -> None:
    x = farspan.arange(6, device="cuda:0")
    bad = x[farspan.tensor([7], device="cuda:0")]
    with pytest.raises(IndexError, match="out of bounds"):
        (bad + 1).tolist()
    assert (x + 1).tolist() == [1, 2, 3, 4, 5, 6]


def test_the_budget_of_a_gpu_is_kept() -> None:
    engine = Engine("cuda:0", 1 << 20, FakeCupy())
    assert engine.stats()["bytes_max"] == 1 << 20
    with pytest.raises(OutOfMemoryError):
        engine.budget.check(1 << 21)
    assert engine.backend.pool.limit > 1 << 20


def test_a_full_gpu_is_an_error_with_figures_after_a_second_try(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = farspan.ones(4, device="cuda:0")
    x.sum().item()
    backend, tries = gpu(session).backend, []

    def full(*args: Any, **kwargs: Any) -> Any:
        tries.append(1)
        raise MemoryError

    monkeypatch.setattr(backend.xp, "exp", full, raising=False)
    with pytest.raises(OutOfMemoryError, match="the session uses"):
        x.exp().tolist()
    assert len(tries) == 2 and x.tolist() == [1.0] * 4


def test_large_tensors_travel_through_two_blocks(session: Any) -> None:
    data = np.random.default_rng(0).normal(size=3 * BLOCK_BYTES // 8 + 5)
    there = farspan.tensor(data, device="cuda:0")
    assert np.array_equal(there.cpu().numpy(), data)
    assert np.array_equal(there[::3].cpu().numpy(), data[::3])


def test_views_and_writes_share_memory_on_a_gpu(session: Any) -> None:
    x = farspan.zeros(3, 4, device="cuda:0")
    x.t()[1].add_(2)
    x[1:].copy_(x[:-1].clone())
    x.data[0, 0] = 7
    assert x.tolist() == [[7, 2, 0, 0], [0, 2, 0, 0], [0, 2, 0, 0]]


def test_numbers_of_a_gpu_follow_from_seed_and_count(session: Any) -> None:
    gen = farspan.Generator("cuda:0").manual_seed(5)
    first = farspan.rand(5, generator=gen, device="cuda:0").tolist()
    gen.manual_seed(5)
    assert farspan.rand(5, generator=gen, device="cuda:0").tolist() == first


def test_philox_gives_the_papers_words() -> None:
    """Known answers of Random123, `philox 4x32 10`."""
    ones = 2**64 - 1
    for counter, high, key, want in [
        (0, 0, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (ones, ones, (0xFFFFFFFF, 0xFFFFFFFF), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ]:
        (words,) = philox(np, np.array([counter], np.uint64), key, high)
        assert " ".join(f"{w:08x}" for w in words.tolist()) == want


def test_philox_goes_on_where_its_state_says() -> None:
    gen = Philox(11)
    whole = gen.words32(300_000)
    twice = Philox(11)
    parts = [twice.words32(n) for n in (1, 6, 299_990)]
    copy = Philox(0)
    copy.set_state(twice.get_state())
    assert np.array_equal(np.concatenate([*parts, copy.words32(3)]), whole)
    with pytest.raises(ValueError, match="Philox"):
        copy.set_state(Generator(0).get_state())


def test_without_a_gpu_the_error_says_what_is_missing() -> None:
    with pytest.raises(UnsupportedError, match="cuda:99"):
        Engine("cuda:99")
