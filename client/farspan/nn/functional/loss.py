"""Loss functions. Reductions and messages are torch's; see ``_arguments.reduced``."""

from __future__ import annotations

import math
import warnings
from typing import Any

import farspan
from farspan._tensor import Tensor
from farspan.core.call import fn
from farspan.nn.functional._arguments import REDUCTIONS, reduced, reduction_name, sizes
from farspan.nn.functional.distance import pairwise_distance

Flag = bool | None


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
    difference = input - target
    loss = difference * difference
    return _weighted(loss, weight, reduction_name(size_average, reduce, reduction))


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
    loss = (input - target).abs()
    return _weighted(loss, weight, reduction_name(size_average, reduce, reduction))


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
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    distance = (input - target).abs()
    if beta == 0:
        loss = distance
    else:
        near = 0.5 * distance * distance / beta
        loss = farspan.where(distance < beta, near, distance - 0.5 * beta)
    return reduced(loss, reduction_name(size_average, reduce, reduction))


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Return 0.5 d^2 for differences d below ``delta`` and delta (|d| - delta / 2) above."""
    _warn_on_broadcast(input, target)
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")
    distance = (input - target).abs()
    near = 0.5 * distance * distance
    far = delta * (distance - 0.5 * delta)
    loss = farspan.where(distance < delta, near, far)
    if weight is not None:  # torch's "mean" divides by the count here, not by the weights
        loss = loss * weight
    return reduced(loss, reduction_name(None, None, reduction))


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
    reduction = reduction_name(size_average, reduce, reduction)
    classes = _check_class_target("nll_loss", input, target)
    if weight is not None and sizes(weight) != [classes]:
        raise RuntimeError(
            "weight tensor should be defined either for all or no classes, "
            f"but got weight tensor of shape: {sizes(weight)}"
        )
    flat_input, flat_target = input, target
    if input.dim() > 2:
        flat_input = input.movedim(1, -1).reshape(-1, classes)
        flat_target = target.reshape(-1)
    loss = fn.nll_loss_forward(
        flat_input, flat_target, weight, REDUCTIONS[reduction], ignore_index
    )[0]
    return loss.reshape(target.shape) if reduction == "none" else loss


def _check_class_target(name: str, input: Tensor, target: Tensor) -> int:
    """Return the number of classes after checking that ``target`` indexes ``input``."""
    if input.dim() < 1:
        raise RuntimeError("Expected at least one dimension for the input of " + name)
    class_dim = 0 if input.dim() == 1 else 1
    expected = sizes(input)[:class_dim] + sizes(input)[class_dim + 1 :]
    if class_dim and target.dim() and input.shape[0] != target.shape[0]:
        raise ValueError(
            f"Expected input batch_size ({input.shape[0]}) to match target batch_size "
            f"({target.shape[0]})."
        )
    if sizes(target) != expected:
        raise RuntimeError(f"Expected target size {expected}, got {sizes(target)}")
    return input.shape[class_dim]


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
    reduction = reduction_name(size_average, reduce, reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    class_dim = 0 if input.dim() == 1 else 1
    if sizes(input) == sizes(target):
        if not target.is_floating_point():
            raise RuntimeError(
                f"Expected floating point type for target with class probabilities, got "
                f"{target.dtype}"
            )
        if ignore_index >= 0:
            raise RuntimeError("ignore_index is not supported for floating point target")
        return _soft_cross_entropy(input, target, weight, reduction, label_smoothing, class_dim)
    log_probs = input.log_softmax(class_dim)
    loss = nll_loss(log_probs, target, weight, None, ignore_index, None, reduction)
    if label_smoothing == 0.0:
        return loss
    smooth = _smooth_part(log_probs, target, weight, ignore_index, reduction, class_dim)
    share = label_smoothing / input.shape[class_dim]
    return loss * (1 - label_smoothing) + smooth * share


def _along_classes(weight: Tensor, log_probs: Tensor, class_dim: int) -> Tensor:
    return weight.reshape([-1] + [1] * (log_probs.dim() - class_dim - 1))


def _soft_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    label_smoothing: float,
    class_dim: int,
) -> Tensor:
    classes = input.shape[class_dim]
    log_probs = input.log_softmax(class_dim)
    if label_smoothing > 0.0:
        target = target * (1 - label_smoothing) + label_smoothing / classes
    if weight is not None:
        log_probs = log_probs * _along_classes(weight, log_probs, class_dim)
    terms = log_probs * target
    if reduction == "none":
        return -terms.sum(class_dim)
    total = -terms.sum()
    return total / (input.numel() / classes) if reduction == "mean" else total


def _smooth_part(
    log_probs: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    class_dim: int,
) -> Tensor:
    """Return the loss against the uniform distribution, times the number of classes."""
    scaled = log_probs
    if weight is not None:
        scaled = log_probs * _along_classes(weight, log_probs, class_dim)
    ignored = target == ignore_index
    loss = (-scaled.sum(class_dim)).masked_fill(ignored, 0.0)
    if reduction != "mean":
        return reduced(loss, reduction)
    if weight is None:
        return loss.sum() / ignored.logical_not().sum()
    known = target.masked_fill(ignored, 0).reshape(-1)
    weights = weight.index_select(0, known).masked_fill(ignored.reshape(-1), 0.0)
    return loss.sum() / weights.sum()


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
    loss = -(target * _bounded_log(input) + (1 - target) * _bounded_log(1 - input))
    if weight is not None:
        loss = loss * weight
    return reduced(loss, reduction_name(size_average, reduce, reduction))


def _bounded_log(x: Tensor) -> Tensor:
    # log(0) must not enter the graph: its gradient would be 0 * inf.
    zero = x == 0
    return x.masked_fill(zero, 1.0).log().clamp_min(-100.0).masked_fill(zero, -100.0)


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
    # -log(sigmoid(x)) without overflow. Not softplus(-x): that is linear beyond its threshold.
    minus_log = (-input).clamp_min(0) + (-input.abs()).exp().log1p()
    if pos_weight is not None:
        minus_log = minus_log * ((pos_weight - 1) * target + 1)
    loss = (1 - target) * input + minus_log
    if weight is not None:
        loss = loss * weight
    return reduced(loss, reduction_name(size_average, reduce, reduction))


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
    reduction = reduction_name(size_average, reduce, "sum" if batchmean else reduction)
    if log_target:
        loss = target.exp() * (target - input)
    else:
        # 0 log 0 is 0, and so is its gradient.
        loss = target * target.masked_fill(target == 0, 1.0).log() - target * input
    total = reduced(loss, reduction)
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
    reduction = reduction_name(size_average, reduce, reduction)
    loss = input.exp() - target * input if log_input else input - target * (input + eps).log()
    if full:
        stirling = target * target.log() - target + 0.5 * (2 * math.pi * target).log()
        loss = loss + stirling.masked_fill(target <= 1, 0.0)
    return reduced(loss, reduction)


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
    distant = (margin - input).clamp_min(0).masked_fill(target == 1, 0.0)
    close = input.masked_fill(target == -1, 0.0)
    return reduced(distant + close, reduction_name(size_average, reduce, reduction))


def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    """Return log(1 + exp(-target * input)), reduced."""
    loss = (-target * input).exp().log1p()
    return reduced(loss, reduction_name(size_average, reduce, reduction))


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
    loss = (-target * (input1 - input2) + margin).clamp_min(0)
    return reduced(loss, reduction_name(size_average, reduce, reduction))


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
    eps = 1e-12  # ATen adds it to the squared norms
    product = (input1 * input2).sum(-1)
    norms = ((input1 * input1).sum(-1) + eps) * ((input2 * input2).sum(-1) + eps)
    cosine = product / norms.sqrt()
    close = (1 - cosine).masked_fill(target != 1, 0.0)
    distant = (cosine - margin).clamp_min(0).masked_fill(target != -1, 0.0)
    return reduced(close + distant, reduction_name(size_average, reduce, reduction))


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
    near = pairwise_distance(anchor, positive, p, eps)
    far = pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = farspan.minimum(far, pairwise_distance(positive, negative, p, eps))
    loss = (margin + near - far).clamp_min(0)
    return reduced(loss, reduction_name(size_average, reduce, reduction))


def _weighted(loss: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    """Return the weighted mean, sum or elements of ``loss``."""
    if weight is None:
        return reduced(loss, reduction)
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
