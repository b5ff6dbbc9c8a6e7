"""Random numbers equal torch's on the CPU, bit for bit, and leave the generator where torch's is.

Every comparison also compares the 5056 bytes of state, so each proves what its call consumed.
"""

from __future__ import annotations

import math
import platform

import ml_dtypes
import numpy as np
import pytest
from farspan.core import random as fr

torch = pytest.importorskip("torch")

DTYPES = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
I64 = np.dtype(np.int64)
SEED = 20240607

x86_only = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="torch rounds otherwise elsewhere"
)


def as_bits(array):
    """Return the numpy array or torch tensor as unsigned integers, NaNs made equal."""
    if isinstance(array, torch.Tensor):
        dtype = str(array.dtype).removeprefix("torch.")
        if dtype == "bfloat16":
            array = array.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        else:
            array = array.numpy()
    array = np.ascontiguousarray(array)
    if array.dtype.kind == "c":
        array = array.view(np.float32 if array.dtype.itemsize == 8 else np.float64)
    if array.dtype.name in DTYPES:
        array = np.where(np.isnan(array), array.dtype.type(np.nan), array)
    return array.view(f"u{array.dtype.itemsize}")


def assert_in_step(actual, expected, gen, torch_gen):
    """Assert equal shape, dtype and bits, and equal generator states."""
    assert actual.flags.c_contiguous
    assert actual.shape == tuple(expected.shape)
    assert actual.dtype.name == str(expected.dtype).removeprefix("torch.")
    np.testing.assert_array_equal(as_bits(actual), as_bits(expected))
    np.testing.assert_array_equal(gen.get_state(), torch_gen.get_state().numpy())


@pytest.fixture
def both():
    return fr.Generator(SEED), torch.Generator().manual_seed(SEED)


CONTINUOUS = {
    "rand": (fr.uniform, (), "uniform_", ()),
    "uniform": (fr.uniform, (-0.3, 0.7), "uniform_", (-0.3, 0.7)),
    "randn": (fr.normal, (), "normal_", ()),
    "normal": (fr.normal, (0.7, 3.0), "normal_", (0.7, 3.0)),
    "log_normal": (fr.log_normal, (), "log_normal_", ()),
    "exponential": (fr.exponential, (0.7,), "exponential_", (0.7,)),
    "geometric": (fr.geometric, (0.1,), "geometric_", (0.1,)),
    "cauchy": (fr.cauchy, (0.3, 2.0), "cauchy_", (0.3, 2.0)),
}


