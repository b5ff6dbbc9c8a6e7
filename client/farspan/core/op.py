"""Op: one operator, declared once, in up to five facets; and the table of all of them.

An Op is its ATen schema, a metadata rule, a kernel, derivative formulas and dims. Everything else -
binders, in-place and out forms, wire layout, tape entries, docs - is derived from these. Ops are
declared in `core/ops/*.py` through the families of `core/family.py`; read those next.
This file may not import numpy-heavy code, do I/O or hold state beyond the table and its memos.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from . import limits, schema
from .command import FIRST_OPCODE
from .dtype import DTYPES, Device, DType
from .errors import BadValueError, ProtocolError
from .schema import Arg, Schema
from .spec import Spec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .command import Static

#: What a metadata rule returns: a spec; several; or, for a view, the spec and its offset from self.
Meta = Spec | tuple[Any, ...]
Formula = Callable[..., Any] if TYPE_CHECKING else object


@dataclass(slots=True, eq=False)
class Op:
    """One row of the table. Compared by identity; `opcode` is its number on the wire."""

    line: str  # the schema, verbatim
    family: str  # pointwise, reduction, view, structured, random, step, composite
    meta: Callable[..., Meta] | None = None  # (*args with Specs for tensors) -> Meta
    kernel: Callable[..., Any] | None = None  # (xp, *args with arrays for tensors) -> array(s)
    #: The kernel as a write to self, an array in C order that no other argument shares memory
    #: with; it raises before it writes. Saves the in-place form two copies of self.
    into: Callable[..., None] | None = None
    vjp: Mapping[str, Any] = field(default_factory=dict)  # "input names" -> formula
    dims: str | None = None
    body: Callable[..., Any] | None = None  # a composite: a function of other ops
    #: The dtype to which tensor arguments are cast before the kernel (args -> DType | None).
    compute: Callable[..., DType | None] | None = None
    #: The arguments that `compute` casts, by name: all tensors, or what the family says.
    operands: frozenset[str] | Callable[[Op], frozenset[str]] | None = None
    moves: bool = False  # only moves elements: any dtype, no float32 detour for half precision
    by_value: bool = False  # the metadata depends on the values of Python numbers
    dynamic: bool = False  # the shape depends on the elements: a sync point
    random: bool = False  # the kernel's first argument after xp is a Generator
    overwrites: bool = False  # in place, the old elements of self do not matter (fill_, copy_)
    detaches: bool = False  # a view that shares memory but has no place in the graph
    unversioned: bool = False  # writes to this view do not count as changes of what it views
    anywhere: bool = False  # a view of any place in the storage (as_strided): bounds are checked
    opcode: int = -1
    name: str = ""  # with the overload: "add.Tensor"
    base: str = ""
    writes: bool = False  # the op itself writes to some of its arguments, marked (a!)
    recipes: dict[Any, Recipe] = field(default_factory=dict)
    _plans: dict[Any, VjpPlan | None] = field(default_factory=dict)
    _bind: Any = None
    _schema: Schema | None = None
    _operands: frozenset[str] | None = None
    _written: tuple[int, ...] | None = None

    @property
    def schema(self) -> Schema:
        """The parsed line; parsing waits for its first use, since an import declares every op."""
        if self._schema is None:
            self._schema = schema.parse(self.line)
        return self._schema

    @property
    def written(self) -> tuple[int, ...]:
        """The positions in `args` of what the op itself writes."""
        if self._written is None:
            self._written = tuple([i for i, a in enumerate(self.args) if a.written])
        return self._written

    @property
    def takes_self(self) -> bool:
        """Whether the first argument is a tensor named self, so that the op is a method."""
        return _METHOD.search(self.line) is not None

    def casts(self, name: str) -> bool:
        """Return whether `compute` casts the argument of this name."""
        if self.operands is None:
            return True
        if self._operands is None:
            named = self.operands
            self._operands = named if isinstance(named, frozenset) else named(self)
        return name in self._operands

    @property
    def args(self) -> tuple[Arg, ...]:
        return self.schema.args

    @property
    def lists(self) -> bool:
        """Whether the result is a list of tensors, even if it holds one."""
        return self.schema.returns == ("T[]",)

    @property
    def bind(self) -> Callable[..., tuple[tuple[Any, ...], Static, tuple[Any, ...]]]:
        """The generated binder: schema arguments -> (tensors, static, scalars)."""
        if self._bind is None:
            self._bind = _load_binder(self)
        return self._bind  # type: ignore[no-any-return]

    def recipe(self, static: Static) -> Recipe:
        """Return how tensors and scalars are put back among the arguments of this static form."""
        found = self.recipes.get(static)
        if found is None:
            _make_room(weight(static))
            found = self.recipes[static] = Recipe(self, static)
        return found

    def infer(self, args: Sequence[Any]) -> tuple[tuple[Spec, ...], tuple[tuple[Spec, int], ...]]:
        """Return the specs of the results, and for views also (spec, offset from self) of each."""
        assert self.meta is not None
        found: Any = self.meta(*args)
        if self.family != "view":
            return (found if isinstance(found, tuple) else (found,)), ()
        views = found if not found or isinstance(found[0], tuple) else (found,)
        return tuple([spec for spec, _ in views]), views

    def vjp_plan(self, static: Static, mask: int) -> VjpPlan | None:
        """Return what backward needs for the inputs in `mask`, or None if none is reached."""
        key = (static, mask)
        try:
            return self._plans[key]
        except KeyError:
            _make_room(weight(static))
            plan = VjpPlan(self, self.recipe(static), mask)
            self._plans[key] = plan if plan.calls else None
            return self._plans[key]

    def __repr__(self) -> str:
        return f"<op {self.schema.namespace}::{self.name}>"


def weight(static: Any) -> int:
    """Return how many ordinary entries of a memo one of these static arguments counts for.

    >>> weight((3, None)), weight(((0,) * 1_000, None))
    (1, 63)
    """
    return 1 + _entries(static) // 16


def _entries(value: tuple[Any, ...]) -> int:
    return len(value) + sum(
        _entries(x) if type(x) is tuple else len(x) // 8
        for x in value
        if type(x) is tuple or type(x) is str
    )


_memoised = 0  # weight of what the memos of all ops hold


def _make_room(entries: int) -> None:
    """Forget what all ops have memoised if this much more would be too much."""
    global _memoised
    _memoised += entries
    if _memoised > limits.MEMO_ENTRIES_MAX:
        _memoised = entries
        for op in _by_opcode:
            op.recipes.clear()
            op._plans.clear()


class Recipe:
    """Puts flat tensors and scalars back where the schema wants them, for one static form."""

    __slots__ = ("fill", "flat", "slots", "template")

    def __init__(self, op: Op, static: Static) -> None:
        self.template: list[Any] = []
        self.fill: list[tuple[int, int]] = []  # (position in args, index of the scalar)
        #: position in args -> index of its tensor, or a tuple of them (None: absent) for a list
        self.slots: dict[int, int | tuple[int | None, ...]] = {}
        rest = iter(static)
        tensors = scalars = 0
        for at, arg in enumerate(op.args):
            value = None if arg.kind == "T" else next(rest, None)
            if arg.kind == "T" or (arg.kind == "T?" and value):
                self.slots[at] = tensors
                tensors += 1
                value = None
            elif arg.is_tensor:
                count = value if type(value) is int else len(value or ())
                if not 0 <= count <= limits.TENSORS_PER_COMMAND_MAX:  # before a list is made of it
                    most = limits.TENSORS_PER_COMMAND_MAX
                    raise BadValueError(f"{op.name}: {count} tensors; at most {most} in a list")
                present = [True] * count if type(value) is int else list(value or ())
                indices: list[int | None] = []
                for there in present:
                    indices.append(tensors if there else None)
                    tensors += bool(there)
                if arg.kind != "T?":
                    self.slots[at] = tuple(indices)
                value = None
            elif arg.is_number and isinstance(value, str):
                self.fill.append((at, scalars))
                scalars += 1
            elif arg.is_number and isinstance(value, tuple):
                value = NumberList(range(scalars, scalars + len(value)))
                scalars += len(value)
            elif arg.is_number:
                value = None if arg.default is schema.MISSING else arg.default
            elif value is not None:
                value = _exactly(arg.kind[0], value)
            self.template.append(value)
        self.flat = tensors

    def args(self, tensors: Sequence[Any], scalars: Sequence[Any]) -> list[Any]:
        """Return the arguments in schema order."""
        args = self.template.copy()
        for at, index in self.slots.items():
            if type(index) is int:
                args[at] = tensors[index]
            else:
                args[at] = [None if i is None else tensors[i] for i in index]  # type: ignore[union-attr]
        for at, index in self.fill:
            args[at] = scalars[index]
        for at, value in enumerate(args):
            if type(value) is NumberList:
                args[at] = [scalars[i] for i in value]
        return args


#: By kind: makes a static value exactly of its type. True equals 1, so that a memo may find the one
#: for the other; what comes out of a recipe must not depend on which of them came first.
_EXACT: Final[dict[str, Callable[[Any], Any]]] = {
    "i": int, "b": bool, "s": str, "d": lambda code: DTYPES[code], "D": Device, "L": lambda x: x,
    "M": int, "G": int,
}  # fmt: skip


def _exactly(letter: str, value: Any) -> Any:
    """Return the value, or a tuple of values, exactly of the type its kind has."""
    if isinstance(value, tuple):
        return tuple([_EXACT[letter](v) for v in value])
    return _EXACT[letter](value)


class NumberList(list[int]):
    """Indices of the scalars that make up one list argument."""


@dataclass(slots=True, frozen=True)
class VjpCall:
    """One formula: the argument positions it gives gradients to, and the names it mentions."""

    formula: Callable[..., Any]
    positions: tuple[int, ...]
    mentions: tuple[str, ...]


class VjpPlan:
    """Which formulas run for one mask of inputs, and so what is saved for them."""

    __slots__ = ("calls", "mask", "saved_args", "saved_outs", "saves", "steps")

    def __init__(self, op: Op, recipe: Recipe, mask: int) -> None:
        names = [a.name for a in op.args]
        calls = []
        reached = 0
        for targets, formula in op.vjp.items():
            positions = tuple(names.index(n) for n in targets.split())
            wanted = 0
            for at in positions:
                wanted |= mask_of(recipe.slots.get(at))
            if wanted & mask:
                reached |= wanted & mask
                calls.append(VjpCall(formula, positions, _mentions(formula)))
        mentioned = {m for call in calls for m in call.mentions}
        self.calls = tuple(calls)
        self.mask = reached  # flat inputs that a formula gives a gradient to, within `mask`
        #: positions in args whose tensors are saved
        self.saved_args = tuple(
            at for at, a in enumerate(op.args) if a.is_tensor and a.name in mentioned
        )
        #: what of the results is saved, by its name in formulas: `out` is all, `out_1` the second
        self.saved_outs = tuple(sorted(m for m in mentioned if OUT_NAME.fullmatch(m)))
        #: name and slot of each saved argument that is there
        self.saves = tuple(
            (op.args[at].name, recipe.slots[at]) for at in self.saved_args if at in recipe.slots
        )
        self.steps: Any = None  # how backward runs the formulas; `core/tape.py` finds it out


#: What formulas call the results: all, or one by its place.
OUT_NAME: Final = re.compile(r"out(_\d+)?")


def mask_of(slot: int | tuple[int | None, ...] | None) -> int:
    """Return the bits of the flat tensors in a slot of a Recipe."""
    if slot is None:
        return 0
    if isinstance(slot, int):
        return 1 << slot
    return sum(1 << i for i in slot if i is not None)


def _mentions(formula: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(formula).parameters)


# --------------------------------------------------------------------------------------- table --
_METHOD: Final = re.compile(r"\(Tensor(\([^)]*\))? self\b")
OPS: Final[dict[str, Op]] = {}  # by name with overload, in order of declaration
_by_opcode: list[Op] = []


def declare(line: str, family: str, **facets: Any) -> Op:
    """Add an op to the table and return it. A law checks that its facets fit its schema."""
    op = Op(line, family, **facets)
    op.name = line.partition("(")[0].removeprefix("farspan::")
    op.base = op.name.partition(".")[0]
    op.writes = "!" in line
    assert op.name not in OPS, f"{op.name} is declared twice"
    OPS[op.name] = op
    if op.body is None:
        op.opcode = FIRST_OPCODE + len(_by_opcode)
        _by_opcode.append(op)
    return op


def op_at(opcode: int) -> Op:
    """Return the op with this number. ProtocolError if there is none."""
    if not FIRST_OPCODE <= opcode < FIRST_OPCODE + len(_by_opcode):
        raise ProtocolError(f"unknown opcode {opcode}")
    return _by_opcode[opcode - FIRST_OPCODE]


def table() -> Mapping[str, Op]:
    """Return the whole table, loaded; by name with overload."""
    from . import ops  # noqa: F401  (declares every op)

    return MappingProxyType(OPS)


def table_hash() -> str:
    """Return a digest of numbers and schemas: two ends with one digest mean the same by a frame."""
    text = "\n".join(f"{o.opcode} {o.line}" for o in table().values() if o.body is None)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _load_binder(op: Op) -> Any:
    """Return the committed binder; while the table is being edited, one compiled on the spot."""
    from . import _binders, coerce

    found = getattr(_binders, op.schema.identifier, None)
    if found is None:
        space: dict[str, Any] = {"c": coerce}
        exec(schema.binder_source(op.schema), space)  # our own text, from the table
        found = space[op.schema.identifier]
    return found
