"""Arrays and a namespace that compute nothing: a table's kernel run over them yields its graph.

Promotion, casts, NaN and ties are numpy's. What cannot stand in a loop, or what looks at values or
writes to its arguments, raises Unfused. Functions of analysis are in functions.py.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Final

import numpy as np
from farspan.core.dtype import BY_NAME
from farspan.core.spec import broadcast_shapes

from .graph import Graph, Node
from .group import EXAMPLES, Unfused

_HALVES: Final = ("float16", "bfloat16")


class Type:
    """A numpy dtype as kernels see it; `type(x)` also takes numbers that are not yet known."""

    __slots__ = ("_graph", "char", "itemsize", "kind", "name", "numpy")

    def __init__(self, graph: Graph, name: str) -> None:
        self.numpy = BY_NAME[name].numpy
        self.name, self.kind, self.itemsize = name, self.numpy.kind, self.numpy.itemsize
        self.char = self.numpy.char
        self._graph = graph

    @property
    def dtype(self) -> Any:
        """The numpy dtype: where numpy itself is given this one, it looks here."""
        return self.numpy

    def type(self, x: Any) -> Any:
        """Return a number as an array of this type without dims."""
        return Sym(self._graph, as_type(self._graph, x, self.name), ())

    def __eq__(self, other: object) -> bool:
        return name_of(other) == self.name

    def __hash__(self) -> int:
        return hash(self.name)


def name_of(dtype: Any) -> str:
    """Return the name of a dtype, however it is given. Unfused if a loop has no such type."""
    name = dtype.name if isinstance(dtype, Type) else np.dtype(dtype).name
    if name not in BY_NAME or "complex" in name:
        raise Unfused(f"elements of {name}")
    return str(name)


class Expr:
    """An expression: the operators that arrays and numbers share."""

    __slots__ = ("graph", "node", "shape")
    __array_ufunc__ = None  # numpy's scalars leave operators to this class

    def __init__(self, graph: Graph, node: Node, shape: tuple[int, ...]) -> None:
        self.graph, self.node, self.shape = graph, node, shape

    def __add__(self, other: Any) -> Any:
        return binary("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return binary("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return binary("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return binary("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return binary("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return binary("mul", other, self)

    def __truediv__(self, other: Any) -> Any:
        return binary("div", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return binary("div", other, self)

    def __neg__(self) -> Any:
        return negated(self)

    def __bool__(self) -> bool:
        raise Unfused("a kernel that asks for a value")

    def __abs__(self) -> Any:
        return absolute(self)

    def __iter__(self) -> Any:
        raise Unfused("a kernel that walks over elements")

    __hash__ = None  # type: ignore[assignment]


class Scalar(Expr):
    """A number known when the loop runs: computed as Python does, in double or int64.

    No number is equal to it: kernels ask only to skip a product with 1, or for a shorter way to
    the same power. Other questions raise Unfused.
    """

    __slots__ = ("kind",)

    def __init__(self, graph: Graph, node: Node, kind: str) -> None:
        super().__init__(graph, node, ())
        self.kind = kind

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True

    def __lt__(self, other: Any) -> bool:
        raise Unfused("a kernel that asks for the size of a number")

    __le__ = __gt__ = __ge__ = __lt__

    def conjugate(self) -> Scalar:
        return self


class Sym(Expr):
    """An array: one node stands for each of its elements."""

    __slots__ = ()

    @property
    def dtype(self) -> Type:
        return Type(self.graph, self.node.dtype)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements; of a mask 0.

        `blocks.select` and `kept` look at a mask's size to choose between two ways to the same,
        and take the shorter one for few elements.
        """
        return 0 if self.node.dtype == "bool" else math.prod(self.shape)

    @property
    def real(self) -> Sym:
        return self

    def astype(self, dtype: Any) -> Sym:
        return Sym(self.graph, cast(self.graph, self.node, name_of(dtype)), self.shape)

    def __pow__(self, exponent: Any) -> Any:
        return power(self, exponent)

    def __rpow__(self, base: Any) -> Any:
        return power(base, self)

    def __eq__(self, other: object) -> Any:
        return binary("eq", self, other)

    def __ne__(self, other: object) -> Any:
        return binary("ne", self, other)

    def __lt__(self, other: Any) -> Any:
        return binary("lt", self, other)

    def __le__(self, other: Any) -> Any:
        return binary("le", self, other)

    def __gt__(self, other: Any) -> Any:
        return binary("gt", self, other)

    def __ge__(self, other: Any) -> Any:
        return binary("ge", self, other)

    def __and__(self, other: Any) -> Any:
        return binary("and", self, other)

    def __rand__(self, other: Any) -> Any:
        return binary("and", other, self)

    def __or__(self, other: Any) -> Any:
        return binary("or", self, other)

    def __xor__(self, other: Any) -> Any:
        return binary("xor", self, other)

    def __invert__(self) -> Any:
        return inverted(self)

    def __setitem__(self, at: Any, value: Any) -> None:
        raise Unfused("a kernel that writes to its argument")

    def __getattr__(self, name: str) -> Any:
        raise Unfused(f"a kernel that uses .{name}")

    __hash__ = None  # type: ignore[assignment]


