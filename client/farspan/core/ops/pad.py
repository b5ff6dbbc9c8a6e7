"""Padding: with a constant, by reflection, by the border's values, around the other side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..call import fn
from ..errors import ShapeError, UnsupportedError
from ..family import composite, refuse, structured
from ..spec import Spec

if TYPE_CHECKING:
    from collections.abc import Sequence


def _pairs(pad: Sequence[int], ndim: int) -> list[tuple[int, int]]:
    """Return (before, after) for each dim; `pad` begins with the last one."""
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    return [(0, 0)] * (ndim - len(pairs)) + pairs[::-1]


def _constant_pad_meta(self: Spec, pad: Sequence[int], value: Any) -> Spec:
    if len(pad) % 2:
        raise ShapeError(f"Length of pad must be even but instead it equals {len(pad)}")
    if len(pad) > 2 * self.ndim:
        raise ShapeError(
            "Length of pad should be no more than twice the number of dimensions of the input. "
            f"Pad length is {len(pad)} while the input has {self.ndim} dimensions."
        )
    shape = []
    for i, (n, (before, after)) in enumerate(zip(self.shape, _pairs(pad, self.ndim), strict=True)):
        if n + before + after < 0:
            raise ShapeError(
                f"The input size {n}, plus negative padding {before} and {after} resulted in a "
                f"negative output size, which is invalid. Check dimension {i} of your input."
            )
        shape.append(n + before + after)
    return self.as_images(tuple(shape))


def _constant_pad(xp: Any, self: Any, pad: Any, value: Any) -> Any:
    pairs = _pairs(pad, self.ndim)
    shape = [n + a + b for n, (a, b) in zip(self.shape, pairs, strict=True)]
    out = xp.full(shape, value, self.dtype)
    inner = tuple(slice(max(a, 0), n - max(b, 0)) for n, (a, b) in zip(shape, pairs, strict=True))
    kept = tuple(
        slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(self.shape, pairs, strict=True)
    )
    out[inner] = self[kept]
    return out


structured(
    "constant_pad_nd(Tensor self, SymInt[] pad, Scalar value=0) -> Tensor",
    meta=_constant_pad_meta,
    kernel=_constant_pad,
    vjp={"self": lambda g, pad: fn.constant_pad_nd(g, [-p for p in pad], 0)},
    moves=True,
)


# ------------------------------------------------------------------ from the tensor's own values --
def _sources(xp: Any, n: int, before: int, after: int, mode: str) -> Any:
    """Return, for each place along a padded dim, the place whose element it shows."""
    at = xp.arange(-before, n + after)
    if mode == "replicate":
        return xp.clip(at, 0, n - 1)
    at = xp.abs(at)
    return xp.where(at >= n, 2 * (n - 1) - at, at)


def _border_pad(xp: Any, self: Any, padding: Any, mode: str) -> Any:
    for dim, (before, after) in enumerate(_pairs(padding, self.ndim)):
        if before or after:
            places = _sources(xp, self.shape[dim], before, after, mode)
            self = xp.take(self, places, axis=dim)
    return self


def _border_pad_backward(xp: Any, grad: Any, size: Any, padding: Any, mode: str) -> Any:
    for dim, (before, after) in enumerate(_pairs(padding, grad.ndim)):
        if grad.shape[dim] != size[dim] + before + after:  # else places without end are listed
            raise ShapeError(
                f"a gradient of shape {list(grad.shape)} for {list(size)} padded by {padding}"
            )
        if before or after:
            places = _sources(xp, size[dim], before, after, mode)
            moved = xp.moveaxis(grad, dim, 0)
            out = xp.zeros((size[dim], *moved.shape[1:]), grad.dtype)
            xp.add.at(out, places, moved)
            grad = xp.moveaxis(out, 0, dim)
    return grad


def _border_meta(mode: str, dims: int) -> Any:
    def meta(self: Spec, padding: Sequence[int]) -> Spec:
        name = f"{mode}ion_pad{dims}d" if mode == "reflect" else f"replication_pad{dims}d"
        if self.ndim not in (dims + 1, dims + 2):
            raise ShapeError(
                f"Expected {dims + 1}D or {dims + 2}D (batch mode) tensor with possibly 0 batch "
                f"size and other non-zero dimensions for input, but got: {list(self.shape)}"
            )
        shape = list(self.shape)
        for dim, (before, after) in enumerate(_pairs(padding, self.ndim)):
            n = self.shape[dim]
            if mode == "reflect" and (before >= n or after >= n) and (before or after):
                raise ShapeError(
                    "Padding size should be less than the corresponding input dimension, but got: "
                    f"padding ({before}, {after}) at dimension {dim} of input {list(self.shape)}"
                )
            shape[dim] = n + before + after
            if shape[dim] < 1 and dim >= self.ndim - dims:
                raise ShapeError(
                    f"input (size: {n}) is too small. Calculated output size: {shape[dim]} ({name})"
                )
        refuse(name, self.dtype, "b")
        found = tuple(shape)
        return self.as_images(found) if dims > 1 else self.with_(shape=found)

    return meta


def _declare_border(name: str, mode: str, dims: int) -> None:
    structured(
        f"{name}_pad{dims}d(Tensor self, SymInt[{2 * dims}] padding) -> Tensor",
        meta=_border_meta(mode, dims),
        kernel=lambda xp, self, padding: _border_pad(xp, self, padding, mode),
        vjp={
            "self": lambda g, self_spec, padding: fn._border_pad_backward(
                g, self_spec.shape, padding, mode
            )
        },
        moves=True,
    )


for _dims in (1, 2, 3):
    _declare_border("reflection", "reflect", _dims)
    _declare_border("replication", "replicate", _dims)


def _pad_by(g: Any, padding: Sequence[int], mode: str) -> Any:
    name = "reflection" if mode == "reflect" else "replication"
    return getattr(fn, f"{name}_pad{len(padding) // 2}d")(g, padding)


structured(
    "farspan::_border_pad_backward(Tensor grad, int[] size, int[] padding, str mode) -> Tensor",
    meta=lambda grad, size, padding, mode: Spec.make(tuple(size), grad.dtype, grad.device),
    kernel=_border_pad_backward,
    vjp={"grad": _pad_by},
)


def _circular_pad(x: Any, pad: Sequence[int]) -> Any:
    for dim, (before, after) in enumerate(_pairs(pad, x._spec.ndim)):
        n = x._spec.shape[dim]
        if before > n or after > n:
            raise ShapeError("Padding value causes wrapping around more than once.")
        if before + after + n < 0:
            raise ShapeError("Negative padding value is resulting in an empty dimension")
        middle = fn.slice(x, dim, max(-before, 0), n - max(-after, 0), 1)
        parts = [middle]
        if before > 0:
            parts.insert(0, fn.slice(middle, dim, -before, None, 1))
        if after > 0:
            parts.append(fn.slice(middle, dim, 0, after, 1))
        x = fn.cat(parts, dim) if len(parts) > 1 else middle
    return x


@composite('pad(Tensor self, SymInt[] pad, str mode="constant", float? value=None) -> Tensor')
def pad(self: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    ndim = self._spec.ndim
    if len(pad) % 2:
        raise ShapeError("Padding length must be divisible by 2")
    if len(pad) > 2 * ndim:
        raise ShapeError(
            f"Padding length should be less than or equal to two times the input dimension but got "
            f"padding length {len(pad)} and input of dimension {ndim}"
        )
    if mode == "constant":
        return fn.constant_pad_nd(self, pad, 0 if value is None else value)
    if value:
        raise ShapeError(f'Padding mode "{mode}" doesn\'t take in value argument')
    dims = len(pad) // 2
    if dims not in (1, 2, 3) or ndim not in (dims + 1, dims + 2):
        raise UnsupportedError(
            "Only 2D, 3D, 4D, 5D padding with non-constant padding are supported for now"
        )
    if mode == "circular":
        return _circular_pad(self, pad)
    if mode not in ("reflect", "replicate"):
        raise UnsupportedError(f"Unrecognised padding mode {mode}")
    return _pad_by(self, pad, mode)
