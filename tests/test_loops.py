"""The law of loops: a compiled loop equals the table's kernels, bit for bit where it is exact.

Over the samples of every op that may be a step, random chains, layouts, edges of the number range
and reductions. NaNs count as equal, whatever their sign and payload.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import samples
import torch
from farspan.core.dtype import BY_NAME, from_numpy
from farspan.core.op import OPS, Op, table
from farspan.core.spec import Spec
from farspan_worker import plan
from farspan_worker.kernels.cpu import bind_rows, loops
from farspan_worker.kernels.cpu.loops import (
    Group,
    Number,
    Step,
    functions,
    fusible,
    loop_for,
    relu,
    steps,
    team,
)
from farspan_worker.kernels.cpu.loops.trace import ELIGIBLE, ROWWISE, why_not
from many_threads import in_threads
from samples import ALL, ROWS, BFloat16, Call, Row, Strided
from test_laws import calls_of

table()
samples.load()
pytestmark = pytest.mark.skipif(bool(loops.missing()), reason=loops.missing())
NAMES = [n for n, op in OPS.items() if op.body is None and (
    op.family == "pointwise" or n in ELIGIBLE)]  # fmt: skip


class Given:
    """A tensor as a binder sees it."""

    def __init__(self, array: Any) -> None:
        self.array = array
        strides = tuple([s // array.itemsize for s in array.strides])
        self._spec = Spec.make(array.shape, from_numpy(array.dtype), stride=strides)


def as_given(x: Any) -> Any:
    if isinstance(x, Strided):
        return Given(
            np.moveaxis(np.ascontiguousarray(np.moveaxis(as_array(x.values), 0, -1)), -1, 0)
        )
    if isinstance(x, (np.ndarray, BFloat16)):
        return Given(as_array(x))
    return x


def as_array(x: Any) -> Any:
    if isinstance(x, BFloat16):
        return x.values.astype(BY_NAME["bfloat16"].numpy)
    return x


def tables(op: Op, static: Any, arrays: list[Any], scalars: Any) -> tuple[Any, Spec]:
    """Return what the table's kernel makes of a call, and its spec."""
    specs = [Given(a)._spec for a in arrays]
    made = plan.Plan(op, static, specs, scalars)
    made.kernel = op.kernel
    with np.errstate(all="ignore"):
        (result,) = plan.compute(made, list(arrays), scalars, None)
    return plan.lay_out(result, made.outs[0], arrays), made.outs[0]


def run(group: Group, arrays: list[Any], numbers: tuple[Any, ...] = ()) -> list[Any] | None:
    """Return the loop's outputs, None if there is no loop."""
    loop = loop_for(group)
    if loop is None:
        return None
    outs = [plan.empty(spec) for _, spec in group.outputs]
    loop.function(*[a.ctypes.data for a in (*arrays, *outs)], *numbers)
    return outs


def same(a: Any, b: Any) -> bool:
    """Return whether two arrays are equal bit for bit, but for what NaNs look like."""
    if a.dtype.kind in "fV":
        ints = f"u{a.itemsize}"
        nan = np.isnan(a.astype("f8"))
        equal = np.ascontiguousarray(a).view(ints) == np.ascontiguousarray(b).view(ints)
        return bool(np.all(np.where(nan, np.isnan(b.astype("f8")), equal)))
    return np.array_equal(a, b)


def close(a: Any, b: Any, dtype: str) -> None:
    if a.dtype.name == "bfloat16":
        a, b = (
            torch.from_numpy(a.astype("f4")).bfloat16(),
            torch.from_numpy(b.astype("f4")).bfloat16(),
        )
    else:
        a, b = torch.from_numpy(a.copy()), torch.from_numpy(b.copy())
    torch.testing.assert_close(a, b, equal_nan=True)


def call_parts(op: Op, c: Call) -> tuple[list[Any], Any, Any]:
    args = [as_given(a) for a in c.args]
    kwargs = {k: as_given(v) for k, v in c.kwargs.items()}
    tensors, static, scalars = op.bind(*args, **kwargs)
    return [t.array for t in tensors], static, tuple(scalars)


KINDS = [(n, d) for n in NAMES for d in (ROWS.get(n, Row()).dtypes or ALL) if "complex" not in d]
INEXACT = ("float32", "float64", "bfloat16", "int64")  # loops of other types are the exact ones
CASES = [
    pytest.param(n, d, exact, id=f"{n}-{d}-{'exact' if exact else 'inexact'}")
    for n, d in KINDS
    for exact in (True, False)
    if exact or d in INEXACT
]


