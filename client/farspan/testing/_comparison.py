"""assert_close: equal structure, shapes and dtypes, and values within a tolerance of the dtype."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import farspan
from farspan._tensor import Tensor

# (relative, absolute) by dtype, as torch.testing.assert_close documents them.
_TOLERANCES = {
    "float16": (1e-3, 1e-5),
    "bfloat16": (1.6e-2, 1e-5),
    "float32": (1.3e-6, 1e-5),
    "float64": (1e-7, 1e-7),
    "complex64": (1.3e-6, 1e-5),
    "complex128": (1e-7, 1e-7),
}
_Message = str | Callable[[str], str] | None


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
    if (rtol is None) != (atol is None):
        missing, given = ("rtol", "atol") if rtol is None else ("atol", "rtol")
        raise ValueError(
            "rtol and atol must both be specified or both be left unspecified, "
            f"but got no {missing} with {given}"
        )
    checks = {"device": check_device, "dtype": check_dtype, "stride": check_stride}
    _Comparison(rtol, atol, equal_nan, checks, msg, allow_subclasses).compare(actual, expected, "")


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


class _Comparison:
    """One walk through two structures at once."""

    def __init__(
        self,
        rtol: float | None,
        atol: float | None,
        equal_nan: bool,
        checks: dict[str, bool],
        msg: _Message,
        allow_subclasses: bool,
    ) -> None:
        self.given = None if rtol is None or atol is None else (rtol, atol)
        self.equal_nan = equal_nan
        self.checks = checks
        self.msg = msg
        self.allow_subclasses = allow_subclasses

    def compare(self, actual: Any, expected: Any, where: str) -> None:
        if isinstance(actual, (str, bytes)) or isinstance(expected, (str, bytes)):
            raise TypeError(
                f"No comparison pair was able to handle inputs of type {type(actual)} and "
                f"{type(expected)}."
            )
        if isinstance(actual, Mapping) and isinstance(expected, Mapping):
            if actual.keys() != expected.keys():
                self.fail(
                    f"The keys of the mappings do not match:\n\n{set(actual) ^ set(expected)}",
                    where,
                )
            for key in actual:
                self.compare(actual[key], expected[key], f"{where}[{key!r}]")
        elif _is_sequence(actual) and _is_sequence(expected):
            if len(actual) != len(expected):
                self.fail(
                    f"The length of the sequences mismatch: {len(actual)} != {len(expected)}", where
                )
            for i, (one, other) in enumerate(zip(actual, expected, strict=True)):
                self.compare(one, other, f"{where}[{i}]")
        elif actual is None or expected is None:
            if actual is not expected:
                self.fail(f"None mismatch: {actual} is not {expected}", where)
        else:
            self.compare_values(actual, expected, where)

    def compare_values(self, actual: Any, expected: Any, where: str) -> None:
        kinds = {_kind(actual), _kind(expected)}
        if len(kinds) > 1 or None in kinds:
            raise TypeError(
                f"No comparison pair was able to handle inputs of type {type(actual)} and "
                f"{type(expected)}."
            )
        if kinds == {"number"}:
            a, b = _array_of_number(actual), _array_of_number(expected)
            if self.checks["dtype"] and a.dtype != b.dtype:
                self.fail(f"The (d)types do not match: {type(actual)} != {type(expected)}.", where)
            tolerance = self.given or _wider(a.dtype.name, b.dtype.name)
        else:
            one, other = farspan.as_tensor(actual), farspan.as_tensor(expected)
            self.compare_attributes(one, other, where)
            tolerance = self.given or _wider(one.dtype.name, other.dtype.name)
            a, b = _values(one), _values(other)
        if a.dtype != b.dtype:
            common = np.promote_types(a.dtype, b.dtype)
            a, b = a.astype(common), b.astype(common)
        close = _is_close(a, b, tolerance, self.equal_nan)
        if not close.all():
            name = "Scalars" if kinds == {"number"} else "Tensor-likes"
            self.fail(_difference(name, a, b, close, tolerance), where)

    def compare_attributes(self, one: Tensor, other: Tensor, where: str) -> None:
        if one.shape != other.shape:
            self.fail(
                f"The values for attribute 'shape' do not match: {one.shape} != {other.shape}.",
                where,
            )
        for name in ("device", "dtype"):
            a, b = getattr(one, name), getattr(other, name)
            if self.checks[name] and a != b:
                self.fail(f"The values for attribute '{name}' do not match: {a} != {b}.", where)
        if self.checks["stride"] and one.stride() != other.stride():
            self.fail(
                "The values for attribute 'stride()' do not match: "
                f"{one.stride()} != {other.stride()}.",
                where,
            )

    def fail(self, message: str, where: str) -> None:
        if where:
            message = f"{message}\n\nThe failure occurred for item {where}"
        if callable(self.msg):
            message = self.msg(message)
        raise AssertionError(message if self.msg is None or callable(self.msg) else self.msg)


def _is_sequence(x: Any) -> bool:
    return isinstance(x, Sequence) and not isinstance(x, Tensor)


def _kind(x: Any) -> str | None:
    """Return what an object is compared as: only two of one kind can be compared."""
    if isinstance(x, Tensor):
        return "tensor"
    if isinstance(x, np.ndarray):
        return "array"
    return "number" if isinstance(x, (numbers.Number, np.bool_)) else None


def _array_of_number(x: Any) -> np.ndarray[Any, Any]:
    """Return Python's number in full precision, numpy's as Python's."""
    return np.asarray(x.item() if isinstance(x, np.generic) else x)


