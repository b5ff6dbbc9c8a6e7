"""vmap: a function of one sample becomes a function of a batch of them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from .._batching.tensor import Level, level_of, lower, raise_
from .._tensor import Tensor
from ..core.call import fn
from ..core.errors import BadValueError, ProgramError
from ..utils._pytree import (
    TreeSpec,
    _broadcast_to_and_flatten,
    tree_flatten,
    tree_map_,
    tree_unflatten,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class TransformError(ProgramError, RuntimeError):
    """A transform was given, or a transformed function returned, what it does not take."""


def vmap(
    func: Callable[..., Any],
    in_dims: Any = 0,
    out_dims: Any = 0,
    randomness: str = "error",
    *,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Return a function that applies `func` to each sample of its inputs, all at once.

    in_dims: which dim of an input counts samples; None: the input is the same for all. A number, or
    a tree of them as a prefix of the arguments. out_dims: where that dim goes in the results.
    randomness: "error", "same" (all samples draw the same numbers) or "different".
    chunk_size: how many samples run together; less memory. Does not wait.

    >>> import farspan
    >>> x = farspan.ones(5, 3)
    >>> farspan.vmap(farspan.dot)(x, x).shape
    torch.Size([5])
    """
    if randomness not in ("error", "different", "same"):
        raise TransformError(
            "Only allowed values for randomness are 'error', 'different', or 'same'. Got "
            f"{randomness}"
        )
    if chunk_size is not None and not chunk_size > 0:
        raise BadValueError(
            f"vmap: chunk_size should be None or greater than 0. (got {chunk_size})"
        )
    name = getattr(func, "__name__", repr(func))

    @functools.wraps(func)
    def mapped(*args: Any, **kwargs: Any) -> Any:
        _check_out_dims(out_dims, name)
        dims, flat, spec = _inputs(in_dims, args, name)
        size = _batch_size(dims, flat)
        if chunk_size is None:
            return _mapped(func, name, dims, flat, spec, size, out_dims, randomness, kwargs)
        return _chunked(func, name, dims, flat, spec, size, out_dims, randomness, kwargs,
                        chunk_size)  # fmt: skip

    return mapped


def _mapped(
    func: Any, name: str, dims: list[Any], flat: list[Any], spec: TreeSpec, size: int,
    out_dims: Any, randomness: str, kwargs: Any,
) -> Any:  # fmt: skip
    with level_of(size, randomness) as level:
        inputs = [x if d is None else batch(x, d, level) for x, d in zip(flat, dims, strict=True)]
        made = func(*tree_unflatten(inputs, spec), **kwargs)
        return _outputs(made, out_dims, level, name)


def batch(x: Tensor, dim: int, level: Level) -> Tensor:
    """Return x with the samples of `dim` hidden."""
    return raise_(x if dim == 0 else fn.movedim(x, dim, 0), (level,))


def unbatch(x: Tensor, dim: int, level: Level) -> Tensor:
    """Return x with its samples along `dim`; as often as there are, if it is one for all."""
    shown = lower(x, (level,))
    return shown if dim == 0 else fn.movedim(shown, 0, dim)  # type: ignore[no-any-return]


def _inputs(in_dims: Any, args: Any, name: str) -> tuple[list[Any], list[Any], TreeSpec]:
    """Return the dim of each leaf of the arguments, the leaves, and their structure."""
    where = f"vmap({name}, in_dims={in_dims}, ...)(<inputs>)"
    if not isinstance(in_dims, (int, tuple)):
        raise BadValueError(
            f"{where}: expected `in_dims` to be int or a (potentially nested) tuple matching the "
            f"structure of inputs, got: {type(in_dims)}."
        )
    if not args:
        raise BadValueError(
            f"vmap({name})(<inputs>): got no inputs. Maybe you forgot to add inputs, or you are "
            "trying to vmap over a function with no inputs. The latter is unsupported."
        )
    flat, spec = tree_flatten(args)
    dims = _broadcast_to_and_flatten(in_dims, spec)
    if dims is None:
        raise BadValueError(
            f"{where}: in_dims is not compatible with the structure of `inputs`. in_dims has "
            f"structure {tree_flatten(in_dims)[1]} but inputs has structure {spec}."
        )
    return [_checked(x, d, where) for x, d in zip(flat, dims, strict=True)], flat, spec


