"""Rules for reading and writing by index tensors."""

from __future__ import annotations

import math
from typing import Any

from ..core.call import fn
from ..core.op import OPS
from ..core.ops.index import coordinates
from ..core.spec import wrap_dim
from .apply import Batch, rule, run
from .tensor import VmapError, value


def _rows(b: Batch, like: Any, ndim: int) -> list[Any]:
    """Return the coordinates of the batch dims, shaped to broadcast with (*batch, *ndim dims)."""
    found = []
    for i, n in enumerate(b.sizes):
        shape = [1] * (b.k + ndim)
        shape[i] = n
        at = fn.arange(n, device=like._spec.device)
        found.append(fn.view(at, shape))
    return found


def _placed(b: Batch, x: Any, indices: Any) -> tuple[list[int], list[Any], int, bool]:
    """Return the indexed dims of x, their indices, the rank of these, and whether they adjoin."""
    if any(i is not None and i._spec.dtype.name in ("bool", "uint8") for i in indices):
        raise VmapError(
            "vmap: We do not support batching operators that can support dynamic shape. Attempting "
            "to batch over indexing with a boolean mask."
        )
    dims = [d for d, i in enumerate(indices) if i is not None]
    chosen = [indices[d] for d in dims]
    rank = max((i._spec.ndim for i in chosen), default=0)
    return dims, chosen, rank, dims == list(range(dims[0], dims[-1] + 1))


def _to_front(b: Batch, x: Any, dims: list[int]) -> Any:
    """Return physical x with the given dims of the sample right behind the batch dims."""
    physical = b.full(x)
    k, ndim = b.k, x._spec.ndim
    rest = [d for d in range(ndim) if d not in dims]
    order = [*range(k), *[k + d for d in (*dims, *rest)]]
    return physical if order == sorted(order) else fn.permute(physical, order)


@rule("index.Tensor")
def index(b: Batch) -> Any:
    x, indices = b.args
    dims, chosen, rank, adjoin = _placed(b, x, indices)
    moved = _to_front(b, x, dims)
    if any(i._levels for i in chosen):
        lead = _rows(b, x, rank)
        aligned = [b.front(i, rank) if i._levels else i for i in chosen]
        made = run(b.op, moved, [*lead, *aligned])
    else:
        made = run(b.op, moved, [*[None] * b.k, *chosen])
    if not adjoin or not dims[0]:
        return made
    return _moved_back(made, b.k, rank, dims[0])


def _moved_back(x: Any, k: int, rank: int, before: int) -> Any:
    """Return x with its `rank` index dims behind the `before` dims that they follow."""
    order = [
        *range(k), *range(k + rank, k + rank + before), *range(k, k + rank),
        *range(k + rank + before, x._spec.ndim),
    ]  # fmt: skip
    return fn.permute(x, order)


@rule("index_put")
def index_put(b: Batch) -> Any:
    x, indices, values, accumulate = b.args
    masks = [i for i in indices if i is not None and i._spec.dtype.name in ("bool", "uint8")]
    if masks and not any(m._levels for m in masks):
        indices = coordinates(x, indices)
    elif masks and len(indices) == 1 and not values._spec.ndim and not accumulate:
        (mask,) = masks  # a number into the masked places: no count of them is needed
        ndim = x._spec.ndim
        where = b.front(mask)
        where = fn.view(where, (*where._spec.shape, *[1] * (ndim - mask._spec.ndim)))
        number = b.front(values, ndim) if values._levels else values
        return fn.where(fn.ne(where, 0), number, b.full(x))
    return put_at(b, x, list(indices), values, accumulate)


def put_at(b: Batch, x: Any, indices: list[Any], values: Any, accumulate: bool) -> Any:
    """Return physical x with values at the places that the samples' indices name."""
    dims, chosen, rank, adjoin = _placed(b, x, indices)
    k, ndim = b.k, x._spec.ndim
    rest = [d for d in range(ndim) if d not in dims]
    moved = _to_front(b, x, dims)
    shape = _broadcast([i._spec.shape for i in chosen])
    aligned = [b.front(i, rank) if i._levels else i for i in chosen]
    before = dims[0] if adjoin else 0
    tail = [x._spec.shape[d] for d in rest]
    given = b.front(values, rank + len(rest)) if values._levels else values
    if before:  # a sample's values have the index dims behind `before` others
        wanted = [*tail[:before], *shape, *tail[before:]]
        lead = b.sizes if values._levels else ()
        given = fn.expand(given, (*lead, *wanted))
        m = len(lead)
        order = [*range(m), *range(m + before, m + before + rank), *range(m, m + before)]
        given = fn.permute(given, [*order, *range(len(order), given._spec.ndim)])
    made = run(b.op if b.op.base == "index_put" else OPS["index_put"], moved,
               [*_rows(b, x, rank), *aligned], given, accumulate)  # fmt: skip
    back = [*dims, *rest]
    order = [*range(k), *[k + back.index(d) for d in range(ndim)]]
    return made if order == sorted(order) else fn.permute(made, order)


