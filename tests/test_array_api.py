"""The array API standard: every function gives what the strict reference implementation gives.

`benchmarks/array_api.py` runs the standard's own suite; what stands here is quick, and covers each
public name. A line of a table is expressions over `xp`, two spaces apart, run in both libraries.
"""

from __future__ import annotations

import array
import re
import warnings
from collections.abc import Iterator
from typing import Any

import array_api_strict as strict
import farspan
import farspan.array_api as xp
import numpy as np
import pytest

strict.set_array_api_strict_flags(api_version="2024.12")

RNG = np.random.default_rng(0)
F = RNG.uniform(-2, 2, (2, 3))
ARRAYS = {
    "f": F, "g": F.astype("float32") + 1, "p": np.abs(F) + 0.5, "u": RNG.uniform(-0.9, 0.9, 4),
    "c": F + 1j * F[::-1], "m": RNG.uniform(-1, 1, (2, 3, 3)), "n": RNG.uniform(-1, 1, (3, 3)),
    "v": np.array([3.0, 1.0, 2.0, 1.0]), "s": np.array([1.0, 2.0, 2.0, 4.0]), "z": np.array(2.5),
    "i": np.array([[3, -1, 0], [2, 5, 7]]), "j": np.array([1, 2, 3], "int8"),
    "k": np.array([1, 200, 3], "uint8"), "w": np.array([4, 1, 60000], "uint16"),
    "x": np.array([4, 1, 4_000_000_000], "uint32"), "l": np.array([4, 1, 2**64 - 1], "uint64"),
    "b": np.array([[True, False, True], [True, True, False]]), "t": np.array([True, False, True]),
    "o": np.array([2, 0, 1]), "inf": np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1.0]),
    "e": np.zeros((0, 3)), "h": np.array([1 + 0j, 1j, 1 + 0j]),
}  # fmt: skip
ARRAYS["d"] = ARRAYS["n"] @ ARRAYS["n"].T + np.eye(3)  # positive definite

ELEMENTWISE = """
xp.abs(f)  xp.abs(c)  xp.abs(j)  xp.acos(u)  xp.acosh(p + 1)  xp.asin(u)  xp.asinh(f)  xp.atan(f)
xp.atanh(u)  xp.atan2(f, g)  xp.atan2(f, 2.0)  xp.bitwise_and(i, o)  xp.bitwise_invert(k)
xp.bitwise_left_shift(j, j)  xp.bitwise_or(w, k)  xp.bitwise_right_shift(w, k * 0 + 1)
xp.bitwise_xor(i, 3)  xp.ceil(f)  xp.ceil(i)  xp.clip(f, -1, 1)  xp.clip(i, 0, None)
xp.clip(f, min=-p, max=p)  xp.clip(f)  xp.conj(c)  xp.copysign(f, -1.0)  xp.copysign(p, f)
xp.cos(f)  xp.cosh(f)  xp.divide(f, g)  xp.divide(f, 4)  xp.equal(i, o)  xp.equal(f, f)  xp.exp(c)
xp.exp(f)  xp.expm1(f)  xp.expm1(c)  xp.floor(f)  xp.floor_divide(i, 2)  xp.floor_divide(f, 0.3)
xp.greater(f, g)  xp.greater_equal(i, 2)  xp.hypot(f, g)  xp.hypot(3.0, f)  xp.imag(c)
xp.isfinite(inf)  xp.isinf(inf)  xp.isnan(inf)  xp.less(f, 0)  xp.less_equal(i, o)  xp.log(p)
xp.log(c)  xp.log1p(p)  xp.log2(p)  xp.log10(p)  xp.logaddexp(f, g)  xp.logical_and(b, t)
xp.logical_not(b)  xp.logical_or(b, False)  xp.logical_xor(b, True)  xp.maximum(f, g)
xp.maximum(i, 2)  xp.minimum(f, 0.0)  xp.minimum(l, l)  xp.multiply(f, c)  xp.multiply(i, 2)
xp.negative(f)  xp.negative(j)  xp.nextafter(f, g)  xp.nextafter(inf, 1.0)  xp.nextafter(g, g * 2)
xp.not_equal(i, 3)  xp.positive(f)  xp.pow(p, f)  xp.pow(2.0, f)  xp.pow(i, 2)  xp.real(c)
xp.reciprocal(p)  xp.remainder(i, 3)  xp.remainder(f, -0.7)  xp.round(f * 3)  xp.round(c)
xp.round(i)  xp.sign(f)  xp.sign(c)  xp.sign(i)  xp.sign(inf)  xp.signbit(inf)  xp.sin(f)
xp.sinh(f)  xp.square(f)  xp.square(k)  xp.sqrt(p)  xp.sqrt(c)  xp.subtract(f, 1)  xp.subtract(w, j)
xp.tan(u)  xp.tanh(f)  xp.tanh(c)  xp.trunc(f * 2)  xp.trunc(i)  xp.add(1, i)  xp.add(j, w)
xp.add(k, j)
"""

