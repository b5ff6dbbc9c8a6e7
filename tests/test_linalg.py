"""farspan.linalg beside torch.linalg where the laws cannot look: vectors up to a sign, errors."""

from __future__ import annotations

from typing import Any

import farspan
import numpy as np
import pytest
import torch

RNG = np.random.default_rng(11)
DTYPES = ["float32", "float64", "complex64", "complex128"]


@pytest.fixture(autouse=True)
def session() -> Any:
    with farspan.connect("local:") as s:
        yield s


def matrix(dtype: str, *shape: int) -> Any:
    made = RNG.normal(size=shape)
    if dtype.startswith("complex"):
        made = made + 1j * RNG.normal(size=shape)
    return made.astype(dtype)


def tolerance(dtype: str) -> float:
    return 1e-4 if dtype in ("float32", "complex64") else 1e-9


def H(x: Any) -> Any:
    return np.conj(np.swapaxes(x, -1, -2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (2, 3, 3)])
@pytest.mark.parametrize("full", [True, False])
def test_svd_factors_are_orthogonal_and_multiply_back(dtype: str, shape: Any, full: bool) -> None:
    a = matrix(dtype, *shape)
    U, S, Vh = (x.numpy() for x in farspan.linalg.svd(farspan.tensor(a), full))
    k, close = min(shape[-2:]), {"atol": tolerance(dtype)}
    np.testing.assert_allclose((U[..., :k] * S[..., None, :]) @ Vh[..., :k, :], a, **close)
    eye = np.broadcast_to(np.eye(U.shape[-1]), (*shape[:-2], U.shape[-1], U.shape[-1]))
    np.testing.assert_allclose(H(U) @ U, eye, **close)
    np.testing.assert_allclose(S, torch.linalg.svdvals(torch.tensor(a)).numpy(), **close)


