"""Loops over rows and elements that an index names give the bits of the table's kernels."""

from __future__ import annotations

from typing import Any

import farspan
import numpy as np
import pytest
import torch
from farspan.core.errors import FarspanError
from farspan.core.op import table
from farspan_worker import kernels
from farspan_worker.kernels.cpu.loops import native, rows

pytestmark = pytest.mark.skipif(bool(native.absent()), reason="llvmlite is not installed")
DTYPES = ("float32", "float64", "int64", "int32")
SHAPES = [((40, 33), 0), ((40, 33), 1), ((5, 40, 7), 1), ((5, 3, 40), -1), ((70,), 0)]


def array(dtype: str, *shape: int) -> Any:
    return (np.random.default_rng(0).standard_normal(shape) * 9).astype(dtype)


def indices(kind: str, shape: tuple[int, ...], dim: int, count: int) -> Any:
    """Return an index of as many entries along dim: of rows, of elements, or strided."""
    wanted = list(shape)
    wanted[dim] = count
    if kind == "rows":
        one = np.random.default_rng(1).integers(0, shape[dim], count)
        lead = [1] * len(shape)
        lead[dim] = count
        return np.broadcast_to(one.reshape(lead), wanted)
    found = np.random.default_rng(1).integers(0, shape[dim], wanted)
    return np.asfortranarray(found) if kind == "strided" else found


def same(a: Any, b: Any) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("kind", ["rows", "elements", "strided"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_loops_give_the_bits_of_the_tables_kernels(
    shape: tuple[int, ...], dim: int, dtype: str, kind: str
) -> None:
    x, index = array(dtype, *shape), indices(kind, shape, dim, 50)
    source = array(dtype, *index.shape)
    calls = [("gather", (x, dim, index, False)), ("scatter_add", (x, dim, index, source))]
    if kind == "rows":
        first = tuple(slice(None) if d == dim % x.ndim else 0 for d in range(x.ndim))
        calls += [("index_add", (x, dim, index[first], source, alpha)) for alpha in (1, 2)]
    for name, args in calls:
        fast, plain = kernels.overrides()[name].kernel, table()[name].kernel
        assert plain is not None
        assert same(fast(np, *args), plain(np, *args)), name


def test_embeddings_gradient_gives_the_tables_bits() -> None:
    g, at = array("float32", 6, 50, 33), np.random.default_rng(1).integers(0, 20, (6, 50))
    name = "embedding_dense_backward"
    for padding in (-1, 3):
        args = (g, at, 20, padding, False)
        found = [f.kernel(np, *args) for f in (kernels.overrides()[name], table()[name])]  # type: ignore[misc]
        assert same(*found)


@pytest.mark.parametrize("windows", [((2, 2), (2, 2), (0, 0)), ((3, 3), (2, 2), (1, 1))])
def test_max_pools_gradient_goes_where_the_maxima_were(windows: Any) -> None:
    x = torch.randn(3, 5, 17, 18, requires_grad=True)
    y, at = torch.ops.aten.max_pool2d_with_indices(x, *windows, (1, 1), False)
    g = torch.randn_like(y)
    y.backward(g)
    kernel = kernels.overrides()["max_pool2d_with_indices_backward"].kernel
    arrays = [t.detach().numpy() for t in (g, x, at)]
    found = kernel(np, *arrays[:2], *windows, (1, 1), False, arrays[2])
    torch.testing.assert_close(torch.from_numpy(found), x.grad)


def steps_of(lib: Any, x: Any, places: Any, wide: Any, picked: Any) -> tuple[Any, ...]:
    """Return what gathers, sums and look-ups make of x, and its gradient."""
    x = x.detach().clone().requires_grad_()
    h = x.index_select(0, places) * 2
    h = lib.zeros_like(x).scatter_add(0, wide, h).tanh()
    h = h + h.gather(0, picked) + lib.nn.functional.embedding(places[:60].view(20, 3), x).sum()
    total = lib.zeros_like(x).index_add_(0, places, h[places]).scatter_add_(1, picked, h)
    (total * total).sum().backward()
    return total.detach(), x.grad


@pytest.mark.parametrize("compiled", [False, True])
def test_a_step_over_rows_equals_torchs(compiled: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 48))
    places, picked = rng.integers(0, 60, 90), rng.integers(0, 48, (60, 48))
    with farspan.connect("local:"):
        step = farspan.compile(steps_of) if compiled else steps_of
        both = []
        for lib, call in ((farspan, step), (torch, steps_of)):
            at = lib.tensor(places)
            given = (lib.tensor(x), at, at.unsqueeze(1).expand(90, 48), lib.tensor(picked))
            for _ in range(3):
                made = call(lib, *given)
            both.append([t.tolist() for t in made])
    for ours, theirs in zip(*both, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("bad", [-1, 60])
@pytest.mark.parametrize("expanded", [False, True])
def test_an_index_out_of_range_is_refused(bad: int, expanded: bool) -> None:
    assert rows.SMALL < 90 * 48
    with farspan.connect("local:"):
        target = farspan.zeros(60, 48)
        index = farspan.tensor(np.full((90, 1 if expanded else 48), bad))
        index = index.expand(90, 48)
        for call in (
            lambda: target.scatter_add_(0, index, farspan.ones(90, 48)),
            lambda: target.gather(0, index),
            lambda: target.index_add_(0, index[:, 0], farspan.ones(90, 48)),
        ):
            with pytest.raises((FarspanError, IndexError), match=r"out of (bounds|range)"):
                call().sum().item()


@pytest.mark.parametrize("dtype", ["bool", "float16", "complex64", "complex128"])
def test_plans_take_elements_of_every_size(dtype: str) -> None:
    """Those of 16 bytes by the table's kernel."""
    with farspan.connect("local:") as session:
        x = farspan.tensor(array("float64", 30, 40).astype(dtype))
        index = farspan.tensor(indices("elements", (30, 40), 0, 60))
        step = farspan.compile(lambda: (x.gather(0, index), x.index_select(0, index[:, 0])))
        expected = [y.tolist() for y in (x.gather(0, index), x.index_select(0, index[:, 0]))]
        for _ in range(4):
            assert [y.tolist() for y in step()] == expected
        programs = session.transport.engines[0].programs
        assert programs.planned == programs.calls > 0