OPERATORS = """
f + g  f - 1  2 - f  f * c  f / 3  3 / p  i // 2  7 // (k * 0 + 2)  f // 0.3  i % 3  5 % p  f ** 2
2 ** p  -f  +f
abs(f)  ~i  ~b  i & 6  6 | i  i ^ o  j << 1  1 << j  i >> 1  f < g  f <= 0  i > o  i >= 2  i == 3
i != o  n @ n  m @ n  j + w  w + k  k + j  x * w  x + o  l // 2  l % 7
l + l  l > 2**63  l & (2**64 - 2)  o + j[0]  j + o[0]  g + f[0, 0]  f + g[0, 0]  t & b  b | True
c == c  bool(o[0])  int(o[2])  float(z)  complex(z)  f.ndim  f.size  f.shape == (2, 3)
f.T  m.mT  f.dtype  (f + g).dtype  (j + x).dtype
"""

INDEXING = """
f[0]  f[-1, 1]  f[:, ::-1]  f[::-1, ::-2]  f[1, ::-1]  f[..., 0]  f[None, 1]  f[..., None]  f[1:1]
f[b]  f[b[:, 0]]    v[::-3]  v[5:1:-2]  f[()]  f[0, :]  v[o]  v[::-1][o]  f[:, o]
f[i[:, 0] * 0, o[:2]]
m[0, o, o]  m[::-1, 1, 2:0:-1]  e[:, 1]  e[::-1]  z[None]  z[()]  l[::-1]
"""

CREATION = """
xp.arange(5)  xp.arange(1, 9, 3)  xp.arange(9, 1, -2)  xp.arange(1, 0)  xp.arange(0.0, 1.0, 0.25)
xp.arange(3, dtype=xp.uint8)  xp.arange(2**64 - 3, 2**64, dtype=xp.uint64)  xp.asarray(3)
xp.asarray(True)  xp.asarray(1.5)  xp.asarray(2j)  xp.asarray([[1, 2], [3, 4]])  xp.asarray([])
xp.asarray([1, 2.5], dtype=xp.float32)  xp.asarray(2**64 - 1, dtype=xp.uint64)
xp.asarray([2**64 - 1, 0], dtype=xp.uint64)  xp.asarray(i, dtype=xp.float64)
xp.asarray(f, copy=True)
xp.empty((2, 0))  xp.empty_like(e)  xp.eye(3)  xp.eye(2, 4, k=1)  xp.eye(3, k=-5)
xp.eye(2, 3, k=-1, dtype=xp.int16)  xp.full((2, 2), 7)  xp.full(3, 1.5)  xp.full((), True)
xp.full((2,), 2**64 - 1, dtype=xp.uint64)  xp.full_like(i, 2)  xp.full_like(f, 2, dtype=xp.int8)
xp.linspace(0, 1, 5)  xp.linspace(0, 1, 4, endpoint=False)  xp.linspace(0.0, 1.0, 0)
xp.linspace(0j, 1 + 1j, 3)  xp.meshgrid(v, s)[1]  xp.meshgrid(v, s, indexing='ij')[0]
len(xp.meshgrid(v, s, v))  xp.ones((2, 3))  xp.ones(3, dtype=xp.uint32)  xp.ones_like(i)  xp.tril(m)
xp.tril(m, k=-1)  xp.triu(m, k=1)  xp.zeros((2, 3))  xp.zeros_like(c)
xp.zeros_like(f, dtype=xp.bool)
xp.from_dlpack(F_COPY)
"""

