"""Row-wise and optimizer kernels of the GPU: their text on the host beside the table's kernels.

The whole table runs through them in test_gpu.py; here are long rows, and NVRTC on every text.
"""

from __future__ import annotations

from typing import Any

import cuda_host
import numpy as np
import nvrtc_host
import pytest
from fake_cupy import FakeCupy, ndarray
from farspan.core.op import OPS, table
from farspan_worker.kernels.cpu.loops.steps import adam_formula, sgd_formula
from farspan_worker.kernels.cuda import rows, steps
from farspan_worker.kernels.cuda.fused import Modules
from farspan_worker.kernels.cuda.fused.compiled import options

table()
needs_host = pytest.mark.skipif(not cuda_host.COMPILER, reason="no g++ here")
needs_nvrtc = pytest.mark.skipif(nvrtc_host.library() is None, reason="no NVRTC here")


class Backend:
    def __init__(self) -> None:
        self.module = FakeCupy()
        self.modules = Modules(self.module)


def both(name: str, *args: Any) -> tuple[Any, Any, Backend]:
    """Return what the GPU's kernel and the table's make of the same arguments."""
    backend = Backend()

    def refused(*rest: Any) -> Any:
        raise AssertionError("the table's kernel ran")

    kernel = rows.ROWS[name](backend, refused)  # type: ignore[arg-type]
    there = [ndarray._of(a.copy()) if isinstance(a, np.ndarray) else a for a in args]
    made = kernel(backend.module, *there)
    wanted = OPS[name].kernel(np, *[a.copy() if isinstance(a, np.ndarray) else a for a in args])  # type: ignore[misc]
    assert backend.modules.refused == {}
    as_tuple = lambda x: x if isinstance(x, tuple) else (x,)  # noqa: E731
    return [x._a for x in as_tuple(made)], as_tuple(wanted), backend


@needs_host
@pytest.mark.parametrize("n", [1, 7, 256, 257, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_long_rows_are_the_tables(n: int, dtype: Any) -> None:
    rng = np.random.default_rng(n)
    x, g = (rng.normal(size=(3, 5, n)).astype(dtype) for _ in "xg")
    w, b = (rng.normal(size=n).astype(dtype) for _ in "wb")
    y = OPS["_softmax"].kernel(np, x, -1, False)  # type: ignore[misc]
    _, mean, rstd = OPS["native_layer_norm"].kernel(np, x, [n], w, b, 1e-5)  # type: ignore[misc]
    for name, args in (
        ("_softmax", (x, -1, False)),
        ("_log_softmax", (x, 2, False)),
        ("_softmax_backward_data", (g, y, -1, None)),
        ("_log_softmax_backward_data", (g, np.log(y), -1, None)),
        ("native_layer_norm", (x, [n], w, b, 1e-5)),
        ("native_layer_norm", (x, [n], None, None, 1e-5)),
        ("native_layer_norm_backward", (g, x, [n], mean, rstd, w, b, [True] * 3)),
    ):
        made, wanted, _ = both(name, *args)
        tolerance = 2e-4 if dtype == np.float32 else 1e-9
        for a, c in zip(made, wanted, strict=True):
            assert a.shape == c.shape
            np.testing.assert_allclose(a, c, rtol=tolerance, atol=tolerance)


@needs_host
def test_nan_and_infinity_go_through_a_softmax_as_in_the_table() -> None:
    x = np.array([[1, np.nan, 2], [np.inf, 1, 2], [-np.inf] * 3, [-np.inf, 0, 1]], np.float32)
    with np.errstate(all="ignore"):
        made, wanted, _ = both("_softmax", x, -1, False)
    np.testing.assert_allclose(made[0], wanted[0], rtol=1e-6)


def texts() -> list[str]:
    found = []
    for dtype in ("float32", "float64"):
        kinds = [rows.SOFTMAX, rows.LOG_SOFTMAX, rows.SOFTMAX_BACK, rows.LOG_SOFTMAX_BACK]
        kinds += [rows.layer_norm(w, b) for w in (False, True) for b in (False, True)]
        kinds += [rows.layer_norm_back(w) for w in (False, True)]
        found += [rows.text_of(kind, dtype) for kind in kinds]
        found.append(rows.columns_text(dtype))
    adam = adam_formula(0.9, 0.999, 1e-8, True, True, True, False)
    sgd = sgd_formula(0.9, 0.0, 0.1, True, False, False)
    for dtype in steps._DTYPES:
        found.append(steps.text_of(steps.Kind(
            adam, 5, 2, ("1.0 - n0 * n1", "sqrt(1.0 - pow(0.999, step))",
                         "-(n0 / (1.0 - pow(0.9, step)))"), True, dtype, "float32", "float32",
            "float32",
        )))  # fmt: skip
        found.append(steps.text_of(steps.Kind(sgd, 3, 1, ("-n0",), False, dtype)))
    return found


@needs_nvrtc
@pytest.mark.parametrize("architecture", nvrtc_host.ARCHITECTURES)
def test_nvrtc_compiles_them(architecture: str) -> None:
    for text in texts():
        assert ".entry" in nvrtc_host.compile_text(text, options(True), architecture), text


@needs_nvrtc
def test_what_nvrtc_refuses_is_said_and_the_plain_kernel_runs() -> None:
    with pytest.raises(nvrtc_host.Refused, match="error"):
        nvrtc_host.compile_text('extern "C" __global__ void f() { nothing; }', (), "sm_90")


@needs_host
def test_a_refused_kernel_is_told_once_and_the_tables_runs() -> None:
    backend = Backend()

    def module(**given: Any) -> Any:
        raise RuntimeError("NVRTC says no")

    backend.module.RawModule = module
    kernel = rows.ROWS["_softmax"](backend, OPS["_softmax"].kernel)  # type: ignore[arg-type]
    x = ndarray._of(np.ones((2, 4), np.float32))
    for _ in range(2):
        assert kernel(backend.module, x, -1, False)._a.tolist() == [[0.25] * 4] * 2
    assert list(backend.modules.refused) == ["rows"]
