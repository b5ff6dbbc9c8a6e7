"""Tensors print as torch prints them, and printing fetches only what is seen."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from farspan import _format

torch = pytest.importorskip("torch")

SEED = 7


@pytest.fixture(autouse=True)
def default_printoptions():
    yield
    torch.set_printoptions(profile="default")
    _format.set_printoptions(profile="default")


def set_both(**options):
    torch.set_printoptions(**options)
    _format.set_printoptions(**options)


def as_array(tensor):
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def ours(tensor, **settings):
    """Return our text for a torch tensor, asserting that it was fetched at most once."""
    fetched = []

    def fetch(indices):
        fetched.append(indices)
        array = as_array(tensor)
        return array[np.ix_(*indices)] if indices else array

    text = _format.format_tensor(
        tuple(tensor.shape),
        str(tensor.dtype).removeprefix("torch."),
        fetch,
        requires_grad=tensor.requires_grad,
        grad_fn=tensor.grad_fn.name() if tensor.grad_fn is not None else None,
        is_parameter=isinstance(tensor, torch.nn.Parameter),
        **settings,
    )
    assert len(fetched) == (tensor.numel() > 0) or "[...]" in text
    return text


def assert_same(tensor):
    assert ours(tensor) == repr(tensor)


NAN, INF = math.nan, math.inf
VALUES = [
    1.5,
    3.0,
    -0.0,
    NAN,
    1e9,
    [],
    [0.0],
    [1.0, 2.0, 3.0],
    [1.0, -1.0],
    [1.0, 2.5, 1e5],
    [1e-5, 1.0],
    [1e8, 1.0],
    [1e8],
    [1e4, 1.5],
    [999.0, 1.0],
    [1000.0, 1.0],
    [1001.0, 1.0],
    [1e-4, 2e-4],
    [0.99e-4, 2e-4],
    [1e-10, 0.0],
    [NAN, 1.0],
    [NAN, 1.5],
    [INF, -INF, 2.0],
    [NAN, INF],
    [1.0, NAN, 1e20],
    [0.0] * 40,
    [[1.0], [22.5]],
    [[[1.0, 2.0]], [[3.0, 4.0]]],
]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "complex64"])
@pytest.mark.parametrize("values", VALUES, ids=str)
def test_floats_print_as_in_torch(values, dtype):
    assert_same(torch.tensor(values, dtype=getattr(torch, dtype)))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3),
        torch.tensor(True),
        torch.tensor([2**40, -1]),
        torch.tensor([2**63 + 5], dtype=torch.uint64),
        torch.tensor([[True, False], [False, False]]),
        torch.arange(100, dtype=torch.int8),
        torch.tensor(1.5 - 2j),
        torch.tensor([1 + 2j, 1 - 100j]),
        torch.tensor([1.5 - 2j, 1e8 + 1j]),
        torch.tensor([complex(NAN, -INF), 1j, complex(-0.0, -0.0)]),
        torch.tensor([1e308, 1e-308], dtype=torch.float64),
    ],
    ids=repr,
)
def test_other_dtypes_print_as_in_torch(tensor):
    assert_same(tensor)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32", "bool", "complex64"])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0), (1200, 0)])
def test_empty_tensors_tell_size_and_dtype(shape, dtype):
    assert_same(torch.empty(shape, dtype=getattr(torch, dtype)))


@pytest.mark.parametrize(
    "shape",
    [(1000,), (1001,), (40, 40), (2000, 2), (2, 2000), (10, 10, 11), (6, 7, 5, 6), (7, 1, 3)],
)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "bool"])
def test_large_tensors_are_summarized_as_in_torch(shape, dtype):
    gen = torch.Generator().manual_seed(SEED)
    tensor = torch.randn(shape, generator=gen)
    assert_same(tensor > 0 if dtype == "bool" else tensor.to(getattr(torch, dtype)))


def test_grad_suffixes():
    leaf = torch.ones(3, requires_grad=True)
    wide = torch.zeros(20, 20, requires_grad=True) * 2
    for tensor in (
        leaf,
        leaf + 1,
        leaf.sum(),
        wide[0],
        wide,
        torch.nn.Parameter(torch.ones(2, 2)),
        torch.nn.Parameter(torch.ones(2), requires_grad=False),
        torch.zeros(3, dtype=torch.float64, requires_grad=True) * 2,
        torch.empty(0, requires_grad=True),
    ):
        assert_same(tensor)


@pytest.mark.parametrize("length", range(60, 76))
def test_suffixes_break_at_the_line_end_as_in_torch(length):
    set_both(linewidth=length)
    assert_same(torch.ones(9, dtype=torch.float64, requires_grad=True))


def test_device_suffix_comes_first():
    text = _format.format_tensor((2,), "int32", lambda _: np.array([1, 2]), device_suffix="cuda:0")
    assert text == "tensor([1, 2], device='cuda:0', dtype=torch.int32)"
    meta = repr(torch.empty((0, 2), dtype=torch.int32, device="meta"))
    assert meta == "tensor(..., device='meta', size=(0, 2), dtype=torch.int32)"
    text = _format.format_tensor((0, 2), "int32", lambda _: np.array([]), device_suffix="cuda:0")
    assert text == "tensor([], device='cuda:0', size=(0, 2), dtype=torch.int32)"


@pytest.mark.parametrize("default", ["float64", "float16", "bfloat16"])
def test_the_default_dtype_is_silent(default):
    torch.set_default_dtype(getattr(torch, default))
    try:
        for dtype in ("float32", "float64", "float16", "bfloat16", "complex64", "complex128"):
            for size in (0, 2):
                tensor = torch.ones(size, dtype=getattr(torch, dtype))
                assert ours(tensor, default_dtype=default) == repr(tensor)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "options",
    [
        {"precision": 0},
        {"precision": 8},
        {"threshold": 5},
        {"threshold": 0, "edgeitems": 1},
        {"edgeitems": 0, "threshold": 5},
        {"edgeitems": 0},
        {"linewidth": 20},
        {"linewidth": 1},
        {"linewidth": 200},
        {"profile": "short"},
        {"profile": "full"},
        {"profile": "short", "precision": 6},
        {"sci_mode": True},
        {"sci_mode": False},
        {"sci_mode": True, "precision": 1},
    ],
    ids=str,
)
def test_print_options_are_torch_options(options):
    set_both(**options)
    gen = torch.Generator().manual_seed(SEED)
    for shape in ((), (3,), (40,), (9, 9), (3, 8, 8), (1200,)):
        tensor = torch.randn(shape, generator=gen)
        for each in (tensor, (tensor * 1e5).round(), tensor * 1e-6, tensor * 0, tensor > 0):
            assert_same(each)
        assert_same(torch.complex(tensor, tensor * 100))


def test_set_printoptions_keeps_what_is_not_given_but_resets_sci_mode():
    set_both(precision=2, sci_mode=True)
    set_both(linewidth=40)
    set_both(profile="no such profile")
    options = _format.get_printoptions()
    assert options == _format.PrintOptions(precision=2, linewidth=40, sci_mode=None)
    assert_same(torch.randn(30, generator=torch.Generator().manual_seed(SEED)))


@pytest.mark.parametrize("shape", [(10_000_000,), (1000, 1000, 1000), (5, 10**6), (10**9, 0)])
def test_printing_fetches_only_the_edges(shape):
    asked = []

    def fetch(indices):
        asked.append(indices)
        return np.zeros([len(kept) for kept in indices])

    _format.format_tensor(shape, "float32", fetch)
    if math.prod(shape) == 0:
        assert not asked
        return
    (indices,) = asked
    assert all(len(kept) <= 6 for kept in indices)
    assert list(indices[-1]) == [0, 1, 2, shape[-1] - 3, shape[-1] - 2, shape[-1] - 1]


def test_explicit_options_win_over_the_current_ones():
    set_both(precision=8)
    torch.set_printoptions(precision=2)
    tensor = torch.tensor([1 / 3])
    assert ours(tensor, options=_format.PrintOptions(precision=2)) == repr(tensor)


def test_random_tensors_print_as_in_torch():
    choose = np.random.default_rng(SEED)
    gen = torch.Generator().manual_seed(SEED)
    for _ in range(300):
        shape = tuple(choose.integers(0, 9, choose.integers(0, 4)).tolist())
        tensor = torch.randn(shape, generator=gen, dtype=torch.float64) * 10 ** choose.uniform(
            -6, 9
        )
        tensor = tensor.round() if choose.random() < 0.3 else tensor
        dtype = choose.choice(["float32", "float64", "float16", "bfloat16", "int64"])
        assert_same(tensor.to(getattr(torch, dtype)))
