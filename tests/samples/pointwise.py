"""Inputs for elementwise ops whose domain, kinks or arguments the defaults do not suit."""

from __future__ import annotations

import dataclasses

import numpy as np
from farspan.core.op import table
from farspan.core.ops.aliases import ALIASES

from samples import FLOATS, ROWS, Maker, Row, Strided, call, default_calls, samples

ALL_FLOATS = ("float16", "bfloat16", *FLOATS)


class Within(Maker):
    """A Maker whose values lie in a range, off the points where functions have kinks."""

    def __init__(self, dtype: str, low: float, high: float) -> None:
        super().__init__(dtype)
        self.low, self.high = low, high

    def __call__(self, *shape, low=None, high=None):
        values = super().__call__(*shape, low=self.low, high=self.high)
        if isinstance(values, np.ndarray) and values.dtype.name in FLOATS:
            values = np.asarray(values + values.dtype.type(0.003))
        return values


def within(low: float, high: float, *names: str, **facts) -> None:
    """Register default inputs drawn from [low, high) for these ops."""
    for name in names:
        samples(name, **facts)(
            lambda make, name=name: default_calls(table()[name], Within(make.dtype, low, high))
        )


KINKED = (
    "abs", "sign", "sgn", "floor", "ceil", "round", "trunc", "frac", "relu", "hardsigmoid",
    "hardswish", "softplus", "relu6", "selu", "celu", "elu", "silu", "mish", "tanh", "erf",
    "remainder.Scalar", "fmod.Scalar", "maximum", "minimum", "fmax", "fmin", "hardtanh", "hardshrink", "softshrink", "leaky_relu",
    "lgamma", "digamma",
)  # fmt: skip
within(-3, 3, *[n for n in KINKED if n in table()])
within(0.02, 3, "log", "log2", "log10", "sqrt", "rsqrt", "log1p", "reciprocal", "xlogy.Tensor",
       "xlogy.Scalar_Self", "xlogy.Scalar_Other", "pow.Tensor_Tensor", "pow.Scalar",
       "pow.Tensor_Scalar", "float_power.Tensor_Tensor", "float_power.Tensor_Scalar",
       "float_power.Scalar")  # fmt: skip
within(-0.9, 0.9, "asin", "acos", "atanh", "erfinv")
within(1.1, 4, "acosh")
within(-1.2, 1.2, "tan")
within(1, 4, "div.Tensor", "floor_divide", "remainder.Tensor", "fmod.Tensor", "addcdiv",
       "remainder.Scalar_Tensor", "copysign.Tensor", "copysign.Scalar", "atan2")  # fmt: skip


@samples("div.Tensor_mode")
def _div_mode(make):
    m = Within(make.dtype, 1, 5)
    return [
        c
        for mode in (None, "trunc", "floor")
        for c in (
            call(m(3, 4), m(3, 4), rounding_mode=mode),
            call(m(2, 1, 4), m(3, 1), rounding_mode=mode),
            call(make(3, 4), m(4), rounding_mode=mode),
            call(make(), m(3), rounding_mode=mode),
            call(Strided(m(3, 4)), Strided(m(3, 4)), rounding_mode=mode),
        )
    ]


@samples("div.Scalar_mode")
def _div_scalar_mode(make):
    m = Within(make.dtype, -5, 5)
    return [
        call(m(3, 4), n, rounding_mode=mode)
        for mode in (None, "trunc", "floor")
        for n in (2, 1.5, -3)
    ] + [call(m(), 2, rounding_mode="floor"), call(m(0, 2), 2, rounding_mode="trunc")]


@samples("polygamma")
def _polygamma(make):
    m = Within(make.dtype, 0.5, 5)
    return [call(n, m(*shape)) for n in (1, 2, 3) for shape in ((3, 4), (), (0,))]


@samples(
    "logit",
    dtypes=("int64", "float16", *FLOATS),
    reason="torch rounds x / (1 - x) to bfloat16 before it takes the logarithm",
)
def _logit(make):
    m = Within(make.dtype, 0.05, 0.95)
    return [call(m(3, 4)), call(m()), call(m(0, 2)), call(m(3, 4), 0.2), call(m(4), eps=0.1)]


