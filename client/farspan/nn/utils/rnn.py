"""farspan.nn.utils.rnn: sequences of different lengths in one tensor, padded or packed.

Packing needs the lengths here, to know shapes: a list costs nothing, a tensor is read and waits.
What this file makes from lengths it remembers, so that nothing is read twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

import farspan
from farspan._tensor import Tensor

__all__ = [
    "PackedSequence",
    "invert_permutation",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]


def host_values(t: Tensor) -> list[int]:
    """Return the integers of a vector; waits, unless they are remembered and nobody wrote."""
    known: tuple[int, list[int]] | None = t.__dict__.get("_host_values")
    if known is not None and known[0] == t._version:
        return known[1]
    values: list[int] = t.tolist()
    t.__dict__["_host_values"] = (t._version, values)
    return values


def _known(values: Any, device: Any = None) -> Tensor:
    """Return an int64 vector on ``device`` whose values stay known here."""
    array = np.asarray(values, np.int64)
    made: Tensor = farspan.tensor(array, device=device)
    made.__dict__["_host_values"] = (made._version, array.tolist())
    return made


class _Fields(NamedTuple):
    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None
    unsorted_indices: Tensor | None


class PackedSequence(_Fields):
    """Sequences without padding: all first elements, then all second ones, the longest first.

    data: (sum of lengths, *). batch_sizes: how many sequences run at each step, int64 on the CPU.
    sorted_indices, unsorted_indices: from the given order to the order by length and back, or
    None. Made by ``pack_padded_sequence`` and ``pack_sequence``; every recurrent net takes it.
    """

    __slots__ = ()

    def __new__(
        cls,
        data: Any,
        batch_sizes: Tensor | None = None,
        sorted_indices: Tensor | None = None,
        unsorted_indices: Tensor | None = None,
    ) -> Self:
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        if batch_sizes is None:
            if not (isinstance(data, (list, tuple)) and len(data) == 2):
                raise AssertionError("Expected data to be a list or tuple of length 2")
            data, batch_sizes = data
        elif batch_sizes.device.type != "cpu":
            raise ValueError(
                "batch_sizes should always be on CPU. Instances of PackedSequence should never be "
                "created manually. They should be instantiated by functions like pack_sequence and "
                "pack_padded_sequences in nn.utils.rnn. "
                "https://pytorch.org/docs/stable/nn.html#torch.nn.utils.rnn.pack_sequence"
            )
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Return the sequence with its data converted or moved; itself if nothing changes."""
        data = self.data.to(*args, **kwargs)
        if data is self.data:
            return self
        indices = [
            None if t is None else t.to(data.device)
            for t in (self.sorted_indices, self.unsorted_indices)
        ]
        return type(self)(data, self.batch_sizes, *indices)

    def pin_memory(self) -> Self:
        """Return itself: the service's memory is not this machine's to pin."""
        return self

    def is_pinned(self) -> bool:
        return False

    @property
    def is_cuda(self) -> bool:
        return self.data.is_cuda

    def cuda(self, *args: Any, **kwargs: Any) -> Self:
        if args or "device" in kwargs:
            return self.to(*args, **kwargs)
        return self.to(*args, device="cuda", **kwargs)

    def cpu(self, *args: Any, **kwargs: Any) -> Self:
        return self.to(*args, device="cpu", **kwargs)

    def double(self) -> Self:
        return self.to(dtype=farspan.float64)

    def float(self) -> Self:
        return self.to(dtype=farspan.float32)

    def half(self) -> Self:
        return self.to(dtype=farspan.float16)

    def long(self) -> Self:
        return self.to(dtype=farspan.int64)

    def int(self) -> Self:
        return self.to(dtype=farspan.int32)

    def short(self) -> Self:
        return self.to(dtype=farspan.int16)

    def char(self) -> Self:
        return self.to(dtype=farspan.int8)

    def byte(self) -> Self:
        return self.to(dtype=farspan.uint8)


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """Return the permutation that takes ``permutation`` back; None for None."""
    if permutation is None:
        return None
    if "_host_values" in permutation.__dict__:
        return _known(np.argsort(host_values(permutation)), permutation.device)
    steps = farspan.arange(0, permutation.numel(), device=permutation.device)
    inverse: Tensor = farspan.empty_like(permutation).scatter_(0, permutation, steps)
    return inverse