@pytest.mark.parametrize("dtype", DTYPES)
def test_eigh_multiplies_back_from_either_triangle(dtype: str) -> None:
    a = matrix(dtype, 2, 4, 4)
    a = a + H(a)
    for half, part in (("L", np.tril(a)), ("U", np.triu(a))):
        L, V = (x.numpy() for x in farspan.linalg.eigh(farspan.tensor(part), half))
        back = (V * L[..., None, :]) @ H(V)
        np.testing.assert_allclose(back, a, atol=tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_eig_satisfies_its_equation(dtype: str) -> None:
    a = matrix(dtype, 2, 4, 4)
    L, V = (x.numpy() for x in farspan.linalg.eig(farspan.tensor(a)))
    np.testing.assert_allclose(a @ V, V * L[..., None, :], atol=tolerance(dtype) * 10)
    theirs = torch.linalg.eigvals(torch.tensor(a)).numpy()
    ours = farspan.linalg.eigvals(farspan.tensor(a)).numpy()
    np.testing.assert_allclose(np.sort_complex(ours), np.sort_complex(theirs), atol=1e-3)


def invariant(lib: Any, name: str, x: Any) -> Any:
    """Return a loss of a factorization that does not depend on signs and phases."""
    if name == "svd":
        U, S, Vh = lib.linalg.svd(x, False)
        weights = lib.tensor([3.0, 2.0, 1.0], dtype=lib.float64)
        return lib.real(((U * (S * weights).unsqueeze(-2)) @ Vh * 0.5).sum()) + S.sum()
    if name == "eigh":
        L, V = lib.linalg.eigh(x + x.mH)
        return lib.real((V * (L * L * L).unsqueeze(-2)) @ V.mH).sum() + L[0]
    L, V = lib.linalg.eig(x)
    return lib.real(((V * (L * L).unsqueeze(-2)) @ lib.linalg.inv(V)).sum()) + lib.real(L * L).sum()


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize(
    ("name", "shape"), [("svd", (4, 3)), ("svd", (3, 4)), ("svd", (3, 3)), ("eigh", (3, 3)),
                        ("eig", (3, 3))],
)  # fmt: skip
def test_gradients_of_invariant_losses_are_torchs(name: str, shape: Any, dtype: str) -> None:
    a = matrix(dtype, *shape)
    found = []
    for lib in (torch, farspan):
        x = lib.tensor(a, requires_grad=True)
        (g,) = lib.autograd.grad(invariant(lib, name, x), x, create_graph=True)
        (h,) = lib.autograd.grad(lib.real((g * g.conj()).sum()), x)
        found.append((g.detach().numpy(), h.numpy()))
    for theirs, ours in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


def test_det_of_a_singular_matrix_has_its_cofactors_for_gradient() -> None:
    """torch gives zeros here; the polynomial's derivative is not zero."""
    x = farspan.tensor([[1.0, 2, 3], [2, 4, 6], [1, 0, 1]], requires_grad=True)
    farspan.linalg.det(x).backward()
    cofactors = [[4, 4, -4], [-2, -2, 2], [0, 0, 0]]
    np.testing.assert_allclose(x.grad.numpy(), cofactors, atol=1e-5)


# Each is (name, arguments); torch and farspan must say the same, ours with more around it.
SINGULAR = np.diag([1.0, 1.0, 0.0]).astype("float32")
BATCH = np.stack([np.eye(3, dtype="float32"), SINGULAR])
INDEFINITE = np.diag([1.0, 1.0, -1.0]).astype("float32")
FAILURES = [
    ("inv", (SINGULAR,)),
    ("inv", (BATCH,)),
    ("solve", (SINGULAR, np.ones(3, "float32"))),
    ("solve", (BATCH, np.ones((2, 3), "float32"))),
    ("cholesky", (INDEFINITE,)),
    ("cholesky", (np.stack([np.eye(3, dtype="float32"), INDEFINITE]),)),
    ("lu_factor", (SINGULAR,)),
    ("svd", (np.full((2, 2), np.nan, "float32"),)),
    ("eig", (np.full((2, 2), np.nan, "float32"),)),
    ("inv", (np.ones((2, 3), "float32"),)),
    ("inv", (np.ones(3, "float32"),)),
    ("inv", (np.ones((2, 2), "int64"),)),
    ("inv", (np.ones((2, 2), "float16"),)),
    ("solve", (np.eye(2, dtype="float32"), np.ones(3, "float32"))),
    ("solve", (np.eye(2, dtype="float32"), np.ones(2))),
    ("eigh", (np.eye(2), "x")),
    ("qr", (np.eye(2), "x")),
    ("matrix_norm", (np.eye(2), 3)),
    ("norm", (np.ones((2, 2, 2)), 2)),
    ("cond", (np.ones((2, 3)), 1)),
    ("multi_dot", ([np.ones((2, 3)), np.ones((2, 3))],)),
    ("matrix_power", (np.ones((2, 3)), 2)),
    ("solve_triangular", (np.eye(3), np.ones((2, 2)))),
]


@pytest.mark.parametrize(("name", "args"), FAILURES, ids=lambda x: x if type(x) is str else "")
def test_errors_say_what_torch_says(name: str, args: Any) -> None:
    kwargs = {"upper": True} if name == "solve_triangular" else {}
    with pytest.raises(RuntimeError) as theirs:
        getattr(torch.linalg, name)(*_as(torch, args), **kwargs)
    with pytest.raises(RuntimeError) as ours:
        made = getattr(farspan.linalg, name)(*_as(farspan, args), **kwargs)
        (made if isinstance(made, farspan.Tensor) else made[0]).tolist()
    assert str(theirs.value).rstrip(".") in str(ours.value)
    if isinstance(theirs.value, torch.linalg.LinAlgError):
        assert isinstance(ours.value, farspan.linalg.LinAlgError)


def _as(lib: Any, args: Any) -> list[Any]:
    return [
        lib.tensor(a) if isinstance(a, np.ndarray) else _as(lib, a) if isinstance(a, list) else a
        for a in args
    ]


def test_ex_forms_report_instead_of_raising() -> None:
    inverse, info = farspan.linalg.inv_ex(farspan.tensor(BATCH))
    assert info.tolist() == torch.linalg.inv_ex(torch.tensor(BATCH)).info.tolist()
    np.testing.assert_array_equal(inverse[0].numpy(), np.eye(3))
    found = farspan.linalg.cholesky_ex(farspan.tensor(INDEFINITE))
    assert found.info.item() == torch.linalg.cholesky_ex(torch.tensor(INDEFINITE)).info.item() == 3


@pytest.mark.parametrize("driver", [None, "gels", "gelsy", "gelsd", "gelss"])
@pytest.mark.parametrize("shapes", [((4, 3), (4, 2)), ((4, 3), (4,)), ((3, 4), (3, 2))])
def test_lstsq_is_torchs_for_every_driver(driver: Any, shapes: Any) -> None:
    a, b = (matrix("float64", *s) for s in shapes)
    ours = farspan.linalg.lstsq(farspan.tensor(a), farspan.tensor(b), driver=driver)
    theirs = torch.linalg.lstsq(torch.tensor(a), torch.tensor(b), driver=driver)
    for x, y in zip(ours, theirs, strict=True):
        assert tuple(x.shape) == tuple(y.shape)
        np.testing.assert_allclose(x.numpy(), y.numpy(), atol=1e-9)


def test_einsum_takes_strings_lists_and_sublists() -> None:
    a, b = matrix("float32", 2, 3), matrix("float32", 3, 4)
    x, y = farspan.tensor(a), farspan.tensor(b)
    for made in (
        farspan.einsum("ij,jk->ik", x, y),
        farspan.einsum("ij,jk", [x, y]),
        farspan.einsum(x, [0, 1], y, [1, 2]),
        farspan.einsum(x, [..., 1], y, [1, 2], [..., 2]),
    ):
        np.testing.assert_allclose(made.numpy(), a @ b, rtol=1e-5)
    flipped = farspan.einsum(x, [0, 1], y, [1, 2], [2, 0])
    np.testing.assert_allclose(flipped.numpy(), (a @ b).T, rtol=1e-5)


BAD_EQUATIONS = [
    ("ij,jk->ik", [(2, 3)]), ("ij->ij", [(2, 3), (2, 3)]), ("ijk->ij", [(2, 3)]),
    ("i1->i", [(2, 3)]), ("ij->ik", [(2, 3)]), ("ij->ii", [(2, 3)]),
    ("ij,jk->ik", [(2, 3), (4, 5)]), ("ii->i", [(2, 3)]), ("....,i->i", [(3, 4), (3,)]),
    ("i..j->i", [(3, 4)]),
]  # fmt: skip


@pytest.mark.parametrize(("equation", "shapes"), BAD_EQUATIONS)
def test_einsum_refuses_as_torch(equation: str, shapes: Any) -> None:
    with pytest.raises(RuntimeError) as theirs:
        torch.einsum(equation, *[torch.ones(s) for s in shapes])
    with pytest.raises(RuntimeError) as ours:
        farspan.einsum(equation, *[farspan.ones(s) for s in shapes])
    assert str(theirs.value) in str(ours.value)


def test_integer_products_are_exact() -> None:
    a = RNG.integers(-(2**40), 2**40, (70, 70))
    b = RNG.integers(-100, 100, (70, 70))
    for x, y in ((a, b), (b, b), (a, a)):
        made = farspan.tensor(x) @ farspan.tensor(y)
        np.testing.assert_array_equal(made.numpy(), x @ y)


SHAPES = [((3,), (2,)), ((3, 2), (3,)), ((3,), (2, 3)), ((), (2, 3)), ((3, 2), ()),
          ((2, 3, 4), (3, 4)), ((2, 3, 4), (3, 4, 2)), ((2, 3, 4), (2, 3, 2))]  # fmt: skip


@pytest.mark.parametrize("shapes", SHAPES)
def test_matmul_refuses_as_torch(shapes: Any) -> None:
    with pytest.raises(RuntimeError) as theirs:
        torch.matmul(*[torch.ones(s) for s in shapes])
    with pytest.raises(RuntimeError) as ours:
        farspan.matmul(*[farspan.ones(s) for s in shapes])
    assert str(theirs.value).rstrip(".") in str(ours.value)