TYPES = """
xp.astype(f, xp.int64)  xp.astype(i, xp.uint16)  xp.astype(f, xp.float64, copy=False)
xp.astype(b, xp.float32)  xp.can_cast(xp.int8, xp.int16)  xp.can_cast(i, xp.int8)
xp.can_cast(xp.uint8, xp.int8)  xp.can_cast(xp.float32, xp.complex64)  xp.result_type(j, w)
xp.result_type(xp.uint32, xp.int8)  xp.result_type(g, 2.0)  xp.result_type(g, 1j)
xp.result_type(k, x, 3)  xp.result_type(xp.float32, xp.complex128)  xp.isdtype(xp.int8, 'integral')
xp.isdtype(xp.uint64, ('signed integer', 'bool'))  xp.isdtype(xp.float32, xp.float32)
xp.isdtype(xp.complex64, 'numeric')  xp.isdtype(xp.bool, 'bool')
xp.isdtype(xp.float64, 'real floating')
xp.isdtype(xp.complex64, 'complex floating')  xp.isdtype(xp.uint8, 'unsigned integer')
xp.finfo(xp.float32).eps  xp.finfo(g).max  xp.finfo(xp.complex128).bits  xp.finfo(xp.float64).dtype
xp.finfo(f).min  xp.finfo(f).smallest_normal  xp.iinfo(xp.uint64).max  xp.iinfo(j).min
xp.iinfo(xp.int16).bits  xp.iinfo(w).dtype  xp.e  xp.pi  xp.inf  xp.nan != xp.nan  xp.newaxis
xp.__array_api_version__  sorted(xp.__array_namespace_info__().dtypes())
sorted(xp.__array_namespace_info__().dtypes(kind='unsigned integer'))
xp.__array_namespace_info__().default_dtypes()['integral']
xp.__array_namespace_info__().capabilities()['boolean indexing']
xp.__array_namespace_info__().default_device() in xp.__array_namespace_info__().devices()
"""

MANIPULATION = """
xp.broadcast_arrays(f, v[:3])[1]  xp.broadcast_to(v, (2, 4))  xp.concat([f, g])
xp.concat([j, w], axis=0)  xp.concat((f, g), axis=None)  xp.concat([f, g], axis=-1)
xp.expand_dims(f, 1)  xp.expand_dims(f, -1)  xp.flip(f)  xp.flip(f, axis=1)  xp.flip(m, axis=(0, 2))
xp.matrix_transpose(m)  xp.moveaxis(m, 0, -1)  xp.moveaxis(m, (0, 1), (2, 0))
xp.permute_dims(m, (2, 0, 1))  xp.repeat(f, 2)  xp.repeat(f, 3, axis=1)  xp.repeat(v[:3], o)
xp.repeat(f, o[:2], axis=0)  xp.reshape(f, (3, 2))  xp.reshape(f, (-1,), copy=True)
xp.reshape(f, (6, 1), copy=False)  xp.roll(f, 1)  xp.roll(f, -1, axis=1)
xp.roll(m, (1, 2), axis=(0, 2))  xp.squeeze(f[None, ...], 0)
xp.squeeze(f[None, :, :, None], (0, -1))
xp.stack([f, g])  xp.stack([v, s], axis=-1)  xp.tile(f, (2, 1))  xp.tile(v, (2, 1, 2))
xp.unstack(f)[1]  xp.unstack(f, axis=-1)[0]  len(xp.unstack(m, axis=1))  xp.take(v, o)
xp.take(f, o, axis=1)  xp.take(f, o[1:2], axis=0)  xp.take_along_axis(f, o[None, :], axis=1)
xp.take_along_axis(f, xp.argsort(f, axis=0), axis=0)
"""

