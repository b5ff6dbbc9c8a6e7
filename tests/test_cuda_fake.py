"""The engine of a GPU without a GPU: a namespace that refuses what cupy refuses (fake_cupy.py).

Every op of the table gives on it what it gives on the CPU's engine; which of them run on the host
is a stated list, and nothing else does. What only a GPU can show stands in docs/gpu.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import farspan
import numpy as np
import pytest
import samples
from fake_cupy import FakeCupy
from farspan.core.errors import FarspanError
from farspan.core.op import Op, table
from farspan_worker import kernels
from farspan_worker.backend import HOST
from farspan_worker.kernels import cuda
from farspan_worker.kernels.cuda.hosted import HOSTED
from samples import ALL, ROWS, Call, Row
from test_laws import as_tuple, calls_of, has_samples, to_ours

samples.load()
OPS = {n: op for n, op in table().items() if op.kernel is not None and has_samples(op)}
DTYPES = ("float32", "int64", "bool", "complex64", "bfloat16")


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A session with a CPU and a GPU that is the fake; numpy's kernels on both."""
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
    if op.family == "view":
        pytest.skip("views are metadata")
    for dtype in [d for d in DTYPES if d in (row.dtypes or ALL)]:
        for c in calls_of(op, dtype):
            for a, b in zip(run(op, c, "cuda:0"), run(op, c, "cpu"), strict=True):
                same(a, b, row)
    assert gpu(session).backend.fallbacks == {}
