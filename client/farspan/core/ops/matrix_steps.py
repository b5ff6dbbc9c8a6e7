"""Steps of optimizers that look at a matrix as a whole: Adafactor and Muon.

As in `optim.py` and `steps.py`, one operator updates a list of parameters, or none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..dtype import bfloat16
from ..errors import BadValueError, DTypeError, ShapeError
from ..op import declare
from .optim import check_counters, check_lists, lerp, narrow, skipped, wide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..spec import Spec


def _matrix_meta(self: Sequence[Spec], *rest: Any) -> tuple[()]:
    check_lists(self, grads=rest[0])
    for spec in self:
        if spec.dtype.category == 3:
            raise DTypeError("this optimizer does not support complex parameters")
    return ()


def _adafactor_meta(
    self: Sequence[Spec],
    grads: Sequence[Spec],
    row_vars: Sequence[Spec],
    col_vars: Sequence[Spec],
    variances: Sequence[Spec],
    state_steps: Sequence[Spec],
    *rest: Any,
) -> tuple[()]:
    _matrix_meta(self, grads)
    check_counters(self, "state_steps", state_steps)
    if variances:
        check_lists(self, variances=variances)
    else:
        rows = [p.with_(shape=(*p.shape[:-1], 1)) for p in self]
        columns = [p.with_(shape=(*p.shape[:-2], 1, *p.shape[-1:])) for p in self]
        check_lists(rows, row_vars=row_vars)
        check_lists(columns, col_vars=col_vars)
    return ()


def _adafactor_kernel(
    xp: Any,
    self: Sequence[Any],
    grads: Sequence[Any],
    row_vars: Sequence[Any],
    col_vars: Sequence[Any],
    variances: Sequence[Any],
    state_steps: Sequence[Any],
    lr: float,
    beta2_decay: float,
    eps1: float,
    eps2: float,
    d: float,
    weight_decay: float,
    maximize: bool,
    rate: Any,
    found_inf: Any,
) -> tuple[()]:
    """Shazeer and Stern, 2018: second moments of a matrix are kept as rows times columns."""
    if skipped(found_inf):
        return ()
    lr = lr if rate is None else float(rate)
    for i, array in enumerate(self):
        state_steps[i][...] += 1
        step = float(state_steps[i])
        param, g = wide(array), wide(-grads[i] if maximize else grads[i])
        fresh = step**beta2_decay
        alpha = max(eps2, _rms(xp, param)) * min(lr, 1 / step**0.5)
        if weight_decay:
            param *= 1 - lr * weight_decay
        if variances:
            estimate = _renew(variances[i], g * g, fresh)
        else:
            row = _renew(row_vars[i], (g * g).mean(-1, keepdims=True), fresh)
            column = _renew(col_vars[i], (g * g).mean(-2, keepdims=True), fresh)
            estimate = row @ column / xp.maximum(row.mean(-2, keepdims=True), eps1)
        step_taken = g / xp.sqrt(xp.maximum(estimate, eps1 * eps1))
        param -= step_taken * (alpha / max(1.0, _rms(xp, step_taken) / d))
        narrow(param, array)
    return ()


def _rms(xp: Any, x: Any) -> float:
    """Return the root of the mean of squares; nan for no elements, as 0 / 0 is."""
    return float(xp.linalg.norm(x.reshape(-1)) / x.size**0.5) if x.size else float("nan")


def _renew(stored: Any, value: Any, weight: float) -> Any:
    """Move a running mean towards a value, in place; return it as it is computed with."""
    mean = wide(stored)
    lerp(mean, value, weight)
    narrow(mean, stored)
    return mean


declare(
    "farspan::_adafactor_step_(Tensor(a!)[] self, Tensor[] grads, Tensor(b!)[] row_vars,"
    " Tensor(c!)[] col_vars, Tensor(d!)[] variances, Tensor(e!)[] state_steps, *, float lr,"
    " float beta2_decay, float eps1, float eps2, float d, float weight_decay, bool maximize,"
    " Tensor? rate=None, Tensor? found_inf=None) -> ()",
    "step",
    meta=_adafactor_meta,
    kernel=_adafactor_kernel,
)


def _muon_meta(
    self: Sequence[Spec], grads: Sequence[Spec], momentum_buffers: Sequence[Spec], *rest: Any
) -> tuple[()]:
    _matrix_meta(self, grads)
    check_lists(self, momentum_buffers=momentum_buffers)
    if any(len(s.shape) != 2 for s in self):
        raise ShapeError("Param gradient must be a 2D matrix")
    if rest[-4] >= 100:
        raise BadValueError("Number of steps must be less than 100 for computational efficiency")
    return ()


def _muon_kernel(
    xp: Any,
    self: Sequence[Any],
    grads: Sequence[Any],
    momentum_buffers: Sequence[Any],
    lr: float,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
    ns_a: float,
    ns_b: float,
    ns_c: float,
    eps: float,
    ns_steps: int,
    adjust: str,
    rate: Any,
    found_inf: Any,
) -> tuple[()]:
    """Jordan et al., 2024: momentum whose singular values are pushed towards one."""
    if skipped(found_inf):
        return ()
    lr = lr if rate is None else float(rate)
    for array, grad, stored in zip(self, grads, momentum_buffers, strict=True):
        param, g = wide(array), wide(grad)
        buffer = _renew(stored, g, 1 - momentum)
        looked_ahead = g + (buffer - g) * momentum if nesterov else buffer
        step = _orthogonal(xp, looked_ahead, (ns_a, ns_b, ns_c), ns_steps, eps)
        rows, columns = param.shape
        ratio = max(1, rows / columns) ** 0.5 if adjust == "original" else 1.0
        if adjust == "match_rms_adamw":
            ratio = 0.2 * max(rows, columns) ** 0.5
        param *= 1 - lr * weight_decay
        param -= step * (lr * ratio)
        narrow(param, array)
    return ()


def _orthogonal(
    xp: Any, g: Any, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Any:
    """Return Newton and Schulz's iteration towards the nearest orthogonal matrix.

    In bfloat16 as the reference does it: every product is rounded, and so is every sum.
    """
    a, b, c = coefficients
    tall = g.shape[0] > g.shape[1]
    x = _rounded(g.T if tall else g)
    x = _rounded(x / max(float(_rounded(xp.linalg.norm(x))), eps))
    for _ in range(steps):
        gram = _rounded(x @ x.T)
        x = _rounded(a * x + _rounded(b * gram + c * (gram @ gram)) @ x)
    return x.T if tall else x


def _rounded(x: Any) -> Any:
    return x.astype(bfloat16.numpy).astype("float32")


declare(
    "farspan::_muon_step_(Tensor(a!)[] self, Tensor[] grads, Tensor(b!)[] momentum_buffers, *,"
    " float lr, float weight_decay, float momentum, bool nesterov, float ns_a, float ns_b,"
    " float ns_c, float eps, int ns_steps, str adjust,"
    " Tensor? rate=None, Tensor? found_inf=None) -> ()",
    "step",
    meta=_muon_meta,
    kernel=_muon_kernel,
)
