"""The optimizers' steps as functions over lists of tensors, as ``torch.optim.adam.adam`` is one.

Each takes parameters, gradients and states that the caller keeps, and writes to all but the
gradients: one operator for each device and dtype, like a step of the class. Nothing waits, unless
an option is a tensor. foreach, fused, capturable and has_complex change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import farspan
from farspan._tensor import Tensor
from farspan.core.call import fn
from farspan.core.ops.steps import RULES
from farspan.optim.optimizer import as_float, record_step

__all__ = [
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "asgd",
    "nadam",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
]

Tensors = list[Tensor]
Number = float | Tensor


def adadelta(
    params: Tensors,
    grads: Tensors,
    square_avgs: Tensors,
    acc_deltas: Tensors,
    state_steps: Tensors,
    capturable: bool = False,
    foreach: bool | None = None,
    differentiable: bool = False,
    has_complex: bool = False,
    *,
    lr: Number,
    rho: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
) -> None:
    """Take a step of Adadelta (Zeiler, 2012)."""
    _step(
        "adadelta",
        params,
        grads,
        [square_avgs, acc_deltas, state_steps],
        lr=lr,
        differentiable=differentiable,
        rho=rho,
        eps=eps,
        weight_decay=weight_decay,
        maximize=maximize,
    )


def adagrad(
    params: Tensors,
    grads: Tensors,
    state_sums: Tensors,
    state_steps: Tensors,
    fused: bool | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    has_sparse_grad: bool = False,
    foreach: bool | None = None,
    differentiable: bool = False,
    has_complex: bool = False,
    *,
    lr: Number,
    weight_decay: float,
    lr_decay: float,
    eps: float,
    maximize: bool,
) -> None:
    """Take a step of Adagrad (Duchi, Hazan and Singer, 2011)."""
    _step(
        "adagrad",
        params,
        grads,
        [state_sums, state_steps],
        lr=lr,
        scale=grad_scale,
        found_inf=found_inf,
        differentiable=differentiable,
        lr_decay=lr_decay,
        eps=eps,
        weight_decay=weight_decay,
        maximize=maximize,
    )


def adam(
    params: Tensors,
    grads: Tensors,
    exp_avgs: Tensors,
    exp_avg_sqs: Tensors,
    max_exp_avg_sqs: Tensors,
    state_steps: Tensors,
    foreach: bool | None = None,
    capturable: bool = False,
    differentiable: bool = False,
    fused: bool | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    has_complex: bool = False,
    decoupled_weight_decay: bool = False,
    *,
    amsgrad: bool,
    beta1: Number,
    beta2: Number,
    lr: Number,
    weight_decay: float,
    eps: float,
    maximize: bool,
) -> None:
    """Take a step of Adam (Kingma and Ba, 2015)."""
    _step(
        "adam",
        params,
        grads,
        [exp_avgs, exp_avg_sqs, max_exp_avg_sqs if amsgrad else [], state_steps],
        lr=lr,
        scale=grad_scale,
        found_inf=found_inf,
        differentiable=differentiable,
        beta1=beta1,
        beta2=beta2,
        weight_decay=weight_decay,
        eps=eps,
        amsgrad=amsgrad,
        maximize=maximize,
        decoupled=decoupled_weight_decay,
    )


def adamw(
    params: Tensors,
    grads: Tensors,
    exp_avgs: Tensors,
    exp_avg_sqs: Tensors,
    max_exp_avg_sqs: Tensors,
    state_steps: Tensors,
    foreach: bool | None = None,
    capturable: bool = False,
    differentiable: bool = False,
    fused: bool | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    has_complex: bool = False,
    *,
    amsgrad: bool,
    beta1: Number,
    beta2: Number,
    lr: Number,
    weight_decay: float,
    eps: float,
    maximize: bool,
) -> None:
    """Take a step of AdamW (Loshchilov and Hutter, 2019): Adam with decoupled weight decay."""
    adam(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        max_exp_avg_sqs,
        state_steps,
        differentiable=differentiable,
        grad_scale=grad_scale,
        found_inf=found_inf,
        decoupled_weight_decay=True,
        amsgrad=amsgrad,
        beta1=beta1,
        beta2=beta2,
        lr=lr,
        weight_decay=weight_decay,
        eps=eps,
        maximize=maximize,
    )


def adamax(
    params: Tensors,
    grads: Tensors,
    exp_avgs: Tensors,
    exp_infs: Tensors,
    state_steps: Tensors,
    foreach: bool | None = None,
    maximize: bool = False,
    differentiable: bool = False,
    capturable: bool = False,
    has_complex: bool = False,
    *,
    eps: float,
    beta1: Number,
    beta2: Number,
    lr: Number,
    weight_decay: float,
) -> None:
    """Take a step of Adamax (Kingma and Ba, 2015, section 7.1)."""
    _step(
        "adamax",
        params,
        grads,
        [exp_avgs, exp_infs, state_steps],
        lr=lr,
        differentiable=differentiable,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        weight_decay=weight_decay,
        maximize=maximize,
    )


def asgd(
    params: Tensors,
    grads: Tensors,
    axs: Tensors,
    mus: Tensors,
    etas: Tensors,
    state_steps: Tensors,
    foreach: bool | None = None,
    maximize: bool = False,
    differentiable: bool = False,
    capturable: bool = False,
    has_complex: bool = False,
    *,
    lambd: float,
    lr: Number,
    t0: float,
    alpha: float,
    weight_decay: float,
) -> None:
    """Take a step of ASGD (Polyak and Juditsky, 1992)."""
    _step(
        "asgd",
        params,
        grads,
        [axs, etas, mus, state_steps],
        lr=lr,
        differentiable=differentiable,
        lambd=lambd,
        alpha=alpha,
        t0=t0,
        weight_decay=weight_decay,
        maximize=maximize,
    )


def nadam(
    params: Tensors,
    grads: Tensors,
    exp_avgs: Tensors,
    exp_avg_sqs: Tensors,
    mu_products: Tensors,
    state_steps: Tensors,
    decoupled_weight_decay: bool = False,
    foreach: bool | None = None,
    capturable: bool = False,
    differentiable: bool = False,
    has_complex: bool = False,
    maximize: bool = False,
    *,
    beta1: Number,
    beta2: Number,
    lr: Number,
    weight_decay: float,
    momentum_decay: float,
    eps: float,
) -> None:
    """Take a step of NAdam (Dozat, 2016)."""
    _step(
        "nadam",
        params,
        grads,
        [exp_avgs, exp_avg_sqs, mu_products, state_steps],
        lr=lr,
        differentiable=differentiable,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        weight_decay=weight_decay,
        momentum_decay=momentum_decay,
        maximize=maximize,
        decoupled=decoupled_weight_decay,
    )


def radam(
    params: Tensors,
    grads: Tensors,
    exp_avgs: Tensors,
    exp_avg_sqs: Tensors,
    state_steps: Tensors,
    decoupled_weight_decay: bool = False,
    foreach: bool | None = None,
    differentiable: bool = False,
    capturable: bool = False,
    has_complex: bool = False,
    maximize: bool = False,
    *,
    beta1: Number,
    beta2: Number,
    lr: Number,
    weight_decay: float,
    eps: float,
) -> None:
    """Take a step of RAdam (Liu et al., 2020)."""
    _step(
        "radam",
        params,
        grads,
        [exp_avgs, exp_avg_sqs, state_steps],
        lr=lr,
        differentiable=differentiable,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        weight_decay=weight_decay,
        maximize=maximize,
        decoupled=decoupled_weight_decay,
    )


def rmsprop(
    params: Tensors,
    grads: Tensors,
    square_avgs: Tensors,
    grad_avgs: Tensors,
    momentum_buffer_list: Tensors,
    state_steps: Tensors,
    foreach: bool | None = None,
    maximize: bool = False,
    differentiable: bool = False,
    capturable: bool = False,
    has_complex: bool = False,
    *,
    lr: Number,
    alpha: float,
    eps: float,
    weight_decay: float,
    momentum: float,
    centered: bool,
) -> None:
    """Take a step of RMSprop (Hinton, lecture 6e)."""
    _step(
        "rmsprop",
        params,
        grads,
        [
            square_avgs,
            momentum_buffer_list if momentum else [],
            grad_avgs if centered else [],
            state_steps,
        ],
        lr=lr,
        differentiable=differentiable,
        alpha=alpha,
        eps=eps,
        weight_decay=weight_decay,
        momentum=momentum,
        centered=centered,
        maximize=maximize,
    )


def rprop(
    params: Tensors,
    grads: Tensors,
    prevs: Tensors,
    step_sizes: Tensors,
    state_steps: Tensors,
    foreach: bool | None = None,
    capturable: bool = False,
    maximize: bool = False,
    differentiable: bool = False,
    has_complex: bool = False,
    *,
    step_size_min: float,
    step_size_max: float,
    etaminus: float,
    etaplus: float,
) -> None:
    """Take a step of Rprop (Riedmiller and Braun, 1993)."""
    _step(
        "rprop",
        params,
        grads,
        [prevs, step_sizes, state_steps],
        differentiable=differentiable,
        etaminus=etaminus,
        etaplus=etaplus,
        step_size_min=step_size_min,
        step_size_max=step_size_max,
        maximize=maximize,
    )


def sgd(
    params: Tensors,
    d_p_list: Tensors,
    momentum_buffer_list: list[Tensor | None],
    has_sparse_grad: bool = False,
    foreach: bool | None = None,
    fused: bool | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    *,
    weight_decay: Number,
    momentum: float,
    lr: Number,
    dampening: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    """Take a step of SGD; buffers that are None begin with this step, in the caller's list."""
    grads = d_p_list
    if grad_scale is not None:
        grads = [grad / grad_scale.to(grad.dtype) for grad in grads]
    new = [momentum != 0 and buffer is None for buffer in momentum_buffer_list]
    for at in _places(params, *[new] if momentum else []):
        for i in at if momentum else ():
            if new[i]:
                momentum_buffer_list[i] = farspan.zeros_like(params[i], requires_grad=False)
        fn._sgd_step_(
            [params[i] for i in at],
            [grads[i] for i in at],
            [momentum_buffer_list[i] for i in at] if momentum else [],
            **_rates(lr, found_inf),
            momentum=momentum,
            dampening=dampening,
            weight_decay=as_float(weight_decay),
            nesterov=nesterov,
            maximize=maximize,
            first=bool(momentum) and new[at[0]],
        )


