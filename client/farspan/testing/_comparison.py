"""assert_close: equal structure, shapes and dtypes, and values within a tolerance of the dtype.

Messages are torch's, which tests print and sometimes match.
"""

from __future__ import annotations

import cmath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

import farspan
from farspan._tensor import Tensor
from farspan.core.dtype import DType

# (relative, absolute) by dtype, as torch.testing.assert_close documents them.
_TOLERANCES = {
    "float16": (1e-3, 1e-5),
    "bfloat16": (1.6e-2, 1e-5),
    "float32": (1.3e-6, 1e-5),
    "float64": (1e-7, 1e-7),
    "complex64": (1.3e-6, 1e-5),
    "complex128": (1e-7, 1e-7),
}
_OF_NUMBERS = {int: "int64", float: "float64", complex: "complex128"}
_Message = str | Callable[[str], str] | None
_Path = tuple[Any, ...]  # keys and indices, from the outermost container inwards


def assert_close(
    actual: Any,
    expected: Any,
    *,
    allow_subclasses: bool = True,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = False,
    check_device: bool = True,
    check_dtype: bool = True,
    check_layout: bool = True,
    check_stride: bool = False,
    msg: _Message = None,
) -> None:
    """Assert ``|actual - expected| <= atol + rtol * |expected|`` in tensors, numbers, containers.

    Without tolerances the dtypes give them; of two dtypes the wider tolerance counts. Waits.
    Raises AssertionError saying how many elements differ and where most, ValueError if only one
    tolerance is given, TypeError for what cannot be compared.
    """
    checks = _Checks(
        rtol, atol, equal_nan, check_device, check_dtype, check_stride, allow_subclasses, msg
    )
    for one, other, path in list(checks.pairs(actual, expected, ())):
        checks.compare(one, other, path)


def assert_allclose(
    actual: Any,
    expected: Any,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = True,
    msg: str = "",
) -> None:
    """Assert closeness as `assert_close` does, with no check of dtypes and devices."""
    assert_close(
        farspan.as_tensor(actual),
        farspan.as_tensor(expected),
        rtol=rtol,
        atol=atol,
        equal_nan=equal_nan,
        check_device=False,
        check_dtype=False,
        msg=msg or None,
    )


@dataclass(frozen=True)
class _Checks:
    """What `assert_close` was asked to look at."""

    rtol: float | None
    atol: float | None
    equal_nan: bool
    device: bool
    dtype: bool
    stride: bool
    allow_subclasses: bool
    msg: _Message

    def pairs(self, actual: Any, expected: Any, path: _Path) -> Iterator[tuple[Any, Any, _Path]]:
        """Yield what stands at the same place of both structures, after checking that it can be."""
        if _is_sequence(actual) and _is_sequence(expected):
            if len(actual) != len(expected):
                self.fail(
                    f"The length of the sequences mismatch: {len(actual)} != {len(expected)}", path,
                    own=False,
                )  # fmt: skip
            for i, (one, other) in enumerate(zip(actual, expected, strict=True)):
                yield from self.pairs(one, other, (*path, i))
        elif isinstance(actual, Mapping) and isinstance(expected, Mapping):
            have, want = set(actual), set(expected)
            if have != want:
                self.fail(
                    "The keys of the mappings do not match:\n"
                    f"Missing keys in the actual mapping: {sorted(want - have)}\n"
                    f"Additional keys in the actual mapping: {sorted(have - want)}", path,
                    own=False,
                )  # fmt: skip
            for key in _in_order(have):
                yield from self.pairs(actual[key], expected[key], (*path, key))
        else:
            self.check_comparable(actual, expected, path)
            yield actual, expected, path

    def check_comparable(self, actual: Any, expected: Any, path: _Path) -> None:
        """Raise TypeError for what is of unlike kinds, ValueError for one tolerance alone."""
        if actual is None or expected is None or _both(actual, expected, (bool, np.bool_)):
            return
        related = isinstance(actual, type(expected)) or isinstance(expected, type(actual))
        if not self.allow_subclasses:
            related = type(actual) is type(expected)
        numbers = _both(actual, expected, (int, float, complex, np.number))
        if not numbers and not (related and _is_like_a_tensor(actual, expected)):
            found = f"{type(actual)} and {type(expected)}"
            self.fail(
                f"No comparison pair was able to handle inputs of type {found}.", path, TypeError,
                own=False,
            )  # fmt: skip
        if (self.rtol is None) != (self.atol is None):
            missing = "rtol" if self.rtol is None else "atol"
            self.fail(
                "Both 'rtol' and 'atol' must be either specified or omitted, but got no "
                f"{missing}.", path, ValueError, own=False,
            )  # fmt: skip

    def compare(self, actual: Any, expected: Any, path: _Path) -> None:
        if actual is None or expected is None:
            if actual is not expected:
                self.fail(f"None mismatch: {actual} is not {expected}", path)
        elif _both(actual, expected, (bool, np.bool_)):
            if bool(actual) is not bool(expected):
                self.fail(f"Booleans mismatch: {actual} is not {expected}", path)
        elif _both(actual, expected, (int, float, complex, np.number)):
            self.compare_numbers(_plain(actual), _plain(expected), path)
        else:
            one, other = farspan.as_tensor(actual).detach(), farspan.as_tensor(expected).detach()
            self.compare_attributes(one, other, path)
            self.compare_tensors(one, other, path)

    def tolerances(self, *dtypes: str) -> tuple[float, float]:
        if self.rtol is not None and self.atol is not None:
            return self.rtol, self.atol
        known = [_TOLERANCES.get(name, (0.0, 0.0)) for name in dtypes]
        return max(r for r, _ in known), max(a for _, a in known)

    def compare_numbers(self, actual: Any, expected: Any, path: _Path) -> None:
        kinds = type(actual), type(expected)
        if self.dtype and kinds[0] is not kinds[1]:
            self.fail(f"The (d)types do not match: {kinds[0]} != {kinds[1]}.", path)
        both_nan = self.equal_nan and cmath.isnan(actual) and cmath.isnan(expected)
        if actual == expected or both_nan:
            return
        rtol, atol = self.tolerances(*(_OF_NUMBERS[k] for k in kinds))
        difference = abs(actual - expected)
        if not (cmath.isfinite(difference) and difference <= atol + rtol * abs(expected)):
            self.fail(_scalars_differ(actual, expected, rtol, atol), path)

    def compare_attributes(self, one: Tensor, other: Tensor, path: _Path) -> None:
        for name, wanted in (
            ("shape", True), ("stride()", self.stride), ("device", self.device),
            ("dtype", self.dtype),
        ):  # fmt: skip
            a, b = (x.stride() if name == "stride()" else getattr(x, name) for x in (one, other))
            if wanted and a != b:
                self.fail(f"The values for attribute '{name}' do not match: {a} != {b}.", path)

    def compare_tensors(self, one: Tensor, other: Tensor, path: _Path) -> None:
        rtol, atol = self.tolerances(one.dtype.name, other.dtype.name)
        if one.device != other.device:
            one, other = one.cpu(), other.cpu()
        if one.dtype != other.dtype:
            common = farspan.promote_types(*(_signed(x.dtype) for x in (one, other)))
            one, other = one.to(common), other.to(common)
        close = farspan.isclose(one, other, rtol=rtol, atol=atol, equal_nan=self.equal_nan)
        if not bool(close.all()):
            if one.ndim:
                self.fail(_tensors_differ(one, other, close, rtol, atol), path)
            self.fail(_scalars_differ(one.item(), other.item(), rtol, atol), path)

    def fail(
        self, text: str, path: _Path, kind: type[Exception] = AssertionError, own: bool = True
    ) -> NoReturn:
        """Raise, in the caller's own words if it has any; not for structures that do not match."""
        if own and isinstance(self.msg, str):
            raise kind(self.msg)
        if path:
            where = "".join(f"[{key!r}]" for key in path)
            text = f"{text}\n\nThe failure occurred for item {where}"
        raise kind(self.msg(text) if own and callable(self.msg) else text)