REDUCTIONS = """
xp.all(b)  xp.all(b, axis=1)  xp.any(b, axis=(0, 1))  xp.any(e)  xp.all(h)  xp.any(h - h)
xp.all(e, axis=0, keepdims=True)
xp.all(b, axis=())  xp.argmax(f)  xp.argmax(f, axis=1)  xp.argmin(i, axis=0, keepdims=True)
xp.count_nonzero(i)  xp.count_nonzero(i, axis=1)  xp.count_nonzero(b, axis=0, keepdims=True)
xp.cumulative_prod(v)  xp.cumulative_prod(f, axis=1, include_initial=True)  xp.cumulative_sum(v)
xp.cumulative_sum(i, axis=0, include_initial=True)  xp.cumulative_sum(k)  xp.cumulative_sum(j)
xp.cumulative_sum(f, axis=-1, dtype=xp.float32)  xp.diff(v)  xp.diff(f, axis=0)  xp.diff(v, n=2)
xp.diff(v, prepend=s, append=s[:1])  xp.diff(i, n=0)  xp.max(f)
xp.max(f, axis=(0, 1), keepdims=True)
xp.max(l)  xp.max(w)  xp.mean(f)  xp.mean(g, axis=0)  xp.mean(c)  xp.min(i, axis=1)  xp.min(f)
xp.prod(f)  xp.prod(f, axis=(0, 1))  xp.prod(j)  xp.prod(k, axis=0, keepdims=True)  xp.prod(e)
xp.prod(f, keepdims=True)  xp.std(f)  xp.std(f, axis=1, correction=1)  xp.sum(f)  xp.sum(f, axis=())
xp.sum(j)  xp.sum(k)  xp.sum(l[:2])  xp.sum(e, axis=0)  xp.sum(f, axis=(0, 1), keepdims=True)
xp.sum(i, dtype=xp.float32)  xp.sum(c, axis=0)  xp.var(f)  xp.var(g, axis=0, keepdims=True)
xp.var(f, axis=(0, 1), correction=0.5)  xp.nonzero(b)[1]  xp.nonzero(v)[0]
xp.searchsorted(s, v)  xp.searchsorted(s, v, side='right')
xp.searchsorted(v, s, sorter=xp.argsort(v))  xp.where(b, f, g)  xp.where(b, 1.5, f)
xp.where(t, j, w)  xp.sort(v)  xp.sort(f, axis=0, descending=True)  xp.sort(k)  xp.argsort(v)
xp.argsort(f, axis=0)  xp.argsort(v, descending=True)  xp.unique_all(v).indices
xp.unique_all(v).values  xp.unique_all(i).inverse_indices  xp.unique_all(v).counts
xp.unique_counts(v).counts  xp.unique_inverse(i).inverse_indices  xp.sum(xp.unique_values(h))
xp.unique_counts(h).counts  xp.unique_values(i)
"""