# --------------------------------------------------------------------------------------- types --
def cast(graph: Graph, node: Node, name: str) -> Node:
    """Return the node as this type, as numpy casts. Unfused where C leaves it open."""
    source = node.dtype
    if source == name:
        return node
    if source in _HALVES and name != "float32":
        return cast(graph, cast(graph, node, "float32"), name)
    if name == "bool":
        return graph.node("ne", "bool", node, graph.const(_zero(source), source))
    if "int" in name and "float" in source:
        if graph.exact:  # beyond the range each of numpy's loops gives something else
            raise Unfused("a cast from floats to integers")
        return graph.node("cast", name, node)
    if name in _HALVES and source != "float32":
        if name == "float16" and (source == "float64" or source.endswith(("32", "64"))):
            raise Unfused(f"a cast from {source} to float16")  # it would be rounded twice
        return graph.node("cast", name, cast(graph, node, "float32"))
    return graph.node("cast", name, node)


def _zero(name: str) -> Any:
    return 0.0 if "float" in name else False if name == "bool" else 0


def as_type(graph: Graph, x: Any, name: str) -> Node:
    """Return an operand as a node of this type; Python's numbers become it as in numpy."""
    if isinstance(x, Expr):
        return cast(graph, x.node, name)
    if name == "bool":
        return graph.const(bool(x), name)
    if isinstance(x, complex) or (isinstance(x, (float, np.floating)) and "float" not in name):
        raise Unfused(f"{x!r} as {name}")
    with np.errstate(over="ignore"):
        found = np.asarray(x).astype(BY_NAME[name].numpy)
    if "float" in name:
        return graph.const(float(found), name)
    if int(found) != int(x):
        raise Unfused(f"{x!r} does not fit {name}")
    return graph.const(int(found), name)


def common(*values: Any) -> str:
    """Return the type that numpy computes with for these operands."""
    kinds = []
    for v in values:
        if isinstance(v, Scalar):
            kinds.append(EXAMPLES[v.kind])
        else:
            kinds.append(v.dtype.numpy if isinstance(v, Sym) else v)
    return name_of(np.result_type(*kinds))


def _graph_of(*values: Any) -> Graph:
    for v in values:
        if isinstance(v, Expr):
            return v.graph
    raise Unfused("numbers alone")


def joined(*values: Any) -> tuple[Graph, tuple[int, ...]]:
    """Return the graph of some operands and the shape that they broadcast to."""
    graph = _graph_of(*values)
    return graph, broadcast_shapes(*[v.shape for v in values if isinstance(v, Expr)])


_COMPARES: Final = frozenset(("eq", "ne", "lt", "le", "gt", "ge"))
_OF_BOOLS: Final = {"add": "or", "mul": "and", "and": "and", "or": "or", "xor": "xor"}


def binary(op: str, a: Any, b: Any) -> Any:
    """Return `a op b` as numpy has it."""
    for x in (a, b):
        known = isinstance(x, (bool, int, float, np.generic, np.ndarray)) and not np.ndim(x)
        if not known and not isinstance(x, Expr):
            raise Unfused(f"an operand that is a {type(x).__name__}")
    if not isinstance(a, Sym) and not isinstance(b, Sym):
        return _of_numbers(op, a, b)
    graph, shape = joined(a, b)
    name = common(a, b)
    if op == "div" and "float" not in name:
        name = "float64"
    if name in _HALVES:
        raise Unfused(f"arithmetic in {name}")
    if op in _COMPARES and name == "float64" and "float64" not in _names(a, b):
        raise Unfused("a comparison of signed with unsigned integers")
    x, y = as_type(graph, a, name), as_type(graph, b, name)
    if op in _COMPARES:
        return Sym(graph, graph.node(op, "bool", x, y), shape)
    if name == "bool":
        if op not in _OF_BOOLS:
            raise Unfused(f"{op} of bools")
        op = _OF_BOOLS[op]
    elif "float" in name and op in ("and", "or", "xor"):
        raise Unfused(f"{op} of floats")
    return Sym(graph, graph.node(op, name, x, y), shape)


def _names(*values: Any) -> list[str]:
    return [v.node.dtype for v in values if isinstance(v, Sym)]


