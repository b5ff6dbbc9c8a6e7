"""cuBLASLt without a GPU: descriptions are the library's own, read back and computed by numpy.

Making descriptions needs no device. What stands in for the device is `cublasLtMatmul`: it asks the
library what the descriptions say, and computes that over the addresses it is given.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from fake_cupy import FakeCupy, ndarray
from farspan_worker.kernels.cuda import lt
from farspan_worker.kernels.cuda.math_mode import MathMode
from farspan_worker.kernels.cuda.products import Products, linear_into

try:
    REAL = lt.find()
except lt.LtError as error:
    pytest.skip(str(error), allow_module_level=True)

_NUMPY = {0: np.float32, 1: np.float64, 2: np.float16}


class Interpreter:
    """The library, but for what needs a device."""

    def __init__(self) -> None:
        self.computes: list[int] = []
        self.aligned: dict[int, list[int]] = {}  # by description, what its algorithm relies on

    def __getattr__(self, name: str) -> Any:
        return getattr(REAL, name)

    def cublasLtCreate(self, handle: Any) -> int:
        return 0

    def cublasLtDestroy(self, handle: Any) -> int:
        return 0

    def cublasLtMatmulAlgoGetHeuristic(self, *args: Any) -> int:
        self.aligned[args[1].value] = [
            _get("MatmulPreference", args[6], k, ctypes.c_uint32) for k in range(5, 9)
        ]
        args[-1]._obj.value = 1
        return 0

    def cublasLtMatmul(
        self, handle: Any, description: Any, alpha: Any, a: Any, a_layout: Any, b: Any,
        b_layout: Any, beta: Any, c: Any, c_layout: Any, d: Any, d_layout: Any, algo: Any,
        workspace: Any, size: Any, stream: Any,
    ) -> int:  # fmt: skip
        self.computes.append(_get("MatmulDesc", description, 0, ctypes.c_int32))
        for address, least in zip((a, b, c, d), self.aligned[description.value], strict=True):
            assert not address.value % least
        left = _matrix(a.value, a_layout)
        right = _matrix(b.value, b_layout)
        if _get("MatmulDesc", description, 3, ctypes.c_int32):
            left = left.swapaxes(-1, -2)
        if _get("MatmulDesc", description, 4, ctypes.c_int32):
            right = right.swapaxes(-1, -2)
        out = _matrix(d.value, d_layout)
        wide = np.float64 if out.dtype == np.float64 else np.float32
        made = left.astype(wide) @ right.astype(wide) * alpha._obj.value
        epilogue = _get("MatmulDesc", description, 7, ctypes.c_uint32)
        if epilogue & 4:
            at = _get("MatmulDesc", description, 8, ctypes.c_uint64)
            made = made + _array(at, out.dtype, out.shape[-2:-1], (1,))[:, None].astype(wide)
        if epilogue & 2:
            made = np.maximum(made, 0)
        if epilogue & 32:
            made = made / (1 + np.exp(-1.5957691216 * (made + 0.044715 * made**3)))
        assert beta._obj.value == 0
        out[...] = made
        return 0


def _get(kind: str, of: Any, attribute: int, c_type: Any) -> Any:
    value, wrote = c_type(), ctypes.c_size_t()
    status = getattr(REAL, f"cublasLt{kind}GetAttribute")(
        of, attribute, ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value)),
        ctypes.byref(wrote),
    )  # fmt: skip
    assert status == 0 and wrote.value == ctypes.sizeof(value)
    return value.value


def _array(address: int, dtype: Any, shape: Any, strides: Any) -> Any:
    size = np.dtype(dtype).itemsize
    span = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    raw = (ctypes.c_char * (span * size)).from_address(address)
    flat = np.frombuffer(raw, dtype)
    return np.lib.stride_tricks.as_strided(flat, shape, [s * size for s in strides])


def _matrix(address: int, layout: Any) -> Any:
    def get(attribute: int, c_type: Any) -> int:
        return int(_get("MatrixLayout", layout, attribute, c_type))

    rows, columns = get(2, ctypes.c_uint64), get(3, ctypes.c_uint64)
    leading, batch = get(4, ctypes.c_int64), get(5, ctypes.c_int32)
    dtype = _NUMPY[get(0, ctypes.c_uint32)]
    if batch == 1:
        return _array(address, dtype, (rows, columns), (1, leading))
    stride = get(6, ctypes.c_int64)
    return _array(address, dtype, (batch, rows, columns), (stride, 1, leading))


class Backend:
    def __init__(self) -> None:
        self.xp = FakeCupy()
        self.stream = self.xp.cuda.Stream()
        self.math = MathMode()
        self.library = Interpreter()
        self.products = Products(self, self.library)  # type: ignore[arg-type]


def there(a: Any) -> ndarray:
    return ndarray._of(a)


def drawn(shape: tuple[int, ...], dtype: Any, how: str, seed: int) -> Any:
    """Return an array by rows, by columns, or with a gap between its rows."""
    rng = np.random.default_rng(seed)
    if how == "columns":
        return rng.normal(size=(*shape[:-2], shape[-1], shape[-2])).astype(dtype).swapaxes(-1, -2)
    if how == "gaps":
        return rng.normal(size=(*shape[:-1], shape[-1] + 3)).astype(dtype)[..., : shape[-1]]
    return rng.normal(size=shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("left", ["rows", "columns", "gaps"])
@pytest.mark.parametrize("right", ["rows", "columns", "gaps"])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_products_are_numpys(dtype: Any, left: str, right: str, batch: Any) -> None:
    backend = Backend()
    a, b = drawn((*batch, 5, 7), dtype, left, 1), drawn((*batch, 7, 4), dtype, right, 2)
    out = np.full((*batch, 5, 4), np.nan, dtype)
    assert backend.products.into(there(out), there(a), there(b))
    wide = np.float64 if dtype == np.float64 else np.float32
    np.testing.assert_allclose(out, (a.astype(wide) @ b.astype(wide)).astype(dtype), rtol=2e-3)


@pytest.mark.parametrize("activation", ["", "relu", "gelu"])
@pytest.mark.parametrize("rows", [(6,), (2, 3), (1,)])
def test_a_linear_layer_has_bias_and_activation(rows: Any, activation: str) -> None:
    backend = Backend()
    x, weight = drawn((*rows, 8), np.float32, "rows", 1), drawn((16, 8), np.float32, "rows", 2)
    bias, out = _aligned(16), np.full((*rows, 16), np.nan, np.float32)
    given = map(there, (out, x, weight, bias))
    assert linear_into(backend, *given, activation)  # type: ignore[arg-type]
    wanted = x @ weight.T + bias
    if activation == "relu":
        wanted = np.maximum(wanted, 0)
    if activation == "gelu":
        inner = np.sqrt(2 / np.pi) * (wanted + 0.044715 * wanted**3)
        wanted = 0.5 * wanted * (1 + np.tanh(inner))
    np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-5)


def _aligned(n: int) -> Any:
    raw = np.random.default_rng(3).normal(size=n + 16).astype(np.float32)
    start = -raw.ctypes.data % 64 // 4
    return raw[start : start + n]


def test_tf32_is_used_only_where_it_is_allowed() -> None:
    backend = Backend()
    a = there(np.eye(4, dtype=np.float32))
    for allowed in (False, True):
        backend.math = MathMode(matmul_tf32=allowed)
        assert backend.products.into(there(np.empty((4, 4), np.float32)), a, a)
    wide = there(np.eye(4))
    assert backend.products.into(there(np.empty((4, 4))), wide, wide)
    assert backend.library.computes == [68, 77, 70]


def test_addresses_that_are_less_aligned_have_an_algorithm_of_their_own() -> None:
    backend = Backend()
    flat = np.random.default_rng(1).normal(size=600).astype(np.float32)
    for start in (0, 1, 2, 4, 8):
        a = flat[start : start + 100].reshape(10, 10)
        out = np.empty((10, 10), np.float32)
        assert backend.products.into(there(out), there(a), there(a))
        np.testing.assert_allclose(out, a @ a, rtol=1e-4, atol=1e-5)
    assert len(backend.library.aligned) >= 3


def test_what_it_cannot_describe_is_left_to_others() -> None:
    backend, e = Backend(), np.eye(4, dtype=np.float32)
    out = there(np.empty((4, 4), np.float32))
    assert not backend.products.into(out, there(e), there(np.eye(8, dtype=np.float32)[::2, ::2]))
    assert not backend.products.into(out, there(e), there(np.eye(4)))
    assert not backend.products.into(out, there(e[::-1]), there(e))
    ints = there(np.eye(4, dtype=np.int64))
    assert not backend.products.into(there(np.empty((4, 4), np.int64)), ints, ints)


def test_without_a_device_the_library_says_so_once() -> None:
    products = Products(Backend(), REAL)  # type: ignore[arg-type]
    e = there(np.eye(4, dtype=np.float32))
    if products.into(there(np.empty((4, 4), np.float32)), e, e):
        pytest.skip("there is a GPU here")
    assert "cublasLtCreate" in products.missing and products.refused == 1