def _values(x: Tensor) -> np.ndarray[Any, Any]:
    if x.dtype.name in ("bfloat16", "float16"):
        x = x.to(farspan.float32)
    array: np.ndarray[Any, Any] = x.detach().numpy(force=True)
    return array


def _wider(*dtypes: str) -> tuple[float, float]:
    known = [_TOLERANCES.get(name, (0.0, 0.0)) for name in dtypes]
    return max(r for r, _ in known), max(a for _, a in known)


def _is_close(
    a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], tolerance: tuple[float, float], nan: bool
) -> np.ndarray[Any, Any]:
    if a.dtype.kind not in "fc" and tolerance == (0.0, 0.0):
        return np.asarray(a == b)
    rtol, atol = tolerance
    with np.errstate(all="ignore"):
        return np.asarray(np.isclose(a, b, rtol=rtol, atol=atol, equal_nan=nan))


def _difference(
    kind: str,
    a: np.ndarray[Any, Any],
    b: np.ndarray[Any, Any],
    close: np.ndarray[Any, Any],
    tolerance: tuple[float, float],
) -> str:
    """Return what differs, in torch's layout."""
    rtol, atol = tolerance
    exact = rtol == atol == 0
    with np.errstate(all="ignore"):
        wide = np.complex128 if a.dtype.kind == "c" else np.float64
        absolute = np.abs(a.astype(wide) - b.astype(wide))
        relative = absolute / np.abs(b.astype(wide))
    absolute = np.where(close, 0, absolute)
    relative = np.where(close, 0, relative)
    if not a.ndim:
        head = f"{kind} are not {'equal' if exact else 'close'}!\n\nExpected {b} but got {a}."
        return "\n".join(
            [head] + [
                f"{name} difference: {values}" + ("" if exact else f" (up to {bound} allowed)")
                for name, values, bound in (
                    ("Absolute", absolute, atol), ("Relative", relative, rtol),
                )
            ]
        )  # fmt: skip
    wrong = int((~close).sum())
    lines = [
        f"{kind} are not {'equal' if exact else 'close'}!\n",
        f"Mismatched elements: {wrong} / {a.size} ({wrong / a.size:.1%})",
    ]
    for name, values, bound in (("absolute", absolute, atol), ("relative", relative, rtol)):
        at = np.unravel_index(int(np.argmax(np.nan_to_num(values, nan=np.inf))), values.shape)
        index = tuple(int(i) for i in at)
        allowed = "" if exact else f" (up to {bound} allowed)"
        lines.append(f"Greatest {name} difference: {values[at]} at index {index}{allowed}")
    return "\n".join(lines)