@pytest.mark.parametrize(("name", "dtype", "exact"), CASES)
def test_a_step_alone_equals_the_tables_kernel(name: str, dtype: str, exact: bool) -> None:
    op = OPS[name]
    for c in calls_of(op, dtype):
        try:
            arrays, static, scalars = call_parts(op, c)
            expected, spec = tables(op, static, arrays, scalars)
        except (RuntimeError, TypeError, ValueError, IndexError, ArithmeticError):
            continue
        specs = tuple([Given(a)._spec for a in arrays])
        step = Step(op, static, tuple(range(len(arrays))), scalars)
        found = run(Group(specs, (step,), ((len(arrays), spec),), exact), arrays)
        may = fusible(op, static, specs, exact, scalars)
        assert may == (found is not None) or (may and name in ROWWISE)  # only rows without gaps
        if found is None:
            continue
        if exact:
            assert same(found[0], expected), f"{name} {c}: {found[0]} {expected}"
        else:
            close(found[0], expected, dtype)


#: What training is made of: ops that have loops of both kinds, and those of only the inexact one.
PLAIN = ["add.Tensor", "mul.Tensor", "div.Tensor", "sub.Tensor", "neg", "relu", "sqrt", "rsqrt",
         "threshold_backward", "where.self", "_cast", "clamp", "maximum", "tanh_backward",
         "sigmoid_backward", "masked_fill.Scalar", "eq.Tensor", "abs"]  # fmt: skip
CURVED = ["exp", "log", "tanh", "sigmoid", "gelu", "gelu_backward", "silu", "silu_backward",
          "pow.Tensor_Scalar", "softplus", "sum", "mean.dim", "mse_loss", "erf"]  # fmt: skip


@pytest.mark.parametrize("name", PLAIN + CURVED)
def test_what_training_is_made_of_has_loops(name: str) -> None:
    found = set()
    for c in [c for dtype in ("float32", "int64") for c in calls_of(OPS[name], dtype)]:
        try:
            arrays, static, scalars = call_parts(OPS[name], c)
        except (RuntimeError, TypeError, ValueError):  # a call that the op refuses
            continue
        specs = [Given(a)._spec for a in arrays]
        found |= {e for e in (True, False) if fusible(OPS[name], static, specs, e, scalars)}
    assert found >= ({True, False} if name in PLAIN else {False})


# ------------------------------------------------------------------------------ chains, layouts --
EDGES = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-40, 1.2e-38, 3e38, -3e38, 1, -1, 0.5, -2.5],
    np.float32,
)
#: name, how many tensors, static arguments and numbers after them
EXACT_STEPS: list[tuple[str, int, tuple[Any, ...]]] = [
    ("add.Tensor", 2, ()), ("sub.Tensor", 2, ()), ("mul.Tensor", 2, ()), ("div.Tensor", 2, ()),
    ("maximum", 2, ()), ("minimum", 2, ()), ("neg", 1, ()), ("abs", 1, ()), ("relu", 1, ()),
    ("sqrt", 1, ()), ("reciprocal", 1, ()), ("threshold_backward", 2, (0,)), ("floor", 1, ()),
    ("mul.Scalar", 1, (1.5,)), ("add.Scalar", 1, (-0.25,)), ("clamp", 1, (-1.0, 1.0)),
    ("tanh_backward", 2, ()), ("addcmul", 3, ()), ("leaky_relu", 1, (0.1,)), ("sign", 1, ()),
    ("where.self", 3, ()), ("nan_to_num", 1, ()), ("copysign.Tensor", 2, ()),
]  # fmt: skip
CURVED_STEPS = [("tanh", 1, ()), ("sigmoid", 1, ()), ("gelu", 1, ()), ("silu", 1, ())]