@samples("round.decimals")
def _round_decimals(make):
    m = Within(make.dtype, -3, 3)
    return [call(m(3, 4), decimals=d) for d in (0, 1, 2, -1)] + [call(m(), decimals=1)]


@samples("clamp")
def _clamp(make):
    m = Within(make.dtype, -3, 3)
    return [
        call(m(3, 4), -1, 1), call(m(3, 4), -1), call(m(3, 4), None, 1), call(m(), -1, 1),
        call(m(0, 2), 0, 1), call(m(3, 4), 1, -1), call(m(3, 4), -0.5, 1.5),
        call(Strided(m(3, 4)), min=0), call(m(3, 4), max=1.5),
    ]  # fmt: skip


@samples("clamp.Tensor")
def _clamp_tensor(make):
    m = Within(make.dtype, -3, 3)
    return [
        call(m(3, 4), m(3, 4), m(3, 4)), call(m(3, 4), m(4)), call(m(3, 4), None, m(3, 1)),
        call(m(), m(), m()), call(m(0, 2), m(2), m(2)), call(m(3, 4), min=m(), max=m()),
    ]  # fmt: skip


@samples("clamp_min", "clamp_max")
def _clamp_one(make):
    m = Within(make.dtype, -3, 3)
    return [call(m(3, 4), 1), call(m(), 0.5), call(m(0, 2), 1), call(Strided(m(3, 4)), -1)]


@samples("clamp_min.Tensor", "clamp_max.Tensor")
def _clamp_one_tensor(make):
    m = Within(make.dtype, -3, 3)
    return [call(m(3, 4), m(3, 4)), call(m(3, 4), m(4)), call(m(), m()), call(m(0, 2), m(2))]


@samples("where.self")
def _where(make):
    return [
        call(make.bools(3, 4), make(3, 4), make(3, 4)),
        call(make.bools(4), make(3, 1), make(3, 4)),
        call(make.bools(), make(3), make()),
        call(make.bools(0, 2), make(2), make(0, 2)),
        call(make.bools(3, 4), Strided(make(3, 4)), make(4)),
    ]


@samples("where.ScalarOther")
def _where_other(make):
    return [call(make.bools(3, 4), make(4), n) for n in (2, 1.5, True)] + [
        call(make.bools(), make(), 2)
    ]


@samples("where.ScalarSelf")
def _where_self(make):
    return [call(make.bools(3, 4), n, make(3, 1)) for n in (2, 1.5, True)] + [
        call(make.bools(), 2, make())
    ]


@samples("where.Scalar", dtypes=("float32",))
def _where_scalars(make):
    return [call(make.bools(3, 4), a, b) for a, b in ((1, 2), (1.5, 2), (True, False), (1, 2.5))]


@samples("masked_fill.Scalar")
def _masked_fill(make):
    return [
        call(make(3, 4), make.bools(3, 4), 2), call(make(3, 4), make.bools(4), 1),
        call(make(4), make.bools(3, 1), 2), call(make(), make.bools(), 3),
        call(make(0, 2), make.bools(2), 1), call(Strided(make(3, 4)), make.bools(3, 1), 2),
    ]  # fmt: skip


@samples("masked_fill.Tensor")
def _masked_fill_tensor(make):
    return [
        call(make(3, 4), make.bools(3, 4), make()),
        call(make(3, 4), make.bools(4), make()),
        call(make(), make.bools(), make()),
        call(make(4), make.bools(3, 4), make()),
    ]


def _not_finite(make):
    x = make(3, 4)
    if isinstance(x, np.ndarray) and x.dtype.kind in "fc":
        x[0] = [np.nan, np.inf, -np.inf, 0]
        if x.dtype.kind == "c":
            x[1, 0] = complex(1, np.nan)
    return x


@samples("isnan", "isinf", "isfinite", "isposinf", "isneginf")
def _classes(make):
    return [call(_not_finite(make)), call(make()), call(make(0, 2))]


