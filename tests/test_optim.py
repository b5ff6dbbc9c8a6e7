"""Optimizers and schedulers: every step and every rate equals torch's."""

from __future__ import annotations

from typing import Any

import farspan as ft
import pytest
import torch
from parity import assert_same, error_of, randn, seeded, to_ft, to_torch

OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "sgd dampening": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    "sgd nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "sgd maximize": ("SGD", {"lr": 0.1, "weight_decay": 0.1, "maximize": True}),
    "adam": ("Adam", {"lr": 0.01}),
    "adam decay": ("Adam", {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    "adam amsgrad": ("Adam", {"lr": 0.01, "amsgrad": True, "maximize": True}),
    "adamw": ("AdamW", {"lr": 0.01}),
    "adamw amsgrad": ("AdamW", {"lr": 0.01, "amsgrad": True, "weight_decay": 0.3}),
}


def _net(t: Any) -> Any:
    return t.nn.Sequential(t.nn.Linear(4, 8), t.nn.Tanh(), t.nn.Linear(8, 2))


def _train(api: Any, module: Any, optimizer: Any, steps: int, seed: int = 0) -> None:
    for i in range(steps):
        x, y = randn(5, 4, seed=seed + i), randn(5, 2, seed=seed + 100 + i)
        if api is ft:
            x, y = to_ft([x, y])
        optimizer.zero_grad()
        api.nn.functional.mse_loss(module(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_equals_torch(name: str) -> None:
    cls, options = OPTIMIZERS[name]
    pairs = []
    for api, module in zip((ft, torch), seeded(_net), strict=True):
        optimizer = getattr(api.optim, cls)(module.parameters(), **options)
        _train(api, module, optimizer, 4)
        pairs.append((module, optimizer))
    (mine, my_optimizer), (theirs, their_optimizer) = pairs
    assert repr(my_optimizer) == repr(their_optimizer)
    assert_same(mine.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-6)
    assert_same(my_optimizer.state_dict(), their_optimizer.state_dict(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd nesterov", "adam amsgrad", "adamw"])
def test_state_dict_travels_both_ways(name: str) -> None:
    cls, options = OPTIMIZERS[name]
    ft_net, torch_net = seeded(_net)
    ft_optimizer = getattr(ft.optim, cls)(ft_net.parameters(), **options)
    torch_optimizer = getattr(torch.optim, cls)(torch_net.parameters(), lr=1.0)
    _train(ft, ft_net, ft_optimizer, 3)
    torch_net.load_state_dict(to_torch(ft_net.state_dict()))
    torch_optimizer.load_state_dict(to_torch(ft_optimizer.state_dict()))
    _train(torch, torch_net, torch_optimizer, 2, seed=50)

    resumed, _ = seeded(_net, seed=1)
    resumed.load_state_dict(ft_net.state_dict())
    resumed_optimizer = getattr(ft.optim, cls)(resumed.parameters(), lr=1.0)
    # The state of a running optimizer is shared, not copied, as in torch: hand over a copy.
    resumed_optimizer.load_state_dict(to_ft(to_torch(ft_optimizer.state_dict())))
    _train(ft, resumed, resumed_optimizer, 2, seed=50)
    assert_same(resumed.state_dict(), torch_net.state_dict(), rtol=1e-5, atol=1e-6)

    ft_optimizer.load_state_dict(to_ft(torch_optimizer.state_dict()))
    assert_same(ft_optimizer.state_dict(), torch_optimizer.state_dict())


def test_groups_have_options_of_their_own() -> None:
    results = []
    for api, module in zip((ft, torch), seeded(_net), strict=True):
        optimizer = api.optim.SGD(
            [{"params": module[0].parameters()}, {"params": [module[2].weight], "lr": 0.5}],
            lr=0.1,
            momentum=0.5,
        )
        optimizer.add_param_group({"params": module[2].bias, "weight_decay": 0.1})
        _train(api, module, optimizer, 3)
        results.append([repr(optimizer), module.state_dict()])
    assert_same(results[0], results[1])


def test_parameters_without_gradient_stay_as_they_are() -> None:
    a, b = (ft.nn.Parameter(ft.ones(2)) for _ in range(2))
    optimizer = ft.optim.Adam([a, b])
    a.sum().backward()
    optimizer.step()
    assert b.tolist() == [1, 1] and b not in optimizer.state
    assert optimizer.state_dict()["state"].keys() == {0}


def test_late_parameter_takes_an_undamped_first_step() -> None:
    results = []
    for api in (ft, torch):
        a, b = (api.nn.Parameter(api.ones(2)) for _ in range(2))
        optimizer = api.optim.SGD([a, b], lr=0.1, momentum=0.9, dampening=0.5)
        a.sum().backward()
        optimizer.step()
        (a.sum() + b.sum()).backward()
        optimizer.step()
        results.append([a, b])
    assert_same(results[0], results[1])


def test_closure_hooks_and_zero_grad() -> None:
    param = ft.nn.Parameter(ft.ones(1))
    optimizer = ft.optim.SGD([param], lr=0.5)
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda opt, args, kwargs: calls.append("before"))
    handle = optimizer.register_step_post_hook(lambda opt, args, kwargs: calls.append("after"))

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (param * 2).sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == 2.0
    assert param.tolist() == [0.0] and calls == ["before", "after"]
    handle.remove()
    optimizer.step()
    assert calls == ["before", "after", "before"]
    optimizer.zero_grad(set_to_none=False)
    assert param.grad.tolist() == [0.0]
    optimizer.zero_grad()
    assert param.grad is None


# Each is refused by torch; class and message must be the same.
WRONG: dict[str, Any] = {
    "tensor": lambda t: t.optim.SGD(t.zeros(3, requires_grad=True)),
    "empty": lambda t: t.optim.Adam([]),
    "number": lambda t: t.optim.SGD([3]),
    "non-leaf": lambda t: t.optim.SGD([t.zeros(2, requires_grad=True) * 2]),
    "set": lambda t: t.optim.SGD([{"params": {1, 2}}]),
    "twice": lambda t: _twice(t),
    "group": lambda t: t.optim.SGD([t.zeros(1)]).add_param_group([1]),
    "names": lambda t: t.optim.SGD([("a", t.zeros(1)), t.zeros(1)]),
    "lr": lambda t: t.optim.SGD([t.zeros(1)], lr=-1.0),
    "momentum": lambda t: t.optim.SGD([t.zeros(1)], momentum=-1.0),
    "nesterov": lambda t: t.optim.SGD([t.zeros(1)], nesterov=True),
    "beta": lambda t: t.optim.Adam([t.zeros(1)], betas=(1.5, 0.9)),
    "eps": lambda t: t.optim.AdamW([t.zeros(1)], eps=-1.0),
    "decay": lambda t: t.optim.AdamW([t.zeros(1)], weight_decay=-1.0),
    "load groups": lambda t: t.optim.SGD([t.zeros(1)]).load_state_dict(
        {"state": {}, "param_groups": []}
    ),
    "load size": lambda t: t.optim.SGD([t.zeros(1)]).load_state_dict(
        {"state": {}, "param_groups": [{"params": [0, 1]}]}
    ),
    "scheduler": lambda t: t.optim.lr_scheduler.StepLR(3, 1),
    "one cycle": lambda t: t.optim.lr_scheduler.OneCycleLR(t.optim.SGD([t.zeros(1)]), 0.1),
}


def _twice(t: Any) -> None:
    param = t.zeros(1)
    t.optim.SGD([{"params": [param]}, {"params": [param]}])


@pytest.mark.parametrize("name", WRONG)
def test_wrong_call_is_refused_as_in_torch(name: str) -> None:
    mine, theirs = error_of(lambda: WRONG[name](ft)), error_of(lambda: WRONG[name](torch))
    assert isinstance(mine, type(theirs))
    # torch names a tensor by its old type name; ours has none.
    expected = str(theirs).removesuffix("torch.FloatTensor")
    assert str(mine).startswith(expected)


def test_named_parameters_are_kept() -> None:
    module = ft.nn.Linear(2, 2)
    optimizer = ft.optim.SGD(module.named_parameters(), lr=0.1)
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


def test_own_optimizer_by_subclassing_step() -> None:
    class Halve(ft.optim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {"lr": 1.0})

        def step(self, closure: Any = None) -> None:
            with ft.no_grad():
                for group in self.param_groups:
                    for param in group["params"]:
                        param.mul_(0.5)

    param = ft.nn.Parameter(ft.ones(1))
    optimizer = Halve([param])
    seen: list[int] = []
    optimizer.register_step_post_hook(lambda *args: seen.append(1))
    optimizer.step()
    assert param.tolist() == [0.5] and seen == [1]


SCHEDULERS: dict[str, Any] = {
    "StepLR": lambda s, o: s.StepLR(o, 3, gamma=0.3),
    "MultiStepLR": lambda s, o: s.MultiStepLR(o, [2, 5, 5, 9]),
    "ConstantLR": lambda s, o: s.ConstantLR(o, 0.5, total_iters=4),
    "LinearLR": lambda s, o: s.LinearLR(o, 0.2, total_iters=6),
    "ExponentialLR": lambda s, o: s.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda s, o: s.PolynomialLR(o, total_iters=8, power=2.0),
    "CosineAnnealingLR": lambda s, o: s.CosineAnnealingLR(o, 5, eta_min=0.01),
    "CosineAnnealingWarmRestarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 3, 2, 0.01),
    "LambdaLR": lambda s, o: s.LambdaLR(o, lambda epoch: 0.95**epoch),
    "MultiplicativeLR": lambda s, o: s.MultiplicativeLR(o, lambda epoch: 0.9 + epoch / 100),
    "OneCycleLR": lambda s, o: s.OneCycleLR(o, 0.5, total_steps=20),
    "OneCycleLR linear": lambda s, o: s.OneCycleLR(
        o, 0.5, epochs=4, steps_per_epoch=5, anneal_strategy="linear", three_phase=True
    ),
    "SequentialLR": lambda s, o: s.SequentialLR(
        o,
        [s.LinearLR(o, 0.1, total_iters=4), s.CosineAnnealingLR(o, 6), s.StepLR(o, 2)],
        [4, 10],
    ),
    "ChainedScheduler": lambda s, o: s.ChainedScheduler(
        [s.ConstantLR(o, 0.1, total_iters=3), s.ExponentialLR(o, 0.9)]
    ),
}


@pytest.mark.parametrize("optimizer_class", ["SGD", "Adam"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_scheduler_sets_torchs_rates_to_the_last_bit(name: str, optimizer_class: str) -> None:
    histories = []
    for api in (ft, torch):
        params = [api.nn.Parameter(api.zeros(1)) for _ in range(2)]
        groups = [{"params": [params[0]]}, {"params": [params[1]], "lr": 0.3}]
        options = {"momentum": 0.9} if optimizer_class == "SGD" else {}
        optimizer = getattr(api.optim, optimizer_class)(groups, lr=0.1, **options)
        scheduler = SCHEDULERS[name](api.optim.lr_scheduler, optimizer)
        history = []
        for _ in range(18):
            momenta = [g.get("momentum", g.get("betas")) for g in optimizer.param_groups]
            history.append((scheduler.get_last_lr(), momenta))
            optimizer.step()
            scheduler.step()
        histories.append(history)
    assert histories[0] == histories[1]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_scheduler_resumes_from_its_state(name: str) -> None:
    def build() -> tuple[Any, Any]:
        optimizer = ft.optim.SGD([ft.nn.Parameter(ft.zeros(1))], lr=0.1, momentum=0.9)
        return optimizer, SCHEDULERS[name](ft.optim.lr_scheduler, optimizer)

    optimizer, scheduler = build()
    for _ in range(7):
        optimizer.step()
        scheduler.step()
    other_optimizer, other = build()
    other_optimizer.load_state_dict(optimizer.state_dict())
    other.load_state_dict(scheduler.state_dict())
    for _ in range(5):
        for each, rates in ((optimizer, scheduler), (other_optimizer, other)):
            each.step()
            rates.step()
        assert other.get_last_lr() == scheduler.get_last_lr()


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 1},
        {"mode": "max", "patience": 0, "cooldown": 2},
        {"threshold_mode": "abs", "patience": 2},
    ],
    ids=str,
)
def test_reduce_on_plateau_equals_torch(options: dict[str, Any]) -> None:
    metrics = [1.0, 0.9, 0.95, 0.96, 0.97, 0.5, 0.5, 0.5, 0.6, 0.7, 0.4, 0.4, 0.4, 0.4]
    histories = []
    for api in (ft, torch):
        optimizer = api.optim.SGD([api.nn.Parameter(api.zeros(1))], lr=0.1)
        scheduler = api.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, **options)
        rates = []
        for metric in metrics:
            scheduler.step(metric)
            rates += scheduler.get_last_lr()
        histories.append(rates)
    assert histories[0] == histories[1]


def test_scheduler_before_optimizer_warns() -> None:
    optimizer = ft.optim.SGD([ft.nn.Parameter(ft.zeros(1))], lr=0.1)
    scheduler = ft.optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.warns(UserWarning, match=r"`lr_scheduler.step\(\)` before `optimizer.step\(\)`"):
        scheduler.step()
