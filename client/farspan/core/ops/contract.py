"""Contractions: einsum and what is one - tensordot, bilinear, chains and powers of matrices.

einsum is parsed here, ordered by opt_einsum, and runs as one `_contract` a pair of operands: a
transpose to (batch, rows, inner) x (batch, inner, columns), one product, a transpose back. Its
derivatives are `_contract`s again.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..call import fn
from ..dtype import promote
from ..errors import DTypeError, ShapeError
from ..family import common_device, composite, structured
from ..spec import Spec, wrap_dim
from .linalg import check_product, product

if TYPE_CHECKING:
    from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


# ------------------------------------------------------------------------------- one pair's sum --
def _split(equation: str) -> tuple[str, str, str]:
    """Return the labels of both operands and of the result, for ``ab,bc->ac``."""
    inputs, _, out = equation.partition("->")
    left, _, right = inputs.partition(",")
    return left, right, out


def _contract_meta(equation: str, self: Spec, other: Spec) -> Spec:
    left, right, out = _split(equation)
    if self.dtype is not other.dtype:
        raise DTypeError(f"expected scalar type {self.dtype.c_name} but found {other.dtype.c_name}")
    if any(n != 1 and c in right and c not in out for c, n in zip(left, self.shape, strict=False)):
        check_product("bmm", self, other)
    if len(left) != self.ndim or len(right) != other.ndim:
        raise ShapeError(f"_contract: {equation} does not fit {self.ndim} and {other.ndim} dims")
    size = dict(zip(left, self.shape, strict=True))
    for label, n in zip(right, other.shape, strict=True):
        if size.setdefault(label, n) != n:
            raise ShapeError(f"_contract: label {label} has sizes {size[label]} and {n}")
    alone = {c for c in size if c not in out and not (c in left and c in right)}
    if alone or len(set(out)) != len(out) or not set(out) <= set(size):
        raise ShapeError(f"_contract: {equation} is no product of a pair")
    return Spec.make(tuple(size[c] for c in out), self.dtype, common_device((self, other)))


def _contract_kernel(xp: Any, equation: str, self: Any, other: Any) -> Any:
    left, right, out = _split(equation)
    shared = [c for c in left if c in right]
    batch, inner = [c for c in shared if c in out], [c for c in shared if c not in out]
    rows, columns = [c for c in left if c not in right], [c for c in right if c not in left]
    a = self.transpose([left.index(c) for c in (*batch, *rows, *inner)])
    b = other.transpose([right.index(c) for c in (*batch, *inner, *columns)])
    lead = a.shape[: len(batch)]
    r = a.shape[len(batch) : len(batch) + len(rows)]
    c = b.shape[len(batch) + len(inner) :]
    if inner:
        k = math.prod(a.shape[len(batch) + len(rows) :])
        fold = (math.prod(lead),) if batch else ()
        a = a.reshape(*fold, math.prod(r), k)
        b = b.reshape(*fold, k, math.prod(c))
        made = product(xp, a, b).reshape(lead + r + c)
    else:
        made = a.reshape(lead + r + (1,) * len(c)) * b.reshape(lead + (1,) * len(r) + c)
    order = [*batch, *rows, *columns]
    return made.transpose([order.index(label) for label in out])


def _contract_grads(equation: str) -> tuple[str, str]:
    left, right, out = _split(equation)
    return f"{out},{right}->{left}", f"{left},{out}->{right}"


structured(
    "farspan::_contract(str equation, Tensor self, Tensor other) -> Tensor",
    meta=_contract_meta,
    kernel=_contract_kernel,
    vjp={
        "self": lambda g, equation, other: fn._contract(
            _contract_grads(equation)[0], g, fn.conj(other)
        ),
        "other": lambda g, equation, self: fn._contract(
            _contract_grads(equation)[1], fn.conj(self), g
        ),
    },
)


# -------------------------------------------------------------------------------------- einsum --
@composite("einsum(str equation, Tensor[] tensors, *, int[]? path=None) -> Tensor")
def einsum(equation: str, tensors: Sequence[Any], *, path: Sequence[int] | None = None) -> Any:
    labels, out = _parse(equation, [t._spec for t in tensors])
    operands = [_taken_apart(t, own) for t, own in zip(tensors, labels, strict=True)]
    operands = _without_broadcasts(operands)
    for pair in _pairs(operands, out, path):
        chosen = [operands[i] for i in pair]
        operands = [x for i, x in enumerate(operands) if i not in pair]
        later = set(out).union(*[own for _, own in operands])
        merged = chosen[0]
        for i, other in enumerate(chosen[1:], 2):
            needed = later.union(*[own for _, own in chosen[i:]])
            last = not operands and i == len(chosen)
            merged = _contracted(merged, other, needed, out if last else None)
        operands.append(merged)
    x, own = operands[0]
    x, own = _summed(x, own, [c for c in own if c not in out])
    return x if own == out else fn.permute(x, [own.index(c) for c in out])


def _contracted(a: Any, b: Any, needed: set[str], out: str | None) -> tuple[Any, str]:
    """Return the product of two operands, summed over the labels that nobody needs any more."""
    (x, left), (y, right) = a, b
    x, left = _summed(x, left, [c for c in left if c not in right and c not in needed])
    y, right = _summed(y, right, [c for c in right if c not in left and c not in needed])
    if x._spec.dtype is not y._spec.dtype and not _multiplies_matrices(x, left, right, needed):
        wider = promote(x._spec.dtype, y._spec.dtype)
        x, y = fn._cast(x, wider), fn._cast(y, wider)
    if out is None or not set(out) <= set(left + right):
        out = "".join(dict.fromkeys(c for c in left + right if c in needed))
    return fn._contract(f"{left},{right}->{out}", x, y), out


def _multiplies_matrices(x: Any, left: str, right: str, needed: set[str]) -> bool:
    """Return whether a shared label is summed: torch then calls bmm, which mixes no dtypes."""
    sizes = zip(left, x._spec.shape, strict=True)
    return any(n != 1 and c in right and c not in needed for c, n in sizes)


def _summed(x: Any, labels: str, gone: Sequence[str]) -> tuple[Any, str]:
    if not gone:
        return x, labels
    x = fn.sum(x, [labels.index(c) for c in gone])
    return x, "".join(c for c in labels if c not in gone)


def _taken_apart(x: Any, labels: str) -> tuple[Any, str]:
    """Return the operand with each label once: a repeated label takes the diagonal."""
    for label, count in Counter(labels).items():
        for _ in range(count - 1):
            i = labels.index(label)
            j = labels.index(label, i + 1)
            x = fn.diagonal(x, 0, i, j)
            labels = labels[:i] + labels[i + 1 : j] + labels[j + 1 :] + label
    return x, labels


def _without_broadcasts(operands: list[tuple[Any, str]]) -> list[tuple[Any, str]]:
    """Drop dims of size 1 where another operand has more: multiplying broadcasts them."""
    size: dict[str, int] = {}
    for x, labels in operands:
        for label, n in zip(labels, x._spec.shape, strict=True):
            size[label] = n if size.get(label, 1) == 1 else size[label]
    result = []
    for x, labels in operands:
        kept = [c for c, n in zip(labels, x._spec.shape, strict=True) if n == size[c]]
        if len(kept) != len(labels):
            x = fn.reshape(x, [size[c] for c in kept])
        result.append((x, "".join(kept)))
    return result


def _pairs(operands: Sequence[Any], out: str, path: Sequence[int] | None) -> list[tuple[int, ...]]:
    """Return which operands to multiply, step by step; the result goes to the end of the list."""
    if len(operands) < 2:
        return []
    if path is not None:
        steps = zip(path[::2], path[1::2], strict=True)
        return [(min(p), max(p)) for p in steps]
    if len(operands) == 2:
        return [(0, 1)]
    import opt_einsum

    found, _ = opt_einsum.contract_path(
        ",".join(labels for _, labels in operands) + "->" + out,
        *[x._spec.shape for x, _ in operands],
        shapes=True,
    )
    return [tuple(sorted(step)) for step in found if len(step) > 1]


def _parse(equation: str, specs: Sequence[Spec]) -> tuple[list[str], str]:
    """Return the labels of each operand and of the result, one letter a dim, no ellipsis."""
    if not specs:
        raise ShapeError("einsum(): must provide at least one operand")
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(terms) != len(specs):
        few = "fewer" if len(specs) < len(terms) else "more"
        raise ShapeError(f"einsum(): {few} operands were provided than specified in the equation")
    spare = [chr(192 + i) for i in range(64)]  # labels of the dims under an ellipsis
    sizes: dict[str, int] = {}
    labels = []
    longest = 0
    for i, (term, spec) in enumerate(zip(terms, specs, strict=True)):
        _check_letters(term, equation, f"operand {i}")
        dots = "..." in term
        named = len(term) - 3 * dots
        if named != spec.ndim and (not dots or named > spec.ndim):
            how = "is more than" if dots else "does not match"
            end = "" if dots else " and no ellipsis was given"
            raise ShapeError(
                f"einsum(): the number of subscripts in the equation ({named}) {how} the number of "
                f"dimensions ({spec.ndim}) for operand {i}{end}"
            )
        hidden = spec.ndim - named
        longest = max(longest, hidden)
        own = term.replace("...", "".join(reversed(spare[:hidden])))
        _check_sizes(own, spec, i, sizes)
        labels.append(own)
    hidden_out = "".join(reversed(spare[:longest]))
    if not arrow:
        counts = Counter("".join(terms).replace(".", ""))
        return labels, hidden_out + "".join(sorted(c for c, n in counts.items() if n == 1))
    _check_letters(result, equation, "the output")
    for c in result.replace("...", ""):
        if result.count(c) > 1:
            raise ShapeError(f"einsum(): output subscript {c} appears more than once in the output")
        if c not in sizes:
            raise ShapeError(
                f"einsum(): output subscript {c} does not appear in the equation for any input "
                "operand"
            )
    return labels, result.replace("...", hidden_out)


def _check_letters(term: str, equation: str, where: str) -> None:
    rest = term.replace("...", "", 1)
    if "." in rest:
        if "..." in term:
            raise ShapeError(
                f"einsum(): found '.' for {where} for which an ellipsis was already found"
            )
        raise ShapeError(f"einsum(): found '.' for {where} that is not part of any ellipsis")
    for c in rest:
        if c not in LETTERS:
            raise ShapeError(
                f"einsum(): invalid subscript given at index {equation.index(c)} in the equation "
                "string, subscripts must be in [a-zA-Z]"
            )


def _check_sizes(labels: str, spec: Spec, i: int, sizes: dict[str, int]) -> None:
    own: dict[str, int] = {}
    for label, n in zip(labels, spec.shape, strict=True):
        if own.setdefault(label, n) != n:
            raise ShapeError(
                f"einsum(): subscript {label} is repeated for operand {i} but the sizes don't "
                f"match, {n} != {own[label]}"
            )
        seen = sizes.get(label, 1)
        if n not in (1, seen) and seen != 1:
            name = f"subscript {label}" if label in LETTERS else "a dimension under an ellipsis"
            raise ShapeError(
                f"einsum(): {name} has size {n} for operand {i} which does not broadcast with "
                f"previously seen size {seen}"
            )
        sizes[label] = max(seen, n) if n else 0


# ----------------------------------------------------------------------------- written with it --
@composite("tensordot(Tensor self, Tensor other, int[] dims_self, int[] dims_other) -> Tensor")
def tensordot(self: Any, other: Any, dims_self: Sequence[int], dims_other: Sequence[int]) -> Any:
    if len(dims_self) != len(dims_other):
        raise ShapeError("both dimension lists should have same length")
    a, b = self._spec, other._spec
    if a.dtype is not b.dtype:
        raise DTypeError("both inputs should have same dtype")
    left, right = list(LETTERS[: a.ndim]), list(LETTERS[a.ndim : a.ndim + b.ndim])
    for i, j in zip(dims_self, dims_other, strict=True):
        i, j = wrap_dim(i, a.ndim), wrap_dim(j, b.ndim)
        n, m = a.shape[i], b.shape[j]
        if n != m and 1 not in (n, m):
            raise ShapeError(
                f"contracted dimensions need to match, but first has size {n} in dim {i} and "
                f"second has size {m} in dim {j}"
            )
        if n < m:
            other = fn.sum(other, [j], True, dtype=b.dtype)
        elif m < n:
            self = fn.sum(self, [i], True, dtype=a.dtype)
        right[j] = left[i]
    out = [c for c in left if c not in right] + [c for c in right if c not in left]
    return fn.einsum("".join(left) + "," + "".join(right) + "->" + "".join(out), [self, other])


@composite("bilinear(Tensor input1, Tensor input2, Tensor weight, Tensor? bias=None) -> Tensor")
def bilinear(input1: Any, input2: Any, weight: Any, bias: Any = None) -> Any:
    shape = weight._spec.shape
    for i, x in enumerate((input1, input2), 1):
        if x._spec.shape[-1] != shape[i]:
            raise ShapeError(
                f"bilinear(): input{i} size does not match weight size: got {x._spec.shape[-1]} "
                f"but expected {shape[i]}"
            )
    out = fn.einsum("...i,oij,...j->...o", [input1, weight, input2])
    return out if bias is None else fn.add(out, bias)


@composite("kron(Tensor self, Tensor other) -> Tensor")
def kron(self: Any, other: Any) -> Any:
    """Each element of self times the whole of other: dims of the two interleave."""
    rank = max(self._spec.ndim, other._spec.ndim)
    a = (1,) * (rank - self._spec.ndim) + self._spec.shape
    b = (1,) * (rank - other._spec.ndim) + other._spec.shape
    spread = [n for size in a for n in (size, 1)]
    packed = [n for size in b for n in (1, size)]
    made = fn.mul(fn.reshape(self, spread), fn.reshape(other, packed))
    return fn.reshape(made, [n * m for n, m in zip(a, b, strict=True)])


@composite("linalg_multi_dot(Tensor[] tensors) -> Tensor")
def linalg_multi_dot(tensors: Sequence[Any]) -> Any:
    """The product of matrices in the order that costs least; the ends may be vectors."""
    count = len(tensors)
    if count < 2:
        raise ShapeError(f"multi_dot(): expected at least 2 tensors but got {count}")
    factors = list(tensors)
    row, column = factors[0]._spec.ndim == 1, factors[-1]._spec.ndim == 1
    if row:
        factors[0] = fn.unsqueeze(factors[0], 0)
    if column:
        factors[-1] = fn.unsqueeze(factors[-1], 1)
    for i, x in enumerate(factors):
        if x._spec.ndim != 2:
            raise ShapeError(f"multi_dot(): tensor {i} must be 2D but got {x._spec.ndim}D")
    for i, (x, y) in enumerate(pairwise(factors)):
        if x._spec.shape[1] != y._spec.shape[0]:
            raise ShapeError(
                f"multi_dot(): tensors {i} and {i + 1} with shapes {list(tensors[i]._spec.shape)} "
                f"and {list(tensors[i + 1]._spec.shape)} cannot be multiplied"
            )
    sizes = [factors[0]._spec.shape[0], *[x._spec.shape[1] for x in factors]]
    cuts = _best_cuts(sizes)

    def chain(i: int, j: int) -> Any:
        if i == j:
            return factors[i]
        k = cuts[i, j]
        return fn.mm(chain(i, k), chain(k + 1, j))

    out = chain(0, count - 1)
    out = fn.squeeze(out, 0) if row else out
    return fn.squeeze(out, -1) if column else out


def _best_cuts(sizes: Sequence[int]) -> dict[tuple[int, int], int]:
    """Return where to cut each run of a chain of matrices (Cormen et al., 15.2)."""
    count = len(sizes) - 1
    cost = {(i, i): 0 for i in range(count)}
    cuts = {}
    for length in range(1, count):
        for i in range(count - length):
            j = i + length
            cost[i, j], cuts[i, j] = min(
                (cost[i, k] + cost[k + 1, j] + sizes[i] * sizes[k + 1] * sizes[j + 1], k)
                for k in range(i, j)
            )
    return cuts


@composite("chain_matmul(Tensor[] matrices) -> Tensor")
def chain_matmul(matrices: Sequence[Any]) -> Any:
    return matrices[0] if len(matrices) == 1 else fn.linalg_multi_dot(matrices)


@composite("matrix_power(Tensor self, int n) -> Tensor")
def matrix_power(self: Any, n: int) -> Any:
    return fn.linalg_matrix_power(self, n)


@composite("linalg_matrix_power(Tensor self, int n) -> Tensor")
def linalg_matrix_power(self: Any, n: int) -> Any:
    """By repeated squaring; a negative power is one of the inverse."""
    spec = self._spec
    if spec.ndim < 2:
        raise ShapeError("linalg.matrix_power: The input tensor A must have at least 2 dimensions.")
    if spec.shape[-1] != spec.shape[-2]:
        raise ShapeError(
            "linalg.matrix_power: A must be batches of square matrices, but they are "
            f"{spec.shape[-2]} by {spec.shape[-1]} matrices"
        )
    if n == 0:
        eye = fn.eye(spec.shape[-1], dtype=spec.dtype, device=spec.device)
        return fn.clone(fn.expand(eye, spec.shape), memory_format=0)
    base = fn.linalg_inv(self) if n < 0 else self
    n = abs(n)
    result = None
    while n:
        if n & 1:
            result = base if result is None else fn.matmul(result, base)
        n >>= 1
        if n:
            base = fn.matmul(base, base)
    return fn.clone(result) if result is self else result
