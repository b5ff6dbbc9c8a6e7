"""Random numbers equal to torch's on the CPU for the same seed, without torch.

A ``Generator`` is data: 5056 bytes in torch's own layout hold all that its next draws depend on.
No global generator, clock or entropy here. The reference is torch 2.13 on x86-64: each function
takes as many words as torch's, so any sequence of calls stays in step. Read next: ``boxmuller.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .boxmuller import F32, F64, TAU, box_muller_32, box_muller_64, elementwise_libm, fma64
from .errors import ParameterError

Array = NDArray[Any]
Shape = tuple[int, ...]

DEFAULT_SEED = 67280421310721  # torch's default_rng_seed_val
STATE_BYTES = 5056  # sizeof torch's CPUGeneratorImplState

_WORDS = 624  # 32-bit words of the Mersenne twister's state
_CHUNK = 1 << 14  # elements a pass: a few float64 temporaries of this size stay in the L2 cache
_RANDINT_32_RANGE_MAX = 1 << 28  # from this range on torch draws 64 bits for an integer
_RANDPERM_MAX = (2**32 - 1) // 20  # from this length on torch shuffles by another algorithm

_STATE_LAYOUT = np.dtype(
    {
        "names": [
            "seed",
            "left",
            "seeded",
            "next",
            "words",
            "next_double",
            "has_next_double",
            "next_float",
            "has_next_float",
        ],
        "formats": ["<u8", "<i4", "<i4", "<u8", ("<u8", _WORDS), "<f8", "<i4", "<f4", "u1"],
        "offsets": [0, 8, 12, 16, 24, 5024, 5040, 5048, 5052],
        "itemsize": STATE_BYTES,
    }
)


class Generator:
    """A Mersenne twister (MT19937) seeded, advanced and stored as torch's CPU generator.

    ``next_double_normal`` and ``next_float_normal`` are the second halves of Box-Muller pairs that
    the next normal draw returns first.

    >>> gen = Generator(0)
    >>> uniform(gen, (2,), np.dtype("float32"))
    array([0.4962566, 0.7682218], dtype=float32)
    """

    __slots__ = ("_seed", "_source", "_untouched", "next_double_normal", "next_float_normal")

    next_double_normal: float | None
    next_float_normal: float | None

    def __init__(self, seed: int = DEFAULT_SEED) -> None:
        self.manual_seed(seed)

    def manual_seed(self, seed: int) -> Generator:
        """Return the generator itself after restarting it from seed, in [-2**63, 2**64)."""
        if not -(2**63) <= seed < 2**64:
            raise ValueError(f"manual_seed(seed): {seed} is outside [-2**63, 2**64)")
        self._seed = seed % 2**64
        # RandomState is numpy's frozen interface: its seeding and its words never change.
        self._source = np.random.RandomState(self._seed & 0xFFFFFFFF)
        self._untouched = True
        self.next_double_normal = None
        self.next_float_normal = None
        return self

    def seed(self, entropy: int) -> int:
        """Return entropy after seeding with it: the caller brings what torch takes from the OS."""
        self.manual_seed(entropy)
        return self._seed

    def initial_seed(self) -> int:
        """Return the seed last set, as an unsigned 64-bit number."""
        return self._seed

    def clone(self) -> Generator:
        """Return an independent generator with the same state."""
        twin = Generator.__new__(Generator)
        twin._source = np.random.RandomState(0)
        twin.set_state(self.get_state())
        return twin

    def get_state(self) -> NDArray[np.uint8]:
        """Return the state as 5056 bytes, equal to ``torch.get_rng_state()`` at the same point."""
        mt: Any = self._source.get_state(legacy=False)["state"]
        position = int(mt["pos"])
        state = np.zeros(1, _STATE_LAYOUT)
        record = state[0]
        record["seed"] = self._seed
        record["left"] = _WORDS + 1 - position
        record["seeded"] = 1
        record["next"] = 0 if self._untouched else position
        record["words"] = mt["key"]
        if self.next_double_normal is not None:
            record["next_double"], record["has_next_double"] = self.next_double_normal, 1
        if self.next_float_normal is not None:
            record["next_float"], record["has_next_float"] = self.next_float_normal, 1
        return state.view(np.uint8)

    def set_state(self, state: NDArray[np.uint8] | bytes) -> None:
        """Continue from state, which ``get_state`` here or in torch made.

        Raises ValueError, and changes nothing, if state is no such state.
        """
        data = np.frombuffer(bytes(state), np.uint8)
        if data.size != STATE_BYTES:
            raise ValueError(f"set_state(state): got {data.size} bytes, need {STATE_BYTES}")
        record = data.view(_STATE_LAYOUT)[0]
        position = _WORDS + 1 - int(record["left"])
        untouched = bool(position == _WORDS and record["next"] == 0)
        if (
            not 1 <= position <= _WORDS
            or not record["seeded"]
            or not (untouched or record["next"] == position)
            or record["words"].max() > 0xFFFFFFFF
        ):
            raise ValueError("set_state(state): the bytes are not the state of an MT19937")
        words = record["words"].astype(np.uint32)
        self._source.set_state(("MT19937", words, position, 0, 0.0))
        self._seed = int(record["seed"])
        self._untouched = untouched
        self.next_double_normal = (
            float(record["next_double"]) if record["has_next_double"] else None
        )
        self.next_float_normal = float(record["next_float"]) if record["has_next_float"] else None

    def mark(self) -> Any:
        """Return where the words stand, for `rewind`; normal numbers kept back are not part."""
        return self._source.get_state(legacy=False), self._untouched

    def rewind(self, mark: Any) -> None:
        """Go back to a mark: the words drawn since will come again."""
        state, self._untouched = mark
        self._source.set_state(state)

    def words32(self, n: int) -> NDArray[np.uint32]:
        """Return the next n words."""
        if n:
            self._untouched = False
        return self._source.randint(0, 2**32, size=n, dtype=np.uint32)

    def words64(self, n: int) -> NDArray[np.uint64]:
        """Return n 64-bit words, each from two words with the high half first."""
        pairs = self.words32(2 * n).astype(np.uint64)
        return (pairs[0::2] << np.uint64(32)) | pairs[1::2]

    def floats(self, n: int) -> F32:
        """Return n float32 in [0, 1) with 24 random bits; takes one word each."""
        bits = self.words32(n) & np.uint32(2**24 - 1)
        return bits.astype(np.float32) * np.float32(2.0**-24)

    def doubles(self, n: int) -> F64:
        """Return n float64 in [0, 1) with 53 random bits; takes two words each."""
        bits = self.words64(n) & np.uint64(2**53 - 1)
        return bits.astype(np.float64) * 2.0**-53


def uniform(
    gen: Generator, shape: Shape, dtype: np.dtype[Any], low: float = 0.0, high: float = 1.0
) -> Array:
    """Return numbers uniform in [low, high): ``torch.rand`` and ``Tensor.uniform_``."""
    if dtype.kind == "c":
        return _complex(shape, dtype, lambda parts, real: uniform(gen, parts, real, low, high))
    if dtype == np.float64:
        span = high - low
        if low == 0.0:
            return _closed_open(shape, dtype, lambda n: gen.doubles(n) * span, low, high)
        return _closed_open(shape, dtype, lambda n: fma64(gen.doubles(n), span, low), low, high)
    low32, high32 = float(np.float32(low)), float(np.float32(high))
    span32 = float(np.float32(high32) - np.float32(low32))

    def draw(n: int) -> F32:
        # The product is exact in float64: this is the fused multiply-add of torch's kernel.
        return (gen.floats(n).astype(np.float64) * span32 + low32).astype(np.float32)

    return _closed_open(shape, dtype, draw, low32, high32)


def normal(
    gen: Generator,
    shape: Shape,
    dtype: np.dtype[Any],
    mean: float = 0.0,
    std: float = 1.0,
    *,
    contiguous: bool = True,
) -> Array:
    """Return normal numbers: ``torch.randn`` and ``Tensor.normal_``.

    contiguous: False gives what ``normal_`` writes, in memory order, into a tensor that is not
    contiguous; torch then takes the serial path, as it does for fewer than 16 elements.
    """
    if dtype.kind == "c":
        # Real and imaginary part have half of the variance each.
        part_std = std / math.sqrt(2)
        return _complex(shape, dtype, lambda parts, real: normal(gen, parts, real, mean, part_std))
    size = math.prod(shape)
    if size < 16 or not contiguous:
        values = fma64(_serial_normals(gen, size), std, mean)
        return narrowed(values, dtype).reshape(shape)
    out = np.empty(size, dtype)
    whole = size - size % 16
    for start in range(0, whole, _CHUNK):
        stop = min(start + _CHUNK, whole)
        out[start:stop] = _normal_blocks(gen, stop - start, dtype, mean, std)
    if whole < size:
        if dtype.itemsize > 2:
            # torch first fills the whole tensor with uniforms, even the part that it draws again.
            (gen.doubles if dtype == np.float64 else gen.floats)(size - whole)
        out[-16:] = _normal_blocks(gen, 16, dtype, mean, std)
    return out.reshape(shape)


def log_normal(
    gen: Generator, shape: Shape, dtype: np.dtype[Any], mean: float = 1.0, std: float = 2.0
) -> Array:
    """Return exp of normal numbers: ``Tensor.log_normal_``. Always takes the serial path."""
    values = fma64(_serial_normals(gen, math.prod(shape)), std, mean)
    return narrowed(_exact_for(dtype, math.exp, values), dtype).reshape(shape)


def randint(
    gen: Generator,
    shape: Shape,
    dtype: np.dtype[Any],
    low: int | None = None,
    high: int | None = None,
) -> Array:
    """Return integers in [low, high): ``torch.randint`` and ``Tensor.random_``.

    Without high they go up to the dtype's largest (for floats 2**mantissa bits); without both, from
    0 (``random_()``); low = -2**63 without high is the whole int64 range.
    Raises ParameterError if the interval holds no number of the dtype.
    """
    if low is None and high is None:
        return _random_unbounded(gen, shape, dtype)
    base = 0 if low is None else low
    if high is None and base == -(2**63):
        return _filled(shape, dtype, lambda n: gen.words64(n).view(np.int64))
    asked = base, high
    if dtype.name in _MANTISSA_BITS:
        base = _first_float_from(base, dtype)
        end = 2 ** _MANTISSA_BITS[dtype.name] + 1 if high is None else _last_float_to(high, dtype)
    elif high is None:
        end = 2 if dtype == np.bool_ else int(np.iinfo(dtype).max) + 1
    else:
        end = high
    if base >= end:
        raise ParameterError(
            f"random_ expects 'from' to be less than 'to', but got from={asked[0]} >= to={asked[1]}"
        )
    span = end - base
    offset = np.int64(base)
    if span < _RANDINT_32_RANGE_MAX:
        return _filled(shape, dtype, lambda n: (gen.words32(n) % np.uint32(span)) + offset)
    if span == 2**64:
        return _filled(shape, dtype, lambda n: gen.words64(n).view(np.int64) + offset)
    return _filled(
        shape, dtype, lambda n: (gen.words64(n) % np.uint64(span)).view(np.int64) + offset
    )


def randperm(gen: Generator, n: int, dtype: np.dtype[Any]) -> Array:
    """Return a random order of 0 .. n-1: ``torch.randperm``. Takes n - 1 words."""
    if n >= _RANDPERM_MAX:
        raise ValueError(f"randperm(n): n is {n}, must be below {_RANDPERM_MAX}")
    if n < 2:
        return np.arange(n).astype(dtype)
    left = np.arange(n, 1, -1, dtype=np.uint32)
    partners = (gen.words32(n - 1) % left).astype(np.int64) + np.arange(n - 1)
    order = list(range(n))
    # Each swap depends on those before; a Python list swaps faster than any array.
    for i, partner in enumerate(partners.tolist()):
        order[i], order[partner] = order[partner], order[i]
    return np.array(order, np.int64).astype(dtype)


def bernoulli_p(
    gen: Generator, shape: Shape, p: float, dtype: np.dtype[Any] | None = None
) -> Array:
    """Return ones with probability p, else zeros: ``Tensor.bernoulli_(p)``; bool without dtype.

    Takes a 53-bit double an element, whatever the dtype. torch with MKL on an Intel CPU draws from
    a stream of MKL instead; this is what it does on all others.
    """
    return _filled(shape, dtype or np.dtype(np.bool_), lambda n: gen.doubles(n) < p)


def bernoulli_tensor(gen: Generator, probs: Array, dtype: np.dtype[Any] | None = None) -> Array:
    """Return ones with the probability in probs, else zeros: ``torch.bernoulli(probs)``.

    Result: shape of probs; dtype of probs unless given. Takes 53 bits an element if probs is
    float64, else 24. Raises ParameterError, before any draw, if a probability is outside [0, 1].
    """
    if not np.all((probs >= 0) & (probs <= 1)):
        raise ParameterError("Expected p_in >= 0 && p_in <= 1 to be true, but got false.")
    flat = probs.reshape(-1)
    if flat.dtype == np.float64:
        ones = gen.doubles(flat.size) < flat
    else:
        ones = gen.floats(flat.size) < flat.astype(np.float32)
    return ones.astype(dtype or probs.dtype).reshape(probs.shape)


def exponential(gen: Generator, shape: Shape, dtype: np.dtype[Any], lambd: float = 1.0) -> Array:
    """Return exponential numbers with rate lambd: ``Tensor.exponential_``."""
    scale = -1.0 / lambd
    return _filled(shape, dtype, lambda n: scale * _exact_for(dtype, math.log1p, -gen.doubles(n)))


def geometric(gen: Generator, shape: Shape, dtype: np.dtype[Any], p: float) -> Array:
    """Return the number of trials up to the first success: ``Tensor.geometric_``."""
    scale = math.log1p(-p)
    return _filled(
        shape, dtype, lambda n: np.ceil(elementwise_libm(math.log, gen.doubles(n)) / scale)
    )


def cauchy(
    gen: Generator, shape: Shape, dtype: np.dtype[Any], median: float = 0.0, sigma: float = 1.0
) -> Array:
    """Return Cauchy numbers: ``Tensor.cauchy_``."""

    def draw(n: int) -> F64:
        tangent = _exact_for(dtype, math.tan, math.pi * (gen.doubles(n) - 0.5))
        return fma64(tangent, sigma, median)

    return _filled(shape, dtype, draw)


def multinomial(
    gen: Generator, probs: Array, num_samples: int, replacement: bool = False
) -> NDArray[np.int64]:
    """Return indices drawn with the weights in the last dimension: ``torch.multinomial``.

    probs: (categories,) or (rows, categories), floating. Result: the same with num_samples last.
    Raises ParameterError if a weight is negative or not finite or a row has no weight.
    """
    weights = probs.astype(np.float32) if probs.dtype.itemsize == 2 else probs
    if not np.all(np.isfinite(weights) & (weights >= 0)):
        raise ParameterError("probability tensor contains either `inf`, `nan` or element < 0")
    if not np.all(weights.sum(-1) > 0):
        raise ParameterError("invalid multinomial distribution (sum of probabilities <= 0)")
    if replacement and num_samples > 1:
        return _with_replacement(gen, weights, num_samples)
    # The largest of weight / Exp(1) falls on i with probability weight[i] (the Gumbel trick).
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = probs / exponential(gen, probs.shape, probs.dtype)
    if num_samples == 1:
        best: NDArray[np.int64] = np.argmax(scores, axis=-1, keepdims=True).astype(np.int64)
        return best
    order = np.argsort(-scores.astype(np.float64), axis=-1, kind="stable")
    return np.ascontiguousarray(order[..., :num_samples], np.int64)


def _with_replacement(gen: Generator, weights: Array, num_samples: int) -> NDArray[np.int64]:
    """Return num_samples indices a row, by inverting the cumulative sum in the weights' dtype."""
    rows = weights.reshape(-1, weights.shape[-1])
    cumulative = np.cumsum(rows, axis=-1, dtype=weights.dtype)
    cumulative /= cumulative[:, -1:].copy()
    cumulative[:, -1] = 1
    draws = gen.doubles(len(rows) * num_samples).reshape(len(rows), num_samples)
    picks = [
        np.searchsorted(row.astype(np.float64), u) for row, u in zip(cumulative, draws, strict=True)
    ]
    return np.array(picks, np.int64).reshape(*weights.shape[:-1], num_samples)


