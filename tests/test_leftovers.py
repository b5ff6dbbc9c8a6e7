"""Names of torch and Tensor that are no rows of the table, beside torch: questions, buffers."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import farspan
import numpy as np
import pytest
from beside_torch import failure, grad_of, leaf, same


@pytest.fixture(autouse=True)
def session() -> Any:
    with farspan.connect("local:") as s:
        yield s


@same
def test_questions_that_need_no_values(torch: Any) -> Any:
    x = torch.arange(6.0)
    m = x.view(2, 3)
    return [
        torch.is_conj(x), x.is_conj(), torch.is_neg(x), x.is_neg(), torch.is_nonzero(x[1]),
        x[0].is_nonzero(), torch.is_same_size(x, m), m.is_same_size(m), torch.is_signed(x > 1),
        torch.is_inference(x), x.is_set_to(x.view(6)), x.is_set_to(m), torch.get_device(x),
        x.is_shared(), x.share_memory_().is_shared(), x.is_pinned(), m.t().dim_order(),
        torch.zeros(2, 3, 4).permute(1, 2, 0).dim_order(), x.is_distributed(), x.is_sparse_csr,
        x.is_xla, x.is_mps, x.is_vulkan, x.is_xpu, x.is_ipu, x.is_maia, x.is_mtia, x.grad_dtype,
        torch.typename(x), torch.typename(3), torch.typename(np.zeros(1)),
        repr(torch.channels_last_3d), x.dense_dim(), x.sparse_dim(), x.to_dense() is x,
        x.dequantize() is x,
        failure(lambda: torch.is_nonzero(x), "more than one value"),
        failure(lambda: m.expand(2, 2, 3).dim_order(ambiguity_check=True), "unique dim order"),
    ]  # fmt: skip


@same
def test_what_is_sparse_or_gone_says_so(torch: Any) -> Any:
    x = torch.ones(3)
    return [failure(getattr(x, name)) for name in ("coalesce", "indices", "values", "eig", "symeig",
                                                   "is_coalesced", "int_repr", "q_scale")] + [
        failure(lambda: x.lstsq(x)), failure(lambda: x.solve(x)),
        failure(lambda: x.to_padded_tensor(0.0))]  # fmt: skip


def test_what_farspan_leaves_out_says_so() -> None:
    x = farspan.ones(3)
    for name in ("to_sparse", "to_sparse_csr", "to_mkldnn", "storage"):
        with pytest.raises(NotImplementedError, match="farspan has no"):
            getattr(x, name)()
    assert x.pin_memory() is x and x.record_stream(None) is None


@same
def test_subclasses_share_memory_and_history(torch: Any) -> Any:
    class Named(torch.Tensor):
        pass

    x = leaf(torch, 3)
    y = x.as_subclass(Named)
    return [type(y).__name__, y.requires_grad, grad_of(torch, y * 2, x),
            failure(lambda: x.as_subclass(int))]  # fmt: skip


@same
def test_elements_mapped_by_python(torch: Any) -> Any:
    x, y = torch.arange(3.0), torch.ones(3)
    x.map_(y, lambda a, b: a + 2 * b)
    return [x, x.map2_(y, y, lambda a, b, c: a + b - 2 * c)]


@same
def test_frombuffer(torch: Any) -> Any:
    data = bytearray(b"abcd1234")
    shared = torch.frombuffer(data, dtype=torch.int16)
    read = torch.frombuffer
    return [
        shared, read(data, dtype=torch.int16, count=2, offset=2), read(b"abcd", dtype=torch.uint8),
        read(data, dtype=torch.float32, requires_grad=True).requires_grad,
        failure(lambda: read(b"", dtype=torch.float32), "must not be 0"),
        failure(lambda: read(b"abc", dtype=torch.int16), "multiple of element size"),
        failure(lambda: read(data, dtype=torch.int16, count=9), "greater than actual"),
        failure(lambda: read(data, dtype=torch.int16, offset=9), "non-negative"),
        failure(lambda: read(3, dtype=torch.int16), "buffer protocol"),
        read(bytearray(b"\x80?\x00@"), dtype=torch.bfloat16).float(),
    ]  # fmt: skip


@same
def test_asarray(torch: Any) -> Any:
    x, array = torch.arange(3.0), np.arange(3)
    shared = torch.asarray(array)
    array[0] = 7
    asked = torch.asarray(x.clone().requires_grad_())
    return [
        torch.asarray([1, 2]), torch.asarray(3.5), torch.asarray(np.float64(2)), shared,
        torch.asarray(b"abcd", dtype=torch.uint8), torch.asarray(x) is x,
        torch.asarray(x, copy=True).is_set_to(x), torch.asarray(x, dtype=torch.int32),
        torch.asarray([1.0], requires_grad=True).requires_grad, asked.requires_grad,
        torch.asarray(asked, requires_grad=False).requires_grad,
        failure(lambda: torch.asarray([1], copy=False), "can't alias arbitrary sequence"),
        failure(lambda: torch.asarray(x, dtype=torch.int32, copy=False), "into dtype 'Int'"),
        failure(lambda: torch.asarray("abc")),
    ]  # fmt: skip


def test_from_file(tmp_path: Any) -> None:
    path = tmp_path / "numbers"
    np.arange(4, dtype="float32").tofile(path)

    @same
    def read(torch: Any) -> Any:
        name = str(path)
        return [
            torch.from_file(name, size=3),
            torch.from_file(name, size=2, dtype=torch.int32),
            torch.from_file(name, shared=True, size=4) * 2,
            failure(lambda: torch.from_file(name + "x", size=3), "unable to open file"),
        ]

    read()
    farspan.from_file(str(path), shared=True, size=4)[1] = 9
    assert np.fromfile(path, "float32").tolist() == [0, 9, 2, 3]


@same
def test_dlpack(torch: Any) -> Any:
    x, array = torch.arange(3.0), np.arange(3.0)
    there = torch.from_dlpack(array)
    capsule = torch.to_dlpack(x)
    return [torch.from_dlpack(x), torch.from_dlpack(capsule), there, tuple(x.__dlpack_device__()),
            np.from_dlpack(x), type(x.__dlpack__()).__name__,
            failure(lambda: torch.from_dlpack(3), "invalid capsule"),
            failure(lambda: leaf(torch, 2).__dlpack__())]  # fmt: skip


@same
def test_places_distances_and_lu(torch: Any) -> Any:
    i, m = torch.arange(5), torch.arange(12.0).view(4, 3)
    a = torch.tensor([[4.0, 1.0], [2.0, 3.0]])
    lu, pivots = torch.lu(a)
    modes = ("use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist",
             "use_mm_for_euclid_dist_if_necessary")  # fmt: skip
    return [
        torch.unravel_index(i, (2, 3)), torch.unravel_index(i, 7), torch.unravel_index(i, ()),
        failure(lambda: torch.unravel_index(m, (2, 3))),
        failure(lambda: torch.unravel_index(i, (2.0, 3))),
        failure(lambda: torch.unravel_index(i, (-2, 3))),
        [torch.cdist(m, m[:2], 2.0, how) for how in modes],
        failure(lambda: torch.cdist(m, m, compute_mode="x")),
        lu, pivots, torch.lu(a, get_infos=True)[2], a.lu()[0], torch.lu_solve(a, lu, pivots),
        a.lu_solve(lu, pivots),
    ]  # fmt: skip


def symmetric(torch: Any, n: int) -> Any:
    a = torch.tensor(np.random.default_rng(3).uniform(-1, 1, (n, n)))
    return a @ a.T + torch.diag(torch.arange(n, dtype=torch.float64) * 2)


@same
def test_low_rank(torch: Any) -> Any:
    a = torch.tensor(np.random.default_rng(0).uniform(-1, 1, (9, 6)))
    torch.manual_seed(0)
    found = []
    for x in (a, a.T):
        U, S, V = torch.svd_lowrank(x, q=6)
        found += [S, (U * S) @ V.T]
    U, S, V = torch.svd_lowrank(a, q=2, M=a.mean(0))
    P = torch.pca_lowrank(a, q=6)
    return [*found, list(U.shape), list(V.shape), P[1], (P[0] * P[1]) @ P[2].T,
            failure(lambda: torch.pca_lowrank(a, q=9)),
            failure(lambda: torch.pca_lowrank(a, niter=-1))]  # fmt: skip


@same
def test_lobpcg(torch: Any) -> Any:
    a, b = (
        symmetric(torch, 15),
        symmetric(torch, 15).flip(0, 1) + torch.eye(15, dtype=torch.float64),
    )
    start = torch.tensor(np.random.default_rng(1).uniform(-1, 1, (15, 2)))
    found = []
    for largest in (True, False):
        for other in (None, b):
            E, X = torch.lobpcg(a, B=other, X=start, largest=largest, tol=1e-12, niter=500)
            rest = a @ X - (X if other is None else other @ X) * E
            found += [E, (rest.abs().max() < 1e-5).item()]
    x = a.clone().requires_grad_()
    E, X = torch.lobpcg(x, k=2, X=start, tol=1e-12, niter=500)
    cubes = (X**3).sum(0).abs()  # a vector may come with either sign
    (g,) = torch.autograd.grad((E * torch.tensor([1.0, 2.0])).sum() + cubes.sum(), x)
    return [*found, g + g.T, failure(lambda: torch.lobpcg(a[:5, :5], k=2))]


@same
def test_return_types(torch: Any) -> Any:
    r = torch.max(torch.eye(2), 0)
    made = torch.return_types.max((1, 2))
    return [
        type(r) is torch.return_types.max, repr(made), made.values, made[1], type(r[:]).__name__,
        made == (1, 2), (*made, 3), torch.return_types.sort.__name__, made.n_fields,
        repr(torch.linalg.eigh(torch.eye(2))), failure(lambda: torch.return_types.max(1)),
        failure(lambda: torch.return_types.max((1,))), isinstance(r, tuple), hash(made),
        type(torch.sort(torch.ones(2), stable=True)) is type(torch.sort(torch.ones(2))),
        [x.shape == r[0].shape for x in copy.copy(r)], pickle.loads(pickle.dumps((1, 2))),
    ]  # fmt: skip


@same
def test_operators_of_python(torch: Any) -> Any:
    x = torch.tensor([1.0, 2.0, 4.0])
    i = torch.tensor(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [5 // x, 5 % x, x // 2, 7 // torch.tensor([2, 3]), 2**x, 3 - x, complex(i), int(i)]
        found += [
            list(reversed(x)),
            format(i, "03d"),
            format(x),
            [1, 2, 3, 4][i],
            hex(i),
            i.__index__(),
        ]
        found += [1 << i, i << 1, 9 & i, 8 | i, 5 ^ i, ~i, x @ x, divmod(7, 2), bool(x[0])]
    x //= 2
    return [*found, x, 2 in x, len(x), np.asarray(x), np.add(x, 1), failure(lambda: hex(x)),
            failure(lambda: x.__delitem__(0)), x.__rdiv__(2), x.__reversed__()]  # fmt: skip


@same
def test_window_of_a_storage_replaced(torch: Any) -> Any:
    x, part = leaf(torch, 3, 3), leaf(torch, 2, 2, seed=1)
    y = torch.as_strided_scatter(x, part, (2, 2), (1, 2), 1)
    return [y, x.as_strided_scatter(part, (2, 2), (1, 2)), grad_of(torch, y, part),
            failure(lambda: torch.as_strided_scatter(x, part, (2, 3), (1, 2)))]  # fmt: skip


def test_what_a_window_replaces_has_no_gradient() -> None:
    """torch gives the window's part of the gradient to self, and the rest none."""
    x = farspan.zeros(3, 3, requires_grad=True)
    farspan.as_strided_scatter(x, farspan.ones(2, 2), (2, 2), (3, 1)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 1]]


