"""Nodes as LLVM's instructions, and elements as they lie in memory.

In registers a bool is one bit and a bfloat16 its 16 bits. Exact text has no flags; otherwise
products and sums may contract, and the sums of reductions be taken in any order.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from .graph import Node, value_of

#: Types in registers.
REGISTER: Final = {
    "bool": "i1", "int8": "i8", "uint8": "i8", "int16": "i16", "uint16": "i16", "int32": "i32",
    "uint32": "i32", "int64": "i64", "uint64": "i64", "float16": "half", "bfloat16": "i16",
    "float32": "float", "float64": "double",
}  # fmt: skip
#: Types in memory.
MEMORY: Final = {**REGISTER, "bool": "i8"}
ITEMSIZE: Final = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4,
    "int64": 8, "uint64": 8, "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8,
}  # fmt: skip
_FLOAT_OPS: Final = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_INT_OPS: Final = frozenset(("add", "sub", "mul", "and", "or", "xor", "shl"))
_FLOAT_COMPARES: Final = {
    "eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge",
}  # fmt: skip
_INTRINSICS: Final = {
    "sqrt": "sqrt", "floor": "floor", "ceil": "ceil", "trunc": "trunc", "rint": "rint",
    "copysign": "copysign", "fma": "fma",
}  # fmt: skip


def literal(value: Any, name: str) -> str:
    """Return a number as a constant of this type."""
    if name == "bool":
        return "true" if value else "false"
    if name == "bfloat16":
        return str(struct.unpack("<I", struct.pack("<f", value))[0] >> 16)
    if name == "float16":
        return f"0xH{struct.unpack('<H', struct.pack('<e', value))[0]:04X}"
    if "float" in name:
        return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"
    return str(value)


class Lines:
    """Text of a function: instructions in order, with fresh names for their results."""

    def __init__(self, exact: bool) -> None:
        self.exact = exact
        self.flags = "" if exact else "contract "
        self.text: list[str] = []
        self.declared: set[str] = set()
        self._count = 0

    def name(self, stem: str = "v") -> str:
        self._count += 1
        return f"%{stem}{self._count}"

    def let(self, right: str, stem: str = "v") -> str:
        """Write `name = right` and return the name."""
        made = self.name(stem)
        self.text.append(f"  {made} = {right}")
        return made

    def do(self, line: str) -> None:
        self.text.append(f"  {line}")

    def label(self, label: str) -> None:
        self.text.append(f"{label}:")

    def call(self, function: str, result: str, *args: tuple[str, str], flags: str = "") -> str:
        """Write a call of an intrinsic and return its result."""
        types = ", ".join(t for t, _ in args)
        self.declared.add(f"declare {result} @{function}({types})")
        given = ", ".join(f"{t} {v}" for t, v in args)
        return self.let(f"call {flags}{result} @{function}({given})")

    # ------------------------------------------------------------------------------- memory --
    def load(self, pointer: str, name: str, tag: str) -> str:
        """Return an element as it is in registers."""
        found = self.let(f"load {MEMORY[name]}, ptr {pointer}, align {ITEMSIZE[name]}{tag}")
        return self.let(f"icmp ne i8 {found}, 0") if name == "bool" else found

    def store(self, value: str, pointer: str, name: str, tag: str) -> None:
        if name == "bool":
            value = self.let(f"zext i1 {value} to i8")
        self.do(f"store {MEMORY[name]} {value}, ptr {pointer}, align {ITEMSIZE[name]}{tag}")

    # ---------------------------------------------------------------------------- arithmetic --
    def instruction(self, node: Node, args: list[str]) -> str:
        """Write one node whose arguments have these names; return the name of its result."""
        op, name = node.op, node.dtype
        kind = REGISTER[name]
        if op == "const":
            return literal(value_of(node), name)
        if op == "cast":
            return self.cast(args[0], node.args[0].dtype, name)
        if op in _FLOAT_COMPARES:
            return self._compare(op, node.args[0].dtype, *args)
        if op == "select":
            return self.let(f"select i1 {args[0]}, {kind} {args[1]}, {kind} {args[2]}")
        if op == "bits":
            return self.let(f"bitcast {REGISTER[node.args[0].dtype]} {args[0]} to {kind}")
        if op == "below":
            return self.let(f"icmp ult {REGISTER[node.args[0].dtype]} {args[0]}, {node.attr}")
        if op in _INTRINSICS:
            function = f"llvm.{_INTRINSICS[op]}.f{ITEMSIZE[name] * 8}"
            return self.call(function, kind, *[(kind, a) for a in args])
        return self._floating(op, name, args) if "float" in name else self._whole(op, name, args)

    def _floating(self, op: str, name: str, args: list[str]) -> str:
        kind = REGISTER[name]
        if op in _FLOAT_OPS:
            return self.let(f"{_FLOAT_OPS[op]} {self.flags}{kind} {args[0]}, {args[1]}")
        if op == "neg":
            return self.let(f"fneg {kind} {args[0]}")
        assert op == "abs", op
        return self.call(f"llvm.fabs.f{ITEMSIZE[name] * 8}", kind, (kind, args[0]))

    def _whole(self, op: str, name: str, args: list[str]) -> str:
        kind = REGISTER[name]
        if op in _INT_OPS:
            return self.let(f"{op} {kind} {args[0]}, {args[1]}")
        if op == "shr":
            return self.let(f"{'l' if name[0] == 'u' else 'a'}shr {kind} {args[0]}, {args[1]}")
        if op == "not":
            return self.let(f"xor {kind} {args[0]}, {'true' if name == 'bool' else '-1'}")
        if op == "neg":
            return self.let(f"sub {kind} 0, {args[0]}")
        assert op == "abs", op
        minus = self.let(f"sub {kind} 0, {args[0]}")
        below = self.let(f"icmp slt {kind} {args[0]}, 0")
        return self.let(f"select i1 {below}, {kind} {minus}, {kind} {args[0]}")

    def _compare(self, op: str, name: str, a: str, b: str) -> str:
        kind = REGISTER[name]
        if "float" in name:
            return self.let(f"fcmp {_FLOAT_COMPARES[op]} {kind} {a}, {b}")
        sign = "" if op in ("eq", "ne") else "u" if name[0] == "u" or name == "bool" else "s"
        return self.let(f"icmp {sign}{op} {kind} {a}, {b}")

    def cast(self, value: str, source: str, target: str) -> str:
        """Write a cast between two types other than to bool, which is a comparison."""
        if target == "bfloat16":
            return self._round_to_bfloat16(value)
        if source == "bfloat16":
            wide = self.let(f"zext i16 {value} to i32")
            return self.let(f"bitcast i32 {self.let(f'shl i32 {wide}, 16')} to float")
        a, b = REGISTER[source], REGISTER[target]
        if a == b:
            return value
        unsigned = source[0] == "u" or source == "bool"
        wider = ITEMSIZE[target] > ITEMSIZE[source]
        if "float" in source and "float" in target:
            how = "fpext" if wider else "fptrunc"
        elif "float" in source:
            made = self.let(f"fpto{'u' if target[0] == 'u' else 's'}i {a} {value} to {b}")
            return self.let(f"freeze {b} {made}")
        elif "float" in target:
            how = "uitofp" if unsigned else "sitofp"
        elif wider or source == "bool":
            how = "zext" if unsigned else "sext"
        else:
            how = "trunc"
        return self.let(f"{how} {a} {value} to {b}")

    def _round_to_bfloat16(self, value: str) -> str:
        """To the nearest, ties to even, by integers: the processor's own flushes small numbers."""
        bits = self.let(f"bitcast float {value} to i32")
        high = self.let(f"lshr i32 {bits}, 16")
        odd = self.let(f"and i32 {high}, 1")
        up = self.let(f"add i32 {self.let(f'add i32 {bits}, 32767')}, {odd}")
        rounded = self.let(f"lshr i32 {up}, 16")
        quiet = self.let(f"or i32 {self.let(f'and i32 {high}, 32768')}, 32704")
        nan = self.let(f"fcmp uno float {value}, {value}")
        return self.let(
            f"trunc i32 {self.let(f'select i1 {nan}, i32 {quiet}, i32 {rounded}')} to i16"
        )

    # ---------------------------------------------------------------------------- reductions --
    def combine(self, how: str, name: str, a: str, b: str) -> str:
        """Write what two partial results of a reduction become."""
        kind = REGISTER[name]
        floating = "float" in name
        if how == "sum":
            flags = "" if self.exact else "reassoc contract "
            return self.let(f"{f'fadd {flags}' if floating else 'add '}{kind} {a}, {b}")
        if how == "top":
            function = f"llvm.maxnum.f{ITEMSIZE[name] * 8}"
            return self.call(function, kind, (kind, a), (kind, b), flags="nnan ")
        larger = "gt" if how == "max" else "lt"
        if floating:  # NaN wins
            function = f"llvm.{'maximum' if how == 'max' else 'minimum'}.f{ITEMSIZE[name] * 8}"
            return self.call(function, kind, (kind, a), (kind, b))
        first = self._compare(larger, name, a, b)
        return self.let(f"select i1 {first}, {kind} {a}, {kind} {b}")


def identity(how: str, name: str) -> str:
    """Return what a reduction of nothing is."""
    if how == "sum":
        return literal(0.0 if "float" in name else 0, name)
    sign = 1 if how == "min" else -1
    if "float" in name:
        return literal(sign * float("inf"), name)
    if name[0] == "u":
        return "0" if how == "max" else "-1"
    bits = ITEMSIZE[name] * 8
    return str(-(2 ** (bits - 1)) if how == "max" else 2 ** (bits - 1) - 1)
