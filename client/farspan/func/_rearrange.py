"""rearrange: transposes, reshapes and their kind by a pattern, ``"b (h w) c -> b c h w"``."""

from __future__ import annotations

import math
import re
from typing import Any

from .._tensor import Tensor
from ..core.call import fn
from ..core.errors import BadValueError

_TOKEN = re.compile(r"\(|\)|\.\.\.|[A-Za-z_]\w*|\d+|\S")


def rearrange(tensor: Any, pattern: str, **axes_lengths: int) -> Tensor:
    """Return the tensor with its dims ordered, split and joined as the pattern says.

    Names are dims, parentheses hold dims that are one dim there, ``...`` stands for all others, 1
    for a dim of that size. axes_lengths: sizes of names that the shape does not give. A list of
    tensors is stacked first. Raises ValueError for a pattern that does not fit.

    >>> import farspan
    >>> farspan.func.rearrange(farspan.ones(2, 6), "a (b c) -> c b a", c=3).shape
    torch.Size([3, 2, 2])
    """
    x: Tensor = tensor if isinstance(tensor, Tensor) else fn.stack(list(tensor))
    left, arrow, right = pattern.partition("->")
    if not arrow or "->" in right:
        raise BadValueError(f"Invalid pattern '{pattern}': it must contain exactly one '->'")
    groups, wanted = _parsed(left, pattern), _parsed(right, pattern)
    groups = _spread(groups, x.ndim, pattern)
    rest = [name for group in groups for name in group if name.startswith(".")]
    wanted = [
        part
        for group in wanted
        for part in ([[n] for n in rest] if group == ["..."] else
                     [[m for n in group for m in (rest if n == "..." else [n])]])
    ]  # fmt: skip
    have = [n for g in groups for n in g]
    asked = [n for g in wanted for n in g]
    if sorted(have) != sorted(asked) or len(set(have)) != len(have):
        raise BadValueError(
            f"Identifiers only on one side of expression (should be on both): {pattern}"
        )
    unknown = [n for n in axes_lengths if n not in have]
    if unknown:
        raise BadValueError(f"{unknown} in axes_lengths do not occur in '{pattern}'")
    sizes = _sizes(groups, x._spec.shape, axes_lengths, pattern)
    x = fn.reshape(x, [sizes[n] for n in have])
    x = fn.permute(x, [have.index(n) for n in asked])
    return fn.reshape(x, [math.prod(sizes[n] for n in group) for group in wanted])  # type: ignore[no-any-return]


def _parsed(side: str, pattern: str) -> list[list[str]]:
    """Return the groups of one side; a name by itself is a group of one."""
    groups: list[list[str]] = []
    inside: list[str] | None = None
    for token in _TOKEN.findall(side):
        if token == "(":
            if inside is not None:
                raise BadValueError(f"Nested parentheses are not allowed: '{pattern}'")
            inside = []
        elif token == ")":
            if inside is None:
                raise BadValueError(f"Unbalanced parentheses in '{pattern}'")
            groups.append(inside)
            inside = None
        elif token == "1":
            if inside is None:
                groups.append([])
        elif token == "..." or token.isidentifier():
            if inside is None:
                groups.append([token])
            else:
                inside.append(token)
        else:
            raise BadValueError(f"Unexpected '{token}' in '{pattern}'")
    if inside is not None:
        raise BadValueError(f"Unbalanced parentheses in '{pattern}'")
    return groups


def _spread(groups: list[list[str]], ndim: int, pattern: str) -> list[list[str]]:
    """Return the groups with names ``.0``, ``.1`` for the dims that ``...`` stands for."""
    if ["..."] not in groups:
        if len(groups) != ndim:
            raise BadValueError(
                f"Number of dimensions in pattern ({len(groups)}) and tensor ({ndim}) must be equal"
                f" ({pattern})"
            )
        return groups
    at = groups.index(["..."])
    count = ndim - len(groups) + 1
    if count < 0:
        raise BadValueError(f"'{pattern}' names more dims than the tensor's {ndim}")
    return [*groups[:at], *[[f".{i}"] for i in range(count)], *groups[at + 1 :]]


def _sizes(
    groups: list[list[str]], shape: tuple[int, ...], given: dict[str, int], pattern: str
) -> dict[str, int]:
    sizes = dict(given)
    for group, n in zip(groups, shape, strict=True):
        unknown = [name for name in group if name not in sizes]
        known = math.prod(sizes[name] for name in group if name in sizes)
        if len(unknown) > 1 or (known and n % known) or (not unknown and known != n):
            raise BadValueError(
                f"a dim of size {n} does not fit '{' '.join(group)}' in '{pattern}'"
            )
        if unknown:
            sizes[unknown[0]] = n // known if known else 0
    return sizes