def _step(
    rule: str,
    params: Tensors,
    grads: Tensors,
    states: Sequence[Tensors],
    *,
    lr: Number = 0.0,
    scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    differentiable: bool = False,
    **options: Any,
) -> None:
    """Step all parameters by one of the RULES.

    states: lists in the rule's order, the counts of steps last; empty where there is no such state.
    RuntimeError: the counts are not tensors.
    """
    if not all(isinstance(step, Tensor) for step in states[-1]):
        raise RuntimeError(
            "API has changed, `state_steps` argument must contain a list of singleton tensors"
        )
    if scale is not None:
        grads = [grad / scale.to(grad.dtype) for grad in grads]
    options = {k: v if isinstance(v, bool) else as_float(v) for k, v in options.items()}
    if differentiable:
        names = (*RULES[rule].states, *RULES[rule].scalars, "step")
        for i, param in enumerate(params):
            state = {name: kept[i] for name, kept in zip(names, states, strict=True) if kept}
            record_step(rule, param, grads[i], state, {"lr": lr, **options})
        return
    step = getattr(fn, f"_{rule}_step_")
    for at in _places(params):
        lists = [[kept[i] for i in at] if kept else [] for kept in (params, grads, *states)]
        step(*lists, **_rates(lr, found_inf), **options)


def _rates(lr: Number, found_inf: Tensor | None) -> dict[str, Any]:
    read = isinstance(lr, Tensor)
    rate = lr.detach().reshape(()) if isinstance(lr, Tensor) else None
    return {"lr": 0.0 if read else lr, "rate": rate, "found_inf": found_inf}


def _places(params: Tensors, *keys: Sequence[Any]) -> list[list[int]]:
    """Return the places of the parameters that one operator can step together."""
    found: dict[Any, list[int]] = {}
    for i, param in enumerate(params):
        found.setdefault((param.device, param.dtype, *[key[i] for key in keys]), []).append(i)
    return list(found.values())
