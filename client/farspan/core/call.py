"""Function: a public name, its overloads, and how a call picks one; `fn` holds them all.

Signatures follow torch's Python rules in this one place: `self` is `input` in functions, numpy's
aliases (`axis`, `keepdims`, `x1` ...), int lists also as varargs, overloads by argument types.
A call ends in `Value._apply`, which each kind of value (client proxy, engine array) implements.
"""

from __future__ import annotations

import operator
import types
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from . import coerce, notice, schema
from .command import FUNCTIONAL, INPLACE, OUT
from .dtype import Device, DType, result_dtype, scalar_dtype
from .errors import ArgumentError, UnsupportedError
from .op import OPS, Op, table
from .spec import check_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Value:
    """Anything that ops apply to. Subclasses say how: now, later, or on another machine."""

    __slots__ = ()

    @classmethod
    def _apply(
        cls, op: Op, tensors: Sequence[Any], static: Any, scalars: tuple[Any, ...], form: int
    ) -> Any:
        """Run or issue one op; returns its output or a tuple of them."""
        raise NotImplementedError


#: Who runs an op that has no tensor argument (factories): set by the client, once.
_default: type[Value] = Value


def set_default(cls: type[Value]) -> None:
    """Let `cls` run the ops that take no tensor."""
    global _default
    _default = cls


#: Makes `one`, `two` and `many` of a function, for calls whose first argument is of these classes.
_quicken: Callable[[Function, int], Callable[..., Any]]
_quick_types: set[type] = set()


def set_quickening(
    quicken: Callable[[Function, int], Callable[..., Any]], types: set[type]
) -> None:
    """Let `quicken(function, count)` set and return a function's way of so many arguments.

    It is called with the arguments, and with how many frames the user is above. types: the classes
    of a first argument for which it does; more may be added to the set.
    """
    global _quicken, _quick_types
    _quicken, _quick_types = quicken, types


#: What runs the bodies of composites while some thread casts automatically.
_casting: Callable[..., Any] | None = None


def set_casting(run: Callable[..., Any] | None) -> None:
    """Let `run(body, op, args, kwargs)` run the bodies of composites; None: as they are."""
    global _casting
    _casting = run


_ALIASES: Final = {
    "input": "self", "axis": "dim", "keepdims": "keepdim", "x": "self", "a": "self", "x1": "self",
    "x2": "other",
}  # fmt: skip
_Kinds = tuple[Any, ...]


def _named(name: str) -> Any:
    return getattr(fn, name)


