"""Tensors as text, character for character as torch prints them.

Knows nothing of sessions and devices: it asks ``fetch`` once for the elements that will be seen,
so that printing a tensor of any size moves at most a few hundred numbers. Never raises for values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Shape = tuple[int, ...]
Fetch = Callable[[tuple[Sequence[int], ...]], Array]

_PREFIX = "tensor("


@dataclass(frozen=True)
class PrintOptions:
    """How tensors are printed; the fields are the arguments of ``torch.set_printoptions``."""

    precision: int = 4
    threshold: float = 1000  # elements; a larger tensor is printed by its edges
    edgeitems: int = 3
    linewidth: int = 80  # characters
    sci_mode: bool | None = None  # None: decided by the values


_PROFILES = {
    "default": PrintOptions(),
    "short": PrintOptions(precision=2, edgeitems=2),
    "full": PrintOptions(threshold=math.inf),
}

_current = PrintOptions()


def get_printoptions() -> PrintOptions:
    """Return the options that ``format_tensor`` uses when it is given none."""
    return _current


def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Set the options for all later prints: first the profile, then each argument that is given.

    profile: "default", "short" or "full". As in torch, a call without sci_mode resets it to None.

    >>> set_printoptions(precision=2)
    >>> get_printoptions().precision
    2
    >>> set_printoptions(profile="default")
    """
    global _current
    options = _current
    if profile is not None:
        options = _PROFILES.get(profile, options)
    given = {
        "precision": precision,
        "threshold": threshold,
        "edgeitems": edgeitems,
        "linewidth": linewidth,
    }
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    _current = replace(options, sci_mode=sci_mode, **chosen)


def format_tensor(
    shape: Shape,
    dtype_name: str,
    fetch: Fetch,
    *,
    device_suffix: str = "",
    requires_grad: bool = False,
    grad_fn: str | None = None,
    is_parameter: bool = False,
    default_dtype: str = "float32",
    options: PrintOptions | None = None,
) -> str:
    """Return ``repr`` of a tensor.

    fetch: called once, or not at all for a tensor without elements, with one sequence of indices a
    dimension (a ``range`` where all are wanted); returns the block of elements at their product.
    device_suffix: the device to show, "cuda:0"; empty where torch shows none.
    grad_fn: the name to show, "AddBackward0".

    >>> format_tensor((2,), "float32", lambda indices: np.array([1.0, 2.5]), requires_grad=True)
    'tensor([1.0000, 2.5000], requires_grad=True)'
    """
    options = options or _current
    size = math.prod(shape)
    suffixes = [f"device='{device_suffix}'"] if device_suffix else []
    if size == 0:
        body = "[]"
        if len(shape) != 1:
            suffixes.append(f"size={shape}")
        silent = {default_dtype}
    else:
        hidden = size > options.threshold and options.edgeitems == 0
        body = "[...]" if hidden else _body(shape, fetch, options)
        if options.edgeitems == 0:
            suffixes.append(f"size={shape}")
        default_complex = "complex128" if default_dtype == "float64" else "complex64"
        silent = {default_dtype, default_complex, "int64", "bool"}
    if dtype_name not in silent:
        suffixes.append(f"dtype=torch.{dtype_name}")
    if grad_fn is not None:
        suffixes.append(f"grad_fn=<{grad_fn}>")
    elif requires_grad:
        suffixes.append("requires_grad=True")
    text = _with_suffixes(_PREFIX + body, suffixes, options.linewidth) + ")"
    return "Parameter containing:\n" + text if is_parameter else text


def _with_suffixes(text: str, suffixes: list[str], linewidth: int) -> str:
    """Return text with the suffixes after commas, each on a new line if it would pass linewidth."""
    indent = len(_PREFIX)
    column = len(text) - text.rfind("\n") + 1
    for suffix in suffixes:
        if column + len(suffix) + 2 > linewidth:
            text += ",\n" + " " * indent + suffix
            column = indent + len(suffix)
        else:
            text += ", " + suffix
            column += len(suffix) + 2
    return text


