"""pad: constant, reflect, replicate and circular."""

from __future__ import annotations

from collections.abc import Sequence

import farspan
from farspan._tensor import Tensor


def pad(
    input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    """Return ``input`` grown by ``pad``: (left, right) of the last dimension first."""
    amounts = list(pad)
    if len(amounts) % 2:
        raise RuntimeError("Padding length must be divisible by 2")
    if len(amounts) // 2 > input.dim():
        raise RuntimeError(
            "Padding length should be less than or equal to two times the input dimension but got "
            f"padding length {len(amounts)} and input of dimension {input.dim()}"
        )
    if mode == "constant":
        return farspan.constant_pad_nd(input, amounts, 0 if value is None else value)
    if mode not in ("reflect", "replicate", "circular"):
        raise NotImplementedError(f"Unrecognised padding mode {mode}")
    if value is not None and value != 0:
        raise ValueError(f'Padding mode "{mode}" doesn\'t take in value argument')
    if len(amounts) // 2 not in (input.dim() - 1, input.dim() - 2):
        raise NotImplementedError(
            f"Only 2D, 3D, 4D, 5D padding with non-constant padding are supported for now: mode "
            f"{mode!r} pads the last {len(amounts) // 2} dimensions of {input.dim()}"
        )
    for i in range(len(amounts) // 2):
        dim = input.dim() - 1 - i
        left, right = amounts[2 * i], amounts[2 * i + 1]
        if left or right:
            index = _source_positions(input.shape[dim], left, right, mode)
            positions = farspan.tensor(index, dtype=farspan.int64, device=input.device)
            input = input.index_select(dim, positions)
    return input


def _source_positions(size: int, left: int, right: int, mode: str) -> list[int]:
    """Return, for each position of the padded dimension, where its value comes from."""
    if mode == "reflect" and max(left, right) >= size:
        raise RuntimeError(
            "Argument #4: Padding size should be less than the corresponding input dimension, "
            f"but got: padding ({left}, {right}) at a dimension of size {size}"
        )
    if mode == "circular" and max(left, right) > size:
        raise RuntimeError("Padding value causes wrapping around more than once.")
    wanted = range(-left, size + right)
    if mode == "replicate":
        return [min(max(i, 0), size - 1) for i in wanted]
    if mode == "circular":
        return [i % size for i in wanted]
    return [abs(i) if i < size else 2 * (size - 1) - i for i in wanted]