@x86_only
@pytest.mark.parametrize("shape", [(), (0,), (1,), (5,), (15,), (16,), (17,), (4, 9), (40001,)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_distributions_equal_torch(both, name, dtype, shape):
    ours, ours_args, theirs, theirs_args = CONTINUOUS[name]
    gen, torch_gen = both
    for _ in range(2):  # the second call starts from what the first left, the cached normal too
        expected = torch.empty(shape, dtype=getattr(torch, dtype))
        getattr(expected, theirs)(*theirs_args, generator=torch_gen)
        assert_in_step(ours(gen, shape, DTYPES[dtype], *ours_args), expected, gen, torch_gen)


@x86_only
@pytest.mark.parametrize("n", [3, 7, 8, 21])
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_numbers_equal_torch(both, dtype, n):
    gen, torch_gen = both
    for ours, theirs in ((fr.normal, torch.randn), (fr.uniform, torch.rand)):
        expected = theirs(n, dtype=getattr(torch, dtype), generator=torch_gen)
        assert_in_step(ours(gen, (n,), np.dtype(dtype)), expected, gen, torch_gen)


@x86_only
def test_a_million_normals_are_bit_equal(both):
    gen, torch_gen = both
    expected = torch.randn(1_000_003, generator=torch_gen)
    assert_in_step(fr.normal(gen, (1_000_003,), DTYPES["float32"]), expected, gen, torch_gen)


@x86_only
def test_normal_of_a_transposed_tensor_takes_the_serial_path(both):
    gen, torch_gen = both
    expected = torch.empty(40, 30).t().normal_(1, 2, generator=torch_gen).t()
    actual = fr.normal(gen, (40, 30), DTYPES["float32"], 1, 2, contiguous=False)
    assert_in_step(actual, expected, gen, torch_gen)


INT_BOUNDS = [
    (None, None),
    (0, 2),
    (-100, 100),
    (0, 2**28 - 1),
    (0, 2**28),
    (-(2**31), 2**31 - 1),
    (5, 2**40),
    (-(2**63), 2**63 - 1),
    (1, None),
    (-(2**63), None),
    (0, 65504),
    (-257, 257),
    (-(2**24) - 2, -(2**24) + 4),
]
INT_DTYPES = ["int64", "int32", "int16", "int8", "uint8", "bool", "uint16", *DTYPES]


@pytest.mark.parametrize("dtype", INT_DTYPES)
@pytest.mark.filterwarnings("ignore:.*out of bounds")
def test_random_integers_equal_torch_wherever_torch_allows_the_bounds(both, dtype):
    gen, torch_gen = both
    compared = 0
    for low, high in INT_BOUNDS:
        expected = torch.empty(300, dtype=getattr(torch, dtype))
        try:
            expected.random_(*(() if low is None else (low, high)), generator=torch_gen)
        except RuntimeError:
            continue
        actual = fr.randint(gen, (300,), DTYPES.get(dtype) or np.dtype(dtype), low, high)
        assert_in_step(actual, expected, gen, torch_gen)
        compared += 1
    assert compared >= 2


def test_randint_refuses_an_empty_interval(both):
    with pytest.raises(RuntimeError, match="from=5 >= to=5"):
        fr.randint(both[0], (3,), I64, 5, 5)


@pytest.mark.parametrize("n", [0, 1, 2, 100, 100_000])
def test_randperm_equals_torch(both, n):
    gen, torch_gen = both
    assert_in_step(fr.randperm(gen, n, I64), torch.randperm(n, generator=torch_gen), gen, torch_gen)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bernoulli_equals_torch(both, dtype):
    gen, torch_gen = both
    expected = torch.empty(999, dtype=getattr(torch, dtype)).bernoulli_(0.3, generator=torch_gen)
    assert_in_step(fr.bernoulli_p(gen, (999,), 0.3, DTYPES[dtype]), expected, gen, torch_gen)
    probs = torch.rand(3, 333, dtype=getattr(torch, dtype), generator=torch_gen)
    expected = torch.bernoulli(probs, generator=torch_gen)
    ours = fr.uniform(gen, (3, 333), DTYPES[dtype])
    assert_in_step(fr.bernoulli_tensor(gen, ours), expected, gen, torch_gen)


def test_bernoulli_refuses_probabilities_outside_0_to_1(both):
    before = both[0].get_state()
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(RuntimeError, match="p_in"):
            fr.bernoulli_tensor(both[0], np.array([0.5, bad]))
    np.testing.assert_array_equal(both[0].get_state(), before)


@pytest.mark.parametrize("shape", [(40,), (5, 40)])
@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("num_samples", [1, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_multinomial_equals_torch(both, dtype, num_samples, replacement, shape):
    gen, torch_gen = both
    weights = torch.rand(shape, dtype=getattr(torch, dtype), generator=torch_gen)
    expected = torch.multinomial(weights, num_samples, replacement, generator=torch_gen)
    ours = fr.uniform(gen, shape, DTYPES[dtype])
    assert_in_step(fr.multinomial(gen, ours, num_samples, replacement), expected, gen, torch_gen)


@pytest.mark.parametrize("weights", [[1.0, -1.0], [1.0, math.nan], [1.0, math.inf], [0.0, 0.0]])
def test_multinomial_refuses_what_is_no_distribution(both, weights):
    for replacement in (False, True):
        with pytest.raises(RuntimeError, match="probabilit"):
            fr.multinomial(both[0], np.array(weights), 2, replacement)


@x86_only
def test_mixed_calls_stay_in_step(both):
    gen, torch_gen = both
    choose = np.random.default_rng(SEED)
    f32, f64 = DTYPES["float32"], DTYPES["float64"]
    for _ in range(200):
        n = int(choose.integers(1, 40))
        pairs = [
            lambda n=n: (fr.uniform(gen, (n,), f32), torch.rand(n, generator=torch_gen)),
            lambda n=n: (
                fr.uniform(gen, (n,), f64),
                torch.rand(n, dtype=torch.float64, generator=torch_gen),
            ),
            lambda n=n: (fr.normal(gen, (n,), f32), torch.randn(n, generator=torch_gen)),
            lambda n=n: (fr.randperm(gen, n, I64), torch.randperm(n, generator=torch_gen)),
            lambda n=n: (
                fr.randint(gen, (n,), I64, -3, 9),
                torch.randint(-3, 9, (n,), generator=torch_gen),
            ),
        ]
        actual, expected = pairs[choose.integers(len(pairs))]()
        assert_in_step(actual, expected, gen, torch_gen)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32 + 5, 2**64 - 1, -1, -(2**63)])
def test_seeding_gives_torch_state(seed):
    theirs = torch.Generator().manual_seed(seed)
    ours = fr.Generator(seed)
    assert ours.initial_seed() == theirs.initial_seed()
    np.testing.assert_array_equal(ours.get_state(), theirs.get_state().numpy())


def test_default_seed_and_seed_range():
    assert fr.Generator().initial_seed() == torch.Generator().initial_seed()
    assert fr.Generator().seed(17) == 17
    for seed in (2**64, -(2**63) - 1):
        with pytest.raises(ValueError, match="outside"):
            fr.Generator(seed)


@pytest.mark.parametrize("drawn", [0, 1, 623, 624, 625, 1248])
def test_state_goes_to_torch_and_comes_back(drawn):
    gen = fr.Generator(SEED)
    gen.words32(drawn)
    fr.normal(gen, (3,), DTYPES["float32"])  # leaves a cached normal
    theirs = torch.Generator()
    theirs.set_state(torch.from_numpy(gen.get_state()))
    back = fr.Generator(1)
    back.set_state(theirs.get_state().numpy())
    expected = torch.randn(5, generator=theirs).numpy()
    for ours in (gen.clone(), back, gen):
        np.testing.assert_array_equal(fr.normal(ours, (5,), DTYPES["float32"]), expected)


def test_clone_is_independent(both):
    gen, _ = both
    twin = gen.clone()
    before = twin.get_state()
    gen.words32(5)
    np.testing.assert_array_equal(twin.get_state(), before)
    assert not np.array_equal(gen.get_state(), before)


def test_set_state_refuses_hostile_bytes_and_changes_nothing(both):
    gen, _ = both
    before = gen.get_state()
    too_far, torn, unseeded = before.copy(), before.copy(), before.copy()
    too_far[8:12] = 255
    torn[16] = 7
    unseeded[12:16] = 0
    for state in (before[:-1], b"", bytes(5056), too_far, torn, unseeded):
        with pytest.raises(ValueError, match="set_state"):
            gen.set_state(state)
    np.testing.assert_array_equal(gen.get_state(), before)
