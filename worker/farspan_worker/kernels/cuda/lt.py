"""cuBLASLt by ctypes: products of matrices with a bias and an activation, every status checked.

NVIDIA's library comes with cupy's packages; without it products are cupy's own. Matrices are
described as the library has them, by columns. Nothing here computes; read products.py next.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

# Numbers of cublasLt.h, cublas_api.h and library_types.h (CUDA 12).
_TYPES: Final = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
_COMPUTE_32F: Final = 68
_COMPUTE_32F_TF32: Final = 77
_COMPUTE_64F: Final = 70
_DESC_TRANSA, _DESC_TRANSB, _DESC_EPILOGUE, _DESC_BIAS = 3, 4, 7, 8
_LAYOUT_BATCH, _LAYOUT_STRIDE = 5, 6
_PREF_WORKSPACE, _PREF_REDUCTION = 1, 3
_PREF_ALIGNMENT: Final = (5, 6, 7, 8)  # of A, B, C and D
#: Parts of one sum may be put together in memory of their own, never in the result's.
_REDUCTIONS: Final = 2 | 4
_EPILOGUES: Final = {"": 1, "relu": 2, "gelu": 32}
_WITH_BIAS: Final = 4
#: What a plan may use beside its operands: NVIDIA's advice for its H100, in bytes.
WORKSPACE_BYTES: Final = 32 << 20
#: Plans kept, the latest used.
_PLANS_MAX: Final = 512
_ALIGNED: Final = 16  # of a bias, whose address the algorithm is chosen without


class LtError(RuntimeError):
    """cuBLASLt refused something; says what, and its status."""


class _Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algo", ctypes.c_uint64 * 8), ("workspace", ctypes.c_size_t), ("state", ctypes.c_int),
        ("waves", ctypes.c_float), ("reserved", ctypes.c_int * 4),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Matrix:
    """An operand by columns: `rows` x `columns`, `leading` elements from column to column."""

    rows: int
    columns: int
    leading: int
    dtype: str
    stride: int = 0  # elements from matrix to matrix of a batch


@dataclass(frozen=True, slots=True)
class Product:
    """D = activation(op(A) op(B) + bias), by columns; the bias has an element for each row of D."""

    a: Matrix
    b: Matrix
    d: Matrix
    transpose_a: bool
    transpose_b: bool
    bias: bool = False
    activation: str = ""  # "", "relu" or "gelu", which is its approximation by tanh
    batch: int = 1
    tf32: bool = False
    #: Bytes that the addresses of A, B and D are multiples of; algorithms differ by it.
    alignment: tuple[int, int, int] = (256, 256, 256)


def find() -> Any:
    """Return the library. LtError: it is not on this machine."""
    places = [os.environ["FARSPAN_CUBLASLT"]] if "FARSPAN_CUBLASLT" in os.environ else []
    places += ["libcublasLt.so.12", "libcublasLt.so.13"]
    try:
        spec = importlib.util.find_spec("nvidia")  # NVIDIA's packages, each a folder in it
    except ModuleNotFoundError:
        spec = None
    for folder in spec.submodule_search_locations or () if spec else ():
        places += sorted(map(str, Path(folder).glob("*/lib/libcublasLt.so.*")))
    for place in places:
        try:
            library = ctypes.CDLL(place)
        except OSError:
            continue
        library.cublasLtGetStatusName.restype = ctypes.c_char_p
        library.cublasLtGetVersion.restype = ctypes.c_size_t
        return library
    raise LtError("there is no libcublasLt.so on this machine (package nvidia-cublas-cu12)")


class Lt:
    """The library with one handle, that of the current device."""

    def __init__(self, library: Any) -> None:
        """LtError: the library has no device to work with."""
        self.library = library
        self._handle = ctypes.c_void_p()
        self._call("cublasLtCreate", ctypes.byref(self._handle))
        self._plans: OrderedDict[Product, _Plan] = OrderedDict()
        self._one, self._zero = _scales(1.0), _scales(0.0)

    def close(self) -> None:
        """Give the handle and all descriptions back."""
        self._plans.clear()
        handle, self._handle = self._handle, ctypes.c_void_p()
        if handle.value:
            self._call("cublasLtDestroy", handle)

    def run(
        self, product: Product, a: int, b: int, d: int, bias: int, workspace: int, stream: int
    ) -> None:
        """Launch a product on addresses of the device. LtError: there is no way to compute it."""
        plan = self._plans.get(product)
        if plan is None:
            plan = self._plans[product] = _Plan(self, product)
            while len(self._plans) > _PLANS_MAX:
                self._plans.popitem(last=False)
        self._plans.move_to_end(product)
        if product.bias:
            plan.set(plan.description, _DESC_BIAS, ctypes.c_uint64(bias))
        double = product.d.dtype == "float64"
        pointer = ctypes.c_void_p
        self._call(
            "cublasLtMatmul", self._handle, plan.description, ctypes.byref(self._one[double]),
            pointer(a), plan.layouts[0], pointer(b), plan.layouts[1],
            ctypes.byref(self._zero[double]), pointer(d), plan.layouts[2], pointer(d),
            plan.layouts[2], ctypes.byref(plan.best.algo), pointer(workspace),
            ctypes.c_size_t(WORKSPACE_BYTES), pointer(stream),
        )  # fmt: skip

    def _call(self, name: str, *args: Any) -> None:
        status = getattr(self.library, name)(*args)
        if status:
            said = self.library.cublasLtGetStatusName(status) or b"?"
            raise LtError(f"{name}: {said.decode()} ({status})")


class _Plan:
    """Descriptions of one product, and the algorithm that the library's heuristic names first."""

    def __init__(self, lt: Lt, product: Product) -> None:
        self._lt = lt
        self.description = ctypes.c_void_p()
        self.layouts: list[Any] = []
        self.best = _Heuristic()
        preference = ctypes.c_void_p()
        try:
            self._describe(product)
            lt._call("cublasLtMatmulPreferenceCreate", ctypes.byref(preference))
            a, b, d = product.alignment
            aligned = zip(_PREF_ALIGNMENT, map(ctypes.c_uint32, (a, b, d, d)), strict=True)
            for attribute, value in (
                (_PREF_WORKSPACE, ctypes.c_uint64(WORKSPACE_BYTES)),
                (_PREF_REDUCTION, ctypes.c_uint32(_REDUCTIONS)),
                *aligned,
            ):
                lt._call("cublasLtMatmulPreferenceSetAttribute", preference, attribute,
                         ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value)))  # fmt: skip
            count = ctypes.c_int()
            lt._call(
                "cublasLtMatmulAlgoGetHeuristic", lt._handle, self.description, *self.layouts,
                self.layouts[2], preference, 1, ctypes.byref(self.best), ctypes.byref(count),
            )  # fmt: skip
            if not count.value or self.best.state:
                raise LtError(f"no algorithm for {product}")
        finally:
            if preference.value:
                lt.library.cublasLtMatmulPreferenceDestroy(preference)

    def _describe(self, product: Product) -> None:
        lt, dtype = self._lt, product.d.dtype
        compute = _COMPUTE_32F_TF32 if product.tf32 and dtype == "float32" else _COMPUTE_32F
        if dtype == "float64":
            compute = _COMPUTE_64F
        scale = _TYPES["float64" if dtype == "float64" else "float32"]
        lt._call("cublasLtMatmulDescCreate", ctypes.byref(self.description), compute, scale)
        self.set(self.description, _DESC_TRANSA, ctypes.c_int32(product.transpose_a))
        self.set(self.description, _DESC_TRANSB, ctypes.c_int32(product.transpose_b))
        epilogue = _EPILOGUES[product.activation]
        if product.bias:
            epilogue = _WITH_BIAS if not product.activation else epilogue | _WITH_BIAS
        self.set(self.description, _DESC_EPILOGUE, ctypes.c_uint32(epilogue))
        if product.bias:
            self.set(self.description, _DESC_BIAS, ctypes.c_uint64(_ALIGNED))
        for matrix in (product.a, product.b, product.d):
            layout = ctypes.c_void_p()
            lt._call(
                "cublasLtMatrixLayoutCreate", ctypes.byref(layout), _TYPES[matrix.dtype],
                ctypes.c_uint64(matrix.rows), ctypes.c_uint64(matrix.columns),
                ctypes.c_int64(matrix.leading),
            )  # fmt: skip
            self.layouts.append(layout)
            if product.batch > 1:
                self.set(layout, _LAYOUT_BATCH, ctypes.c_int32(product.batch), "MatrixLayout")
                self.set(layout, _LAYOUT_STRIDE, ctypes.c_int64(matrix.stride), "MatrixLayout")

    def set(self, of: Any, attribute: int, value: Any, kind: str = "MatmulDesc") -> None:
        """Set an attribute of a description."""
        self._lt._call(f"cublasLt{kind}SetAttribute", of, attribute, ctypes.byref(value),
                       ctypes.c_size_t(ctypes.sizeof(value)))  # fmt: skip

    def __del__(self) -> None:
        library = self._lt.library
        for layout in self.layouts:
            if layout.value:
                library.cublasLtMatrixLayoutDestroy(layout)
        if self.description.value:
            library.cublasLtMatmulDescDestroy(self.description)


def _scales(value: float) -> tuple[Any, Any]:
    """Return a number as float32 and as float64."""
    return ctypes.c_float(value), ctypes.c_double(value)