LINALG = """
xp.matmul(f, n)  xp.matmul(g, n)  xp.matmul(j, o)  xp.matmul(m, v[:3])  xp.tensordot(f, f)
xp.tensordot(f, n, axes=1)  xp.tensordot(f, g, axes=((0,), (0,)))  xp.tensordot(v, v, axes=0)
xp.vecdot(f, g)  xp.vecdot(c, f)  xp.vecdot(m, n, axis=-2)  xp.linalg.cholesky(d)
xp.linalg.cholesky(d, upper=True)  xp.linalg.cross(n, n[::-1, :])  xp.linalg.cross(m, n, axis=-2)
xp.linalg.det(m)  xp.linalg.diagonal(m)  xp.linalg.diagonal(m, offset=1)
xp.linalg.eigh(d).eigenvalues
xp.abs(xp.linalg.eigh(d).eigenvectors)  xp.linalg.eigvalsh(d)  xp.linalg.inv(d)
xp.linalg.matmul(f, n)  xp.linalg.matrix_norm(m)  xp.linalg.matrix_norm(f, ord=1, keepdims=True)
xp.linalg.matrix_norm(m, ord='nuc')  xp.linalg.matrix_norm(m, ord=-2)  xp.linalg.matrix_power(d, 3)
xp.linalg.matrix_power(d, -2)  xp.linalg.matrix_power(n, 0)  xp.linalg.matrix_rank(m)
xp.linalg.matrix_rank(d, rtol=0.5)  xp.linalg.matrix_transpose(m)  xp.linalg.outer(v, o)
xp.linalg.pinv(f)  xp.linalg.pinv(m, rtol=0.1)  xp.linalg.pinv(m, rtol=v[:2] / 10)
xp.abs(xp.linalg.qr(n).Q)  xp.linalg.qr(f, mode='complete').R.shape == (2, 3)
xp.linalg.slogdet(m).sign  xp.linalg.slogdet(m).logabsdet  xp.linalg.solve(d, v[:3])
xp.linalg.solve(m, n)  xp.linalg.solve(d, m)  xp.linalg.svd(f, full_matrices=False).S
xp.linalg.svd(f).Vh.shape == (3, 3)  xp.linalg.svdvals(m)  xp.linalg.tensordot(f, n, axes=1)
xp.linalg.trace(m)  xp.linalg.trace(j[:, None] * j)  xp.linalg.trace(n, offset=1)
xp.linalg.vecdot(f, f)  xp.linalg.vector_norm(f)  xp.linalg.vector_norm(f, axis=1, ord=1)
xp.linalg.vector_norm(m, axis=(0, 2), keepdims=True, ord=xp.inf)  xp.linalg.vector_norm(f, ord=0)
"""

FOURIER = """
xp.fft.fft(h)  xp.fft.fft(c, n=5, axis=0)  xp.fft.fft(c, norm='ortho')  xp.fft.ifft(c)
xp.fft.fftn(c)  xp.fft.fftn(c, s=(2, 4), axes=(0, 1))  xp.fft.ifftn(c, norm='forward')
xp.fft.rfft(f)  xp.fft.rfft(g)  xp.fft.irfft(c, n=4)  xp.fft.rfftn(f)  xp.fft.irfftn(c)
xp.fft.hfft(c)  xp.fft.ihfft(v)  xp.fft.fftfreq(5)  xp.fft.fftfreq(4, d=0.1, dtype=xp.float64)
xp.fft.rfftfreq(5)  xp.fft.fftshift(v)  xp.fft.fftshift(f, axes=1)  xp.fft.ifftshift(m)
"""

#: numpy is the reference where the strict one refuses what the standard leaves open.
BY_NUMPY = {"indexing"}
TABLES = {
    "elementwise": ELEMENTWISE, "operators": OPERATORS, "indexing": INDEXING, "creation": CREATION,
    "types": TYPES, "manipulation": MANIPULATION, "reductions": REDUCTIONS, "linalg": LINALG,
    "fourier": FOURIER,
}  # fmt: skip
LINES = [
    pytest.param(line, np if name in BY_NUMPY else strict, id=f"{name}-{at}")
    for name, table in TABLES.items()
    for at, line in enumerate(table.strip().splitlines())
]


@pytest.fixture(autouse=True)
def local() -> Iterator[Any]:
    with farspan.connect("local:") as session:
        yield session


