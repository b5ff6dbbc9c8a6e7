"""Nodes of a loop's graph as CUDA C: expressions, constants, elements as they lie in memory.

Half types stay bits in registers; everything else is C's own. The text compiles as C++ on a host
too, where `FARSPAN_HOST` is defined: tests run it there. Exact text relies on `-fmad=false`.
"""

from __future__ import annotations

import math
import struct
from typing import Final

from ...cpu.loops.graph import Node, value_of
from ...cpu.loops.group import Unfused
from ...cpu.loops.instructions import ITEMSIZE

#: Types in registers.
REGISTER: Final = {
    "bool": "bool", "int8": "signed char", "uint8": "unsigned char", "int16": "short",
    "uint16": "unsigned short", "int32": "int", "uint32": "unsigned int", "int64": "long long",
    "uint64": "unsigned long long", "float16": "half_bits", "bfloat16": "bf16_bits",
    "float32": "float", "float64": "double",
}  # fmt: skip
#: Types in memory.
MEMORY: Final = {**REGISTER, "bool": "unsigned char"}
_BINARY: Final = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "and": "&", "or": "|", "xor": "^",
}  # fmt: skip
_COMPARES: Final = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_FUNCTIONS: Final = frozenset(("sqrt", "floor", "ceil", "trunc", "rint", "copysign", "fma"))

#: What all texts begin with. Casts of half types are to the nearest, ties to even.
PRELUDE: Final = r"""
typedef unsigned long long u64;
struct half_bits { unsigned short bits; };
struct bf16_bits { unsigned short bits; };
template <class T, int N> struct alignas(sizeof(T) * N) Pack { T v[N]; };

#ifndef FARSPAN_HOST
#define INLINE __device__ __forceinline__
INLINE float float_of(half_bits x) {
  float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits)); return y;
}
INLINE half_bits half_of(float x) {
  half_bits y; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); return y;
}
INLINE int bits_of(float x) { return __float_as_int(x); }
INLINE long long bits_of(double x) { return __double_as_longlong(x); }
INLINE float float_at(int x) { return __int_as_float(x); }
INLINE double double_at(long long x) { return __longlong_as_double(x); }
#endif
INLINE float float_of(bf16_bits x) { return float_at((int)((unsigned)x.bits << 16)); }
INLINE bf16_bits bf16_of(float x) {
  unsigned u = (unsigned)bits_of(x), high = u >> 16;
  bf16_bits y;
  y.bits = (unsigned short)(x != x ? (high & 0x8000u) | 0x7fc0u
                                   : (u + 0x7fffu + (high & 1u)) >> 16);
  return y;
}
template <class T> INLINE T larger(T a, T b) { return a > b || a != a ? a : b; }
template <class T> INLINE T smaller(T a, T b) { return a < b || a != a ? a : b; }
template <class P> INLINE bool on(const P* p, int bytes) {
  return ((u64)p & (u64)(bytes - 1)) == 0;
}
"""


def literal(value: float | int | bool, name: str) -> str:
    """Return a number as a constant of this type; floats to the bit."""
    if name == "bool":
        return "true" if value else "false"
    if name == "float32":
        return _float32(float(value))
    if name == "float64":
        (bits,) = struct.unpack("<q", struct.pack("<d", value))
        return float(value).hex() if math.isfinite(value) else f"double_at({bits}ll)"
    if name in ("float16", "bfloat16"):
        return f"{'half' if name == 'float16' else 'bf16'}_of({_float32(float(value))})"
    if name == "int64" and value == -(2**63):
        return "(-9223372036854775807ll - 1)"
    suffix = {"int64": "ll", "uint64": "ull", "uint32": "u"}.get(name, "")
    return f"({REGISTER[name]}){value}{suffix}"


def _float32(value: float) -> str:
    if math.isfinite(value):
        return value.hex() + "f"
    (bits,) = struct.unpack("<i", struct.pack("<f", value))
    return f"float_at({bits})"


def loaded(element: str, name: str) -> str:
    """Return an element of memory as it is in registers."""
    return f"({element} != 0)" if name == "bool" else element