def _body(shape: Shape, fetch: Fetch, options: PrintOptions) -> str:
    """Return the brackets and numbers of a tensor that has elements."""
    summarized = math.prod(shape) > options.threshold
    edge = options.edgeitems
    indices: tuple[Sequence[int], ...] = tuple(
        (*range(edge), *range(n - edge, n)) if summarized and n > 2 * edge else range(n)
        for n in shape
    )
    elided = tuple(len(kept) < n for kept, n in zip(indices, shape, strict=True))
    block = _block_of_elements(np.asarray(fetch(indices)), options)
    return _nested(block, elided, len(_PREFIX), options)


@dataclass(frozen=True)
class _Block:
    """Elements as text, in the shape in which they are printed."""

    texts: NDArray[np.object_]
    width: int  # characters an element counts when a line is broken


def _block_of_elements(values: Array, options: PrintOptions) -> _Block:
    """Return the texts of values, all in the one notation that fits them."""
    if values.dtype.kind != "c":
        width, write = _notation(values, options)
        return _Block(_map(write, values), width)
    real_width, write_real = _notation(values.real, options)
    imag_width, write_imag = _notation(values.imag, options)

    def write_complex(value: complex) -> str:
        imag = write_imag(value.imag).lstrip()
        sign = "" if imag.startswith("-") else "+"
        return f"{write_real(value.real)}{sign}{imag}j"

    return _Block(_map(write_complex, values), real_width + imag_width + 1)


def _map(write: Callable[[Any], str], values: Array) -> NDArray[np.object_]:
    """Return an array of values' shape that holds the text of each element."""
    texts = np.empty(values.size, object)
    texts[:] = [write(value) for value in values.ravel().tolist()]
    return texts.reshape(values.shape)


def _notation(values: Array, options: PrintOptions) -> tuple[int, Callable[[Any], str]]:
    """Return the width and the function that writes one element, common to all of values."""
    if values.dtype.kind in "iub":
        width = max((len(str(value)) for value in values.ravel().tolist()), default=1)
        return width, lambda value: str(value).rjust(width)
    numbers = values.astype(np.float64).ravel()
    numbers = numbers[np.isfinite(numbers) & (numbers != 0)]
    whole = bool(np.all(numbers == np.ceil(numbers)))
    if numbers.size and _is_scientific(np.abs(numbers), whole, options.sci_mode):
        pattern, point = f".{options.precision}e", ""
    elif whole:
        pattern, point = ".0f", "."
    else:
        pattern, point = f".{options.precision}f", ""
    width = max((len(format(number, pattern) + point) for number in numbers.tolist()), default=1)

    def write(value: Any) -> str:
        number = float(value)
        text = format(number, pattern)
        return (text + point if math.isfinite(number) else text).rjust(width)

    return width, write


def _is_scientific(sizes: NDArray[np.float64], whole: bool, sci_mode: bool | None) -> bool:
    """Return sci_mode, or if it is None whether sizes are too large, small or far apart."""
    if sci_mode is not None:
        return sci_mode
    smallest, largest = float(sizes.min()), float(sizes.max())
    if largest > 1e8 or (smallest < 1e-4 and not whole):
        return True
    return largest / smallest > 1000.0


def _nested(block: _Block, elided: tuple[bool, ...], indent: int, options: PrintOptions) -> str:
    """Return the block in brackets; elided tells the dimensions whose middle is left out."""
    texts = block.texts
    if texts.ndim == 0:
        return str(texts.item())
    if texts.ndim == 1:
        words = _around_gap(texts.tolist(), elided[0], " ...")
        per_line = max(1, (options.linewidth - indent) // (block.width + 2))
        lines = [", ".join(words[i : i + per_line]) for i in range(0, len(words), per_line)]
        return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"
    rows = [_nested(_Block(row, block.width), elided[1:], indent + 1, options) for row in texts]
    between = "," + "\n" * (texts.ndim - 1) + " " * (indent + 1)
    return "[" + between.join(_around_gap(rows, elided[0], "...")) + "]"


def _around_gap(words: list[str], elided: bool, gap: str) -> list[str]:
    """Return words with gap in their middle if some were left out there."""
    if not elided:
        return words
    middle = len(words) // 2
    return [*words[:middle], gap, *words[middle:]]