def _of_numbers(op: str, a: Any, b: Any) -> Scalar:
    """Return what Python makes of two numbers, one of them known only later."""
    graph = _graph_of(a, b)
    kinds = [v.kind if isinstance(v, Scalar) else "f" if isinstance(v, float) else "i"
             for v in (a, b)]  # fmt: skip
    floating = "f" in kinds or op == "div"
    if op not in ("add", "sub", "mul", "div") or (not floating and op == "div"):
        raise Unfused(f"{op} of numbers")
    name = "float64" if floating else "int64"
    x, y = as_type(graph, a, name), as_type(graph, b, name)
    return Scalar(graph, graph.node(op, name, x, y), "f" if floating else "i")


def unary(op: str, x: Any, name: str | None = None) -> Sym:
    """Return a node of one argument, of its type or of the one named."""
    if not isinstance(x, Sym):
        raise Unfused(f"{op} of a number")
    return Sym(x.graph, x.graph.node(op, name or x.node.dtype, x.node), x.shape)


def negated(x: Any) -> Any:
    if isinstance(x, Scalar):
        return binary("sub", 0, x) if x.kind != "f" else binary("mul", x, -1.0)
    if x.node.dtype == "bool":
        raise Unfused("neg of bools")
    return unary("neg", x)


def absolute(x: Any) -> Any:
    if isinstance(x, Scalar):
        if x.kind != "f":
            raise Unfused("abs of an integer that is not known")
        return Scalar(x.graph, x.graph.node("abs", "float64", x.node), "f")
    return x if x.dtype.kind in "bu" else unary("abs", x)


def inverted(x: Any) -> Any:
    if "float" in x.node.dtype:
        raise Unfused("bits of floats")
    return unary("not", x)


def select(mask: Any, a: Any, b: Any) -> Any:
    """Return numpy's where."""
    if not isinstance(mask, Sym):
        raise Unfused("where of a number")
    graph, shape = joined(mask, a, b)
    name = common(a, b)
    condition = cast(graph, mask.node, "bool")
    x, y = as_type(graph, a, name), as_type(graph, b, name)
    return Sym(graph, graph.node("select", name, condition, x, y), shape)


def power(x: Any, exponent: Any) -> Any:
    """Return x to a power; numpy's short ways are the ones that exact loops have."""
    if isinstance(exponent, (int, float)) and not isinstance(exponent, bool):
        floating = "float" in x.node.dtype
        if exponent == 2:
            return x * x
        if exponent == 1:
            return x
        if exponent == 0:
            return Sym(x.graph, as_type(x.graph, 1, x.node.dtype), x.shape)
        if exponent == 0.5 and floating:
            return unary("sqrt", x)
        if exponent == -1 and floating:
            return 1 / x
    from .functions import pow_

    return pow_(x, exponent)


def extreme(a: Any, b: Any, compare: str, nan_wins: bool = True) -> Any:
    """Return maximum ("gt") or minimum ("lt"), of equal ones the second, as numpy has it.

    nan_wins: a NaN is the result; else the number beside it is, as of fmax and fmin.
    """
    graph, shape = joined(a, b)
    name = common(a, b)
    x, y = (Sym(graph, as_type(graph, v, name), shape) for v in (a, b))
    first = binary(compare, x, y)
    if "float" in name:
        first = first | ((x != x) if nan_wins else (y != y))
    return select(first, x, y)


def clip(x: Any, low: Any, high: Any) -> Any:
    """Return numpy's clip: NaN stays, a bound that is equal to x leaves x."""
    name = common(x, low, high)
    graph, shape = joined(x, low, high)
    x = Sym(graph, as_type(graph, x, name), shape)
    for bound, compare in ((low, "lt"), (high, "gt")):
        if bound is not None:
            edge = Sym(graph, as_type(graph, bound, name), ())
            beyond = binary(compare, x, edge)
            if "float" in name:
                beyond = beyond | (edge != edge)
            x = select(beyond, edge, x)
    return x


def shifted(x: Any, by: Any, op: str) -> Any:
    """Return a shift; beyond the width all bits are gone, as numpy has it."""
    graph, shape = joined(x, by)
    name = common(x, by)
    bits = BY_NAME[name].itemsize * 8
    a, n = as_type(graph, x, name), as_type(graph, by, name)
    inside = graph.node("below", "bool", n, attr=bits)
    within = graph.node(
        "select", name, inside, n, graph.const(bits - 1 if op == "shr" else 0, name)
    )
    made = graph.node(op, name, a, within)
    if op == "shl" or name[0] == "u":
        made = graph.node("select", name, inside, made, graph.const(0, name))
    return Sym(graph, made, shape)


