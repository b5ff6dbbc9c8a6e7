"""jacrev, jacfwd and hessian: all rows, or all columns, of a Jacobian in one batched pass."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

from .._batching.tensor import level_of, lower, raise_
from .._tensor import Tensor
from ..core.call import fn
from ..core.errors import BadValueError
from ..utils._pytree import tree_flatten, tree_leaves, tree_unflatten
from ._differentiable import Inputs, Linear, transform, two
from ._transforms import Argnums, _pushed, check_outputs, chosen, replaced, vjp_of
from ._vmap import TransformError

if TYPE_CHECKING:
    from collections.abc import Callable


def _check_real(api: str, values: Any, what: str) -> None:
    for i, x in enumerate(tree_leaves(values)):
        if isinstance(x, Tensor) and x._spec.dtype.is_complex:
            raise TransformError(
                f"{api}: Expected all {what}s to be real but received complex tensor at flattened "
                f"{what} idx: {i}"
            )


def _basis(tensors: list[Tensor]) -> tuple[list[Tensor], list[int]]:
    """Return the unit vectors of the space of all tensors, by tensor: (all elements, *shape)."""
    counts = [math.prod(t._spec.shape) for t in tensors]
    total = sum(counts)
    found = []
    start = 0
    made: dict[Any, Tensor] = {}
    for t, n in zip(tensors, counts, strict=True):
        key = (t._spec.dtype, t._spec.device)
        if key not in made:
            made[key] = fn.eye(total, dtype=key[0], device=key[1])
        part = made[key] if n == total else fn.narrow(made[key], 1, start, n)
        found.append(fn.reshape(part, (total, *t._spec.shape)))
        start += n
    return found, counts


def jacrev(
    func: Callable[..., Any], argnums: Argnums = 0, *, has_aux: bool = False,
    chunk_size: int | None = None, _preallocate_and_copy: bool = False,
) -> Callable[..., Any]:  # fmt: skip
    """Return a function of func's Jacobian: d results / d arguments, shape results + arguments.

    One batched reverse pass for all elements of the results: good where there are few of them.
    chunk_size: how many rows a pass computes. has_aux: func returns (results, aux).
    """
    if chunk_size is not None and chunk_size <= 0:
        raise BadValueError("jacrev: `chunk_size` should be greater than 0.")

    @functools.wraps(func)
    def wrapper(*args: Any) -> Any:
        _check_real("jacrev", args, "input")
        made, pull, aux, inputs = vjp_of(func, args, argnums, has_aux)
        _check_real("jacrev", made, "output")
        outputs, spec = tree_flatten(made)
        basis, counts = _basis(outputs)
        rows = _rows(pull, basis, spec, sum(counts), chunk_size)
        in_spec = tree_flatten(chosen(args, argnums))[1]
        blocks = []
        start = 0
        for out, n in zip(outputs, counts, strict=True):
            parts = [
                fn.reshape(fn.narrow(r, 0, start, n), (*out._spec.shape, *x._spec.shape))
                for r, x in zip(rows, inputs, strict=True)
            ]
            blocks.append(tree_unflatten(parts, in_spec))
            start += n
        result = tree_unflatten(blocks, spec)
        return (result, aux) if has_aux else result

    return wrapper


def _rows(
    pull: Any, basis: list[Tensor], spec: Any, total: int, chunk_size: int | None
) -> list[Tensor]:
    """Return, for each input, the gradients of all elements of the outputs: (elements, *shape)."""
    size = min(chunk_size or total, total)
    pieces = []
    for start in range(0, max(total, 1), max(size, 1)):
        count = min(size, total - start)
        part = basis if count == total else [fn.narrow(e, 0, start, count) for e in basis]
        with level_of(count, "error") as level:
            cotangents = tree_unflatten([raise_(e, (level,)) for e in part], spec)
            pieces.append([lower(g, (level,)) for g in tree_leaves(pull(cotangents))])
    if len(pieces) == 1:
        return pieces[0]
    return [fn.cat(list(rows), 0) for rows in zip(*pieces, strict=True)]


def jacfwd(
    func: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False, *,
    randomness: str = "error",
) -> Callable[..., Any]:  # fmt: skip
    """Return a function of func's Jacobian, column by column: see `jacrev`.

    One batched pass for all elements of the arguments: good where there are few of them.
    """

    @functools.wraps(func)
    def wrapper(*args: Any) -> Any:
        _check_real("jacfwd", args, "input")
        given, in_spec = tree_flatten(chosen(args, argnums))
        with transform() as tracked:
            total = sum(math.prod(x._spec.shape) for x in given)
            with level_of(total, randomness) as level:
                level.silent = randomness != "different"
                inputs = Inputs(chosen(args, argnums), tracked, ())
                made = func(*replaced(args, inputs.tree, argnums))
                aux = None
                if has_aux:
                    made, aux = two(made, "jacfwd: output of function f should be a tuple: (output,"
                                    " aux) if has_aux is True")  # fmt: skip
                outputs, spec = tree_flatten(made)
                check_outputs(outputs, "jvp(f, primals, tangents)")
                _check_real("jacfwd", made, "output")
                basis, counts = _basis(given)
                found = _pushed(
                    Linear(outputs, inputs.flat), inputs, [raise_(e, (level,)) for e in basis]
                )
                columns = [
                    fn.new_zeros(o, (total, *o._spec.shape)) if t is None else lower(t, (level,))
                    for t, o in zip(found, outputs, strict=True)
                ]
            aux = inputs.leave(aux)
        blocks = []
        for column in columns:
            last = fn.movedim(column, 0, -1)
            start, parts = 0, []
            for x, n in zip(given, counts, strict=True):
                shape = (*last._spec.shape[:-1], *x._spec.shape)
                parts.append(fn.reshape(fn.narrow(last, -1, start, n), shape))
                start += n
            blocks.append(tree_unflatten(parts, in_spec))
        result = tree_unflatten(blocks, spec)
        return (result, aux) if has_aux else result

    return wrapper


def hessian(func: Callable[..., Any], argnums: Argnums = 0) -> Callable[..., Any]:
    """Return a function of func's second derivatives: the forward Jacobian of the reverse one."""
    return jacfwd(jacrev(func, argnums), argnums)
