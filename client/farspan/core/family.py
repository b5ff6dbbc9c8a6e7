"""Families: what ops of one kind have in common, so that a row of the table is a few lines.

pointwise   broadcast, promote, elementwise kernel      reduction   dims go, keepdim
view        metadata only: strides over the same memory structured  everything spelled out
creation    no tensor in                                composite   a function of other ops
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from .dtype import (
    CPU,
    Defaults,
    Device,
    DType,
    bool_,
    int64,
    result_dtype,
    scalar_dtype,
    to_floating,
)
from .errors import DeviceError, UnsupportedError
from .op import Op, declare
from .spec import Spec, broadcast_shapes, pointwise_stride, wrap_dims

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def common_dtype(*values: Any) -> DType:
    """Return torch's result type of specs and Python numbers; anything else is passed over."""
    dims: list[DType] = []
    zeros: list[DType] = []
    numbers: list[str] = []
    for v in values:
        if isinstance(v, Spec):
            (dims if v.shape else zeros).append(v.dtype)
        elif isinstance(v, bool):
            numbers.append("b")
        elif isinstance(v, int):
            numbers.append("i")
        elif isinstance(v, float):
            numbers.append("f")
        elif isinstance(v, complex):
            numbers.append("c")
    return result_dtype(dims, zeros, numbers)


def common_device(specs: Sequence[Spec]) -> Device:
    """Return the one device of the inputs; a 0-d CPU tensor goes along with any. DeviceError."""
    home: Spec | None = None
    for s in specs:
        if home is None or (home.device.type == "cpu" and not home.shape):
            home = s
        elif s.device is not home.device and not (s.device.type == "cpu" and not s.shape):
            raise DeviceError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{home.device} and {s.device}!"
            )
    return CPU if home is None else home.device


def pointwise(
    line: str,
    kernel: Callable[..., Any],
    vjp: Mapping[str, Any] | None = None,
    *,
    dtype: Callable[[DType], DType] | None = None,
    result: Callable[[DType], DType] | DType | None = None,
    operands: str | None = None,
    refuses: str = "",
    compute: Callable[..., DType] | None = None,
    **facets: Any,
) -> Op:
    """Declare an elementwise op: broadcasts, promotes, shards along every dim, fuses.

    dtype: from the promoted type of the operands to the one the kernel computes in (default: the
    same). result: from that to the type of the result, or the type itself. operands: names of the
    arguments that promote (default: all tensors and Scalars). refuses: kinds of dtypes, out of
    "b" bool, "i" int, "c" complex, "f" float, "h" half precision, for which torch has no kernel.
    compute: in place of `dtype` where the other arguments decide too; takes them all.
    """
    chosen: list[int] = []  # positions of the operands; known once the schema is parsed

    def promote(*args: Any) -> DType:
        if not chosen:
            chosen.extend(i for i, a in enumerate(op.args) if op.casts(a.name))
        common = common_dtype(*[args[i] for i in chosen])
        if refuses:
            refuse(op.base, common, refuses)
        return dtype(common) if dtype else common

    computes = compute or promote

    def meta(*args: Any) -> Spec:
        specs = [a for a in args if isinstance(a, Spec)]
        out = computes(*args)
        if isinstance(result, DType):
            out = result
        elif result is not None:
            out = result(out)
        device = common_device(specs)
        first = specs[0]
        if len(specs) == 1 and (first.contiguous or first.dense):
            return first.with_(dtype=out)
        shape = broadcast_shapes(*[s.shape for s in specs])
        return Spec.make(shape, out, device, pointwise_stride(shape, specs))

    names = None if operands is None else frozenset(operands.split())
    op = declare(
        line,
        "pointwise",
        meta=meta,
        kernel=kernel,
        vjp=vjp or {},
        compute=computes,
        operands=names or _promoting,
        dims="pointwise",
        **facets,
    )
    return op


def _promoting(op: Op) -> frozenset[str]:
    """Return the names of an elementwise op's tensors and numbers, without its parameters."""
    apart = ("alpha", "value", "eps")
    return frozenset(a.name for a in op.args if a.kind[0] in "TS" and a.name not in apart)


_KINDS = "bifc"


def refuse(name: str, dtype: DType, kinds: str) -> None:
    """Raise if torch has no kernel of this name for a kind: b, i, f, c, or h for halves."""
    if _KINDS[dtype.category] in kinds or ("h" in kinds and dtype.is_reduced):
        raise UnsupportedError(f'"{name}" not implemented for {dtype.c_name!r}')


def only(name: str, dtype: DType, names: str) -> None:
    """Raise unless torch has a kernel of this name for the dtype: one of `names`."""
    if dtype.name not in names.split():
        raise UnsupportedError(f'"{name}" not implemented for {dtype.c_name!r}')


def reduced_shape(shape: tuple[int, ...], dims: Sequence[int], keepdim: bool) -> tuple[int, ...]:
    """Return what is left of a shape after a reduction."""
    if keepdim:
        return tuple(1 if i in dims else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in dims)