class Function:
    """A name of the API: callable, and a method where it stands in a class."""

    __slots__ = ("__name__", "_memo", "form", "many", "one", "overloads", "two")

    def __init__(self, name: str, overloads: Sequence[Op], form: int = FUNCTIONAL) -> None:
        self.__name__ = name
        self.overloads = tuple(overloads)
        self.form = form
        self._memo: dict[_Kinds, Choice | _NumberFirst | _Old] = {}
        #: The quick ways of calls with one, two or more positional arguments, once they are made.
        self.one: Callable[..., Any] | None = None
        self.two: Callable[..., Any] | None = None
        self.many: Callable[..., Any] | None = None

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        if not kwargs and args and type(args[0]) in _quick_types:
            count = len(args)
            if count == 1:
                return (self.one or _quicken(self, 1))(args[0], 2)
            if count == 2:
                return (self.two or _quicken(self, 2))(args[0], args[1], 2)
            return (self.many or _quicken(self, count))(args, 2)
        return self.call(args, kwargs)

    @property
    def is_composite(self) -> bool:
        """Whether every overload is a function of other ops."""
        return self.form == FUNCTIONAL and all(op.body is not None for op in self.overloads)

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do what a call does: pick the overload by the arguments' types, and run it."""
        kinds: _Kinds = tuple(map(type, args))
        if list in kinds or tuple in kinds:
            kinds = tuple([_kind(a) for a in args])
        if kwargs:
            kinds += (tuple([(k, _kind(v)) for k, v in kwargs.items()]),)
        choice = self._memo.get(kinds)
        if choice is None:
            choice = self.choose(args, kwargs)
            if len(self._memo) < 1_024:
                self._memo[kinds] = choice
        try:
            return choice.run(args, kwargs)
        except ArgumentError:
            self.choose(args, kwargs)  # a list is remembered by its first element: look again
            raise

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def choose(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Choice | _NumberFirst | _Old:
        """Return how a call with such arguments runs. ArgumentError if no overload takes them."""
        reasons: list[str] = []
        # A tensor stands for a number only where no overload takes it as a tensor.
        for numbers in (_is_plain_number, _is_number) if len(self.overloads) > 1 else (_is_number,):
            reasons = []
            for op in self.overloads:
                choice, why = _match(self, op, args, kwargs, numbers)
                if choice is not None:
                    return choice
                reasons.append(why)
        if self.__name__ in _NUMBER_FIRST and args and _is_plain_number(args[0]):
            return _NumberFirst(self)
        if _old_numbers(self, args) is not None:
            return _Old(self)
        if len(self.overloads) == 1:
            raise ArgumentError(f"{self.__name__}(): {reasons[0]}")
        got = ", ".join([type(a).__name__ for a in args] + [
            f"{k}={type(v).__name__}" for k, v in kwargs.items()])  # fmt: skip
        wanted = "".join(f"\n * {o.schema.line}" for o in self.overloads)
        raise ArgumentError(
            f"{self.__name__}() received an invalid combination of arguments - got ({got}), "
            f"but expected one of:{wanted}"
        )

    def __repr__(self) -> str:
        return f"<function farspan.{self.__name__}>"

    def __reduce__(self) -> Any:
        """Make copies the function itself, and pickles its name, as of any function."""
        return _named, (self.__name__,)


class Choice:
    """How calls of one combination of argument types run."""

    __slots__ = ("form", "name", "op", "out", "packed", "renamed")

    def __init__(self, function: Function, op: Op, packed: int | None, renamed: Any) -> None:
        self.op = op
        self.name = function.__name__
        self.form = function.form
        self.packed = packed  # positional ints from here on are one list
        self.renamed: dict[str, str] = renamed

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.packed is not None:
            args = (*args[: self.packed], args[self.packed :])
        out = None
        if kwargs:
            if self.renamed or "out" in kwargs:
                kwargs = {self.renamed.get(k, k): v for k, v in kwargs.items()}
                out = kwargs.pop("out", None)
        op = self.op
        if op.body is not None:
            return run_composite(op, args, kwargs, out, self.form)
        try:
            tensors, static, scalars = op.bind(*args, **kwargs)
        except ArgumentError as e:
            raise ArgumentError(f"{self.name}(): {e}") from None
        form = self.form
        if out is not None:
            outs = (out,) if isinstance(out, Value) else tuple(out)
            tensors, form = tensors + outs, OUT
        cls = type(tensors[0]) if tensors else _default
        result = cls._apply(op, tensors, static, scalars, form)
        return named(op, result) if op.schema.return_names else result


# Functions that take a number for their first tensor. Source: python_arg_parser.cpp.
_NUMBER_FIRST: Final = frozenset(
    "add sub mul div divide floor_divide multiply subtract true_divide".split()
)


class _NumberFirst:
    """How `torch.div(2.0, x)` runs: the number becomes a tensor of the type they have together."""

    __slots__ = ("function",)

    def __init__(self, function: Function) -> None:
        self.function = function

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        number = args[0]
        code = coerce.scalar(number, None, [])
        other = args[1] if len(args) > 1 else kwargs.get("other")
        if not isinstance(other, Value):
            return self.function(fn.full((), number, dtype=scalar_dtype(code or "i")), *args[1:])
        spec = other._spec  # type: ignore[attr-defined]
        tensors, numbers = ([spec.dtype], []) if spec.shape else ([], [spec.dtype])
        first = fn.new_full(other, (), number, dtype=result_dtype(tensors, numbers, [code or "i"]))
        return self.function(first, *args[1:], **kwargs)


# Functions whose weights once stood before the tensors: how many tensors, and the weights' names.
_OLD: Final[dict[str, tuple[int, tuple[str, ...]]]] = {
    "add": (2, ("alpha",)), "sub": (2, ("alpha",)),
    "addcmul": (3, ("value",)), "addcdiv": (3, ("value",)),
    **dict.fromkeys(("addmm", "addmv", "addr", "addbmm", "baddbmm"), (3, ("beta", "alpha"))),
}  # fmt: skip


def _old_numbers(function: Function, args: Sequence[Any]) -> dict[str, Any] | None:
    """Return the weights of a call such as ``x.add_(2, y)``, None if it is none."""
    tensors, names = _OLD.get(function.__name__.removesuffix("_"), (0, ()))
    numbers = [a for a in args if _is_plain_number(a)]
    if not tensors or not 1 <= len(numbers) <= len(names) or not isinstance(args[-1], Value):
        return None
    if len(args) != tensors + len(numbers):
        return None
    return dict(zip(names, numbers, strict=False))


class _Old:
    """How a call with torch's first signatures runs: with its weights by name."""

    __slots__ = ("function",)

    def __init__(self, function: Function) -> None:
        self.function = function

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        numbers = _old_numbers(self.function, args)
        assert numbers is not None
        name = self.function.__name__
        notice.warn(
            f"This overload of {name} is deprecated: pass {' and '.join(numbers)} by name",
        )
        tensors = [a for a in args if not _is_plain_number(a)]
        return self.function(*tensors, **numbers, **kwargs)


def run_composite(op: Op, args: Any, kwargs: dict[str, Any], out: Any, form: int) -> Any:
    """Run a composite's body; in place and `out=` copy its result over."""
    assert op.body is not None
    if form == INPLACE:
        if op.writes:  # by itself
            return op.body(*args, **kwargs)
        # What the body saves for backward must not be what is then written over.
        source = fn.clone(args[0]) if getattr(args[0], "requires_grad", False) else args[0]
        result = op.body(source, *args[1:], **kwargs)
        check_stored(result._spec, args[0]._spec)
        return fn.copy_(args[0], result)
    if _casting is None or out is not None:
        result = op.body(*args, **kwargs)
    else:
        result = _casting(op.body, op, args, kwargs)
    if out is not None:
        if not isinstance(result, tuple):
            return _into(out, result)
        result = tuple(_into(o, r) for o, r in zip(out, result, strict=True))
    return named(op, result) if op.schema.return_names else result


class ReturnType(tuple[Any, ...]):
    """Several results with names, as C gives Python: ``torch.return_types.max``."""

    __slots__ = ()
    _names: tuple[str, ...] = ()
    n_fields = n_sequence_fields = n_unnamed_fields = 0

    def __new__(cls, sequence: Any) -> ReturnType:
        if not isinstance(sequence, (tuple, list)):
            raise TypeError("constructor requires a sequence")
        if len(sequence) != cls.n_fields:
            raise TypeError(
                f"{cls.__module__}.{cls.__name__}() takes a {cls.n_fields}-sequence "
                f"({len(sequence)}-sequence given)"
            )
        return tuple.__new__(cls, sequence)

    def __repr__(self) -> str:
        fields = ",\n".join(f"{k}={v!r}" for k, v in zip(self._names, self, strict=True))
        return f"{self.__module__}.{type(self).__name__}(\n{fields})"

    def __reduce__(self) -> Any:
        return type(self), (tuple(self),)


_return_types: dict[str, type[ReturnType]] = {}  # by the op's name without overload


def return_type(op: Op) -> type[ReturnType]:
    """Return the class of the op's results; overloads share it."""
    found = _return_types.get(op.base)
    if found is None:
        names = op.schema.return_names
        space = {name: property(operator.itemgetter(i)) for i, name in enumerate(names)}
        facts = {"n_fields": len(names), "n_sequence_fields": len(names), "_names": names}
        made = {"__slots__": (), "__module__": "torch.return_types", **facts, **space}
        found = _return_types[op.base] = type(op.base, (ReturnType,), made)
    return found


def named(op: Op, results: tuple[Any, ...]) -> Any:
    """Return several results as torch.return_types does: a tuple with the schema's names."""
    return tuple.__new__(_return_types.get(op.base) or return_type(op), results)


def _into(out: Any, result: Any) -> Any:
    out._write_out(result)
    return out


def _kind(x: Any) -> Any:
    """Return what overload resolution looks at: the type; for lists that of the first element."""
    cls = type(x)
    if cls is list or cls is tuple:
        return (cls, type(x[0]) if x else None)
    return cls


def _match(
    function: Function,
    op: Op,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    is_number: Callable[[Any], bool],
) -> tuple[Choice | None, str]:
    """Return the way to call `op` with these arguments, or None and the reason."""
    params = op.args
    positional = [a for a in params if not a.keyword_only]
    packed = None
    last = len(positional) - 1
    if 0 <= last <= 1 and positional[last].kind == "i[]" and len(args) > last:
        # The list is all that is passed by position (but for self): its ints may stand alone.
        rest = args[last:]
        if all(_is_int(x) for x in rest):
            packed = last
            args = (*args[:last], rest)
    if len(args) > len(positional):
        return None, (f"takes {len(positional)} positional arguments but {len(args)} were given")
    names = {a.name: a for a in params}
    given: dict[str, Any] = {}
    renamed: dict[str, str] = {}
    for a, x in zip(positional, args, strict=False):
        given[a.name] = x
    for key, x in kwargs.items():
        if key == "out" and "out" not in names:
            continue
        name = key if key in names else _ALIASES.get(key, key)
        if name not in names:
            return None, f"got an unexpected keyword argument '{key}'"
        if name in given:
            return None, f"got multiple values for argument '{key}'"
        if name != key:
            renamed[key] = name
        given[name] = x
    for at, a in enumerate(params):
        if a.name not in given:
            if a.default is schema.MISSING and a.kind != "T?":
                shown = "input" if a.name == "self" else a.name
                return None, f'missing required argument "{shown}"'
        elif not _fits(a, given[a.name], is_number):
            shown = "input" if a.name == "self" else a.name
            return None, (
                f"argument '{shown}' {_misfit(at + 1, _type_name(a.kind), given[a.name])}"
            )
    return Choice(function, op, packed, renamed), ""


def _misfit(position: int, wanted: str, x: Any) -> str:
    """Return in torch's words what was passed instead: of a list of numbers its first non-int."""
    if isinstance(x, (tuple, list)):
        for i, item in enumerate(x):
            if not _is_int(item) and i:
                kind = type(item).__name__
                return (
                    f"failed to unpack the object at pos {i + 1} with error "
                    f'"type must be {wanted},but got {kind}"'
                )
            if not _is_int(item):
                found = f"but found element of type {type(item).__name__} at pos 0"
                return f"(position {position}) must be {wanted}, {found}"
    return f"(position {position}) must be {wanted}, not {type(x).__name__}"


def _is_int(x: Any) -> bool:
    cls = type(x)
    return cls is int or (cls is not bool and hasattr(x, "__index__") and not _is_array(x))


def _is_array(x: Any) -> bool:
    return getattr(x, "ndim", 0) != 0


def _is_plain_number(x: Any) -> bool:
    return isinstance(x, (bool, int, float, complex, np.generic))


def _is_number(x: Any) -> bool:
    if _is_plain_number(x):
        return True
    return isinstance(x, Value) and not x._spec.shape  # type: ignore[attr-defined]


def _fits(arg: schema.Arg, x: Any, is_number: Callable[[Any], bool]) -> bool:
    """Return whether a value may be passed for an argument of this kind."""
    kind = arg.kind
    if x is None:
        return kind[-1] == "?" or kind[0] in "LMG" or arg.default == ()
    kind = kind.rstrip("?") if kind != "T?[]" else kind
    if "[]" in kind:
        if kind[0] == "i" and arg.size and _is_int(x):
            return True
        if kind[0] in "fS" and is_number(x):
            return True
        if not isinstance(x, (list, tuple)):
            return False
        inner = is_number if kind[0] == "S" else _INNER[kind[0]]
        return all(inner(i) or (i is None and kind == "T?[]") for i in x)
    if kind[0] in "fS" and not is_number(x):
        return False
    return _INNER[kind[0]](x)


_INNER: Final[dict[str, Callable[[Any], bool]]] = {
    "T": lambda x: isinstance(x, Value),
    "S": _is_number,
    "f": lambda x: _is_number(x) and not isinstance(x, complex),
    "i": _is_int,
    "b": lambda x: isinstance(x, (bool, np.bool_)),
    "s": lambda x: isinstance(x, str),
    "d": lambda x: isinstance(x, DType) or x in (float, int, bool, complex),
    "D": lambda x: isinstance(x, (Device, str, int)),
    "L": lambda x: True,
    "M": lambda x: True,
    "G": lambda x: hasattr(x, "_number"),
}
_TYPE_NAMES: Final = {
    "T": "Tensor", "S": "Number", "f": "float", "i": "int", "b": "bool", "s": "str",
    "d": "torch.dtype", "D": "torch.device", "L": "torch.layout", "M": "torch.memory_format",
    "G": "Generator",
}  # fmt: skip


def _type_name(kind: str) -> str:
    name = _TYPE_NAMES[kind[0]]
    return f"tuple of {name}s" if "[]" in kind else name


class Namespace:
    """Every function of the table by name, made at first use: ``fn.add``, ``fn.add_``."""

    def __getattr__(self, name: str) -> Function:
        function = self._make(name)
        if function is None:
            raise AttributeError(f"farspan has no operator {name!r}")
        setattr(self, name, function)
        return function

    def _make(self, name: str) -> Function | None:
        table()
        by_base = _by_base()
        if name in by_base:
            ops = by_base[name]
            stores = name[-1] == "_" and ops[0].writes and ops[0].schema.returns
            form = INPLACE if stores else FUNCTIONAL  # a step writes by itself, returning nothing
            return Function(name, ops, form)
        if name[-1] == "_" and name[:-1] in by_base and not name.startswith("__"):
            return Function(name, by_base[name[:-1]], INPLACE)
        return None

    def __contains__(self, name: str) -> bool:
        return name in self.__dict__ or self._make(name) is not None


def _by_base() -> dict[str, list[Op]]:
    if len(OPS) != _grouped["count"]:
        groups: dict[str, list[Op]] = {}
        for op in OPS.values():
            groups.setdefault(op.base, []).append(op)
        _grouped["count"], _grouped["groups"] = len(OPS), groups
    return _grouped["groups"]  # type: ignore[no-any-return]


_grouped: dict[str, Any] = {"count": 0, "groups": {}}
fn: Any = Namespace()


def unsupported(name: str, why: str) -> Callable[..., Any]:
    """Return a function that says why `name` is not there."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise UnsupportedError(f"{name} is not supported: {why}")

    refuse.__name__ = name
    return refuse
