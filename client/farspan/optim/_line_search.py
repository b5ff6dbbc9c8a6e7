"""A line search that ends where the strong Wolfe conditions hold: for LBFGS.

Nocedal and Wright, Numerical Optimization, algorithms 3.5 and 3.6, with cubic interpolation; the
constants and the order of decisions are those of torch, which has them from Lua Torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from farspan._tensor import Tensor


class _Point(NamedTuple):
    """What is known at one distance: the loss, the gradient and its part along the line."""

    t: Any
    loss: float
    gradient: Tensor
    slope: Any


def strong_wolfe(
    look: Callable[[Any, Tensor], tuple[float, Tensor]],
    t: Any,
    direction: Tensor,
    loss: float,
    gradient: Tensor,
    slope: Any,
    c1: float = 1e-4,
    c2: float = 0.9,
    narrowest: float = 1e-9,
    most: int = 25,
) -> tuple[float, Tensor, Any, int]:
    """Return loss, gradient, distance and evaluations where the search along ``direction`` ends.

    look(t, direction): the loss and the flat gradient at that distance. Waits for every one.
    """
    start = _Point(0, loss, gradient.clone(), slope)

    def at(t: Any) -> _Point:
        there, g = look(t, direction)
        return _Point(t, there, g, g.dot(direction))

    def too_high(p: _Point) -> bool:
        return bool(p.loss > start.loss + c1 * p.t * start.slope)

    before, new, tries, taken = start, at(t), 0, 1
    bracket = None
    while tries < most:
        if too_high(new) or (tries > 1 and new.loss >= before.loss):
            bracket = [before, new]
            break
        if abs(new.slope) <= -c2 * start.slope:
            return new.loss, new.gradient, new.t, taken
        if new.slope >= 0:
            bracket = [before, new]
            break
        bounds = (new.t + 0.01 * (new.t - before.t), new.t * 10)
        t = _cubic_minimum(before, new, bounds)
        before, new = new, at(t)
        taken += 1
        tries += 1
    if bracket is None:
        bracket = [start._replace(gradient=gradient), new]
    width = direction.abs().max()
    stuck = False
    low, high = (0, 1) if bracket[0].loss <= bracket[1].loss else (1, 0)
    while tries < most:
        if abs(bracket[1].t - bracket[0].t) * width < narrowest:
            break
        t, stuck = _inside(bracket, _cubic_minimum(*bracket), stuck)
        new = at(t)
        taken += 1
        tries += 1
        if too_high(new) or new.loss >= bracket[low].loss:
            bracket[high] = new
            low, high = (0, 1) if bracket[0].loss <= bracket[1].loss else (1, 0)
            continue
        done = bool(abs(new.slope) <= -c2 * start.slope)
        if not done and new.slope * (bracket[high].t - bracket[low].t) >= 0:
            bracket[high] = bracket[low]
        bracket[low] = new
        if done:
            break
    best = bracket[low]
    return best.loss, best.gradient, best.t, taken


def _inside(bracket: list[_Point], t: Any, stuck: bool) -> tuple[Any, bool]:
    """Keep a trial away from the ends: the second time near one, a tenth of the width inside."""
    near, far = min(p.t for p in bracket), max(p.t for p in bracket)
    margin = 0.1 * (far - near)
    if min(far - t, t - near) >= margin:
        return t, False
    if stuck or t >= far or t <= near:
        return (far - margin if abs(t - far) < abs(t - near) else near + margin), False
    return t, True


def _cubic_minimum(a: _Point, b: _Point, bounds: tuple[Any, Any] | None = None) -> Any:
    """Return where the cubic through both points with their slopes is least, within bounds."""
    left, right = bounds or ((a.t, b.t) if a.t <= b.t else (b.t, a.t))
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    square = d1**2 - a.slope * b.slope
    if square < 0:
        return (left + right) / 2.0
    d2 = square.sqrt()
    if a.t <= b.t:
        t = b.t - (b.t - a.t) * ((b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2))
    else:
        t = a.t - (a.t - b.t) * ((a.slope + d2 - d1) / (a.slope - b.slope + 2 * d2))
    return min(max(t, left), right)