def _broadcast(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    from ..core.spec import broadcast_shapes

    return broadcast_shapes(*shapes)


@rule("index_select")
def index_select(b: Batch) -> Any:
    x, dim, places = b.args
    if not x._spec.ndim:
        return NotImplemented
    dim = wrap_dim(dim, x._spec.ndim)
    if not places._levels:
        return fn.index_select(value(x), dim + b.k, places)
    if not places._spec.ndim:
        places = fn.unsqueeze(places, 0)
    inner = Batch(
        OPS["index.Tensor"], *_bound("index.Tensor", x, [None] * dim + [places]), b.levels
    )
    return index(inner)


def _bound(name: str, *args: Any) -> Any:
    return OPS[name].bind(*args)


@rule("index_add", "index_copy", "index_fill")
def index_write(b: Batch) -> Any:
    x, dim, places = b.args[:3]
    if not x._spec.ndim:
        return NotImplemented
    dim = wrap_dim(dim, x._spec.ndim)
    written = b.args[3]
    if not places._levels:
        args = list(b.args)
        if hasattr(written, "_levels"):
            if b.op.base == "index_fill" and written._levels:
                return NotImplemented
            args[3] = b.full(written) if b.op.base != "index_fill" else written
        args[0], args[1] = b.full(x), dim + b.k
        return run(b.op, *args)
    if b.op.base == "index_fill" or not written._spec.ndim:
        return NotImplemented
    if b.op.base == "index_add" and b["alpha"] != 1:
        written = fn.mul(written, b["alpha"])
    if not places._spec.ndim:
        places = fn.unsqueeze(places, 0)
    indices = [None] * dim + [places]
    return put_at(b, x, indices, written, b.op.base == "index_add")


@rule("take")
def take(b: Batch) -> Any:
    x, places = b.args
    n = x._spec.numel
    if not n:
        return NotImplemented
    flat = fn.reshape(b.full(x), (*b.sizes, n))
    if not places._levels:
        chosen = fn.index_select(flat, b.k, fn.reshape(fn.remainder(places, n), (-1,)))
        return b.shaped(chosen)
    at = fn.reshape(b.full(places), (*b.sizes, -1))
    return b.shaped(fn.gather(flat, b.k, fn.remainder(at, n)))


@rule("embedding")
def embedding(b: Batch) -> Any:
    weight, indices, padding, by_frequency, sparse = b.args
    if not weight._levels:
        return run(b.op, weight, value(indices), *b.args[2:])
    rows, width = weight._spec.shape
    table = b.full(weight)
    if padding >= 0:  # the row takes part, but no gradient goes into it
        at = fn.view(fn.eq(fn.arange(rows, device=table._spec.device), padding), (rows, 1))
        table = fn.where(at, fn.detach(table), table)
    offsets = fn.mul(_flat_rows(b, table, indices._spec.ndim), rows)
    places = fn.add(b.front(indices) if indices._levels else indices, offsets)
    return run(b.op, fn.reshape(table, (-1, width)), places, -1, by_frequency, sparse)


def _flat_rows(b: Batch, like: Any, ndim: int) -> Any:
    """Return each sample's number, shaped (*batch, 1, ...)."""
    count = fn.arange(math.prod(b.sizes), device=like._spec.device)
    return fn.view(count, (*b.sizes, *[1] * ndim))


@rule("embedding_dense_backward")
def embedding_backward(b: Batch) -> Any:
    grad, indices, rows, padding, by_frequency = b.args
    offsets = fn.mul(_flat_rows(b, value(grad), indices._spec.ndim), rows)
    places = fn.add(b.front(indices) if indices._levels else indices, offsets)
    count = math.prod(b.sizes)
    made = run(b.op, b.full(grad), places, rows * count, -1, by_frequency)
    made = fn.reshape(made, (*b.sizes, rows, made._spec.shape[-1]))
    if padding < 0:
        return made
    at = fn.view(fn.eq(fn.arange(rows, device=made._spec.device), padding), (rows, 1))
    return fn.masked_fill(made, at, 0)