def _both(actual: Any, expected: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(actual, kinds) and isinstance(expected, kinds)


def _plain(x: Any) -> Any:
    """Return a number of numpy as Python's, a bool as an int."""
    x = x.item() if isinstance(x, np.generic) else x
    return int(x) if isinstance(x, bool) else x


def _signed(dtype: DType) -> DType:
    """Return int64 for the wide unsigned integers, which meet no other dtype."""
    return farspan.int64 if dtype.name in ("uint16", "uint32", "uint64") else dtype


def _in_order(keys: set[Any]) -> list[Any]:
    try:
        return sorted(keys)
    except TypeError:
        return list(keys)


def _is_sequence(x: Any) -> bool:
    return isinstance(x, Sequence) and not isinstance(x, (str, Tensor))


def _is_like_a_tensor(*values: Any) -> bool:
    """Say whether all can be read as tensors."""
    try:
        return all(isinstance(farspan.as_tensor(x), Tensor) for x in values)
    except Exception:
        return False  # whatever it was, it is nothing to compare


def _scalars_differ(actual: Any, expected: Any, rtol: float, atol: float) -> str:
    absolute = abs(actual - expected)
    relative = float("inf") if expected == 0 else absolute / abs(expected)
    name = "equal" if rtol == atol == 0 else "close"
    lines = [f"Scalars are not {name}!\n", f"Expected {expected} but got {actual}."]
    for kind, found, bound in (("Absolute", absolute, atol), ("Relative", relative, rtol)):
        lines.append(f"{kind} difference: {found}" + _allowed(bound, rtol, atol))
    return "\n".join(lines)


def _tensors_differ(one: Tensor, other: Tensor, close: Tensor, rtol: float, atol: float) -> str:
    """Return how many elements differ, and where the most, absolutely and relatively."""
    if not (one.dtype.is_floating_point or one.dtype.is_complex):
        one, other = one.to(farspan.int64), other.to(farspan.int64)
    absolute = farspan.where(close, 0, (one - other).abs()).flatten()
    relative = farspan.where(close.flatten(), 0, absolute / other.abs().flatten())
    name = "equal" if rtol == atol == 0 else "close"
    count, wrong = close.numel(), close.numel() - int(close.sum())
    lines = [
        f"Tensor-likes are not {name}!\n",
        f"Mismatched elements: {wrong} / {count} ({wrong / count:.1%})",
    ]
    for kind, values, bound in (("absolute", absolute, atol), ("relative", relative, rtol)):
        most, at = values.max(0)
        index = tuple(int(i) for i in np.unravel_index(int(at), tuple(close.shape)))
        lines.append(
            f"Greatest {kind} difference: {most.item()} at index {index}"
            + _allowed(bound, rtol, atol)
        )
    return "\n".join(lines)


def _allowed(bound: float, rtol: float, atol: float) -> str:
    return "" if rtol == atol == 0 else f" (up to {bound} allowed)"