@samples("nan_to_num")
def _nan_to_num(make):
    return [
        call(_not_finite(make)), call(_not_finite(make), 1.0, 2.0, -3.0), call(make()),
        call(make(0, 2)), call(_not_finite(make), nan=0.5),
    ]  # fmt: skip


@samples("isclose", "allclose")
def _isclose(make):
    x, nan = make(3, 4), _not_finite(make)
    return [
        call(x, x), call(x, make(3, 4)), call(x, make(4), 0.5, 0.1), call(nan, nan),
        call(nan, nan, equal_nan=True), call(make(), make(), atol=2.0), call(make(0, 2), make(2)),
    ]  # fmt: skip


@samples("equal")
def _equal(make):
    x = make(3, 4)
    return [call(x, x), call(x, make(3, 4)), call(x, make(4)), call(make(), make()),
            call(make(0), make(0))]  # fmt: skip


@samples("lerp.Scalar")
def _lerp(make):
    shapes = [((3, 4), (3, 4)), ((3, 4), (4,)), ((), ()), ((0, 2), (2,))]
    return [call(make(*a), make(*b), w) for a, b in shapes for w in (0.25, 0.75)]


@samples("lerp.Tensor")
def _lerp_tensor(make):
    return [
        call(make(3, 4), make(3, 4), make(3, 4)), call(make(3, 4), make(4), make(3, 1)),
        call(make(), make(), make()), call(make(3, 4), make(3, 4), make()),
    ]  # fmt: skip


@samples("addcmul")
def _addcmul(make):
    return [
        call(make(3, 4), make(3, 4), make(3, 4)), call(make(3, 4), make(4), make(3, 1), value=2),
        call(make(), make(), make()), call(make(0, 2), make(2), make(2)),
        call(Strided(make(3, 4)), make(3, 4), make(3, 4), value=-1),
    ]  # fmt: skip


SHIFTS = ("bitwise_left_shift", "bitwise_right_shift")


@samples(*[f"{n}.Tensor" for n in SHIFTS])
def _shift(make):
    low = Within(make.dtype, 0, 5)
    return [call(make(3, 4), low(3, 4)), call(make(3, 4), low(4)), call(make(), low())]


@samples(*[f"{n}.Tensor_Scalar" for n in SHIFTS])
def _shift_by(make):
    return [call(make(3, 4), 2), call(make(), 1), call(make(0, 2), 3)]


@samples(*[f"{n}.Scalar_Tensor" for n in SHIFTS])
def _shift_number(make):
    low = Within(make.dtype, 0, 5)
    return [call(5, low(3, 4)), call(3, low())]


# ---------------------------------------------------------------------------- complex numbers --
@samples("real", "angle", "resolve_conj", "resolve_neg", "isreal", "positive")
def _parts(make):
    return [call(make(3, 4)), call(make()), call(make(0, 2)), call(Strided(make(3, 4)))]


@samples("imag", "view_as_real", dtypes=("complex64",))
def _imag(make):
    return [call(make(3, 4)), call(make()), call(make(0, 2)), call(Strided(make(3, 4)))]


@samples("view_as_complex", dtypes=FLOATS)
def _view_as_complex(make):
    return [call(make(3, 4, 2)), call(make(2)), call(make(0, 2))]


@samples("complex", "polar", dtypes=FLOATS)
def _complex(make):
    m = Within(make.dtype, 0.1, 3)
    return [call(m(3, 4), m(3, 4)), call(m(3, 1), m(4)), call(m(), m()), call(m(0, 2), m(2))]


# -------------------------------------------------------------------------------- activations --
@samples("ldexp.Tensor")
def _ldexp(make):
    return [call(make(3, 4), make(3, 4)), call(make(), make()), call(make(3, 1), make(4))]


@samples("threshold")
def _threshold(make):
    m = Within(make.dtype, -3, 3)
    return [call(m(3, 4), 1, 7), call(m(), 0, -1), call(Strided(m(3, 4)), 0.5, 2.0)]