def _serial_normals(gen: Generator, n: int) -> F64:
    """Return n standard normal doubles, drawn in pairs; an odd one is kept for the next call."""
    cached = [] if gen.next_double_normal is None or n == 0 else [gen.next_double_normal]
    if cached:
        gen.next_double_normal = None
    pairs = (n - len(cached) + 1) // 2
    u = gen.doubles(2 * pairs).reshape(pairs, 2)
    radius = np.sqrt(-2.0 * elementwise_libm(math.log1p, -u[:, 1]))
    theta = TAU * u[:, 0]
    drawn = np.stack([radius * np.cos(theta), radius * np.sin(theta)], axis=1).ravel()
    if len(cached) + drawn.size > n:
        gen.next_double_normal = float(drawn[-1])
        drawn = drawn[:-1]
    return np.concatenate([np.array(cached, np.float64), drawn])


def _normal_blocks(gen: Generator, n: int, dtype: np.dtype[Any], mean: float, std: float) -> Array:
    """Return n normal numbers (a multiple of 16) by Box-Muller on blocks of 16 uniforms."""
    if dtype == np.float64:
        return box_muller_64(gen.doubles(n).reshape(-1, 16), mean, std).ravel()
    return box_muller_32(gen.floats(n).reshape(-1, 16), mean, std).ravel()