def layout(rng: Any, shape: tuple[int, ...], edges: bool = False) -> Any:
    """Return an array that broadcasts to shape: whole, transposed, with gaps, or with dims gone."""
    full = np.asarray(rng.standard_normal(shape), "f4")
    if edges and full.size:
        full.reshape(-1)[:: max(1, full.size // 40)] = rng.choice(EDGES)
        full.reshape(-1)[: min(full.size, 14)] = EDGES[: full.size]
    how = int(rng.integers(6))
    if how == 1 and shape:
        return np.ascontiguousarray(full.T).T
    if how == 2 and shape and shape[-1]:
        wide = np.zeros((*shape[:-1], 2 * shape[-1]), "f4")
        wide[..., ::2] = full
        return wide[..., ::2]
    if how == 3 and shape:
        return np.ascontiguousarray(full[..., :1])
    if how == 4 and shape and shape[0]:
        return np.asarray(full[0])
    return full


def chain(rng: Any, shape: tuple[int, ...], menu: Any, edges: bool) -> tuple[Any, ...]:
    """Return arrays, steps, and all values that the table's kernels make of them, with specs."""
    arrays = [np.ones(shape, "f4"), *[layout(rng, shape, edges) for _ in range(3)]]
    mask = np.asarray(rng.random(shape) < 0.5)
    values, steps = [*arrays, mask], []
    specs = [Given(a)._spec for a in values]
    for _ in range(int(rng.integers(1, 9))):
        name, count, rest = menu[rng.integers(len(menu))]
        floats = [i for i, v in enumerate(values) if v.dtype == np.float32]
        picked = [int(rng.choice(floats)) for _ in range(count)]
        if name == "where.self":
            picked[0] = len(arrays)
        op = OPS[name]
        _, static, scalars = op.bind(*[Given(values[i]) for i in picked], *rest)
        steps.append(Step(op, static, tuple(picked), tuple(scalars)))
        value, spec = tables(op, static, [values[i] for i in picked], tuple(scalars))
        values.append(value)
        specs.append(spec)
    return values[: len(arrays) + 1], steps, values, specs


@pytest.mark.parametrize("seed", range(60))
def test_random_chains_are_bit_for_bit_the_tables(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = [(), (1,), (3,), (0, 3), (7, 5), (2, 3, 4), (33, 17), (5, 1, 65), (1000,)]
    shape = shapes[seed % len(shapes)]
    arrays, steps, values, specs = chain(rng, shape, EXACT_STEPS, True)
    stored = [i for i in range(len(arrays), len(values)) if specs[i].shape == shape]
    picked = sorted({stored[-1], int(rng.choice(stored))}) if stored else []
    if not picked:
        return
    group = Group(tuple(specs[: len(arrays)]), tuple(steps), tuple((i, specs[i]) for i in picked))
    outs = run(group, arrays)
    assert outs is not None, why_not(group)
    for i, out in zip(picked, outs, strict=True):
        assert same(out, values[i]), f"seed {seed}, value {i} of {[s.op.name for s in steps]}"


@pytest.mark.parametrize("seed", range(40))
def test_random_chains_that_end_in_a_reduction_are_near(seed: int) -> None:
    rng = np.random.default_rng(1000 + seed)
    shapes = [
        (7, 5),
        (2, 3, 4),
        (130, 70),
        (3, 40, 50),
        (20_011,),
        (5, 9_001),
        (3000, 5),
        (2, 1, 9),
    ]
    shape = shapes[seed % len(shapes)]
    arrays, steps, values, specs = chain(rng, shape, CURVED_STEPS + EXACT_STEPS[:3], False)
    last = max(i for i, s in enumerate(specs) if s.shape == shape and s.dtype.name == "float32")
    dims = [d for d in range(len(shape)) if rng.random() < 0.6] or [0]
    name = ["sum.dim_IntList", "mean.dim", "amax"][seed % 3]
    op = OPS[name]
    _, static, scalars = op.bind(Given(values[last]), dims, bool(seed % 2))
    steps.append(Step(op, static, (last,), tuple(scalars)))
    wide, _ = tables(op, static, [values[last].astype("f8")], tuple(scalars))
    _, spec = tables(op, static, [values[last]], tuple(scalars))
    outputs = [(len(values), spec)]
    if last >= len(arrays) and seed % 2:
        outputs.append((last, specs[last]))
    outs = run(Group(tuple(specs[: len(arrays)]), tuple(steps), tuple(outputs), False), arrays)
    assert outs is not None
    scale = max(1.0, float(np.abs(values[last]).astype("f8").sum() / max(1, outs[0].size)))
    scale = scale if name == "sum.dim_IntList" else 1 + float(np.abs(values[last]).max())
    np.testing.assert_allclose(outs[0], wide, rtol=1e-5, atol=2e-6 * scale)
    for out in outs[1:]:
        close(out, values[last], "float32")


def test_numbers_may_come_when_the_loop_runs() -> None:
    spec = Spec.make((100,), BY_NAME["float32"])
    op = OPS["add.Tensor"]
    x, y = np.linspace(-1, 1, 100, dtype="f4"), np.linspace(3, 5, 100, dtype="f4")
    _, static, _ = op.bind(Given(x), Given(y), alpha=0.1)
    step = Step(op, static, (0, 1), (Number(0, "f"),))
    group = Group((spec, spec), (step,), ((2, spec),))
    for alpha in (0.1, -3.7):
        outs = run(group, [x, y], (alpha,))
        assert outs is not None and same(outs[0], x + alpha * y)


def test_what_depends_on_values_or_exactness_has_no_loop() -> None:
    spec = Spec.make((4,), BY_NAME["float32"])
    ints = Spec.make((4,), BY_NAME["int64"])
    assert fusible(OPS["exp"], (), [spec], False) and not fusible(OPS["exp"], (), [spec], True)
    assert not fusible(OPS["floor_divide"], (), [ints, ints], False)
    assert not fusible(OPS["mm"], (), [spec, spec], False)
    step = Step(OPS["exp"], (), (0,))
    assert loop_for(Group((spec,), (step,), ((1, spec),), True)) is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", sorted(n for n in functions.ERRORS if any(functions.ERRORS[n])))
def test_functions_are_within_their_ulps(name: str, dtype: str) -> None:
    op, bound = OPS[name], functions.ERRORS[name][dtype == "float64"]
    if not bound:
        pytest.skip("has no loop")
    rng = np.random.default_rng(0)
    size = 10.0 ** rng.uniform(-12, 3, 60_000)
    x = np.concatenate([size, -size, rng.uniform(-4, 4, 60_000), 1 + size * 1e-6]).astype(dtype)
    spec = Given(x)._spec
    outs = run(Group((spec,), (Step(op, (), (0,)),), ((1, spec),), False), [x])
    assert outs is not None
    with np.errstate(all="ignore"):
        if name == "erf":
            right = torch.erf(torch.from_numpy(x.astype("f8"))).numpy()
        else:
            right = getattr(np, name)(x.astype(np.longdouble))
        rounded = right.astype(dtype)
        assert np.array_equal(np.isnan(outs[0]), np.isnan(rounded))
        normal = np.isfinite(rounded) & (np.abs(rounded) >= np.finfo(dtype).smallest_normal)
        assert np.array_equal(outs[0][np.isinf(rounded)], rounded[np.isinf(rounded)])
        error = np.abs(outs[0].astype(np.longdouble) - right)[normal]
        assert (error / np.spacing(np.abs(rounded[normal]))).max() <= bound


@pytest.mark.parametrize("name", [*sorted(functions.ERRORS), "sigmoid", "gelu", "silu", "relu"])
def test_functions_at_the_edges_are_the_tables(name: str) -> None:
    op = OPS[name]
    x = np.concatenate([EDGES, np.array([88.8, -88.8, 104, -104, 710, 1e10, -1e10], "f4")])
    _, static, scalars = op.bind(Given(x))
    expected, spec = tables(op, static, [x], scalars)
    group = Group((Given(x)._spec,), (Step(op, static, (0,), tuple(scalars)),), ((1, spec),), False)
    outs = run(group, [x])
    assert outs is not None
    np.testing.assert_allclose(outs[0], expected, rtol=1e-5, atol=1e-37)


def test_powers_are_torchs_at_the_edges() -> None:
    base = np.repeat(np.concatenate([EDGES, [-3, 2, -0.3]]).astype("f4"), 17)
    exponent = np.tile(np.concatenate([EDGES, [3, -3, 0.3]]).astype("f4"), 17)
    spec = Given(base)._spec
    step = Step(OPS["pow.Tensor_Tensor"], (), (0, 1))
    outs = run(Group((spec, spec), (step,), ((2, spec),), False), [base, exponent])
    assert outs is not None
    right = torch.from_numpy(base) ** torch.from_numpy(exponent)
    torch.testing.assert_close(
        torch.from_numpy(outs[0]), right, equal_nan=True, atol=1e-37, rtol=1e-5
    )


def test_in_place_and_background_and_threads() -> None:
    spec = Spec.make((1001,), BY_NAME["float32"])
    op = OPS["mul.Tensor"]
    group = Group((spec, spec), (Step(op, (), (0, 1)), Step(op, (), (2, 1))), ((3, spec),))
    found = loop_for(group, wait=False)
    assert found is not None
    made = found.result() if isinstance(found, loops.Pending) else found
    assert loop_for(group, wait=False) is loop_for(group) and loop_for(group).ready()
    wrong = []

    def work(seed: int) -> None:
        x, y = np.random.default_rng(seed).standard_normal((2, 1001)).astype("f4")
        expected = x * y * y
        made.function(x.ctypes.data, y.ctypes.data, x.ctypes.data)
        if not np.array_equal(x, expected):
            wrong.append(seed)

    in_threads(work)
    assert not wrong


# ------------------------------------------------------------------------------------ threads --
def with_threads(count: int, work: Any) -> Any:
    """Return what a thread of its own gets with a team of so many."""
    import ctypes

    found: list[Any] = []

    def run() -> None:
        ctypes.CDLL("libgomp.so.1").omp_set_num_threads(count)
        found.append(work())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


#: op, shape, dims of a reduction, whether an input is transposed
SHARED: list[tuple[str, tuple[int, ...], Any, bool]] = [
    ("mul.Tensor", (131_073,), None, False), ("mul.Tensor", (3, 50_000), None, False),
    ("mul.Tensor", (700, 300), None, True), ("mul.Tensor", (2, 1, 70_001), None, False),
    ("sum.dim_IntList", (140_001,), [0], False), ("sum.dim_IntList", (1_000_003,), [0], False),
    ("sum.dim_IntList", (400, 401), [0, 1], True), ("mean.dim", (400, 401), [1], False),
    ("sum.dim_IntList", (401, 400), [0], False), ("amax", (90, 40, 50), [0, 2], False),
    ("sum.dim_IntList", (20, 9_001), [0], False), ("amax", (3, 90_000), [1], False),
    ("sum.dim_IntList", (50_000, 3), [0], False), ("amin", (300_000,), [0], True),
]  # fmt: skip


@pytest.mark.skipif(not team.symbols(), reason="no libgomp")
@pytest.mark.parametrize(("name", "shape", "dims", "turned"), SHARED, ids=str)
def test_bits_do_not_depend_on_how_many_threads_share(
    name: str, shape: tuple[int, ...], dims: Any, turned: bool
) -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(shape).astype("f4") for _ in range(2))
    y = np.ascontiguousarray(y.T).T if turned else y
    steps = [Step(OPS["mul.Tensor"], (), (0, 1)), Step(OPS["add.Tensor"], (), (2, 0))]
    _, static, scalars = OPS["add.Tensor"].bind(Given(x), Given(y))
    steps[1] = Step(OPS["add.Tensor"], static, (2, 0), tuple(scalars))
    value, outputs = x * y + x, [(3, Given(x)._spec)]
    if dims is not None:
        _, static, scalars = OPS[name].bind(Given(x), dims)
        steps.append(Step(OPS[name], static, (3,), tuple(scalars)))
        wide, _ = tables(OPS[name], static, [value.astype("f8")], tuple(scalars))
        value, spec = tables(OPS[name], static, [value], tuple(scalars))
        outputs.append((4, spec))
    group = Group((Given(x)._spec, Given(y)._spec), tuple(steps), tuple(outputs), dims is None)
    loop = loop_for(group)
    assert loop is not None and ("GOMP" in loop.text) == (shape != (50_000, 3))
    found = [with_threads(n, lambda: run(group, [x, y])) for n in (1, 2, 3, 7)]
    for each in found[1:]:
        assert all(same(a, b) for a, b in zip(each, found[0], strict=True))
    if dims is None:
        assert same(found[0][0], value)
    else:
        close(found[0][0], x * y + x, "float32")
        scale = np.abs(x * y + x).sum() / max(1, wide.size)
        np.testing.assert_allclose(found[0][1], wide, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.skipif(not team.symbols(), reason="no libgomp")
def test_an_optimizer_step_of_a_team_gives_the_same_bits() -> None:
    registry: dict[str, Any] = {}
    steps.register(registry)
    options = STEPS["_adam_step_"][1].values()

    def work(count: int) -> list[Any]:
        rng = np.random.default_rng(0)
        lists = [[rng.random(n, "f4") for n in (130_001, 3, 70_000, 65, 0)] for _ in range(4)]
        counters = [np.zeros((), "f4") for _ in range(5)]
        kernel = registry["_adam_step_"].kernel if count else OPS["_adam_step_"].kernel
        kernel(np, *lists, [], counters, *options, None, None)
        return [a for one in lists for a in one]

    expected = work(0)
    for count in (1, 2, 5):
        found = with_threads(count, lambda count=count: work(count))
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


# -------------------------------------------------------------------------------------- steps --
STEPS: dict[str, tuple[int, dict[str, Any], list[dict[str, Any]]]] = {
    "_adam_step_": (
        5,
        {"lr": 1e-2, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0, "eps": 1e-8,
         "amsgrad": False, "maximize": False, "decoupled": False},
        [{}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled": True}, {"amsgrad": True},
         {"maximize": True, "beta1": 0.3}],
    ),
    "_sgd_step_": (
        3,
        {"lr": 1e-2, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False,
         "maximize": False, "first": False},
        [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
         {"momentum": 0.5, "dampening": 0.1, "maximize": True}, {"momentum": 0.9, "first": True}],
    ),
    "_rmsprop_step_": (
        5,
        {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "weight_decay": 0.0, "momentum": 0.0,
         "centered": False, "maximize": False},
        [{}, {"momentum": 0.9}, {"centered": True, "momentum": 0.5, "weight_decay": 0.1}],
    ),
}  # fmt: skip
STEP_CASES = [(n, d, o) for n, (_, _, each) in STEPS.items() for d in ("f4", "f8") for o in each]


@pytest.mark.parametrize(("name", "dtype", "given"), STEP_CASES, ids=str)
def test_an_optimizer_step_gives_the_bits_of_the_tables(
    name: str, dtype: str, given: dict[str, Any]
) -> None:
    count, defaults, _ = STEPS[name]
    options = {**defaults, **given}
    both = []
    registry: dict[str, Any] = {}
    steps.register(registry)
    for kernel in (registry[name].kernel, OPS[name].kernel):
        rng = np.random.default_rng(0)
        shapes = [(300, 100), (7,), (65, 64), (0,), (), (9, 5)]
        lists = [[np.asarray(rng.random(s), dtype) for s in shapes] for _ in range(count)]
        lists[0][2] = np.asfortranarray(lists[0][2])  # the others of it are not: the table's way
        for one in lists:
            one[5] = np.asfortranarray(one[5])
        counters = [np.zeros((), "f4") for _ in shapes]
        gone = {"_adam_step_": {4: "amsgrad"}, "_sgd_step_": {2: "momentum"},
                "_rmsprop_step_": {3: "momentum", 4: "centered"}}[name]  # fmt: skip
        passed = [[] if i in gone and not options[gone[i]] else x for i, x in enumerate(lists)]
        if name != "_sgd_step_":
            passed.append(counters)
        for _ in range(3):
            assert kernel(np, *passed, *options.values(), None, None) == ()
        kernel(np, *passed, *options.values(), None, np.ones((), "f4"))  # skipped
        both.append([a for each in (*lists, counters) for a in each])
    for a, b in zip(*both, strict=True):
        assert np.array_equal(a, b, equal_nan=True)


@pytest.mark.parametrize("size", [relu.LOOP_ELEMENTS - 1, relu.LOOP_ELEMENTS + 7])
@pytest.mark.parametrize("in_place", [False, True])
def test_relu_and_its_gradient_have_the_bits_of_numpy(size: int, in_place: bool) -> None:
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, size)).astype(np.float32)
    odd = np.array([np.nan, -np.nan, 0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45], np.float32)
    x[:64], g[:64] = np.repeat(odd, 8), np.tile(odd, 8)
    relu_of, kept = np.maximum(x, 0), np.where(x <= 0, np.float32(0), g)
    assert relu.positive_part(x, out := x.copy()) == (size >= relu.LOOP_ELEMENTS)
    for work, given, expected in (
        (bind_rows._positive_part, (x,), relu_of),
        (bind_rows._kept_where_positive, (g, x), kept),
    ):
        first = given[0].copy()
        out = first if in_place else np.empty_like(x)
        work(first, *given[1:], out)
        assert out.tobytes() == expected.tobytes()
