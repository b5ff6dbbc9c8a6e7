"""Names of torch that no law of the table reaches: constants, predicates, settings, seeds, shapes.

Each test runs on both libraries and returns what must be equal.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from beside_torch import failure, same

DTYPES = (
    "float32", "float", "float64", "double", "float16", "half", "bfloat16", "complex64", "cfloat",
    "complex128", "cdouble", "uint8", "int8", "int16", "short", "int32", "int", "int64", "long",
    "bool",
)  # fmt: skip


@same
def test_constants(t: Any) -> Any:
    x = t.arange(3.0)
    return [
        t.inf, t.pi, t.e, t.nan != t.nan, t.newaxis, tuple(x[:, t.newaxis].shape),
        t.tensor([t.inf, -t.inf, t.pi]), t.tensor(t.nan).isnan(), repr(t.strided), str(t.strided),
        isinstance(t.strided, t.layout), isinstance(x.layout, t.layout),
        [isinstance(f, t.memory_format) for f in (
            t.contiguous_format, t.channels_last, t.channels_last_3d, t.preserve_format)],
        [str(f) for f in (t.contiguous_format, t.channels_last, t.preserve_format)],
    ]  # fmt: skip


@same
def test_dtypes(t: Any) -> Any:
    found = []
    for name in DTYPES:
        d = getattr(t, name)
        found += [str(d), repr(d), d.itemsize, d.is_floating_point, d.is_complex, d.is_signed]
        found += [isinstance(d, t.dtype), d.to_real(), t.zeros(1, dtype=d).dtype is d, d == t.float]
    return [
        *found, t.float.to_complex(), t.double.to_complex(), t.long is t.int64, t.half is t.float16,
        t.cfloat is t.complex64, t.short is t.int16, len({t.int, t.int32, t.double, t.float64}),
    ]  # fmt: skip


@same
def test_types_meet(t: Any) -> Any:
    dtypes = [getattr(t, name) for name in sorted({*DTYPES})]
    x, scalar, whole = t.ones(2), t.tensor(1.0, dtype=t.float64), t.ones(2, dtype=t.int32)
    return [
        [t.promote_types(a, b) for a, b in itertools.product(dtypes, dtypes)],
        [t.can_cast(a, b) for a, b in itertools.product(dtypes, dtypes)],
        t.result_type(x, scalar), t.result_type(whole, 1.5), t.result_type(whole, scalar),
        t.result_type(3, whole), t.result_type(2, 1.0), t.result_type(whole, x),
        t.result_type(whole, True), t.can_cast(t.double, t.float),
        t.promote_types(type1=t.uint8, type2=t.int8), t.can_cast(from_=t.float, to=t.int),
    ]  # fmt: skip


@same
def test_predicates(t: Any) -> Any:
    x, n = t.ones(2, 3), t.arange(4)
    return [
        t.is_tensor(x), t.is_tensor([1]), t.is_tensor(np.ones(2)), t.is_tensor(n),
        t.is_floating_point(x), t.is_floating_point(n), t.is_complex(x), t.is_complex(x + 1j),
        t.numel(x), t.numel(input=n), isinstance(x, t.Tensor), t.is_grad_enabled(),
        t.is_floating_point(input=x.half()), t.is_complex(input=n), t.equal(x, x),
        t.is_nonzero(n[1]), t.is_signed(n.byte()), t.is_same_size(x, x.T), t.is_conj(x),
        t.is_neg(x), t.is_inference(x), failure(lambda: t.is_nonzero(x), "ambiguous"),
    ]  # fmt: skip


@same
def test_determinism(t: Any) -> Any:
    found = []

    def look() -> None:
        found.append([
            t.are_deterministic_algorithms_enabled(), t.get_deterministic_debug_mode(),
            t.is_deterministic_algorithms_warn_only_enabled(),
        ])  # fmt: skip

    look()
    t.use_deterministic_algorithms(True)
    look()
    t.use_deterministic_algorithms(True, warn_only=True)
    look()
    for mode in (0, 1, 2, "default", "warn", "error"):
        t.set_deterministic_debug_mode(mode)
        look()
    found += [
        failure(lambda: t.set_deterministic_debug_mode("loud"), "expected one of"),
        failure(lambda: t.set_deterministic_debug_mode(3), "expected 0, 1, or 2"),
        failure(lambda: t.set_deterministic_debug_mode(1.5), "must be str or int"),
    ]
    t.use_deterministic_algorithms(mode=False)
    look()
    return found


@same
def test_precision_warnings_and_threads(t: Any) -> Any:
    before, threads = t.get_float32_matmul_precision(), t.get_num_threads()
    found: list[Any] = [before]
    for precision in ("medium", "high", "highest"):
        t.set_float32_matmul_precision(precision)
        found.append(t.get_float32_matmul_precision())
    t.set_float32_matmul_precision(precision=before)
    t.set_warn_always(True)
    found.append(t.is_warn_always_enabled())
    t.set_warn_always(False)
    t.set_num_threads(1)
    found += [t.is_warn_always_enabled(), t.get_num_threads(), t.get_num_interop_threads() > 0]
    found += [failure(lambda: t.set_num_threads(0)), failure(lambda: t.set_num_threads("one"))]
    t.set_num_threads(threads)
    return found


@same
def test_default_dtype_and_device(t: Any) -> Any:
    found = [t.get_default_dtype(), str(t.get_default_device())]
    try:
        for d in (t.float64, t.float16, t.bfloat16):
            t.set_default_dtype(d)
            made = [t.tensor(1.5), t.zeros(2), t.arange(2.0), t.tensor(1) / 2]
            found += [t.get_default_dtype(), *[m.dtype for m in made], repr(t.ones(2))]
        t.set_default_dtype(t.float32)
        t.set_default_device("cpu")
        found += [str(t.get_default_device()), str(t.ones(1).device), repr(t.ones(2).double())]
        found.append(failure(lambda: t.set_default_dtype(t.int64), "floating"))
    finally:
        t.set_default_dtype(t.float32)
        t.set_default_device(None)
    return [*found, t.get_default_dtype(), str(t.get_default_device())]


@same
def test_grad_modes(t: Any) -> Any:
    x, found = t.ones(2, requires_grad=True), []

    @t.no_grad()
    def quiet(y: Any) -> Any:
        return y * 2

    @t.enable_grad()
    def loud(y: Any) -> Any:
        return y * 2

    with t.no_grad():
        found += [t.is_grad_enabled(), (x * 2).requires_grad, loud(x).requires_grad]
        with t.enable_grad(), t.set_grad_enabled(False):
            found.append(t.is_grad_enabled())
    with t.inference_mode():
        found += [t.is_inference_mode_enabled(), t.is_grad_enabled(), (x * 2).requires_grad]
    with t.inference_mode(mode=False):
        found += [t.is_inference_mode_enabled(), t.is_grad_enabled()]
    t.set_grad_enabled(False)
    found.append(t.is_grad_enabled())
    t.set_grad_enabled(mode=True)
    t.set_anomaly_enabled(True, check_nan=False)
    found += [t.is_anomaly_enabled(), t.is_anomaly_check_nan_enabled()]
    t.set_anomaly_enabled(False)
    return [*found, t.is_anomaly_enabled(), quiet(x).requires_grad, t.is_grad_enabled()]


@same
def test_printing(t: Any) -> Any:
    x, found = t.tensor([[1 / 3, 1234.5], [1e-6, -2.0]]), []
    long = t.arange(2000.0)
    try:
        for options in (
            {"precision": 2}, {"sci_mode": True}, {"sci_mode": False}, {"profile": "short"},
            {"profile": "full", "linewidth": 40}, {"profile": "default"}, {"linewidth": 30},
            {"threshold": 5, "edgeitems": 1},
        ):  # fmt: skip
            t.set_printoptions(**options)
            found += [repr(x), str(t.arange(8)), repr(x[:, :1])]
        t.set_printoptions(profile="default")
        found.append(repr(long))
    finally:
        t.set_printoptions(profile="default")
    return found


@same
def test_seeds_and_generators(t: Any) -> Any:
    g = t.manual_seed(12)
    found = [isinstance(g, t.Generator), t.initial_seed(), t.rand(3), t.default_generator is g]
    state = t.get_rng_state()
    first = t.randn(4)
    t.set_rng_state(state)
    found += [first.equal(t.randn(4)), state.dtype, tuple(state.shape)]
    number = t.seed()
    found += [isinstance(number, int), number == t.initial_seed(), number == g.initial_seed()]
    own = t.Generator().manual_seed(5)
    kept = own.get_state()
    draws = [t.rand(2, generator=own), t.randint(9, (3,), generator=own)]
    own.set_state(kept)
    again = t.rand(2, generator=own)
    t.default_generator.manual_seed(99)
    return [*found, *draws, again, own.initial_seed(), str(own.device), t.rand(2),
            t.initial_seed(), failure(lambda: t.manual_seed(2**70))]  # fmt: skip


@same
def test_module_of_random(t: Any) -> Any:
    t.random.manual_seed(7)
    found = [t.random.initial_seed(), t.rand(2)]
    state = t.random.get_rng_state()
    with t.random.fork_rng():
        t.manual_seed(1)
        found.append(t.rand(2))
    with t.random.fork_rng(devices=[], enabled=True):
        found.append(t.rand(2))
    found += [t.rand(2), t.random.get_rng_state().equal(state)]
    t.random.set_rng_state(state)
    found.append(t.rand(2))
    number = t.random.seed()
    return [*found, number == t.random.initial_seed(), t.random.default_generator.initial_seed()
            == number]  # fmt: skip


@same
def test_shapes_and_products(t: Any) -> Any:
    a, b, m = t.arange(3.0), t.arange(2.0), t.arange(4.0).reshape(2, 2)
    return [
        list(t.broadcast_shapes((2, 1), (3,), (1, 1, 1))), list(t.broadcast_shapes(3, (2, 1))),
        failure(lambda: t.broadcast_shapes((2,), (3,)), "should be broadcastable to [2]"),
        t.broadcast_tensors(a, b[:, None]), t.cartesian_prod(a, b), t.cartesian_prod(a),
        t.block_diag(m, a, t.tensor(7.0)), t.block_diag(m), t.tensordot(m, m, dims=1),
        t.tensordot(m, m, dims=([0], [1])), t.unique(t.tensor([3, 1, 3])),
        t.unique(m, sorted=True, return_inverse=True, return_counts=True, dim=0),
        failure(lambda: t.tensordot(m, a, dims=1)), t.chain_matmul(m, m, m),
        t.where(a > 1, a, -a), t.where(a > 1), t.where(a > 1, 1.0, 0.0),
    ]  # fmt: skip


@same
def test_limits(t: Any) -> Any:
    found = []
    for name in ("float32", "float64", "float16", "bfloat16", "complex64"):
        f = t.finfo(getattr(t, name))
        found += [f.bits, f.eps, f.max, f.min, f.tiny, f.smallest_normal, f.resolution, f.dtype]
    for name in ("uint8", "int8", "int16", "int32", "int64"):
        i = t.iinfo(getattr(t, name))
        found += [i.bits, i.max, i.min, i.dtype]
    return [
        *found, t.finfo().dtype, repr(t.finfo(t.float32)), repr(t.iinfo(t.int8)),
        failure(lambda: t.finfo(t.int32)), failure(lambda: t.iinfo(t.float32)),
    ]  # fmt: skip


@same
def test_modules_and_errors_of_devices(t: Any) -> Any:
    return [
        t.get_device_module("cpu") is t.cpu, t.get_device_module(t.device("cuda", 0)) is t.cuda,
        t.get_device_module() in (t.cpu, t.cuda), failure(lambda: t.get_device_module("moon")),
        issubclass(t.AcceleratorError, RuntimeError), t.GradScaler is t.amp.GradScaler,
        t.GradScaler("cpu", init_scale=4.0, enabled=False).is_enabled(),
    ]  # fmt: skip
