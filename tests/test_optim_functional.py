"""The optimizers' steps as functions over lists: torch.optim.adam.adam and its kin."""

import importlib

import pytest
from beside_torch import failure, same

_RATES = {"lr": 0.1, "weight_decay": 0.1}
_BETAS = {"beta1": 0.8, "beta2": 0.9, "eps": 1e-6}
#: By name: how many lists of states there are, and the options that have no default.
FORMS = {
    "adadelta": (2, {**_RATES, "rho": 0.9, "eps": 1e-6, "maximize": False}),
    "adagrad": (1, {**_RATES, "lr_decay": 0.1, "eps": 1e-6, "maximize": True}),
    "adam": (3, {**_RATES, **_BETAS, "amsgrad": True, "maximize": False}),
    "adamw": (3, {**_RATES, **_BETAS, "amsgrad": False, "maximize": False}),
    "adamax": (2, {**_RATES, **_BETAS}),
    "radam": (2, {**_RATES, **_BETAS}),
    "rmsprop": (3, {**_RATES, "alpha": 0.9, "eps": 1e-6, "momentum": 0.5, "centered": True}),
    "rprop": (
        2,
        {"step_size_min": 1e-6, "step_size_max": 2.0, "etaminus": 0.5, "etaplus": 1.2},
    ),
}


def steps(torch, name):
    return getattr(importlib.import_module(f"{torch.__name__}.optim.{name}"), name)


def given(torch):
    params = [torch.arange(6.0).reshape(2, 3), torch.ones(2, dtype=torch.float64)]
    return params, [p.cos() for p in params]


def counts(torch, params):
    return [torch.tensor(0.0) for _ in params]


@pytest.mark.parametrize("name", FORMS)
def test_steps_of_lists(name):
    @same
    def program(torch):
        lists, options = FORMS[name]
        params, grads = given(torch)
        states = [[torch.full_like(p, 0.5) for p in params] for _ in range(lists)]
        seen = counts(torch, params)
        for _ in range(3):
            steps(torch, name)(params, grads, *states, seen, **options)
        kept = states[:2] if name == "adamw" else states
        refused = failure(
            lambda: steps(torch, name)(params, grads, *states, [1, 2], **options), "state_steps"
        )
        return params, kept, seen, refused

    program()


@same
def test_steps_with_states_that_are_numbers(torch):
    params, grads = given(torch)
    first, second = ([torch.zeros_like(p) for p in params] for _ in range(2))
    ones, etas = ([torch.tensor(x) for _ in params] for x in (1.0, 0.1))
    options = {"lambd": 1e-4, "lr": 0.1, "t0": 1.0, "alpha": 0.75, "weight_decay": 0.1}
    nadam = {**_RATES, **_BETAS, "momentum_decay": 0.1}
    seen, begun = counts(torch, params), counts(torch, params)
    products = [torch.tensor(1.0) for _ in params]
    averages = [torch.zeros_like(p) for p in params]
    for _ in range(3):
        steps(torch, "asgd")(params, grads, averages, ones, etas, seen, **options)
        steps(torch, "nadam")(params, grads, first, second, products, begun, **nadam)
    return params, averages, ones, etas, first, second, products, seen


@same
def test_sgd_keeps_its_buffers_in_the_callers_list(torch):
    params, grads = given(torch)
    buffers = [None, None]
    options = {"weight_decay": 0.1, "dampening": 0.5, "nesterov": False, "maximize": True}
    for momentum in (0.9, 0.9, 0.0):
        steps(torch, "sgd")(params, grads, buffers, lr=0.1, momentum=momentum, **options)
    return params, buffers


@same
def test_a_recorded_step_and_a_rate_that_is_a_tensor(torch):
    params, grads = given(torch)
    grads = [g.requires_grad_() for g in grads]
    first, second = ([torch.zeros_like(p) for p in params] for _ in range(2))
    adam = steps(torch, "adam")
    options = {**_BETAS, "weight_decay": 0.0, "amsgrad": False, "maximize": False}
    start = [p.clone() for p in params]
    adam(start, grads, first, second, [], counts(torch, params), differentiable=True, lr=0.1,
         **options)  # fmt: skip
    found = torch.autograd.grad(sum(p.double().sum() for p in start), grads)
    with torch.no_grad():
        first, second = ([torch.zeros_like(p) for p in params] for _ in range(2))
        adam(params, grads, first, second, [], counts(torch, params), lr=torch.tensor(0.2),
             decoupled_weight_decay=True, **options)  # fmt: skip
    return start, found, params