class Namespace:
    """numpy for kernels that are traced: what has a place in a loop, by numpy's names."""

    nan, inf, pi, e = math.nan, math.inf, math.pi, math.e
    float32, float64, int8, int64, bool_ = np.float32, np.float64, np.int8, np.int64, np.bool_
    _INEXACT: ClassVar[frozenset[str]] = frozenset(
        ("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "tanh", "sinh", "cosh",
         "logaddexp")
    )  # fmt: skip

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def __getattr__(self, name: str) -> Any:
        if name in self._INEXACT:
            if self.graph.exact:
                raise Unfused(f"{name} in an exact loop")
            from . import functions

            return getattr(functions, name)
        raise Unfused(f"a kernel that uses {name}")

    add = staticmethod(lambda a, b: binary("add", a, b))
    subtract = staticmethod(lambda a, b: binary("sub", a, b))
    multiply = staticmethod(lambda a, b: binary("mul", a, b))
    divide = true_divide = staticmethod(lambda a, b: binary("div", a, b))
    square = staticmethod(lambda x: x * x)
    negative = staticmethod(negated)
    abs = absolute = staticmethod(absolute)
    power = staticmethod(power)
    where = staticmethod(select)
    clip = staticmethod(clip)
    maximum = staticmethod(lambda a, b: extreme(a, b, "gt"))
    minimum = staticmethod(lambda a, b: extreme(a, b, "lt"))
    fmax = staticmethod(lambda a, b: extreme(a, b, "gt", False))
    fmin = staticmethod(lambda a, b: extreme(a, b, "lt", False))
    left_shift = staticmethod(lambda a, b: shifted(a, b, "shl"))
    right_shift = staticmethod(lambda a, b: shifted(a, b, "shr"))
    bitwise_and = staticmethod(lambda a, b: binary("and", a, b))
    bitwise_or = staticmethod(lambda a, b: binary("or", a, b))
    bitwise_xor = staticmethod(lambda a, b: binary("xor", a, b))
    invert = staticmethod(inverted)
    conj = real = positive = staticmethod(lambda x: x)

    @staticmethod
    def logical_not(x: Any) -> Any:
        return inverted(x.astype("bool"))

    @staticmethod
    def logical_and(a: Any, b: Any) -> Any:
        return a.astype("bool") & b.astype("bool")

    @staticmethod
    def logical_or(a: Any, b: Any) -> Any:
        return a.astype("bool") | b.astype("bool")

    @staticmethod
    def logical_xor(a: Any, b: Any) -> Any:
        return a.astype("bool") ^ b.astype("bool")

    @staticmethod
    def isnan(x: Any) -> Any:
        return x != x

    @staticmethod
    def isinf(x: Any) -> Any:
        return absolute(x) == math.inf if x.dtype.kind == "f" else x != x

    @staticmethod
    def isfinite(x: Any) -> Any:
        return absolute(x) < math.inf if x.dtype.kind == "f" else x == x

    @staticmethod
    def signbit(x: Any) -> Any:
        if x.node.dtype not in ("float32", "float64"):
            raise Unfused(f"the sign bit of {x.node.dtype}")
        name = "int32" if x.node.dtype == "float32" else "int64"
        return unary("bits", x, name) < 0

    @staticmethod
    def copysign(x: Any, sign: Any) -> Any:
        graph, shape = joined(x, sign)
        name = common(x, sign)
        return Sym(graph, graph.node("copysign", name, as_type(graph, x, name),
                                     as_type(graph, sign, name)), shape)  # fmt: skip

    @staticmethod
    def asarray(x: Any, dtype: Any = None) -> Any:
        if isinstance(x, Sym):
            return x if dtype is None else x.astype(dtype)
        if isinstance(dtype, Type):
            return dtype.type(x)
        if isinstance(x, Scalar):
            raise Unfused("an array of a number that is not known")
        return np.asarray(x, dtype)

    @staticmethod
    def finfo(dtype: Any) -> Any:
        return np.finfo(name_of(dtype))

    @staticmethod
    def iinfo(dtype: Any) -> Any:
        return np.iinfo(name_of(dtype))

    @staticmethod
    def full_like(x: Any, value: Any) -> Any:
        return Sym(x.graph, as_type(x.graph, value, x.node.dtype), x.shape)

    @staticmethod
    def zeros_like(x: Any) -> Any:
        return Sym(x.graph, as_type(x.graph, 0, x.node.dtype), x.shape)

    @staticmethod
    def ones_like(x: Any) -> Any:
        return Sym(x.graph, as_type(x.graph, 1, x.node.dtype), x.shape)


def _rounding(name: str) -> Any:
    def apply(x: Any) -> Any:
        if x.node.dtype not in ("float32", "float64"):
            raise Unfused(f"{name} of {x.node.dtype}")
        return unary(name, x)

    return staticmethod(apply)


for _name in ("floor", "ceil", "trunc", "rint", "sqrt"):
    setattr(Namespace, _name, _rounding(_name))