def reduction(
    line: str,
    kernel: Callable[..., Any],
    vjp: Mapping[str, Any] | None = None,
    *,
    dtype: Callable[[DType], DType] | None = None,
    result: Callable[[DType], DType] | DType | None = None,
    refuses: str = "",
    check: Callable[..., None] | None = None,
    more: Sequence[DType | None] = (),
    asked: Callable[[DType], DType] | None = None,
    **facets: Any,
) -> Op:
    """Declare a reduction over `dim` (absent or None: all). An argument `dtype` overrides.

    dtype: from the input's type to the one computed in; result: from that to the result's.
    check(spec, dims): raises for what torch refuses, such as an empty dim without an identity.
    more: the types of further results of the same shape, such as indices; None: as the first.
    asked: what becomes of an argument `dtype`; raises for one that torch refuses.
    """
    positions: dict[str, int] = {}  # by name; known once the schema is parsed

    def named(args: Sequence[Any], name: str) -> Any:
        if not positions:
            positions.update({a.name: i for i, a in enumerate(op.args)})
        return args[positions[name]] if name in positions else None

    def compute(*args: Any) -> DType:
        if refuses:
            refuse(op.base, args[0].dtype, refuses)
        wanted = named(args, "dtype")
        if wanted is not None:
            return asked(wanted) if asked else wanted
        return dtype(args[0].dtype) if dtype else args[0].dtype

    def meta(*args: Any) -> Spec | tuple[Spec, ...]:
        spec: Spec = args[0]
        dims = wrap_dims(named(args, "dim"), spec.ndim)
        if check:
            check(spec, dims)
        keepdim = bool(named(args, "keepdim"))
        out = compute(*args)
        if isinstance(result, DType):
            out = result
        elif result is not None:
            out = result(out)
        first = Spec.make(reduced_shape(spec.shape, dims, keepdim), out, spec.device)
        return (first, *[first.with_(dtype=d) for d in more]) if more else first

    op = declare(
        line, "reduction", meta=meta, kernel=kernel, vjp=vjp or {}, compute=compute, **facets
    )
    return op


def axes(dim: Any, x: Any) -> tuple[int, ...]:
    """Return the axes a kernel reduces: `dim` as the schema has it, for the array x."""
    return wrap_dims(dim, x.ndim)


def integral_to_int64(dtype: DType) -> DType:
    """The type a sum is taken in: small ints would overflow."""
    return int64 if dtype.category < 2 else dtype


def floating(dtype: DType) -> DType:
    """The type of real-valued functions: ints become the default dtype."""
    return to_floating(dtype)


def truth(dtype: DType) -> DType:
    """The type of comparisons."""
    return bool_


def view(line: str, meta: Callable[..., Any], vjp: Mapping[str, Any] | None = None, **f: Any) -> Op:
    """Declare a view: meta returns (spec, offset from self), or a tuple of such pairs."""
    return declare(line, "view", meta=meta, vjp=vjp or {}, moves=True, **f)


def structured(
    line: str,
    *,
    meta: Callable[..., Any],
    kernel: Callable[..., Any],
    vjp: Mapping[str, Any] | None = None,
    **facets: Any,
) -> Op:
    """Declare an op with nothing to derive."""
    return declare(line, "structured", meta=meta, kernel=kernel, vjp=vjp or {}, **facets)


def creation(line: str, *, meta: Callable[..., Any], kernel: Callable[..., Any], **f: Any) -> Op:
    """Declare a factory: no tensor in, or only one whose spec it takes."""
    return declare(line, "creation", meta=meta, kernel=kernel, moves=True, **f)


def mentioning(names: Sequence[str], formula: Callable[..., Any]) -> Callable[..., Any]:
    """Return a derivative formula that mentions `names`, which it gets in this order.

    For formulas that differ between ops of one kind only in the names of what they pass on.
    """

    def derivative(*values: Any) -> Any:
        return formula(*values)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    made = inspect.Signature([inspect.Parameter(n, kind) for n in names])
    derivative.__signature__ = made  # type: ignore[attr-defined]
    return derivative


def no_derivative(name: str) -> Callable[..., Any]:
    """Return the formula of an op that torch has no derivative of: a clear error, not silence."""

    def derivative(g: Any) -> Any:
        raise UnsupportedError(f"derivative for {name} is not implemented")

    return derivative


def composite(line: str) -> Callable[[Callable[..., Any]], Op]:
    """Declare an op by its body, a function of other ops over values; the body is its one facet."""

    def decorate(body: Callable[..., Any]) -> Op:
        return declare(line, "composite", body=body)

    return decorate


def factory_spec(
    shape: Sequence[int],
    dtype: DType | None,
    device: Device | None,
    like: Spec | None = None,
    default: DType | None = None,
) -> Spec:
    """Return the spec of a fresh contiguous tensor from a factory's arguments."""
    if like is not None:
        return Spec.make(tuple(shape), dtype or like.dtype, device or like.device)
    return Spec.make(tuple(shape), dtype or default or Defaults.dtype, device or CPU)


def number_dtype(x: Any) -> DType:
    """Return the type that a Python number alone makes: `full`, `arange`, `scalar_tensor`."""
    code = "b" if isinstance(x, bool) else "i" if isinstance(x, int) else "f"
    return scalar_dtype("c" if isinstance(x, complex) else code)
