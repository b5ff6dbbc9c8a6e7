"""einsum, tensordot and their kind, with the Python signatures that the table cannot say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .core.call import Value, fn
from .core.errors import BadValueError, ShapeError
from .core.ops.contract import LETTERS

if TYPE_CHECKING:
    from ._tensor import Tensor


def einsum(*args: Any) -> Tensor:
    """Return the sum of products that the equation says.

    ``einsum("bik,bkj->bij", x, y)``, operands also as one list; or labels as lists of numbers
    below 52 after each operand: ``einsum(x, [0, 1], y, [1, 2], [0, 2])``. Three and more operands
    are multiplied in the order that opt_einsum finds cheapest.
    """
    if len(args) < 2:
        raise BadValueError(
            "einsum(): must specify the equation string and at least one operand, or at least one "
            "operand and its subscripts list"
        )
    if isinstance(args[0], Value):
        equation = _equation(args)
        operands: Any = args[:-1:2] if len(args) % 2 else args[::2]
    else:
        equation, *operands = args
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = operands[0]
    return fn.einsum(equation, list(operands))  # type: ignore[no-any-return]


def _equation(args: tuple[Any, ...]) -> str:
    """Return the equation of ``operand, labels, operand, labels, ... [, labels of the result]``."""
    inputs = ",".join(_labels(part) for part in args[1::2])
    return f"{inputs}->{_labels(args[-1])}" if len(args) % 2 else inputs


def _labels(numbers: Any) -> str:
    for n in numbers:
        if n is not Ellipsis and not 0 <= n < len(LETTERS):
            raise BadValueError(f"einsum(): subscripts must be in [0, {len(LETTERS)}), got {n}")
    return "".join("..." if n is Ellipsis else LETTERS[n] for n in numbers)


def tensordot(a: Tensor, b: Tensor, dims: Any = 2, out: Tensor | None = None) -> Tensor:
    """Return the sum of products of a and b over some of their dims.

    dims: how many (the last of a, the first of b), or the two lists of dims.
    """
    if isinstance(dims, Value):
        dims = dims.tolist()  # type: ignore[attr-defined]
    if isinstance(dims, int):
        if dims < 0:
            raise ShapeError(f"tensordot expects dims >= 0, but got dims={dims}")
        if dims > min(a.dim(), b.dim()):
            raise ShapeError(f"tensordot expects dims < ndim_a or ndim_b, but got dims={dims}")
        dims = (range(-dims, 0), range(dims))
    first, second = ([d] if isinstance(d, int) else list(d) for d in dims)
    result: Tensor = fn.tensordot(a, b, first, second)
    if out is None:
        return result
    out._write_out(result)
    return out


def chain_matmul(*matrices: Any, out: Tensor | None = None) -> Tensor:
    """Return the product of matrices, multiplied in the cheapest order."""
    chosen = matrices[0] if len(matrices) == 1 and not isinstance(matrices[0], Value) else matrices
    result: Tensor = fn.chain_matmul(list(chosen))
    if out is None:
        return result
    out._write_out(result)
    return out