def unsigned(name: str) -> str:
    """Return C's type in which integers of this one wrap around, as they do in numpy."""
    return "u64" if ITEMSIZE[name] == 8 else "unsigned"


def expression(node: Node, args: list[str]) -> str:
    """Return a node as an expression over the names of its arguments. Unfused: there is none."""
    op, name = node.op, node.dtype
    if op == "const":
        return literal(value_of(node), name)
    if op == "cast":
        return cast(args[0], node.args[0].dtype, name)
    if op in _COMPARES:
        return f"{args[0]} {_COMPARES[op]} {args[1]}"
    if op == "select":
        return f"{args[0]} ? {args[1]} : {args[2]}"
    if op == "bits":
        return _reinterpreted(args[0], node.args[0].dtype, name)
    if op == "below":
        source = node.args[0].dtype
        kind = REGISTER[source if source[0] == "u" else "u" + source]
        return f"({kind}){args[0]} < ({kind}){node.attr}"
    if op in _FUNCTIONS and "float" in name:
        return f"{op}{'f' if name == 'float32' else ''}({', '.join(args)})"
    return _floating(op, name, args) if "float" in name else _whole(op, name, args)


def _reinterpreted(x: str, source: str, target: str) -> str:
    if source in ("float32", "float64"):
        return f"bits_of({x})"
    return f"{'float' if target == 'float32' else 'double'}_at({x})"


def _floating(op: str, name: str, args: list[str]) -> str:
    if op in ("add", "sub", "mul", "div"):
        return f"{args[0]} {_BINARY[op]} {args[1]}"
    if op == "neg":
        return f"-{args[0]}"
    if op == "abs":
        return f"fabs{'f' if name == 'float32' else ''}({args[0]})"
    raise Unfused(f"{op} of {name} on a GPU")


def _whole(op: str, name: str, args: list[str]) -> str:
    kind, wide = REGISTER[name], unsigned(name)
    if name == "bool":
        if op == "not":
            return f"!{args[0]}"
        if op in ("and", "or", "xor"):
            return f"(bool)({args[0]} {_BINARY[op]} {args[1]})"
        raise Unfused(f"{op} of bools on a GPU")
    if op in _BINARY and op != "div":
        return f"({kind})(({wide}){args[0]} {_BINARY[op]} ({wide}){args[1]})"
    if op == "shl":
        return f"({kind})(({wide}){args[0]} << {args[1]})"
    if op == "shr":
        return f"({kind})({args[0]} >> {args[1]})"
    if op == "not":
        return f"({kind})~{args[0]}"
    if op == "neg":
        return f"({kind})(0 - ({wide}){args[0]})"
    if op == "abs":
        return f"{args[0]} < 0 ? ({kind})(0 - ({wide}){args[0]}) : {args[0]}"
    raise Unfused(f"{op} of {name} on a GPU")


def cast(value: str, source: str, target: str) -> str:
    """Return a cast between two types other than to bool, which is a comparison."""
    if target == "bfloat16":
        return f"bf16_of({value})"
    if target == "float16":
        return f"half_of({value})"
    if source in ("bfloat16", "float16"):
        return f"float_of({value})"
    return f"({REGISTER[target]}){value}"


def combined(how: str, name: str, a: str, b: str) -> str:
    """Return what two partial results of a reduction become; NaN wins."""
    if how == "sum":
        if "float" in name:
            return f"{a} + {b}"
        return f"({REGISTER[name]})(({unsigned(name)}){a} + ({unsigned(name)}){b})"
    return f"{'larger' if how == 'max' else 'smaller'}({a}, {b})"


def identity(how: str, name: str) -> str:
    """Return what a reduction of nothing is."""
    if how == "sum":
        return literal(0, name)
    sign = -1 if how == "max" else 1
    if "float" in name:
        return literal(sign * math.inf, name)
    bits = ITEMSIZE[name] * 8
    if name[0] == "u":
        return literal(0 if how == "max" else 2**bits - 1, name)
    return literal(-(2 ** (bits - 1)) if how == "max" else 2 ** (bits - 1) - 1, name)
