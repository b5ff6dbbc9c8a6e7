"""Row-wise kernels for a GPU: softmax, its logarithm, layer norm, and their gradients.

A block has a row: it goes over it once for each sum or maximum, and once for the results, and adds
in one order. Rows that do not lie one behind the other, and other types, are the table's kernels'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..cpu.loops.group import Unfused
from .fused.text import PRELUDE, REGISTER

if TYPE_CHECKING:
    from .device import Cuda

_DTYPES: Final = ("float32", "float64")
#: Elements of a row up to which a warp is enough for it.
_SHORT: Final = 256
#: Columns of a block that adds down columns, and how many threads share one.
_WIDE, _DEEP = 32, 8


@dataclass(frozen=True, slots=True)
class Rows:
    """A row-wise kernel, in C: T is the type, x, y, g elements of its operands at i.

    passes: (name, "sum" or "max", of what, what becomes of the result); `result` is each element's.
    """

    operands: str  # one letter for each that has the rows' shape
    passes: tuple[tuple[str, str, str, str], ...]
    result: str
    vectors: str = ""  # operands of one row's shape, read at i
    scalars: tuple[str, ...] = ()  # operands with a number for each row
    stored: tuple[str, ...] = ()  # results with a number for each row
    extra: str = ""  # a number of the call, a double


def text_of(rows: Rows, dtype: str) -> str:
    """Return the module with `rows(operands, vectors, scalars, results, n, extra)`."""
    c_type = REGISTER[dtype]
    params = [f"const T* {x}_" for x in (*rows.operands, *rows.vectors, *rows.scalars)]
    params += ["T* out", *[f"T* {x}_out" for x in rows.stored], "long long n"]
    params += [f"double {rows.extra}"] if rows.extra else []
    given = [f"const T {x} = {x}_[base + i];" for x in rows.operands]
    given += [f"const T {x} = {x}_[i];" for x in rows.vectors]
    lines = ["const long long base = (long long)blockIdx.x * n;", "const int t = threadIdx.x;"]
    lines += [f"const T {x} = {x}_[blockIdx.x];" for x in rows.scalars]
    lines.append("__shared__ T shared[256];")
    loop = "for (long long i = t; i < n; i += blockDim.x) {"
    for name, how, value, after in rows.passes:
        start = "0" if how == "sum" else f"-(T){'float_at(2139095040)'}"
        lines += [f"T {name} = {start};", loop, *[f"  {line}" for line in given]]
        combined = f"{name} + ({value})" if how == "sum" else f"larger({name}, ({value}))"
        lines += [f"  {name} = {combined};", "}", *_together(name, how)]
        if after:
            lines.append(f"{name} = {after};")
    lines += [f"if (t == 0) {x}_out[blockIdx.x] = {x};" for x in rows.stored]
    lines += [loop, *[f"  {line}" for line in given], f"  out[base + i] = {rows.result};", "}"]
    return _module(c_type, "rows", params, lines)


def _together(name: str, how: str) -> list[str]:
    """Return the lines by which all threads get what they found together."""
    a, b = "shared[t]", "shared[t + half]"
    both = f"{a} + {b}" if how == "sum" else f"larger({a}, {b})"
    return [
        "__syncthreads();",
        f"shared[t] = {name};",
        "for (int half = blockDim.x / 2; half; half /= 2) {",
        "  __syncthreads();",
        f"  if (t < half) shared[t] = {both};",
        "}",
        "__syncthreads();",
        f"{name} = shared[0];",
    ]


def _module(c_type: str, name: str, params: Sequence[str], lines: Sequence[str]) -> str:
    """Return a module of one kernel. Functions are those of its type."""
    suffix = "f" if c_type == "float" else ""
    names = [f"#define {f.upper()} {f}{suffix}" for f in ("exp", "log", "sqrt")]
    typed = [p.replace("T*", f"{c_type}*") for p in params]
    return "\n".join([
        PRELUDE, f"typedef {c_type} T;", *names,
        'extern "C" __global__ void __launch_bounds__(256)',
        f"{name}({', '.join(typed)}) {{", *[f"  {line}" for line in lines], "}", "",
    ])  # fmt: skip


_MAX = ("m", "max", "x", "")
_TOTAL = ("s", "sum", "EXP(x - m)", "")
SOFTMAX: Final = Rows("x", (_MAX, _TOTAL), "EXP(x - m) / s")
LOG_SOFTMAX: Final = Rows("x", (_MAX, _TOTAL), "(x - m) - LOG(s)")
SOFTMAX_BACK: Final = Rows("gy", (("s", "sum", "g * y", ""),), "g * y - y * s")
LOG_SOFTMAX_BACK: Final = Rows("gy", (("s", "sum", "g", ""),), "g - EXP(y) * s")


def layer_norm(weight: bool, bias: bool) -> Rows:
    """Ba et al., 2016: (x - mean) / deviation, times weight, plus bias."""
    made = "(x - mean) * rstd" + " * w" * weight + " + b" * bias
    passes = (
        ("mean", "sum", "x", "mean / (T)n"),
        ("rstd", "sum", "(x - mean) * (x - mean)", "(T)1 / SQRT(rstd / (T)n + (T)eps)"),
    )
    return Rows("x", passes, made, "w" * weight + "b" * bias, (), ("mean", "rstd"), "eps")


def layer_norm_back(weight: bool) -> Rows:
    """The gradient of x: P(v) = rstd (v - m(v) - y m(v y)) of v = g w, y the normalized x."""
    v, y = "g * w" if weight else "g", "((x - mean) * rstd)"
    passes = (("a", "sum", v, "a / (T)n"), ("c", "sum", f"{v} * {y}", "c / (T)n"))
    return Rows("gx", passes, f"({v} - a - {y} * c) * rstd", "w" * weight, ("mean", "rstd"))


def columns_text(dtype: str) -> str:
    """Return `columns`: the sums down the rows of g y and of g, y the normalized x."""
    lines = [
        f"const int place = threadIdx.x % {_WIDE}, member = threadIdx.x / {_WIDE};",
        f"const long long j = (long long)blockIdx.x * {_WIDE} + place;",
        "T a = 0, c = 0;",
        f"if (j < n) for (long long r = member; r < rows; r += {_DEEP}) {{",
        "  const T g = g_[r * n + j], x = x_[r * n + j];",
        "  a = a + g * ((x - mean_[r]) * rstd_[r]);",
        "  c = c + g;",
        "}",
        f"__shared__ T one[{_WIDE * _DEEP}];",
        f"__shared__ T two[{_WIDE * _DEEP}];",
        "one[threadIdx.x] = a;",
        "two[threadIdx.x] = c;",
        f"for (int half = {_DEEP // 2}; half; half /= 2) {{",
        "  __syncthreads();",
        "  if (member < half) {",
        f"    one[threadIdx.x] = one[threadIdx.x] + one[threadIdx.x + half * {_WIDE}];",
        f"    two[threadIdx.x] = two[threadIdx.x] + two[threadIdx.x + half * {_WIDE}];",
        "  }",
        "}",
        "if (member || j >= n) return;",
        "w_out[j] = one[threadIdx.x];",
        "b_out[j] = two[threadIdx.x];",
    ]
    params = ["const T* g_", "const T* x_", "const T* mean_", "const T* rstd_", "T* w_out",
              "T* b_out", "long long rows", "long long n"]  # fmt: skip
    return _module(REGISTER[dtype], "columns", params, lines)


# ------------------------------------------------------------------------------------- kernels --
def _fits(arrays: Sequence[Any], dtype: Any) -> bool:
    return dtype.name in _DTYPES and all(a.dtype == dtype and a.flags.c_contiguous for a in arrays)


def _launch(backend: Cuda, rows: Rows, count: int, n: int, arrays: Sequence[Any], *extra: Any
) -> None:  # fmt: skip
    """Run a row-wise kernel. Unfused: the compiler refused it."""
    (kernel,) = backend.modules.functions(text_of(rows, arrays[0].dtype.name), ("rows",), True)
    threads = 32 if n <= _SHORT else 256
    kernel((count,), (threads,), (*arrays, np.int64(n), *extra))


def _along_rows(rows: Rows) -> Callable[[Cuda, Callable[..., Any]], Callable[..., Any]]:
    """Return how a kernel over the last dim is made: (operands..., dim, and one more option)."""
    count = len(rows.operands)

    def make(backend: Cuda, plain: Callable[..., Any]) -> Callable[..., Any]:
        def run(xp: Any, *args: Any) -> Any:
            operands, dim = args[:count], args[count]
            x = operands[0]
            if x.size and dim in (-1, x.ndim - 1) and _fits(operands, x.dtype):
                out = xp.empty(x.shape, x.dtype)
                try:
                    _launch(backend, rows, x.size // x.shape[-1], x.shape[-1], (*operands, out))
                    return out
                except Unfused:
                    pass
            return plain(xp, *args)

        return run

    return make


def _layer(backend: Cuda, plain: Callable[..., Any]) -> Callable[..., Any]:
    def run(xp: Any, x: Any, shape: Any, weight: Any, bias: Any, eps: float) -> Any:
        n = math.prod(shape)
        given = [a for a in (weight, bias) if a is not None]
        if x.size and _fits([x, *given], x.dtype):
            over = (*x.shape[: x.ndim - len(shape)], *[1] * len(shape))
            out, mean, rstd = xp.empty(x.shape, x.dtype), *(xp.empty(over, x.dtype) for _ in "mr")
            rows = layer_norm(weight is not None, bias is not None)
            try:
                _launch(backend, rows, x.size // n, n, (x, *given, out, mean, rstd),
                        np.float64(eps))  # fmt: skip
                return out, mean, rstd
            except Unfused:
                pass
        return plain(xp, x, shape, weight, bias, eps)

    return run


def _layer_back(backend: Cuda, plain: Callable[..., Any]) -> Callable[..., Any]:
    def run(
        xp: Any, g: Any, x: Any, shape: Any, mean: Any, rstd: Any, weight: Any, bias: Any,
        mask: Sequence[bool],
    ) -> Any:  # fmt: skip
        n = math.prod(shape)
        given = [a for a in (weight,) if a is not None]
        if not (x.size and all(mask) and _fits([g, x, mean, rstd, *given], x.dtype)):
            return plain(xp, g, x, shape, mean, rstd, weight, bias, mask)
        out, of_weight, of_bias = (
            xp.empty(x.shape, x.dtype),
            *(xp.empty(tuple(shape), x.dtype) for _ in "wb"),
        )
        try:
            text = columns_text(x.dtype.name)
            (columns,) = backend.modules.functions(text, ("columns",), True)
            rows = layer_norm_back(weight is not None)
            _launch(backend, rows, x.size // n, n, (g, x, *given, mean, rstd, out))
        except Unfused:
            return plain(xp, g, x, shape, mean, rstd, weight, bias, mask)
        sizes = np.int64(x.size // n), np.int64(n)
        columns((-(-n // _WIDE),), (_WIDE * _DEEP,), (g, x, mean, rstd, of_weight, of_bias, *sizes))
        return out, of_weight, of_bias

    return run


ROWS: Final = {
    "_softmax": _along_rows(SOFTMAX),
    "_log_softmax": _along_rows(LOG_SOFTMAX),
    "_softmax_backward_data": _along_rows(SOFTMAX_BACK),
    "_log_softmax_backward_data": _along_rows(LOG_SOFTMAX_BACK),
    "native_layer_norm": _layer,
    "native_layer_norm_backward": _layer_back,
}
