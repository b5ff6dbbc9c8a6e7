"""Corners of torch's semantics: what a call gives, raises or warns of, beside torch itself."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import farspan as ft
import numpy as np
import pytest
import torch
import torch.utils.checkpoint

# Statements, the last of which is the value that is compared. `lib` is farspan, then torch.
SAME = [
    # in place: other names of an op keep its rules
    "a = lib.tensor([1, 2]); a.true_divide_(a)",
    "a = lib.tensor([1, 2]); a.divide_(2)",
    "a = lib.tensor([1, 2]); a.multiply_(1.5)",
    "a = lib.tensor([1, 2]); a.arctan2_(a)",
    "a = lib.tensor([1, 2]); a.arccos_()",
    "a = lib.tensor([1, 2]); a.deg2rad_()",
    "a = lib.tensor([1, 2]); a.subtract_(lib.ones(3, 2, dtype=lib.int64))",
    "a = lib.tensor([1.0, 2.0]); a.true_divide_(a)",
    "a = lib.tensor([1, 2]); a.divide_(a, rounding_mode='trunc')",
    # dtypes that must agree
    "lib.lerp(lib.ones(4, dtype=lib.float64), lib.ones(4), 1)",
    "lib.lerp(lib.ones(4), lib.ones(4), lib.ones(4, dtype=lib.float64))",
    "lib.lerp(lib.ones(4), lib.ones(4), lib.tensor(1.0, dtype=lib.float64))",
    "lib.ones(3).clamp()",
    # Python's types as dtypes
    "lib.ones(3).to(bool)", "lib.ones(3).to(dtype=float)", "lib.ones(3).to('cpu', int)",
    # without elements nothing has gaps
    "lib.zeros(2, 3, 4, 5)[:, :, :, 1][:, 1:1].is_contiguous()",
    "lib.empty(10, 0)[:, [0, 1]]",
    "lib.empty(3, 0)[lib.tensor([0])].shape",
    # masks of bytes
    "lib.ones(3)[lib.tensor([1, 0, 1], dtype=lib.uint8)]",
    "a = lib.ones(3); m = lib.tensor([1, 0, 1], dtype=lib.uint8); a[m] = lib.tensor([5.0, 6.0]); a",
    "a = lib.ones(3); m = lib.tensor([1, 0, 1], dtype=lib.uint8); a[m] = 5; a",
    "a = lib.tensor(3); m = lib.tensor(1, dtype=lib.uint8); a[m] = lib.tensor([[7]]); a",
    "a = lib.zeros(2, 3); a[lib.tensor(0, dtype=lib.uint8)] = 5; a",
    "m = lib.tensor([1, 0, 1], dtype=lib.uint8); lib.where(m, lib.ones(3), lib.zeros(3))",
    "lib.ones(3).masked_fill(lib.tensor([1, 0, 1], dtype=lib.uint8), 2.0)",
    # shapes and types of what is put in
    "lib.zeros([]).index_put([], lib.tensor([1.0]), True)",
    "a = lib.zeros(2, 3); a[lib.tensor(True)] = lib.ones(1, 1, 2, 3); a",
    "a = lib.arange(4.0); a[:] = a[2]; a", "a = lib.arange(4.0); a[1:3] = a[2]; a",
    "a = lib.arange(6.0).view(2, 3); a[0] = a[0][1]; a",
    "a = lib.arange(6.0).view(2, 3); a[:] = a[1]; a",
    "a = lib.arange(4.0); a.copy_(a[0])",
    "a = lib.tensor([1, 2]); a[lib.tensor([0, 1])] = lib.tensor([1.0, 2.0]); a",
    # arguments
    "lib.unravel_index(lib.tensor([1]), lib.tensor([1, 2, 3]))",
    "lib.unravel_index(lib.tensor([1]), 5.0)",
    "lib.nonzero(lib.zeros(3), as_tuple=True, out=lib.empty(0, dtype=lib.int64))",
    "lib.tensor_split(lib.zeros(4), lib.tensor(2.0))",
    "lib.tensor_split(lib.zeros(4), lib.tensor([[1]]))",
    "lib.tensor_split(lib.zeros(4), lib.tensor([], dtype=lib.int32))",
    "lib.zeros(3).resize_as_(lib.zeros(4), memory_format=lib.preserve_format).shape",
    # one of several views at once
    "r = lib.zeros(2, 2).unbind(0); r[0].add_(lib.ones(2, requires_grad=True))",
    "r = lib.zeros(2, 2).split(1); r[0].add_(1)",
    # gradients
    "x = lib.ones(2, requires_grad=True); y = x * 3; y.retain_grad(); s = (y * y).sum(); "
    "s.backward(retain_graph=True); s.backward(); y.grad",
    "x = lib.tensor([-2.0, 3.0], requires_grad=True); y = lib.tensor([0.5 + 0.25j, 1j]); "
    "y.requires_grad_(); lib.pow(x, y).abs().sum().backward(); y.grad",
    "y = lib.tensor([0.5 + 0.25j], requires_grad=True); lib.pow(-2.0, y).abs().sum().backward(); "
    "y.grad",
    # numbers as elements
    *[
        f"a = lib.ones(2, dtype=lib.uint8); {does}"
        for does in (
            "a.fill_(-1)", "a.fill_(-256)", "lib.full((2,), -3, dtype=lib.uint8)",
            "a.scatter(0, lib.tensor([0]), -1)", "a.index_fill(0, lib.tensor([0]), -1)",
            "a.index_add(0, lib.tensor([0]), a[:1], alpha=-2)",
            "lib.addmm(a[:, None], a[:, None], a[:1, None], alpha=-1, beta=-1)",
            "lib.addcdiv(a.float(), a, a)",
        )
    ],
    "lib.ones(2, dtype=lib.int8).fill_(300)",
    # numbers that the dtype does not hold, and dtypes that a factory lacks
    "lib.randint(0, 300, (2,), dtype=lib.uint8)", "lib.randint(-1, 2, (2,), dtype=lib.uint8)",
    "lib.randint(3, (2,), dtype=lib.bool)", "lib.randint(2, (5,), dtype=lib.bool).dtype.itemsize",
    "lib.randint(0, 2**40, (2,), dtype=lib.int32)", "lib.randint(256, (4,), dtype=lib.uint8).ndim",
    "lib.randint_like(lib.ones(2, dtype=lib.uint8), 300)",
    "lib.randperm(300, dtype=lib.uint8)", "lib.randperm(256, dtype=lib.uint8).sum()",
    "lib.randperm(5, dtype=lib.bool)", "lib.arange(0, 3, dtype=lib.bool)",
    "lib.meshgrid(lib.ones(2), lib.ones(2, dtype=lib.int64), indexing='ij')",
    "lib.manual_seed(-1); lib.initial_seed()",
    # tensors as Python's sequences, and parts of complex ones
    "[x.tolist() for x in reversed(lib.arange(6).view(2, 3))]",
    "reversed(lib.tensor(1.0))",
    "a = lib.tensor([1 + 2j, 3 - 1j]); a.real = 5; a.imag = lib.tensor([1.0, 2.0]); a",
    "a = lib.tensor([1.0, 2.0]); a.real = 3; a",
    # hooks run though the leaf is gone, and give as much as they got
    "c = []; y = lib.ones(2, requires_grad=True) * 2; y.register_hook(lambda g: c.append(1)); "
    "y.sum().backward(); c",
    "c = []; y = lib.ones(2, requires_grad=True) * 2; "
    "y.grad_fn.register_hook(lambda g, h: c.append(1)); y.sum().backward(); c",
    "y = lib.ones(2, requires_grad=True) * 2; y.grad_fn.register_prehook(lambda g: ()); "
    "y.sum().backward()",
    "y = lib.ones(2, requires_grad=True) * 2; y.register_hook(lambda g: 3); y.sum().backward()",
    "y = lib.ones(2, requires_grad=True) * 2; y.register_hook(lambda g: lib.ones(3)); "
    "y.sum().backward()",
    "m = lib.nn.Sigmoid(); m.register_full_backward_hook(lambda m, g, h: g + g); "
    "m(lib.ones(2, requires_grad=True)).sum().backward()",
    "c = lib.utils.checkpoint; c.checkpoint(lib.sin, lib.ones(2), use_reentrant=True)",
    "c = lib.utils.checkpoint; c.checkpoint(lib.sin, lib.ones(2, requires_grad=True)).detach()",
]  # fmt: skip


def outcome(lib: Any, source: str) -> tuple[Any, list[str]]:
    """Return the value or (kind of error, what torch says) of statements, and their warnings."""
    *before, last = source.split("; ")
    names: dict[str, Any] = {"lib": lib}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            exec("\n".join(before), names)
            value = eval(last, names)
            value = value.tolist() if hasattr(value, "tolist") else value
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            kinds = (IndexError, TypeError, ValueError, NotImplementedError, RuntimeError)
            words = str(error).splitlines()[0].replace("farspan._tensor", "torch")
            value = (next(k for k in kinds if isinstance(error, k)), words.split("(): ")[-1])
    return value, [str(w.message).split(" (Triggered")[0].split(". ")[0] for w in caught]


@pytest.mark.parametrize("source", SAME)
def test_a_corner_is_as_in_torch(source: str) -> None:
    mine, my_warnings = outcome(ft, source)
    theirs, their_warnings = outcome(torch, source)
    if isinstance(theirs, tuple) and isinstance(theirs[0], type):
        assert mine[0] is theirs[0]
        assert theirs[1].split(":")[0].split(",")[0].rstrip(".") in mine[1]
    elif isinstance(theirs, list):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)
    else:
        assert mine == theirs
    assert [w.rstrip(".") for w in my_warnings] == [w.rstrip(".") for w in their_warnings]


VIEWS = [
    "x", "x[0]", "x.view(12)", "x.detach()", "x[:]", "x.t()", "x.T", "x.data", "x.contiguous()",
    "x.reshape(12)", "x.expand(2, 3, 4)", "x.real", "x.unbind()[0]", "x.split(1)[0]", "x.clone()",
    "x.to(x.dtype)", "x.squeeze()", "x.ravel()", "x.flatten(0, 0)", "x.detach()[0]", "x + 1",
]  # fmt: skip


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("source", VIEWS)
def test_which_results_are_views(source: str, grad: bool) -> None:
    found = []
    for lib in (ft, torch):
        x = lib.ones(3, 4, requires_grad=grad)
        value = eval(source, {"x": x})
        found.append((value._is_view(), value._base is x))
    assert found[0] == found[1]


FUNCTIONAL = ["vjp", "jvp", "jacobian", "hessian", "vhp", "hvp"]
FUNCTIONS = {
    "linear": lambda lib: lambda a: a * 2,
    "sum": lambda lib: lambda a: a.sum(),
    "apart": lambda lib: lambda a: a.sum().detach(),
    "constant": lambda lib: lambda a: lib.ones(()).requires_grad_(),
    "number": lambda lib: lambda a: 2,
    "pair": lambda lib: lambda a: (a.sum(), a.prod()),
    "square": lambda lib: lambda a: (a * a).sum(),
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", FUNCTIONAL)
def test_what_functional_derivatives_refuse(name: str, function: str, strict: bool) -> None:
    said = []
    for lib in (ft, torch):
        x = lib.tensor([2.0, 3.0], dtype=lib.float64)
        derivative = getattr(lib.autograd.functional, name)
        made = FUNCTIONS[function](lib)
        vectors: list[Any] = [()]
        if name not in ("jacobian", "hessian"):
            vectors = [(x,), (lib.ones(3, dtype=lib.float64),), ((x, x),), (3,), ()]
        for v in vectors:
            for given in (x, 2, (x, 2)):
                said.append(_said(derivative, made, given, *v, strict=strict))
    half = len(said) // 2
    assert said[:half] == said[half:]


def _said(derivative: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        found = derivative(*args, **kwargs)
    except (RuntimeError, TypeError) as error:
        return isinstance(error, TypeError), str(error)
    flat = found if isinstance(found, tuple) else (found,)
    return [np.asarray(x.detach().numpy()).tolist() for x in _leaves(flat)]


def _leaves(values: Any) -> list[Any]:
    if isinstance(values, tuple):
        return [leaf for value in values for leaf in _leaves(value)]
    return [values]


def test_a_function_stays_what_it_is_where_a_module_has_its_name() -> None:
    program = """
import farspan._as_torch as names
names.install()
from torch.autograd.gradcheck import gradcheck
import torch
import torch.utils.checkpoint
import torch.nn.functional
assert torch.autograd.gradcheck is gradcheck
assert torch.autograd.gradcheck(torch.sin, (torch.ones(2, dtype=torch.float64,
                                                       requires_grad=True),))
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_handle_tells_where_its_hook_is() -> None:
    for lib in (ft, torch):
        module = lib.nn.Linear(2, 2)
        handle = module.register_forward_hook(lambda *args: None, with_kwargs=True)
        assert handle.id in handle.hooks_dict_ref()
        assert any(handle.id in table() for table in handle.extra_dict_ref)
        handle.remove()
        assert handle.id not in handle.hooks_dict_ref()
