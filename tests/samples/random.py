"""Inputs for random ops: here only what is not a number; see `test_random_ops.py` for those."""

import farspan

from samples import FLOATS, Strided, call, samples

_RANDOM = {"values": False, "grad": False,
           "reason": "random; test_random_ops.py compares the numbers"}  # fmt: skip
_REALS = ("float16", "bfloat16", "float32", "float64")


@samples("rand", "randn", **_RANDOM)
def _factories(make):
    return [call([3, 4]), call([]), call([0, 2]), call([2], dtype=farspan.float64)]


@samples("rand.generator", "randn.generator", **_RANDOM)
def _with_generator(make):
    return [call([3, 4], generator=None)]


@samples("rand_like", "randn_like", dtypes=(*_REALS, "complex64"), **_RANDOM)
def _like(make):
    return [call(make(3, 4)), call(make()), call(Strided(make(2, 3))),
            call(make(2), dtype=farspan.float64)]  # fmt: skip


@samples("rand_like.generator", "randn_like.generator", dtypes=FLOATS, **_RANDOM)
def _like_with_generator(make):
    return [call(make(3, 4), generator=None)]


@samples("randint", **_RANDOM)
def _randint(make):
    return [call(10, [3, 4]), call(2, []), call(3, [2], dtype=farspan.float32)]


@samples("randint.low", **_RANDOM)
def _randint_low(make):
    return [call(-5, 10, [3, 4]), call(1, 2, [0])]


@samples("randint.generator", **_RANDOM)
def _randint_generator(make):
    return [call(10, [3, 4], generator=None)]


@samples("randint.low_generator", **_RANDOM)
def _randint_low_generator(make):
    return [call(2, 10, [3, 4], generator=None)]


@samples("randint_like", **_RANDOM)
def _randint_like(make):
    return [call(make(3, 4), 2), call(Strided(make(2, 3)), 2)]


@samples("randint_like.low_dtype", **_RANDOM)
def _randint_like_low(make):
    return [call(make(3, 4), 0, 2), call(make(3), 1, 5, dtype=farspan.int32)]


@samples("randperm", **_RANDOM)
def _randperm(make):
    return [call(5), call(0), call(1), call(4, dtype=farspan.int32)]


@samples("randperm.generator", **_RANDOM)
def _randperm_generator(make):
    return [call(5, generator=None)]


@samples("uniform", "normal_functional", "exponential", "cauchy", "log_normal",
         dtypes=_REALS, **_RANDOM)  # fmt: skip
def _filling(make):
    return [call(make(3, 4)), call(make()), call(make(0, 2)), call(Strided(make(2, 3)))]


@samples("random", dtypes=("bool", "uint8", "int64", *_REALS), **_RANDOM)
def _random(make):
    return [call(make(3, 4)), call(make())]


@samples("random.from", dtypes=("int32", "int64", *_REALS), **_RANDOM)
def _random_from(make):
    return [call(make(3, 4), -5, 7), call(make(3), 2, None)]


@samples("random.to", dtypes=("uint8", "int64", *_REALS), **_RANDOM)
def _random_to(make):
    return [call(make(3, 4), 7)]


@samples("geometric", "bernoulli.p", dtypes=("int64", *_REALS), **_RANDOM)
def _probability(make):
    return [call(make(3, 4), 0.25), call(make(), 0.5)]


@samples("bernoulli", dtypes=_REALS, **_RANDOM)
def _bernoulli(make):
    return [call(make(3, 4, low=0, high=1)), call(make(low=0, high=1))]


@samples("bernoulli.Tensor", dtypes=FLOATS, **_RANDOM)
def _bernoulli_tensor(make):
    return [call(make(3, 4), make(3, 4, low=0, high=1))]


@samples("normal.Tensor_float", dtypes=_REALS, **_RANDOM)
def _normal_mean(make):
    return [call(make(3, 4), 2.0), call(make(0), 1.0)]


@samples("normal.float_Tensor", dtypes=_REALS, **_RANDOM)
def _normal_std(make):
    return [call(1.0, make(3, 4, low=0))]


@samples("normal.Tensor_Tensor", dtypes=_REALS, **_RANDOM)
def _normal_both(make):
    return [call(make(3, 4), make(4, low=0)), call(make(3), make(3, low=0))]


@samples("normal.float_float", **_RANDOM)
def _normal_size(make):
    return [call(0.5, 2.0, [3, 4])]


@samples("multinomial", dtypes=_REALS, **_RANDOM)
def _multinomial(make):
    weights = make(3, 6, low=1)
    return [call(weights, 2), call(weights, 9, True), call(make(4, low=1), 4)]


@samples("native_dropout", dtypes=_REALS, **_RANDOM)
def _native_dropout(make):
    return [call(make(3, 4), 0.5, True), call(make(3, 4), 0.5, False)]


@samples("native_dropout_backward", dtypes=_REALS)
def _native_dropout_backward(make):
    return [call(make(3, 4), make.bools(3, 4), 1.25)]


@samples("dropout", "feature_dropout", "alpha_dropout", dtypes=FLOATS, **_RANDOM)
def _dropout(make):
    return [call(make(3, 4), 0.5, True), call(make(3, 4), 0.5, False), call(make(3, 4), 1.0, True),
            call(make(0, 4), 0.1, True)]  # fmt: skip


@samples("_get_rng_state", **_RANDOM)
def _state(make):
    return [call()]