def pack_padded_sequence(
    input: Tensor,
    lengths: Tensor | Sequence[int],
    batch_first: bool = False,
    enforce_sorted: bool = True,
) -> PackedSequence:
    """Return sequences padded to (T, B, *), or (B, T, *) with ``batch_first``, without padding.

    enforce_sorted: the lengths must not grow; else the sequences are sorted by length here. Waits
    if ``lengths`` is a tensor. Raises RuntimeError for lengths that do not fit the input.
    """
    if isinstance(lengths, Tensor):
        if lengths.dim() != 1 or lengths.device.type != "cpu":
            raise RuntimeError(
                "'lengths' argument should be a 1D CPU int64 tensor, but got "
                f"{lengths.dim()}D {lengths.device} Long tensor"
            )
        lengths = host_values(lengths)
    sizes = np.asarray(lengths, np.int64)
    order = None if enforce_sorted else np.argsort(-sizes, kind="stable")
    sizes = sizes if order is None else sizes[order]
    if input.numel() == 0:
        raise RuntimeError("Cannot pack empty tensors.")
    count, steps = input.shape[:2] if batch_first else reversed(input.shape[:2])
    if len(sizes) != count:
        raise RuntimeError(
            f"Expected `len(lengths)` to be equal to batch_size, but got {len(sizes)} "
            f"(batch_size={count})"
        )
    if sizes[-1] <= 0:
        raise RuntimeError(
            "Length of all samples has to be greater than 0, but found an element in 'lengths' "
            "that is <= 0"
        )
    if (np.diff(sizes) > 0).any():
        raise RuntimeError(
            "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. You "
            "can pass `enforce_sorted=False` to pack_padded_sequence and/or pack_sequence to "
            "sidestep this requirement if you do not need ONNX exportability."
        )
    if sizes[0] > steps:
        raise RuntimeError(
            f"Expected the longest of `lengths` to be at most the input's {steps} steps, but got "
            f"{sizes[0]}"
        )
    places, batch_sizes = _places(sizes, order, int(steps), batch_first)
    data = input.flatten(0, 1).index_select(0, farspan.tensor(places, device=input.device))
    indices = None if order is None else _known(order, input.device)
    return PackedSequence(data, _known(batch_sizes), indices, None)


def _places(
    sizes: Any, order: Any, steps: int, batch_first: bool
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return where each packed element stands in the flat padded tensor, and the batch sizes.

    sizes: the lengths in falling order; order: which sequence each belongs to (None: that one).
    """
    count = len(sizes)
    runs = np.arange(sizes[0])[:, None] < sizes[None, :]  # step, sequence
    step, sequence = np.nonzero(runs)
    if order is not None:
        sequence = np.asarray(order)[sequence]
    places = sequence * steps + step if batch_first else step * count + sequence
    return places, runs.sum(1)


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the sequences padded to (T, B, *), or (B, T, *), in their given order, and lengths.

    total_length: T, if it is to be more than the longest length. Waits only for batch sizes that
    did not come from ``pack_padded_sequence``.
    """
    batch_sizes = np.asarray(host_values(sequence.batch_sizes))
    steps = len(batch_sizes)
    if total_length is not None:
        if total_length < steps:
            raise ValueError(
                "Expected total_length to be at least the length of the longest sequence in input, "
                f"but got total_length={total_length} and max sequence length being {steps}"
            )
        steps = total_length
    count = int(batch_sizes[0])
    sizes = (batch_sizes[:, None] > np.arange(count)[None, :]).sum(0)
    back = sequence.unsorted_indices
    order = None if back is None else np.argsort(host_values(back))
    places, _ = _places(sizes, order, steps, batch_first)
    data = sequence.data
    rest = data.shape[1:]
    padded = farspan.full(
        (steps * count, *rest), padding_value, dtype=data.dtype, device=data.device
    )
    padded = padded.index_copy(0, farspan.tensor(places, device=data.device), data)
    shape = (count, steps) if batch_first else (steps, count)
    lengths = sizes if back is None else sizes[host_values(back)]
    return padded.reshape(*shape, *rest), _known(lengths)


def pad_sequence(
    sequences: Any,
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:
    """Return sequences (L_i, *) as one tensor (L, N, *), shorter ones filled up."""
    if not isinstance(sequences, Iterable):
        raise RuntimeError(
            "pad_sequence: Expected iterable for input sequences, but got arg of type: "
            f"{type(sequences)}"
        )
    if padding_side not in ("left", "right"):
        raise RuntimeError(
            f"Expected padding_side to be one of left or right, but got {padding_side}."
        )
    listed = list(sequences)
    if not listed:
        raise RuntimeError("received an empty list of sequences")
    length = max(sequence.shape[0] for sequence in listed)
    filled = []
    for sequence in listed:
        missing = length - sequence.shape[0]
        sides = (missing, 0) if padding_side == "left" else (0, missing)
        amounts = [0, 0] * (sequence.dim() - 1) + list(sides)
        filled.append(farspan.constant_pad_nd(sequence, amounts, padding_value))
    return farspan.stack(filled, 0 if batch_first else 1)


def unpad_sequence(
    padded_sequences: Tensor, lengths: Tensor, batch_first: bool = False
) -> list[Tensor]:
    """Return the sequences (L_i, *) of a padded tensor (L, N, *). Waits for ``lengths``."""
    if not batch_first:
        padded_sequences.transpose_(0, 1)
    steps = padded_sequences.shape[1]
    pairs = zip(padded_sequences.unbind(0), host_values(lengths), strict=True)
    # Copies, as torch's: a sequence does not share memory with the padded tensor.
    return [sequence[: max(0, min(length, steps))].clone() for sequence, length in pairs]


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Return sequences (L_i, *) packed; they must not grow longer unless told otherwise."""
    lengths = [sequence.shape[0] for sequence in sequences]
    return pack_padded_sequence(pad_sequence(sequences), lengths, enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """Return the sequences (L_i, *) of a packed one, in their given order."""
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)
