"""Kernels over a second namespace: array-api-strict, which has the array standard and nothing else.

Kernels are written for numpy's names, which cupy shares; those listed here need no more than the
standard, and stay so. What the others use beyond it: astype as a method, dtype.kind, old names.
"""

from __future__ import annotations

from typing import Any

import array_api_strict as strict
import numpy as np
import pytest
import samples
from farspan.core.op import Op, table
from samples import ALL, ROWS, Call, Row, Strided
from test_laws import calls_of, has_samples

samples.load()

#: Pointwise and reducing ops whose kernels need the standard alone.
PORTABLE = """
add.Tensor add.Scalar sub.Tensor sub.Scalar rsub.Tensor rsub.Scalar mul.Tensor mul.Scalar addcmul
addcdiv lerp.Tensor lerp.Scalar div.Tensor div.Scalar reciprocal neg abs copysign.Tensor frac
eq.Tensor eq.Scalar ne.Tensor ne.Scalar lt.Tensor lt.Scalar le.Tensor le.Scalar gt.Tensor
gt.Scalar ge.Tensor ge.Scalar isnan isinf isfinite isposinf isneginf maximum minimum clamp.Tensor
clamp exp expm1 log log2 log10 log1p sqrt sin cos tan sinh cosh rsqrt sigmoid sigmoid_backward
tanh tanh_backward sinc hypot xlogy.Tensor erf logit relu hardsigmoid hardswish softshrink silu
silu_backward prod prod.dim_int any any.dim any.dims all all.dim all.dims max min aminmax
special_xlog1py
""".split()


def convert(x: Any, how: Any) -> Any:
    if isinstance(x, Strided):
        return how(x.values)
    if isinstance(x, np.ndarray):
        return how(x)
    return type(x)([convert(i, how) for i in x]) if isinstance(x, (list, tuple)) else x


def over(xp: Any, op: Op, c: Call, how: Any) -> Any:
    """Return what the kernel makes of a call; arguments that are not given have their defaults."""
    rest = [c.kwargs.get(a.name, a.default) for a in op.args[len(c.args) :]]
    assert op.kernel is not None
    return op.kernel(xp, *[convert(x, how) for x in (*c.args, *rest)])


def calls(op: Op) -> list[Call]:
    return calls_of(op, "float32") if "float32" in (ROWS.get(op.name, Row()).dtypes or ALL) else []


@pytest.mark.parametrize("name", PORTABLE)
def test_a_kernel_needs_no_more_than_the_standard(name: str) -> None:
    op = table()[name]
    assert calls(op)
    with np.errstate(all="ignore"):
        for c in calls(op):
            ours, theirs = over(np, op, c, np.asarray), over(strict, op, c, strict.asarray)
            np.testing.assert_allclose(np.asarray(theirs), np.asarray(ours), rtol=1e-6)


def test_the_list_holds_every_op_that_is_portable() -> None:
    found = []
    for name, op in table().items():
        if op.family not in ("pointwise", "reduction") or not has_samples(op) or not op.kernel:
            continue
        try:
            with np.errstate(all="ignore"):
                for c in calls(op):
                    over(strict, op, c, strict.asarray)
        except Exception:
            continue
        found += [name] if calls(op) else []
    assert sorted(set(found) - set(PORTABLE)) == []