def evaluate(expression: str, lib: Any) -> Any:
    names = {name: lib.asarray(array.copy()) for name, array in ARRAYS.items()}
    return eval(expression, {"xp": lib, "F_COPY": F.copy(), **names})


def assert_same(ours: Any, theirs: Any, what: str) -> None:
    if isinstance(theirs, (np.ndarray, np.generic, type(strict.asarray(0)))):
        assert type(ours) is xp.Array, what
        a, b = np.asarray(ours), np.asarray(getattr(theirs, "_array", theirs))
        assert a.shape == b.shape, what
        both = {a.dtype.name, b.dtype.name}
        defaults = ({"float32", "float64"}, {"complex64", "complex128"})
        assert len(both) == 1 or (both in defaults and a.itemsize < b.itemsize), (what, both)
        rtol, atol = (1e-6, 1e-6) if "float32" in both or "complex64" in both else (1e-9, 1e-12)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=what)
    elif isinstance(ours, farspan.dtype):
        assert ours.name == str(theirs).rpartition(".")[2], what
    else:
        assert ours == theirs and type(ours) is not farspan.Tensor, (what, ours, theirs)


@pytest.mark.parametrize(("line", "reference"), LINES)
def test_expressions_give_what_the_reference_gives(line: str, reference: Any) -> None:
    for expression in re.split(r"  +", line):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = evaluate(expression, reference)
        assert_same(evaluate(expression, xp), theirs, expression)


def test_every_public_function_stands_in_a_table() -> None:
    text = "".join(TABLES.values())
    called = set(re.findall(r"xp\.((?:linalg\.|fft\.)?\w+)", text))
    wanted = {n for n in xp.__all__ if callable(getattr(xp, n)) and n[0] != "_"}
    wanted |= {f"linalg.{n}" for n in xp.linalg.__all__} | {f"fft.{n}" for n in xp.fft.__all__}
    assert wanted - called <= {"Array"}
    standard = {n for n in dir(strict) if n[0] != "_" and callable(getattr(strict, n))}
    ours_alone = {"ArrayAPIStrictFlags", "Device", "set_array_api_strict_flags",
                  "get_array_api_strict_flags", "reset_array_api_strict_flags"}  # fmt: skip
    assert standard - ours_alone - set(xp.__all__) <= {
        "broadcast_shapes",
        "annotations",
        "isin",
        "ModuleType",
    }


WRITES = """
f[0]=1  f[:, ::-1]=v[:3]  f[::-1]=xp.asarray([[1.0], [2.0]])  f[b]=0  f[1, ::-2]=v[:2]  i[0, 1]=9
l[0]=2**64-1  m[::-1, 0, ::-1]=n[:2, :]  v[o]=s[:3]  f+=1  f*=g  i//=2  i%=2  i<<=1  j+=j  f/=2
f-=g[0]
f**=2  f//=0.3  b&=t  b|=t  b^=t  i>>=1  i&=3  i|=8  i^=1  l+=1  f[..., 0]=f[..., 1]
g+=f  j+=o  g-=f[0, 0]  w+=k
"""


@pytest.mark.parametrize("statement", re.split(r"  +|\n", WRITES.strip()))
def test_writes_give_what_the_reference_gives(statement: str) -> None:
    after = []
    for lib in (xp, np):
        names: dict[str, Any] = {n: lib.asarray(a.copy()) for n, a in ARRAYS.items()}
        before = names[statement[0]]
        exec(statement, {"xp": lib}, names)
        assert names[statement[0]] is before
        after.append(before)
    assert_same(after[0], after[1], statement)


