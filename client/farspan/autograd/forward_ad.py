"""Forward-mode derivatives by dual tensors, as far as two reverse passes give them.

Ops have no forward rules here. A dual tensor is a leaf with a tangent beside it; `unpack_dual`
pulls a seed back to these leaves and differentiates that by the seed (see `farspan.func.jvp`). So
ops on duals must be recorded: inside of `no_grad` there is no tangent, and duals require grad.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from .._dispatch import mode
from .._tensor import Tensor
from ..core import tape
from ..core.call import fn
from ..core.errors import AutogradError, BadValueError, ShapeError

__all__ = ["UnpackedDualTensor", "dual_level", "enter_dual_level", "exit_dual_level", "make_dual",
           "unpack_dual"]  # fmt: skip


class UnpackedDualTensor(NamedTuple):
    """A dual tensor's two parts; the tangent is None where there is none."""

    primal: Tensor
    tangent: Tensor | None


class _Level:
    """The duals of the level that is open."""

    def __init__(self) -> None:
        self.duals: list[tuple[Tensor, Tensor]] = []


_levels: list[_Level] = []


def enter_dual_level() -> int:
    """Open the level; its number is returned. There is only one at a time, as in torch."""
    if _levels:
        raise AutogradError("Nested forward mode AD is not supported at the moment")
    _levels.append(_Level())
    return 0


def exit_dual_level(*, level: int | None = None) -> None:
    """Close the level: its tangents are forgotten."""
    if not _levels:
        raise AutogradError("Dual level must be a positive number.")
    if level not in (None, 0):
        raise AutogradError(
            "Trying to exit a forward AD level that was not the last one that was created. This is "
            "not supported."
        )
    _levels.pop()


class dual_level:
    """Opens the level for a ``with``, or for a decorated function."""

    def __enter__(self) -> int:
        return enter_dual_level()

    def __exit__(self, *exc: object) -> None:
        exit_dual_level()

    def __call__(self, function: Any) -> Any:
        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with dual_level():
                return function(*args, **kwargs)

        return inside


def make_dual(tensor: Tensor, tangent: Tensor, *, level: int | None = None) -> Tensor:
    """Return the tensor with a tangent: what follows of it has one as well."""
    if not _levels or (level is not None and level < 0):
        raise AutogradError(
            "Trying to create a dual Tensor for forward AD but no level exists, make sure to "
            "enter_dual_level() first."
        )
    for x, name in ((tensor, "primal"), (tangent, "tangent")):
        if not (x.is_floating_point() or x.is_complex()):
            raise BadValueError(
                f"Expected {name} to be floating point or complex, but got: {x.dtype}"
            )
    if tensor._spec.shape != tangent._spec.shape:
        raise ShapeError(
            "Trying to set a forward gradient that has a different size than that of the original "
            f"Tensor, this is not supported. Tensor is of size {list(tensor.shape)} while the given"
            f" forward gradient is of size {list(tangent.shape)}."
        )
    from ..func._differentiable import leaf

    before, mode.grad = mode.grad, True
    try:
        dual = fn.alias(tensor) if tensor.requires_grad else leaf(fn.detach(tensor))
    finally:
        mode.grad = before
    _levels[-1].duals.append((dual, tangent))
    return dual  # type: ignore[no-any-return]


def unpack_dual(tensor: Tensor, *, level: int | None = None) -> UnpackedDualTensor:
    """Return the primal and the tangent of what was computed from duals. Does not wait."""
    edge = tape.edge_of(tensor)
    if not _levels or edge is None:
        return UnpackedDualTensor(tensor, None)
    duals = _levels[-1].duals
    reached = tape.reachable([edge])
    own = [(d, t, tape.edge_of(d)) for d, t in duals]
    used = [(d, t, e) for d, t, e in own if e is not None and e[0] in reached]
    if not used:
        return UnpackedDualTensor(tensor, None)
    leaves = {e[0] for _, _, e in used if type(e[0]) is tape.Leaf}
    further = any(node not in leaves for node in tape.leaves_of([edge]))
    primal = tensor if further else fn.detach(tensor)
    same = next((t for d, t, _ in used if d is tensor), None)
    if same is not None:
        return UnpackedDualTensor(primal, same)
    from ..func._differentiable import Linear

    before, mode.grad = mode.grad, True
    try:
        linear = Linear([tensor], [d for d, _, _ in used])
    finally:
        mode.grad = before
    tangents = [t for _, t, _ in used]
    create = mode.grad and (further or any(t.requires_grad for t in tangents))
    (pushed,) = linear.push(tangents, create)
    return UnpackedDualTensor(primal, fn.zeros_like(primal) if pushed is None else pushed)