# Bits of the significand, the hidden one included, by dtype name: bfloat16 is not numpy's own.
_MANTISSA_BITS = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}


def _random_unbounded(gen: Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
    """Return ``random_()``: integers in [0, largest], or [0, 2**mantissa bits] for floats."""
    if dtype == np.bool_:
        return _filled(shape, dtype, lambda n: gen.words32(n) & np.uint32(1))
    if dtype.name in _MANTISSA_BITS:
        count = 2 ** _MANTISSA_BITS[dtype.name] + 1
    else:
        count = int(np.iinfo(dtype).max) + 1
    if dtype.name in ("int64", "float64"):
        return _filled(shape, dtype, lambda n: gen.words64(n) % np.uint64(count))
    return _filled(shape, dtype, lambda n: gen.words32(n) % np.uint32(count))


def _as_dtype(value: int, dtype: np.dtype[Any]) -> int:
    """Return the integer that value becomes when stored in a floating dtype."""
    return int(narrowed(np.array([value], np.int64), dtype).astype(np.float64)[0])


def _first_float_from(low: int, dtype: np.dtype[Any]) -> int:
    """Return the first number >= low that stays >= low when rounded to dtype."""
    after = _as_dtype(low + 1, dtype)
    if after >= low:
        return low
    step_bits = abs(low + 1).bit_length() - _MANTISSA_BITS[dtype.name]
    return int(after + 2**step_bits)


def _last_float_to(high: int, dtype: np.dtype[Any]) -> int:
    """Return the largest end <= high such that no number below it rounds up to high."""
    before = _as_dtype(high - 1, dtype)
    if before < high:
        return high
    step_bits = abs(high - 1).bit_length() - _MANTISSA_BITS[dtype.name]
    return int(before - 2**step_bits)


def _exact_for(dtype: np.dtype[Any], function: Callable[[float], float], x: F64) -> F64:
    """Return function of x, by the C library where the result's last bit is kept."""
    if dtype == np.float64:
        return elementwise_libm(function, x)
    return np.asarray(getattr(np, function.__name__)(x), np.float64)


def narrowed(values: Array, dtype: np.dtype[Any]) -> Array:
    """Return values as dtype; to the 16-bit floats by way of float32, as torch rounds."""
    if dtype.itemsize == 2 and dtype.name in _MANTISSA_BITS:
        with np.errstate(over="ignore"):
            return values.astype(np.float32).astype(dtype)
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def _filled(shape: Shape, dtype: np.dtype[Any], draw: Callable[[int], Array]) -> Array:
    """Return an array filled in order by draw(n), a cache-sized piece at a time."""
    size = math.prod(shape)
    out = np.empty(size, dtype)
    for start in range(0, size, _CHUNK):
        stop = min(start + _CHUNK, size)
        out[start:stop] = narrowed(draw(stop - start), dtype)
    return out.reshape(shape)


def _closed_open(
    shape: Shape, dtype: np.dtype[Any], draw: Callable[[int], Array], low: float, high: float
) -> Array:
    """Return draws with those that rounding took to the open end, high, put back to low."""
    out = _filled(shape, dtype, draw)
    out[out == dtype.type(high)] = dtype.type(low)
    return out


def _complex(
    shape: Shape, dtype: np.dtype[Any], draw: Callable[[Shape, np.dtype[Any]], Array]
) -> Array:
    """Return complex numbers from draw(shape + (2,), real dtype): torch fills the real view."""
    real = np.dtype(np.float32 if dtype.itemsize == 8 else np.float64)
    return draw((*shape, 2), real).view(dtype).reshape(shape)
