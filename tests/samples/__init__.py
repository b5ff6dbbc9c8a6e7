"""Inputs for the laws, by op. A family's ops get defaults; an op with a domain states its own.

`@samples("op.overload", ...)` registers a function of a `Maker` that returns `Call`s whose numpy
arrays become tensors. One file here goes with each file of `core/ops`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

FLOATS = ("float32", "float64")
ALL = ("bool", "uint8", "int32", "int64", "float16", "bfloat16", "float32", "float64", "complex64")


@dataclass
class Call:
    """One call of an op: positional and keyword arguments by the schema."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


def call(*args: Any, **kwargs: Any) -> Call:
    return Call(args, kwargs)


class Maker:
    """Makes arrays of one dtype from a fixed seed. bfloat16 arrays are float32 until sent."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.rng = np.random.default_rng(7)

    def __call__(self, *shape: int, low: float = -3, high: float = 3) -> Any:
        """Return an array of values in [low, high), a multiple of 1/64 where floating."""
        name = self.dtype
        if name == "bool":
            return np.asarray(self.rng.random(shape) < 0.5)
        if name.startswith("complex"):
            parts = self.rng.uniform(low, high, (2, *shape))
            return np.asarray(parts[0] + 1j * parts[1]).astype(name)
        if "int" in name:
            low = max(low, 0) if name == "uint8" else low
            drawn = self.rng.integers(int(low), max(int(high), int(low) + 1), shape)
            return np.asarray(drawn).astype(name)
        values = np.asarray(np.round(self.rng.uniform(low, high, shape) * 64) / 64)
        if name == "bfloat16":
            return BFloat16(np.asarray(values, np.float32))
        return values.astype(name)

    def ints(self, *shape: int, low: int = 0, high: int = 5) -> Any:
        """Return int64 indices."""
        return np.asarray(self.rng.integers(low, high, shape))

    def bools(self, *shape: int) -> Any:
        return np.asarray(self.rng.random(shape) < 0.5)

    @property
    def is_floating(self) -> bool:
        return "float" in self.dtype

    @property
    def is_complex(self) -> bool:
        return "complex" in self.dtype


@dataclass
class BFloat16:
    """An array that becomes a bfloat16 tensor."""

    values: Any


@dataclass
class Strided:
    """An array that becomes a non-contiguous tensor: transposed in memory."""

    values: Any


@dataclass
class Heads:
    """An array that becomes heads of attention: (batch, heads, tokens, width), tokens outermost."""

    values: Any


@dataclass
class Row:
    """What the laws know of one op beyond the table."""

    make: Callable[[Maker], list[Call]] | None = None
    dtypes: tuple[str, ...] | None = None
    rtol: float | None = None
    atol: float | None = None
    half: tuple[float, float] | None = None  # (rtol, atol) for float16 and bfloat16
    grad: bool = True  # compare gradients where the op has formulas
    second: bool = True  # and second order
    differences: bool = True  # and with differences; False where inputs must keep a symmetry
    outputs: int | None = None  # how many of the outputs have gradients; None: all
    values: bool = True  # False: random or uninitialised
    strides: bool = True  # compare result strides with torch's
    reason: str = ""  # why something above is not the default


ROWS: dict[str, Row] = {}


def samples(*names: str, **facts: Any) -> Callable[..., Any]:
    """Register inputs for ops by name with overload; `facts` are fields of Row."""

    def register(make: Callable[[Maker], list[Call]]) -> Callable[[Maker], list[Call]]:
        for name in names:
            assert name not in ROWS, f"samples of {name} are given twice"
            ROWS[name] = Row(make, **facts)
        return make

    return register


def facts(*names: str, **given: Any) -> None:
    """Register facts about ops whose family's default inputs will do."""
    for name in names:
        ROWS[name] = Row(None, **given)


def load() -> None:
    """Import every module of samples."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    importlib.import_module(f"{__name__}.pointwise").name_aliases()


def default_calls(op: Any, make: Maker) -> list[Call]:
    """Return inputs for an op of a family: shapes that broadcast, 0-d, empty, non-contiguous."""
    tensors = [a for a in op.args if a.kind == "T"]
    number = 2.5 if make.is_floating or make.is_complex else 2

    def in_order(arrays: list[Any]) -> Call:
        """Return the call with these tensors, and a number for each Scalar without a default."""
        rest = iter(arrays)
        required = [a for a in op.args if a.kind == "T" or
                    (a.kind == "S" and a.default.__class__ is object)]  # fmt: skip
        return call(*[next(rest) if a.kind == "T" else number for a in required])

    if op.family == "reduction":
        return reduction_calls(op, make)
    if len(tensors) == 1:
        shapes: list[tuple[tuple[int, ...], ...]] = [((3, 4),), ((),), ((0, 3),), ((2, 3, 4),)]
    elif len(tensors) == 2:
        shapes = [((3, 4), (3, 4)), ((3, 4), (4,)), ((2, 1, 4), (3, 1)), ((), (3,)), ((0, 3), (3,)),
                  ((), ())]  # fmt: skip
    else:
        shapes = [((3, 4),) * len(tensors), *[((2, 3), (3,), ()) for _ in [0] if len(tensors) == 3]]
    calls = [in_order([make(*s) for s in shape]) for shape in shapes]
    if shapes[0][0] == (3, 4):
        calls.append(in_order([Strided(make(3, 4)) for _ in tensors]))
    return calls


def reduction_calls(op: Any, make: Maker) -> list[Call]:
    """Return inputs for a reduction: each kind of dim, keepdim, non-contiguous."""
    names = [a.name for a in op.args]
    calls = []
    if "dim" not in names:
        return [call(make(3, 4)), call(make(5)), call(make())]
    single = op.args[names.index("dim")].kind in ("i", "i?")
    for dim in (0, -1, *([] if single else [(0, 1), (0, 2)])):
        for keepdim in (False, True) if "keepdim" in names else (None,):
            extra = {} if keepdim is None else {"keepdim": keepdim}
            calls.append(call(make(2, 3, 4), dim=dim, **extra))
    calls.append(call(Strided(make(3, 4)), dim=1))
    return calls