def test_plain_tensors_are_taken_and_asked_for_their_namespace() -> None:
    x = farspan.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    assert x.__array_namespace__() is xp is x.__array_namespace__(api_version="2024.12")
    with pytest.raises(ValueError, match=r"2019\.01"):
        x.__array_namespace__(api_version="2019.01")
    total = xp.sum(xp.exp(x) * x)
    assert type(total) is xp.Array and type(x) is farspan.Tensor
    total.backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), ((x + 1) * x.exp()).detach().numpy(), rtol=1e-6)
    seen = xp.asarray(x)
    assert seen is not x and isinstance(seen, farspan.Tensor) and xp.asarray(seen) is seen
    assert type(x[0] + seen[0]) is type(seen[0] + x[0]) is type(x[0] - seen[0]) is xp.Array
    assert type(np.exp(seen.detach())) is xp.Array
    assert seen.size == 4 and seen.size() == (2, 2) and seen.size(0) == 2
    assert seen.to_device("cpu") is seen and seen.to_device(seen.device) is seen
    with pytest.raises(ValueError, match="stream"):
        seen.to_device("cpu", stream=1)


def test_arrays_stay_on_their_device(session: Any) -> None:
    home, other = xp.__array_namespace_info__().devices()
    assert home is xp.__array_namespace_info__().default_device()
    made = [
        xp.ones(3, device=other), xp.zeros((3,), device=other), xp.empty(3, device=other),
        xp.full(3, 2, device=other), xp.arange(3, device=other), xp.arange(1, 9, 3, device=other),
        xp.linspace(0, 1, 3, device=other), xp.eye(3, k=1, device=other), xp.eye(3, device=other),
        xp.asarray([1, 2, 3], device=other), xp.asarray(np.ones(3), device=other),
        xp.asarray(5, dtype=xp.int8, device=other), xp.asarray(xp.ones(3), device=other),
        xp.fft.fftfreq(3, device=other), xp.fft.rfftfreq(3, device=other),
        xp.from_dlpack(np.ones(3), device=other), xp.astype(xp.ones(3), xp.int8, device=other),
        xp.ones_like(xp.ones(3), device=other), xp.full_like(xp.ones(3), 2, device=other),
        xp.ones(3).to_device(other), xp.full(2, 2**64 - 1, dtype=xp.uint64, device=other),
    ]  # fmt: skip
    x = made[0]
    made += [
        x + 1, xp.maximum(x, 2.0), xp.where(x > 0, x, 0.0), xp.where(x > 0, 1, 0), x // 2, 2 // x,
        xp.clip(x, 0, 2), xp.zeros_like(x), xp.full_like(x, 3), xp.cumulative_sum(x),
        xp.cumulative_sum(x, include_initial=True), xp.unique_all(x).indices, xp.repeat(x, 2),
        xp.repeat(x, xp.asarray([1, 0, 2], device=other)), x[::-1], xp.nextafter(x, 2.0),
        xp.astype(x, xp.uint64) + 2**63, xp.diff(x, n=1), xp.asarray(x, copy=True), xp.sum(x),
    ]  # fmt: skip
    assert [a.device for a in made] == [other] * len(made)
    assert [type(a) for a in made] == [xp.Array] * len(made)
    assert x.to_device(home).device is home and xp.sum(x).to_device(home) == 3.0


def test_a_mask_may_have_a_size_of_zero_for_any() -> None:
    x = xp.ones((3, 2))
    assert x[xp.zeros((0,), dtype=xp.bool)].shape == (0, 2)
    assert x[xp.zeros((3, 0), dtype=xp.bool)].shape == (0,)
    with pytest.raises(IndexError):
        x[xp.zeros((2, 0), dtype=xp.bool)]