def _checked(x: Any, dim: Any, where: str) -> int | None:
    if dim is None:
        return None
    if not isinstance(dim, int):
        raise BadValueError(
            f"{where}: Got in_dim={dim} for an input but in_dim must be either an integer "
            "dimension or None."
        )
    if not isinstance(x, Tensor):
        raise BadValueError(
            f"{where}: Got in_dim={dim} for an input but the input is of type {type(x)}. We "
            "cannot vmap over non-Tensor arguments, please use None as the respective in_dim"
        )
    if not -x.ndim <= dim < x.ndim:
        raise BadValueError(
            f"{where}: Got in_dim={dim} for some input, but that input is a Tensor of "
            f"dimensionality {x.ndim} so expected in_dim to satisfy -{x.ndim} <= in_dim < {x.ndim}."
        )
    return dim % x.ndim


def _batch_size(dims: list[Any], flat: list[Any]) -> int:
    found = [x._spec.shape[d] for x, d in zip(flat, dims, strict=True) if d is not None]
    if not found:
        raise BadValueError("vmap: Expected at least one Tensor to vmap over")
    if any(n != found[0] for n in found):
        raise BadValueError(
            "vmap: Expected all tensors to have the same size in the mapped dimension, got sizes "
            f"{found} for the mapped dimension"
        )
    return int(found[0])


def _check_out_dims(out_dims: Any, name: str) -> None:
    def check(x: Any) -> None:
        if x is not None and not isinstance(x, int):
            raise BadValueError(
                f"vmap({name}, ..., out_dims={out_dims}): `out_dims` must be an int, None or a "
                "python collection of ints representing where in the outputs the vmapped dimension "
                "should appear."
            )

    tree_map_(check, out_dims)


def _spread(made: Any, out_dims: Any, name: str) -> tuple[list[Any], list[Any], TreeSpec]:
    """Return the leaves of the results, the dim of each, and their structure."""
    flat, spec = tree_flatten(made)
    dims: list[Any] | None
    if isinstance(made, Tensor):
        given = out_dims[0] if isinstance(out_dims, tuple) and len(out_dims) == 1 else out_dims
        dims = [given] if given is None or isinstance(given, int) else None
    else:
        dims = _broadcast_to_and_flatten(out_dims, spec)
    if dims is None:
        raise BadValueError(
            f"vmap({name}, ..., out_dims={out_dims})(<inputs>): out_dims is not compatible with "
            f"the structure of `outputs`. out_dims has structure {tree_flatten(out_dims)[1]} but "
            f"outputs has structure {spec}."
        )
    return flat, dims, spec


def _outputs(made: Any, out_dims: Any, level: Level, name: str) -> Any:
    flat, dims, spec = _spread(made, out_dims, name)
    shown = []
    for x, dim in zip(flat, dims, strict=True):
        if dim is None:
            if isinstance(x, Tensor) and level in x._levels:
                raise BadValueError(
                    f"vmap({name}, ...): `{name}` can not return a BatchedTensor when out_dim is "
                    "None"
                )
            shown.append(x)
        elif not isinstance(x, Tensor):
            raise BadValueError(
                f"vmap({name}, ...): `{name}` must only return Tensors, got type {type(x)}. Did "
                "you mean to set out_dims= to None for output?"
            )
        else:
            shown.append(unbatch(x, dim, level))
    return tree_unflatten(shown, spec)


def _chunked(
    func: Any, name: str, dims: list[Any], flat: list[Any], spec: TreeSpec, size: int,
    out_dims: Any, randomness: str, kwargs: Any, chunk_size: int,
) -> Any:  # fmt: skip
    """Run some samples at a time and join the results."""
    pieces = []
    count = 0
    for start in range(0, max(size, 1), chunk_size):
        count = min(chunk_size, size - start)
        part = [
            x if d is None else fn.narrow(x, d, start, count)
            for x, d in zip(flat, dims, strict=True)
        ]
        made = _mapped(func, name, dims, part, spec, count, out_dims, randomness, kwargs)
        pieces.append(_spread(made, out_dims, name))
    _, where, structure = pieces[0]
    joined = [
        rows[0] if dim is None else fn.cat(list(rows), dim)
        for dim, rows in zip(where, zip(*[p[0] for p in pieces], strict=True), strict=True)
    ]
    return tree_unflatten(joined, structure)
