"""Schedulers and averaged models: rates to the last bit, both state dicts, warnings."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import farspan
import numpy as np
import torch
from beside_torch import failure, same

SCHEDULERS: dict[str, Any] = {
    "cyclic": lambda s, o: s.CyclicLR(o, 0.01, 0.2, step_size_up=3, step_size_down=5),
    "cyclic2": lambda s, o: s.CyclicLR(o, [0.01, 0.02], [0.2, 0.3], 4, mode="triangular2"),
    "cyclic exp": lambda s, o: s.CyclicLR(o, 0.01, 0.2, 4, mode="exp_range", gamma=0.9,
                                          cycle_momentum=False),
    "cyclic own": lambda s, o: s.CyclicLR(o, 0.01, 0.2, 4, scale_fn=lambda x: 1 / x,
                                          scale_mode="cycle", max_momentum=0.7),
    "one cycle": lambda s, o: s.OneCycleLR(o, [0.5, 0.2], total_steps=16, max_momentum=[0.9, 0.8]),
    "step": lambda s, o: s.StepLR(o, 3),
    "multi step": lambda s, o: s.MultiStepLR(o, [2, 2, 7]),
    "constant": lambda s, o: s.ConstantLR(o, 0.5, 4),
    "linear": lambda s, o: s.LinearLR(o),
    "exponential": lambda s, o: s.ExponentialLR(o, 0.8),
    "polynomial": lambda s, o: s.PolynomialLR(o, 9, 1.5),
    "cosine": lambda s, o: s.CosineAnnealingLR(o, 4, 0.01),
    "restarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 3, 2),
    "lambda": lambda s, o: s.LambdaLR(o, [lambda e: 0.9**e, lambda e: 1 / (e + 1)]),
    "multiplicative": lambda s, o: s.MultiplicativeLR(o, lambda e: 0.95),
    "chained": lambda s, o: s.ChainedScheduler(
        [s.ConstantLR(o, 0.1, 3), s.ExponentialLR(o, 0.9)], o),
    "sequential": lambda s, o: s.SequentialLR(
        o, [s.ConstantLR(o, 0.1, 3), s.ExponentialLR(o, 0.9), s.LinearLR(o)], [3, 7]),
    "swa": lambda s, o: _swa(s).SWALR(o, [0.05, 0.01], anneal_epochs=5),
    "swa linear": lambda s, o: _swa(s).SWALR(o, 0.05, anneal_epochs=0, anneal_strategy="linear"),
}  # fmt: skip


def _swa(schedulers: Any) -> Any:
    package = schedulers.__name__.partition(".")[0]
    return importlib.import_module(f"{package}.optim.swa_utils")


def two_groups(t: Any, as_tensor: bool = False) -> Any:
    params = [t.nn.Parameter(t.ones(1)) for _ in range(2)]
    rates = [0.1, 0.3]
    if as_tensor:
        rates = [t.tensor(r, dtype=t.float64) for r in rates]
    groups = [{"params": [p], "lr": r} for p, r in zip(params, rates, strict=True)]
    return t.optim.SGD(groups, momentum=0.9)


@same(rtol=0, atol=0)
def test_rates_and_states(torch):
    found = []
    for name, make in SCHEDULERS.items():
        optimizer = two_groups(torch)
        scheduler = make(torch.optim.lr_scheduler, optimizer)
        for _ in range(12):
            optimizer.step()
            scheduler.step()
            found.append([name, scheduler.get_last_lr(), getattr(scheduler, "last_epoch", None)])
            found.append([g["momentum"] for g in optimizer.param_groups])
        state = scheduler.state_dict()
        ours = ("anneal_func", "_wrapped_by_lr_sched", "_anneal_strategy")
        found.append(sorted(k for k in state if k not in ours))
        found += [state.get("base_lrs"), state.get("_step_count"), state.get("_last_lr")]
    return found


@same(rtol=1e-12, atol=0)
def test_rates_that_are_tensors_stay_tensors(torch):
    found = []
    for name in ("step", "cosine", "one cycle", "linear", "cyclic", "sequential", "exponential"):
        optimizer = two_groups(torch, as_tensor=True)
        mine = [g["lr"] for g in optimizer.param_groups]
        scheduler = SCHEDULERS[name](torch.optim.lr_scheduler, optimizer)
        for _ in range(6):
            optimizer.step()
            scheduler.step()
        found += [name, scheduler.get_last_lr()]
        found.append([g["lr"] is m for g, m in zip(optimizer.param_groups, mine, strict=True)])
    return found


def test_states_go_both_ways() -> None:
    for name, make in SCHEDULERS.items():
        if name == "cyclic own":
            continue
        for source, target in ((torch, farspan), (farspan, torch)):
            pairs = []
            for t in (source, target):
                optimizer = two_groups(t)
                pairs.append((optimizer, make(t.optim.lr_scheduler, optimizer)))
            (first, scheduler), (second, resumed) = pairs
            for _ in range(5):
                first.step()
                scheduler.step()
            resumed.load_state_dict(scheduler.state_dict())
            for mine, theirs in zip(second.param_groups, first.param_groups, strict=True):
                mine.update({k: v for k, v in theirs.items() if k != "params"})
            for _ in range(5):
                for o, s in ((first, scheduler), (second, resumed)):
                    o.step()
                    s.step()
                assert resumed.get_last_lr() == scheduler.get_last_lr(), name


@same
def test_plateau_on_more_groups(torch):
    optimizer = two_groups(torch)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
    scheduler = plateau(optimizer, patience=0, min_lr=0.01, mode="max", threshold_mode="abs")
    optimizer.add_param_group({"params": [torch.ones(1)], "lr": 1.0})
    for metric in (1.0, 0.5, torch.tensor(0.2)):
        scheduler.step(metric)
    state = scheduler.state_dict()
    again = plateau(optimizer)
    again.load_state_dict(state)
    fixed = plateau(two_groups(torch), patience=0, min_lr=[0.1, 0.2])
    fixed.optimizer.add_param_group({"params": [torch.ones(1)]})
    fixed.step(1.0)
    return [[g["lr"] for g in optimizer.param_groups], sorted(state), again.best, again.in_cooldown,
            failure(lambda: fixed.step(2.0), "number of param groups"),
            failure(lambda: plateau(optimizer, min_lr=[0.1]), "expected 3 min_lrs"),
            failure(lambda: plateau(optimizer, mode="x"), "mode x is unknown"),
            failure(lambda: plateau(optimizer, factor=2.0), "Factor")]  # fmt: skip


def heard(action: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return [f"{w.category.__name__}: {w.message}" for w in caught]


@same
def test_warnings(torch):
    found = []
    for overridden in (False, True):
        optimizer = two_groups(torch)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        if overridden:
            optimizer.step = lambda: None
        found.append(heard(scheduler.step))
    found.append(heard(scheduler.get_lr))
    found.append(heard(lambda: scheduler.step(7)))
    found.append(scheduler.get_last_lr())
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(two_groups(torch))
    found.append(heard(lambda: plateau.step(1.0, 3)))
    optimizer = two_groups(torch)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    optimizer.step()
    return [*found, heard(scheduler.step)]


@same
def test_refusals(torch):
    s = torch.optim.lr_scheduler
    o = two_groups(torch)
    adagrad = torch.optim.Adagrad([torch.ones(1)])
    return [
        failure(lambda: s.CyclicLR(o, 0.1, 0.2, mode="x"), "mode is invalid"),
        failure(lambda: s.CyclicLR(adagrad, 0.1, 0.2), "cycle_momentum"),
        failure(lambda: s.CyclicLR(o, [0.1], 0.2), "base_lr must have the same length"),
        failure(lambda: s.CyclicLR(3, 0.1, 0.2), "not an Optimizer"),
        failure(lambda: s.StepLR(o, 2, last_epoch=3), "initial_lr"),
        failure(lambda: s.MultiplicativeLR(o, 3), "lr_lambda should be a function"),
        failure(lambda: s.LambdaLR(o, [lambda e: 1]), "Expected 2 lr_lambdas"),
        failure(lambda: s.CosineAnnealingWarmRestarts(o, 3, eta_min="x"), "eta_min"),
        failure(lambda: s.ChainedScheduler([]), "at least one"),
        failure(lambda: s.SequentialLR(o, [s.ReduceLROnPlateau(o)], []), "does not support"),
        failure(lambda: s.ChainedScheduler([s.StepLR(o, 1)], adagrad), "which is different"),
        failure(lambda: _swa(s).SWALR(o, 0.1, anneal_strategy="x"), "anneal_strategy"),
        failure(lambda: _swa(s).SWALR(o, 0.1, anneal_epochs=-1), "anneal_epochs"),
        failure(lambda: s.LRScheduler(o)),
    ]


def net(t: Any) -> Any:
    made = t.nn.Sequential(t.nn.Linear(3, 4), t.nn.BatchNorm1d(4), t.nn.Linear(4, 2))
    rng = np.random.default_rng(3)
    for p in made.parameters():
        p.data = t.tensor(rng.normal(size=tuple(p.shape)).astype("float32"))
    return made


@same
def test_averaged_models(torch):
    swa = torch.optim.swa_utils
    found = []
    for options in (
        {}, {"multi_avg_fn": swa.get_ema_multi_avg_fn(0.9)}, {"avg_fn": swa.get_ema_avg_fn(0.8)},
        {"avg_fn": swa.get_swa_avg_fn()}, {"use_buffers": True},
        {"multi_avg_fn": swa.get_swa_multi_avg_fn()}, {"device": "cpu"},
        {"avg_fn": lambda a, b, n: a + b * n},
    ):  # fmt: skip
        model = net(torch)
        average = swa.AveragedModel(model, **options)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for i in range(4):
            x = torch.tensor(np.random.default_rng(i).normal(size=(6, 3)).astype("float32"))
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            average.update_parameters(model)
        state = average.state_dict()
        found += [list(state), list(state.values()), average.n_averaged]
        swa.update_bn([x, [x * 2, 0]], average)
        average.eval()
        found += [average(x), average.module[1].running_var, average.module[1].momentum]
    both = {"avg_fn": swa.get_swa_avg_fn(), "multi_avg_fn": swa.get_swa_multi_avg_fn()}
    swa.update_bn([], torch.nn.Linear(1, 1))
    lists = [[torch.tensor([1.0, 2.0])], [torch.tensor([3.0, 5.0])]]
    swa.get_swa_multi_avg_fn()(*lists, 3)
    swa.get_ema_multi_avg_fn(0.5)([torch.tensor([4])], [torch.tensor([2])], None)
    return [*found, lists, failure(lambda: swa.AveragedModel(model, **both), "Only one of"),
            failure(lambda: swa.get_ema_avg_fn(2.0), "Invalid decay"),
            failure(lambda: swa.get_ema_multi_avg_fn(-1.0), "Invalid decay")]  # fmt: skip
