"""Every form under which torch has an op of the table: function, method, in place and `out=`.

The laws say what an op computes; this says that each of its public names computes it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import farspan
import pytest
import samples
import torch
from farspan.core.op import Op, table
from samples import ROWS, Call, Maker, Row, default_calls
from test_laws import REFUSALS, assert_same, convert, has_samples, to_ours, to_torch

samples.load()
TABLE = {
    n: op
    for n, op in table().items()
    if op.schema.namespace == "aten" and not op.base.startswith("_") and has_samples(op)
    and op.schema.returns and not op.random
}  # fmt: skip
SPACES = {"": "", "linalg_": "linalg", "special_": "special", "fft_": "fft"}


def names_of(op: Op) -> Iterator[tuple[str, str]]:
    """Return (space, name) of each public function that is this op in torch."""
    for prefix, space in SPACES.items():
        if op.base.startswith(prefix):
            yield space, op.base.removeprefix(prefix)
    yield "nn.functional", op.base


def find(lib: Any, space: str, name: str) -> Any:
    for part in filter(None, space.split(".")):
        lib = getattr(lib, part, None)
    return getattr(lib, name, None)


Form = Callable[[Any, list[Any], dict[str, Any]], Any]


def forms_of(op: Op) -> Iterator[tuple[str, Form]]:
    """Return every form that torch has of an op: how to call it, given the library."""
    for space, name in names_of(op):
        if callable(find(torch, space, name)):
            yield f"{space}.{name}", lambda lib, a, k, at=(space, name): find(lib, *at)(*a, **k)
        if callable(find(torch, space, name)) and op.family in ("pointwise", "reduction"):
            yield (
                f"{space}.{name}(out=)",
                lambda lib, a, k, at=(space, name): with_out(lib, find(lib, *at), a, k),
            )
    for space in ("", "nn.functional"):
        name = op.base + "_"
        if callable(find(torch, space, name)):
            yield f"{space}.{name}", lambda lib, a, k, at=(space, name): find(lib, *at)(*a, **k)
    for name in (op.base, op.base + "_"):
        if callable(getattr(torch.Tensor, name, None)):
            yield f"Tensor.{name}", lambda lib, a, k, n=name: method(lib, n, a, k)


def method(lib: Any, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if not isinstance(args[0], lib.Tensor):
        raise TypeError("this overload of the op has a number in front")
    return getattr(args[0], name)(*args[1:], **kwargs)


def with_out(lib: Any, function: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    plain = function(*args, **kwargs)
    if not isinstance(plain, (torch.Tensor, farspan.Tensor)):
        raise TypeError("no single result")
    out = lib.empty_like(plain)
    assert function(*args, **kwargs, out=out) is out
    return out


def calls_of(op: Op) -> Iterator[list[Call]]:
    """Return some calls for each dtype that the op might take, the most usual first."""
    row = ROWS.get(op.name, Row())
    for dtype in row.dtypes or ("float32", "int64", "bool", "complex64"):
        yield (row.make or (lambda make: default_calls(op, make)))(Maker(dtype))[:6]


CASES = {f"{n}-{form}": (n, call) for n, op in TABLE.items() for form, call in forms_of(op)}


@pytest.mark.parametrize("case", CASES)
def test_every_form_is_torchs(case: str) -> None:
    name, form = CASES[case]
    with farspan.connect("local:"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for calls in calls_of(TABLE[name]):
            if sum([compared(case, form, c, ROWS.get(name, Row())) for c in calls]):
                break


def compared(case: str, form: Form, c: Call, row: Row) -> bool:
    """Compare one call; False if torch refuses it: this form takes other arguments than the op."""
    for library in (torch, farspan):  # some functions draw where the op takes samples
        library.manual_seed(0)
    try:
        theirs = form(torch, *convert(c, to_torch))
    except (*REFUSALS, AttributeError):
        return False
    ours = form(farspan, *convert(c, to_ours))
    if isinstance(theirs, (torch.Tensor, tuple, list)):
        assert_same(ours, theirs, row, case, c)
    else:
        assert ours == theirs
    return True
