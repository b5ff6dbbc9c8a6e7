"""Every name of the table takes the keywords torch takes: `input` for self, numpy's aliases too."""

from __future__ import annotations

import warnings
from typing import Any

import farspan
import pytest
import samples
import torch
from farspan.core.op import Op, table
from samples import ROWS, Call, Maker, Row, default_calls
from test_laws import REFUSALS, assert_same, has_samples, to_ours, to_torch

samples.load()
TABLE = table()


def spaces(lib: Any) -> list[Any]:
    return [lib, lib.nn.functional]


def find(lib: Any, name: str) -> Any:
    """Return the function of this name from the space where torch has it."""
    pairs = zip(spaces(lib), spaces(torch), strict=True)
    there = [s for s, theirs in pairs if hasattr(theirs, name)]
    return next((getattr(s, name) for s in [*there, *spaces(lib)] if hasattr(s, name)), None)


def by_keyword(op: Op, c: Call) -> dict[str, Any]:
    """Return a call's arguments by torch's Python names."""
    named = {a.name: v for a, v in zip(op.args, c.args, strict=False)} | c.kwargs
    return {"input" if k == "self" else k: v for k, v in named.items()}


NAMES = [
    n
    for n, op in TABLE.items()
    if op.schema.namespace == "aten" and not op.base.startswith("_") and has_samples(op)
    and find(torch, op.base) is not None and not op.random
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_functions_take_torchs_keywords(name: str) -> None:
    op = TABLE[name]
    row = ROWS.get(name, Row())
    dtype = next(d for d in (row.dtypes or ("float32",)))
    calls = (row.make or (lambda make: default_calls(op, make)))(Maker(dtype))
    theirs_of, ours_of = find(torch, op.base), find(farspan, op.base)
    assert ours_of is not None, f"farspan has no {op.base}"
    for c in calls[:4]:
        named = by_keyword(op, c)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                theirs = theirs_of(**{k: to_torch(v) for k, v in named.items()})
            except REFUSALS:
                continue
        with farspan.connect("local:"):
            ours = ours_of(**{k: to_ours(v) for k, v in named.items()})
            if isinstance(theirs, (torch.Tensor, tuple, list)):
                assert_same(ours, theirs, row, name, named)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("sum", {"input": [[1.0, 2.0]], "axis": 1, "keepdims": True}),
        ("add", {"x1": [1.0], "x2": [2.0]}),
        ("mean", {"x": [[1.0, 2.0]], "axis": 0}),
    ],
)
def test_numpys_names_are_taken_too(name: str, kwargs: dict[str, Any]) -> None:
    made = {k: v if not isinstance(v, list) else torch.tensor(v) for k, v in kwargs.items()}
    theirs = getattr(torch, name)(**made)
    made = {k: v if not isinstance(v, list) else farspan.tensor(v) for k, v in kwargs.items()}
    assert getattr(farspan, name)(**made).tolist() == theirs.tolist()


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        ("add", ("x",), {}),
        ("add", ("x", "a string"), {}),
        ("sum", ("x",), {"dimension": 0}),
        ("zeros", ("a string",), {}),
        ("reshape", ("x",), {}),
    ],
)
def test_a_call_that_fits_nothing_is_a_type_error(
    function: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    for lib in (torch, farspan):
        made = [lib.ones(2) if a == "x" else a for a in args]
        with pytest.raises(TypeError, match=function):
            getattr(lib, function)(*made, **kwargs)


def test_varargs_of_ints() -> None:
    x = farspan.arange(6)
    assert x.view(2, 3).shape == x.view((2, 3)).shape == x.view(size=(2, 3)).shape
    assert farspan.zeros(2, 3).shape == farspan.zeros((2, 3)).shape == (2, 3)
    assert x.reshape(3, -1).permute(1, 0).shape == (2, 3)
