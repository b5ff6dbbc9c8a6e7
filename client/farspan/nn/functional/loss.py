"""Loss functions: torch's signatures and checks over the table's operators.

The operators take the reduction as ATen's number and say all that follows from shapes.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import farspan
from farspan._tensor import Tensor
from farspan.core.call import fn
from farspan.nn.functional._arguments import REDUCTIONS, Flag, reduced, reduction_name, sizes


def _number(size_average: Flag, reduce: Flag, reduction: str) -> int:
    """Return ATen's number of a reduction, which torch's two old flags override."""
    return REDUCTIONS[reduction_name(size_average, reduce, reduction)]


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Return the squared differences, reduced."""
    _warn_on_broadcast(input, target)
    reduction = reduction_name(size_average, reduce, reduction)
    if weight is None:
        return fn.mse_loss(input, target, REDUCTIONS[reduction])
    return _weighted(fn.mse_loss(input, target, REDUCTIONS["none"]), weight, reduction)


def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Return the absolute differences, reduced."""
    _warn_on_broadcast(input, target)
    reduction = reduction_name(size_average, reduce, reduction)
    if weight is None:
        return fn.l1_loss(input, target, REDUCTIONS[reduction])
    return _weighted(fn.l1_loss(input, target, REDUCTIONS["none"]), weight, reduction)


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """Return 0.5 d^2 / beta for differences d below ``beta`` and |d| - beta / 2 above."""
    _warn_on_broadcast(input, target)
    return fn.smooth_l1_loss(input, target, _number(size_average, reduce, reduction), beta)


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Return 0.5 d^2 for differences d below ``delta`` and delta (|d| - delta / 2) above."""
    _warn_on_broadcast(input, target)
    reduction = reduction_name(None, None, reduction)
    if weight is None:
        return fn.huber_loss(input, target, REDUCTIONS[reduction], delta)
    # torch's "mean" divides by the count here, not by the weights.
    return reduced(fn.huber_loss(input, target, REDUCTIONS["none"], delta) * weight, reduction)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Flag = None,
    ignore_index: int = -100,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    """Return minus the log-probability of the target class; input (N, C, ...) or (C,).

    "mean" divides by the summed weights of the targets that are not ``ignore_index``.
    """
    number = _number(size_average, reduce, reduction)
    return fn.nll_loss_nd(input, target, weight, number, ignore_index)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Flag = None,
    ignore_index: int = -100,
    reduce: Flag = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross entropy of logits ``input`` (N, C, ...) with classes or probabilities.

    A target of the input's own shape is read as class probabilities, else as class indices.
    """
    number = _number(size_average, reduce, reduction)
    return fn.cross_entropy_loss(input, target, weight, number, ignore_index, label_smoothing)


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the loss of probabilities ``input``; each logarithm is at least -100, as in torch."""
    if sizes(target) != sizes(input):
        raise ValueError(
            f"Using a target size ({target.shape}) that is different to the input size "
            f"({input.shape}) is deprecated. Please ensure they have the same size."
        )
    number = _number(size_average, reduce, reduction)
    if weight is not None:
        weight = weight.expand(target.shape)
    return fn.binary_cross_entropy(input, target, weight, number)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Return the binary cross entropy of sigmoid(input), computed without overflow."""
    if sizes(target) != sizes(input):
        raise ValueError(
            f"Target size ({target.shape}) must be the same as input size ({input.shape})"
        )
    number = _number(size_average, reduce, reduction)
    return fn.binary_cross_entropy_with_logits(input, target, weight, pos_weight, number)


def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """Return target * (log target - input), reduced; "batchmean" divides by the batch size."""
    if reduction == "mean" and size_average is None and reduce is None:
        warnings.warn(
            "reduction: 'mean' divides the total loss by both the batch size and the support "
            "size.'batchmean' divides only by the batch size, and aligns with the KL div math "
            "definition.'mean' will be changed to behave the same as 'batchmean' in the next "
            "major release.",
            stacklevel=2,
        )
    batchmean = reduction == "batchmean"
    number = _number(size_average, reduce, "sum" if batchmean else reduction)
    total = fn.kl_div(input, target, number, log_target=log_target)
    return total / input.shape[0] if batchmean and input.dim() else total


def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    size_average: Flag = None,
    eps: float = 1e-8,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the negative log likelihood of counts ``target`` at rate ``input``, reduced."""
    number = _number(size_average, reduce, reduction)
    return fn.poisson_nll_loss(input, target, log_input, full, eps, number)


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """Return the negative log likelihood of ``target`` under N(input, var). Waits to check var."""
    if isinstance(var, float):
        if var < 0:
            raise ValueError("var has negative entry/entries")
        var = farspan.full_like(input, var)
    elif bool((var < 0).any()):
        raise ValueError("var has negative entry/entries")
    if sizes(var) != sizes(input):
        if sizes(input)[:-1] == sizes(var):
            var = var.unsqueeze(-1)
        elif input.dim() != var.dim() or [
            have for want, have in zip(input.shape, var.shape, strict=True) if want != have
        ] != [1]:
            raise ValueError("var is of incorrect size")
    if reduction not in REDUCTIONS:
        raise ValueError(f"{reduction} is not valid")
    # The bound acts on the value only: the gradient still reaches a var below eps.
    var = var + (var.detach().clamp_min(eps) - var.detach())
    loss = 0.5 * (var.log() + (input - target) ** 2 / var)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return reduced(loss, reduction)


def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    """Return ``input`` where target is 1 and max(0, margin - input) where it is -1."""
    number = _number(size_average, reduce, reduction)
    return fn.hinge_embedding_loss(input, target, margin, number)


def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    """Return log(1 + exp(-target * input)), reduced."""
    return fn.soft_margin_loss(input, target, _number(size_average, reduce, reduction))


def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    """Return max(0, -target * (input1 - input2) + margin), reduced."""
    if not input1.dim() == input2.dim() == target.dim():
        raise RuntimeError(
            f"margin_ranking_loss : All input tensors should have same dimension but got sizes: "
            f"input1: {input1.shape}, input2: {input2.shape}, target: {target.shape} "
        )
    number = _number(size_average, reduce, reduction)
    return fn.margin_ranking_loss(input1, input2, target, margin, number)


def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    """Return 1 - cos where target is 1 and max(0, cos - margin) where it is -1."""
    number = _number(size_average, reduce, reduction)
    return fn.cosine_embedding_loss(input1, input2, target, margin, number)


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    """Return max(0, d(anchor, positive) - d(anchor, negative) + margin), reduced."""
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    number = _number(size_average, reduce, reduction)
    return fn.triplet_margin_loss(anchor, positive, negative, margin, p, eps, swap, number)


def _weighted(loss: Tensor, weight: Tensor, reduction: str) -> Tensor:
    """Return the weighted mean, sum or elements of ``loss``."""
    if sizes(weight) != sizes(loss):
        raise ValueError("Weights and input must have the same size.")
    if reduction == "mean":
        return (loss * weight).sum() / weight.sum()
    return reduced(loss * weight, reduction)


def _warn_on_broadcast(input: Any, target: Any) -> None:
    if sizes(target) != sizes(input):
        warnings.warn(
            f"Using a target size ({target.shape}) that is different to the input size "
            f"({input.shape}). This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=3,
        )