@same
def test_a_zero_dim_tensor_keeps_its_history(torch: Any) -> Any:
    x, v = torch.arange(4.0), torch.tensor(2.0, requires_grad=True)
    y = torch.masked_fill(x, x > 1, v)
    return [grad_of(torch, y, v), failure(lambda: torch.masked_fill(x, x > 1, torch.ones(1))),
            failure(lambda: x.half().masked_fill(x > 1, 1e30).tolist()),
            x.masked_fill(x > 1, float("inf")),
            failure(lambda: x.long().masked_fill(x > 1, 1e30).tolist())]  # fmt: skip


@same
def test_in_place_forms(torch: Any) -> Any:
    m = torch.arange(6.0).view(3, 2)
    a = m.clone().index_reduce_(0, torch.tensor([0, 2]), torch.ones(2, 2), "mean")
    b = m.clone().renorm_(2, 0, 1.0)
    c = torch.zeros(5, 2).fill_diagonal_(3, wrap=True)
    made = torch.empty_permuted((2, 3, 4), (2, 0, 1)), torch.empty_strided((2, 3), (0, 1))
    return [a, b, c, [(list(x.shape), list(x.stride())) for x in made],
            m.histogram(2)[0], m.histc(3), m.cov(), m.corrcoef(), m.diff(),
            m.nonzero_static(size=2),
            m.narrow_copy(0, 1, 2), m.quantile(0.5), m.nanquantile(0.5, 1)]  # fmt: skip
