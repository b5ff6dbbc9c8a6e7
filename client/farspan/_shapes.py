"""split, meshgrid, unique and their kind, with the Python signatures that the table cannot say.

As in torch.functional and torch._tensor: tensors as varargs, and results whose number or form an
argument decides.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ._tensor import Size, Tensor
from .core.call import fn
from .core.dtype import uint8
from .core.errors import ArgumentError, BadValueError, ParameterError, ShapeError
from .core.spec import broadcast_shapes as _broadcast_shapes

if TYPE_CHECKING:
    from collections.abc import Callable


def _as_list(tensors: tuple[Any, ...]) -> list[Any]:
    """Return tensors that came as varargs or as one sequence."""
    if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)):
        return list(tensors[0])
    return list(tensors)


def broadcast_shapes(*shapes: Any) -> Size:
    """Return the shape that tensors of these shapes broadcast to; an int is a shape of one dim."""
    given = [(s,) if isinstance(s, int) else tuple(s) for s in shapes]
    found: tuple[int, ...] = (1,) * max(map(len, given), default=0)
    for i, shape in enumerate(given):
        for d in range(-1, -len(shape) - 1, -1):
            if shape[d] != found[d] and 1 not in (shape[d], found[d]):
                raise ShapeError(
                    f"Attempting to broadcast a dimension of length {shape[d]} at {d}! Mismatching "
                    f"argument at index {i} had {shape}; but expected shape should be "
                    f"broadcastable to {list(found)}"
                )
        found = _broadcast_shapes(found, shape)
    return Size(found)


def broadcast_tensors(*tensors: Any) -> tuple[Tensor, ...]:
    """Return views of the tensors in the shape that they broadcast to."""
    return fn.broadcast_tensors(_as_list(tensors))  # type: ignore[no-any-return]


def meshgrid(*tensors: Any, indexing: str | None = None) -> tuple[Tensor, ...]:
    """Return the coordinates of a grid, one tensor for each of the vectors.

    indexing: ``"ij"`` (also if None, with a warning as in torch) or ``"xy"``, which swaps the first
    two dims.
    """
    if indexing is None:
        return fn.meshgrid(_as_list(tensors))  # type: ignore[no-any-return]
    return fn.meshgrid(_as_list(tensors), indexing=indexing)  # type: ignore[no-any-return]


def cartesian_prod(*tensors: Any) -> Tensor:
    """Return all combinations of one element of each vector, a row each."""
    return fn.cartesian_prod(_as_list(tensors))  # type: ignore[no-any-return]


def block_diag(*tensors: Any) -> Tensor:
    """Return the matrices along the diagonal of one matrix."""
    return fn.block_diag(_as_list(tensors))  # type: ignore[no-any-return]


def _atleast(name: str) -> Callable[..., Any]:
    function = getattr(fn, name)

    def atleast(*tensors: Any) -> Any:
        return function(tensors[0] if len(tensors) == 1 else list(tensors))

    atleast.__name__ = atleast.__qualname__ = name
    atleast.__doc__ = f"Return the tensor, or each of several, with at least {name[-2]} dims."
    return atleast


atleast_1d, atleast_2d, atleast_3d = map(_atleast, ("atleast_1d", "atleast_2d", "atleast_3d"))


def split(
    tensor: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0
) -> tuple[Tensor, ...]:
    """Return views of parts along `dim`: of one size, but the last one, or of these sizes."""
    if not isinstance(split_size_or_sections, (list, tuple)):
        return fn.split(tensor, split_size_or_sections, dim)  # type: ignore[no-any-return]
    return fn.split_with_sizes(tensor, split_size_or_sections, dim)  # type: ignore[no-any-return]


def _split_method(self: Tensor, split_size: Any, dim: int = 0) -> tuple[Tensor, ...]:
    return split(self, split_size, dim)


def nonzero(input: Tensor, *, as_tuple: bool = False, out: Tensor | None = None) -> Any:
    """Return the coordinates of the elements that are not zero, a row each. Waits.

    as_tuple: one vector for each dim instead, ready to be an index.
    """
    if as_tuple:
        if out is not None:
            raise ParameterError("nonzero does not support the out kwarg when as_tuple is True")
        return fn.nonzero_numpy(input)
    result = fn.nonzero(input)
    if out is None:
        return result
    out._write_out(result)
    return out


def as_strided_(
    input: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Tensor:
    """Make the tensor a window on its storage. Returns it."""
    return input.as_strided_(size, stride, storage_offset)


def detach_(input: Tensor) -> Tensor:
    """Make the tensor a leaf without a history. Returns it."""
    return input.detach_()


def _several(values: Any, wants: tuple[bool, bool], rest: tuple[Any, Any]) -> Any:
    asked = [r for want, r in zip(wants, rest, strict=True) if want]
    return (values, *asked) if asked else values


def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """Return the distinct elements (along `dim`: slices) in order. Waits.

    return_inverse: also where each element went. return_counts: also how often each was there.
    """
    wants = (return_inverse, return_counts)
    if dim is None:
        values, *rest = fn._unique2(input, sorted, *wants)
    else:
        values, *rest = fn.unique_dim(input, dim, sorted, *wants)
    return _several(values, wants, (rest[0], rest[1]))


def unique_consecutive(
    input: Tensor,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """Return the elements without repeats that stand next to each other. Waits."""
    wants = (return_inverse, return_counts)
    values, *rest = fn.unique_consecutive(input, *wants, dim)
    return _several(values, wants, (rest[0], rest[1]))


def where(condition: Tensor, input: Any = None, other: Any = None, *, out: Any = None) -> Any:
    """Return elements of `input` where the condition holds and of `other` elsewhere.

    With the condition alone: ``nonzero(condition, as_tuple=True)``, which waits.
    """
    if input is None and other is None:
        return fn.where(condition)
    if input is None or other is None:
        raise ArgumentError('where() missing required argument "input" or "other"')
    result = fn.where(_as_condition(condition), input, other)
    if out is None:
        return result
    out._write_out(result)
    return out


def _where_method(self: Tensor, condition: Tensor, other: Any) -> Tensor:
    return fn.where(_as_condition(condition), self, other)  # type: ignore[no-any-return]


def _as_condition(condition: Tensor) -> Tensor:
    """Return a condition as bools; one of bytes is taken with a warning, as in torch."""
    if not isinstance(condition, Tensor) or condition.dtype is not uint8:
        return condition
    warnings.warn(
        "where received a uint8 condition tensor. This behavior is deprecated and will be removed "
        "in a future version of PyTorch. Use a boolean condition instead.",
        stacklevel=3,
    )
    return condition.bool()


def unravel_index(indices: Tensor, shape: Any) -> tuple[Tensor, ...]:
    """Return the coordinates of places in an array of this shape, one tensor for each dim."""
    if indices.dtype.category != 1:
        raise ArgumentError(f"expected 'indices' to be integer dtype, but got {indices.dtype}")
    if not isinstance(shape, (int, Sequence)):
        raise ArgumentError(
            f"expected 'shape' to be int or sequence of ints, but got {type(shape)}"
        )
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    for n in sizes:
        if not isinstance(n, int):
            raise ArgumentError(
                f"expected 'shape' sequence to only contain ints, but got {type(n)}"
            )
    return fn.unbind(fn._unravel_index(indices, sizes), -1) if sizes else ()


_DISTANCE_MODES = {
    "use_mm_for_euclid_dist_if_necessary": None, "use_mm_for_euclid_dist": 1,
    "donot_use_mm_for_euclid_dist": 2,
}  # fmt: skip


def cdist(
    x1: Tensor,
    x2: Tensor,
    p: float = 2.0,
    compute_mode: str = "use_mm_for_euclid_dist_if_necessary",
) -> Tensor:
    """Return the p-norm distances between the rows of x1 and those of x2: (..., n, m).

    compute_mode: whether euclidean ones may come from a matrix product; ValueError for others.
    """
    if compute_mode not in _DISTANCE_MODES:
        raise BadValueError(f"{compute_mode} is not a valid value for compute_mode")
    return fn.cdist(x1, x2, p, _DISTANCE_MODES[compute_mode])  # type: ignore[no-any-return]


def lu(A: Tensor, pivot: bool = True, get_infos: bool = False, out: Any = None) -> Any:
    """Return LU and its pivots, in one matrix as LAPACK has them; with `get_infos` also infos."""
    found = fn._lu_with_info(A, pivot, not get_infos)
    results = found if get_infos else tuple(found[:2])
    if out is None:
        return results
    for o, r in zip(out, results, strict=True):
        o._write_out(r)
    return out


def bind() -> None:
    """Put the methods of these functions on Tensor."""
    for name, method in {
        "split": _split_method, "nonzero": nonzero,
        "lu": lu,
        "unique": unique, "unique_consecutive": unique_consecutive, "where": _where_method,
    }.items():  # fmt: skip
        setattr(Tensor, name, method)