def test_asarray_shares_or_copies_as_asked() -> None:
    there = np.zeros(3)
    shared, copied = xp.asarray(there), xp.asarray(there, copy=True)
    there[0] = 5
    assert float(shared[0]) == 5 and float(copied[0]) == 0
    shared[1] = 7
    assert there[1] == 7
    assert xp.asarray(shared, copy=True) is not shared
    assert xp.asarray(there[::-1]).shape == (3,)  # a negative stride is copied
    for refused in ([1, 2], np.float64(3)):
        with pytest.raises(ValueError, match="copy"):
            xp.asarray(refused, copy=False)
    with pytest.raises(ValueError, match="copy"):
        xp.asarray(shared, dtype=xp.int8, copy=False)
    for buffer in (b"ab", bytearray(b"ab"), memoryview(b"ab"), array.array("B", b"ab")):
        assert xp.asarray(buffer).dtype is xp.uint8 and xp.asarray(buffer).shape == (2,)
    other = strict.asarray([1.0, 2.0])  # another library's array
    np.testing.assert_array_equal(np.asarray(xp.asarray(other)), [1, 2])
    np.testing.assert_array_equal(np.asarray(xp.from_dlpack(other)), [1, 2])
    assert xp.asarray(range(3)).tolist() == [0, 1, 2]
    with pytest.raises(TypeError):
        xp.asarray("text")
    with pytest.raises((TypeError, RuntimeError)):
        xp.asarray(object())
    np.testing.assert_array_equal(np.from_dlpack(shared), there)
    assert shared.__dlpack_device__() == (1, 0)


def test_dlpack_over_a_wire_is_a_copy_on_demand(service: Any) -> None:
    with farspan.connect(service[0], token=service[1]):
        x = xp.asarray([1.0, 2.0])
        np.testing.assert_array_equal(np.from_dlpack(x, copy=True), [1, 2])
        with pytest.raises(BufferError):
            np.from_dlpack(x)
        with pytest.raises(BufferError):
            xp.from_dlpack(np.zeros(2), copy=False)
        np.testing.assert_array_equal(np.asarray(xp.from_dlpack(np.arange(2.0))), [0, 1])


REFUSED = """
TypeError: xp.result_type(xp.int64, xp.uint64)
TypeError: xp.astype(c, xp.float64)
TypeError: xp.sum(np.zeros(3))
TypeError: xp.add(1, 'a')
TypeError: i.__iadd__(f)
TypeError: b.__iadd__(i)
TypeError: i.__ifloordiv__(f)
TypeError: i.__setitem__(0, c[0])
TypeError: xp.diff(v, prepend=j)
ValueError: xp.squeeze(f, 0)
ValueError: xp.isdtype(xp.int8, 'number')
ValueError: xp.reshape(f.T, (6,), copy=False)
ValueError: xp.concat([])
ValueError: xp.concat([z, z])
ValueError: xp.concat([f, v[:0]])
ValueError: xp.arange(1, 5, 0)
ValueError: xp.vecdot(f, f, axis=0)
ValueError: xp.take(f, o)
ValueError: xp.nonzero(z)
ValueError: xp.searchsorted(s, v, side='middle')
ValueError: xp.result_type(1, 2)
ValueError: xp.meshgrid(v, j)
ValueError: xp.linalg.qr(f, mode='full')
ValueError: xp.linalg.cross(v, v)
IndexError: xp.expand_dims(f, 3)
IndexError: xp.sum(f, axis=2)
IndexError: v[::-1, ::-1]
"""


@pytest.mark.parametrize("line", REFUSED.strip().splitlines())
def test_misuse_is_refused(line: str) -> None:
    name, _, expression = line.partition(": ")
    names = {n: xp.asarray(a.copy()) for n, a in ARRAYS.items()}
    with pytest.raises(getattr(__import__("builtins"), name)):
        eval(expression, {"xp": xp, "np": np, **names})


def test_torchs_own_promotion_is_as_it_was() -> None:
    one, many = farspan.tensor(1), farspan.tensor([1, 2], dtype=farspan.int8)
    assert (one + many).dtype is farspan.int8
    assert (xp.asarray(one) + xp.asarray(many)).dtype is farspan.int64
    with pytest.raises(ValueError, match="step"):
        many[::-1]
