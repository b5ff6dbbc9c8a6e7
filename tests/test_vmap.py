"""vmap: for every op of the table, a batched call equals its samples' calls; then torch's cases."""

from __future__ import annotations

from typing import Any

import farspan
import numpy as np
import pytest
import test_laws as laws
from beside_torch import failure, same
from farspan._tensor import Tensor
from samples import BFloat16, Call, Strided

SAMPLES = 3
RANDOM = [n for n in laws.PRIMITIVES if laws.TABLE[n].random]
#: Ops whose results depend on values in shape, or that only tell of a generator.
NOT_BATCHED = {n for n in laws.PRIMITIVES if laws.TABLE[n].dynamic or laws.TABLE[n].family in
               ("state", "step")}  # fmt: skip


@pytest.fixture(autouse=True)
def session() -> Any:
    with farspan.connect("local:") as s:
        yield s


def _several(x: Any, seed: int) -> Any:
    """Return an array of SAMPLES arrays like x: itself, and shuffles of it along its first dim."""
    if isinstance(x, (Strided, BFloat16)):
        return type(x)(_several(x.values, seed))
    rng = np.random.default_rng(seed)
    rows = [x] + [rng.permutation(x) if x.ndim else x for _ in range(SAMPLES - 1)]
    return np.stack(rows)


def _arrays(x: Any) -> bool:
    return isinstance(x, (np.ndarray, Strided, BFloat16))


def _flat(c: Call) -> tuple[list[Any], Any]:
    """Return the arrays among the arguments, and a function that puts others in their places."""
    found: list[Any] = []

    def take(x: Any) -> Any:
        if _arrays(x):
            found.append(x)
            return lambda: next(rest)
        if isinstance(x, (list, tuple)):
            inner = [take(i) for i in x]
            return lambda: [i() for i in inner]
        return lambda: x

    makers = [take(a) for a in c.args]
    named = {k: take(v) for k, v in c.kwargs.items()}
    rest: Any = iter(())

    def put(arrays: Any) -> tuple[list[Any], dict[str, Any]]:
        nonlocal rest
        rest = iter(arrays)
        return [m() for m in makers], {k: m() for k, m in named.items()}

    return found, put


def _checked_call(op: Any, c: Call, which: set[int]) -> bool:
    """Compare one batched call, with the arrays in `which` batched; False if samples refuse."""
    arrays, put = _flat(c)
    ours = [laws.to_ours(_several(a, i) if i in which else a) for i, a in enumerate(arrays)]

    def call(*tensors: Any) -> Any:
        args, kwargs = put(tensors)
        found = laws.as_tuple(laws.run_ours(op, c, args, kwargs))
        return tuple(x for x in found if isinstance(x, Tensor))

    rows = []
    try:
        for k in range(SAMPLES):
            rows.append(call(*[x[k] if i in which else x for i, x in enumerate(ours)]))
    except laws.REFUSALS:
        return False
    dims = tuple(0 if i in which else None for i in range(len(arrays)))
    try:
        made = farspan.vmap(call, in_dims=dims)(*ours)
    except RuntimeError as e:  # a mask of its own for each sample selects another count in each
        assert op.base == "index_put" and "dynamic shape" in str(e)
        return True
    row = laws.ROWS.get(op.name, laws.Row())
    for i, got in enumerate(made):
        assert got.shape[1:] == rows[0][i].shape, f"{op.name}: {got.shape}, {rows[0][i].shape}"
        assert got.dtype is rows[0][i].dtype, op.name
        if row.values and got.numel():
            want = np.stack([r[i].detach()._fetch() for r in rows])
            have = got.detach()._fetch()
            kind = np.complex128 if got.is_complex() else np.float64
            np.testing.assert_allclose(
                have.astype(kind), want.astype(kind), rtol=1e-4, atol=1e-5, err_msg=f"{op.name} {c}"
            )
    return True


def _choices(count: int) -> list[set[int]]:
    every = set(range(count))
    return [every] if count == 1 else [every, {0}, {count - 1}]


@pytest.mark.parametrize("name", [n for n in laws.PRIMITIVES if n not in {*NOT_BATCHED, *RANDOM}])
def test_a_batched_call_is_its_samples_calls(name: str) -> None:
    op = laws.TABLE[name]
    row = laws.ROWS.get(name, laws.Row())
    checked = 0
    for dtype in ("float32", "int64", "complex64"):
        if not checked and (row.dtypes is None or dtype in row.dtypes):
            for c in laws.calls_of(op, dtype):
                arrays, _ = _flat(c)
                for which in _choices(len(arrays)) if arrays else ():
                    checked += _checked_call(op, c, which)
    assert checked or not any(a.kind == "T" for a in op.args)