@samples("threshold_backward", dtypes=ALL_FLOATS)
def _threshold_backward(make):
    m = Within(make.dtype, -3, 3)
    return [call(m(3, 4), m(3, 4), 0), call(m(), m(), 1), call(m(0, 2), m(0, 2), 0)]


@samples("leaky_relu_backward", dtypes=ALL_FLOATS)
def _leaky_relu_backward(make):
    m = Within(make.dtype, -3, 3)
    return [call(m(3, 4), m(3, 4), 0.1, False), call(m(), m(), 0.1, False)]


@samples("hardtanh_backward", dtypes=ALL_FLOATS)
def _hardtanh_backward(make):
    m = Within(make.dtype, -3, 3)
    return [call(m(3, 4), m(3, 4), -1, 1), call(m(), m(), -2, 2)]


@samples("elu_backward", dtypes=ALL_FLOATS)
def _elu_backward(make):
    m = Within(make.dtype, -3, 3)
    return [
        call(m(3, 4), 1.0, 1.0, 1.0, False, m(3, 4)),
        call(m(3, 4), 1.5, 2.0, 0.5, False, m(3, 4)),
        call(m(), 1.0, 1.0, 1.0, False, m()),
    ]


@samples("softplus_backward", dtypes=ALL_FLOATS)
def _softplus_backward(make):
    m = Within(make.dtype, -3, 3)
    return [call(m(3, 4), m(3, 4), 1, 20), call(m(3, 4), m(3, 4), 2, 2), call(m(), m(), 1, 20)]


def _gelu_calls(make, tensors):
    m = Within(make.dtype, -3, 3)
    return [
        call(*[m(*shape) for _ in range(tensors)], approximate=how)
        for how in ("none", "tanh")
        for shape in ((3, 4), (), (0, 2))
    ]


@samples("gelu")
def _gelu(make):
    return _gelu_calls(make, 1)


@samples("gelu_backward", dtypes=ALL_FLOATS)
def _gelu_backward(make):
    return _gelu_calls(make, 2)


@samples("_prelu_kernel", dtypes=ALL_FLOATS)
def _prelu(make):
    m = Within(make.dtype, -3, 3)
    return [call(m(2, 3, 4), m(1)), call(m(5), m(1)), call(m(0, 2), m(1))]


@samples("prelu", dtypes=ALL_FLOATS)
def _prelu_channels(make):
    m = Within(make.dtype, -3, 3)
    return [call(m(2, 3, 4), m(3)), call(m(2, 3), m(3)), call(m(5), m(1)), call(m(2, 3), m(1))]


@samples("log_sigmoid", dtypes=ALL_FLOATS)
def _log_sigmoid(make):
    m = Within(make.dtype, -3, 3)
    return [call(m(3, 4)), call(m()), call(m(0, 2)), call(Strided(m(3, 4)))]


@samples("glu", dtypes=FLOATS)
def _glu(make):
    return [call(make(3, 4)), call(make(4, 3), 0), call(make(2, 4, 3), dim=-2)]


# ------------------------------------------------------------------------------ other names --
@samples("_cast", dtypes=("bool", "uint8", "int64", "bfloat16", "float16", *FLOATS))
def _cast(make):
    import farspan

    wanted = ("bool", "int32", "float16", "bfloat16", "float64", "complex64")
    return [call(make(3, 4, low=0), getattr(farspan, d)) for d in wanted] + [
        call(make(), farspan.float32), call(Strided(make(3, 4, low=0)), farspan.int64),
        call(make(0, 2), farspan.float64),
    ]  # fmt: skip


@samples("square", "deg2rad", "rad2deg")
def _one_argument(make):
    return [call(make(3, 4)), call(make()), call(make(0, 2)), call(Strided(make(3, 4)))]


def name_aliases() -> None:
    """Give aliases what the ops have whose other names they are; `load` calls this last."""
    for alias, name in ALIASES.items():
        for overload in [n for n in table() if n.partition(".")[0] == alias]:
            target = name + overload.removeprefix(alias)
            row = ROWS.get(target, Row())
            op = table()[target]
            made = row.make or (lambda make, op=op: default_calls(op, make))
            ROWS[overload] = dataclasses.replace(row, make=made)
