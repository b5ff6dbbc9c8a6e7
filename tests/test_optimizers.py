"""Every optimizer goes torch's way, with every option, and takes over torch's state."""

from __future__ import annotations

import copy
import importlib
import warnings
from typing import Any

import farspan
import numpy as np
import torch
from beside_torch import failure, same

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "SGD": [{}, {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1},
            {"momentum": 0.9, "nesterov": True, "maximize": True}],
    "Adam": [{}, {"amsgrad": True, "weight_decay": 0.1}, {"maximize": True, "eps": 1e-3}],
    "AdamW": [{}, {"amsgrad": True, "betas": (0.5, 0.8)}],
    "ASGD": [{}, {"t0": 3, "lambd": 0.1, "weight_decay": 0.1}, {"maximize": True, "alpha": 0.5}],
    "Adadelta": [{}, {"rho": 0.5, "weight_decay": 0.1, "lr": 0.3}, {"maximize": True}],
    "Adagrad": [{}, {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5},
                {"maximize": True}],
    "Adamax": [{}, {"betas": (0.5, 0.9), "weight_decay": 0.1}, {"maximize": True}],
    "NAdam": [{}, {"weight_decay": 0.1, "decoupled_weight_decay": True},
              {"weight_decay": 0.1, "momentum_decay": 0.1, "maximize": True}],
    "RAdam": [{}, {"weight_decay": 0.1, "betas": (0.5, 0.7)},
              {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}],
    "RMSprop": [{}, {"momentum": 0.9, "weight_decay": 0.1}, {"centered": True, "maximize": True},
                {"centered": True, "momentum": 0.5, "alpha": 0.8}],
    "Rprop": [{}, {"etas": (0.3, 1.5), "step_sizes": (1e-3, 0.05)}, {"maximize": True}],
}  # fmt: skip
REAL_ONLY: dict[str, list[dict[str, Any]]] = {
    "Adafactor": [{}, {"weight_decay": 0.1, "d": 2.0, "maximize": True},
                  {"eps": (1e-3, 1e-2), "beta2_decay": -0.5}],
}  # fmt: skip
SHAPES = [(3, 4), (5,), (), (2, 3, 2)]
STEPS = 10


def numbers(shape: tuple[int, ...], seed: int, dtype: str = "float64") -> Any:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape)
    if dtype.startswith("complex"):
        values = values + 1j * rng.normal(size=shape)
    return np.asarray(values).astype(dtype)


def walk(t: Any, optimizer: Any, params: list[Any], steps: int, first: int = 0) -> None:
    """Step along gradients that depend on the parameters, so that errors would add up."""
    for i in range(first, first + steps):
        for j, p in enumerate(params):
            dtype = str(p.dtype).partition(".")[2]
            noise = t.tensor(numbers(tuple(p.shape), 10 * i + j, dtype))
            p.grad = noise + p.detach() * 0.5
        optimizer.step()


def fresh(t: Any, name: str, dtype: str, shapes: Any = SHAPES, **options: Any) -> Any:
    params = [t.nn.Parameter(t.tensor(numbers(s, 100 + i, dtype))) for i, s in enumerate(shapes)]
    return getattr(t.optim, name)(params, **options), params


def flat(x: Any) -> Any:
    """Return a state dict as nested lists of keys and values."""
    if isinstance(x, dict):
        return [[str(key), flat(x[key])] for key in sorted(x, key=str)]
    return [flat(i) for i in x] if isinstance(x, (list, tuple)) else x


@same(rtol=1e-10, atol=1e-12)
def test_trajectories_and_states(torch):
    found = []
    for name, choices in (OPTIONS | REAL_ONLY).items():
        for options in choices:
            optimizer, params = fresh(torch, name, "float64", **options)
            walk(torch, optimizer, params, STEPS)
            found += [name, params, flat(optimizer.state_dict()), repr(optimizer)]
    return found


@same
def test_complex_parameters(torch):
    found = []
    for name, choices in OPTIONS.items():
        optimizer, params = fresh(torch, name, "complex128", [(3,), ()], **choices[-1])
        walk(torch, optimizer, params, STEPS)
        found += [name, params, flat(optimizer.state_dict())]
    for name in REAL_ONLY:
        optimizer, params = fresh(torch, name, "complex128", [(3,)])
        found.append(failure(lambda o=optimizer, p=params: walk(torch, o, p, 1)))
    return found


@same
def test_single_precision(torch):
    found = []
    for name, choices in OPTIONS.items():
        optimizer, params = fresh(torch, name, "float32", **choices[1])
        walk(torch, optimizer, params, 5)
        found += [name, params]
    return found


@same(rtol=2e-2, atol=2e-3)  # the iteration computes in bfloat16, and so does torch's
def test_muon(torch):
    found = []
    for options in ({}, {"nesterov": False, "adjust_lr_fn": "match_rms_adamw", "ns_steps": 3}):
        optimizer, params = fresh(torch, "Muon", "float32", [(3, 5), (6, 2)], **options)
        walk(torch, optimizer, params, 4)
        found += [params, flat(optimizer.state_dict()), repr(optimizer)]
    return found


@same(rtol=1e-7, atol=1e-9)  # torch's other paths round numbers to float32 in other places
def test_ways_to_run_change_nothing(torch):
    """foreach, fused, a rate that is a tensor, steps that are recorded: the same numbers."""
    found = []
    for name, choices in OPTIONS.items():
        for extra in (
            {"foreach": True},
            {"fused": True},
            {"lr": torch.tensor(0.03, dtype=torch.float64)},
        ):
            if "fused" in extra and name not in ("SGD", "Adam", "AdamW", "Adagrad"):
                continue
            optimizer, params = fresh(torch, name, "float64", **(choices[1] | extra))
            walk(torch, optimizer, params, 4)
            found += [name, params]
    return found


@same(rtol=1e-6, atol=1e-7)  # torch's recorded path corrects biases in float32
def test_differentiable_steps(torch):
    found = []
    for name, choices in OPTIONS.items():
        for options in choices:
            if name == "Rprop" and options:
                continue
            start = [torch.tensor(numbers(s, 7 + i), requires_grad=True)
                     for i, s in enumerate([(3,), (2, 2)])]  # fmt: skip
            params = [p.clone() for p in start]
            optimizer = getattr(torch.optim, name)(params, differentiable=True, **options)
            for j, p in enumerate(params):  # one step: torch itself writes over what it saved
                p.grad = torch.tensor(numbers(tuple(p.shape), j)) + start[j] * 0.5
            optimizer.step()
            sum((p * p).sum() for p in params).backward()
            found += [name, [p.detach() for p in params], [p.grad for p in start]]
    return found


@same(rtol=1e-8, atol=1e-10)
def test_a_rate_is_learned(torch):
    rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    p = torch.tensor(numbers((3,), 1), requires_grad=True).clone()
    optimizer = torch.optim.SGD([p], lr=rate, differentiable=True)
    for _ in range(3):
        p.grad = p * 2
        optimizer.step()
    (p * p).sum().backward()
    return rate.grad


def crossed(x: Any, t: Any) -> Any:
    """Return the state dict with the other library's tensors."""
    if isinstance(x, dict):
        return {key: crossed(value, t) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return type(x)(crossed(i, t) for i in x)
    if isinstance(x, (torch.Tensor, farspan.Tensor)):
        return t.tensor(np.array(x.detach().numpy()))
    return copy.copy(x)


def test_state_dicts_go_both_ways() -> None:
    for name, choices in (OPTIONS | REAL_ONLY).items():
        for source, target in ((torch, farspan), (farspan, torch)):
            optimizer, params = fresh(source, name, "float64", **choices[-1])
            walk(source, optimizer, params, 3)
            other, others = fresh(target, name, "float64")
            for mine, theirs in zip(others, params, strict=True):
                mine.data = target.tensor(np.array(theirs.detach().numpy()))
            other.load_state_dict(crossed(optimizer.state_dict(), target))
            walk(source, optimizer, params, 3, first=3)
            walk(target, other, others, 3, first=3)
            for mine, theirs in zip(others, params, strict=True):
                a, b = mine.detach().numpy(), theirs.detach().numpy()
                np.testing.assert_allclose(a, b, rtol=1e-10, err_msg=name)


@same(rtol=1e-7, atol=1e-9)
def test_lbfgs(torch):
    found = []
    for options in (
        {"lr": 0.1}, {"lr": 1, "line_search_fn": "strong_wolfe"},
        {"max_iter": 7, "history_size": 2, "lr": torch.tensor(0.5)},
        {"lr": 3.0, "line_search_fn": "strong_wolfe", "max_iter": 30, "max_eval": 40},
    ):  # fmt: skip
        x = torch.nn.Parameter(torch.tensor([-1.2, 1.0, 0.5], dtype=torch.float64))
        unused = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
        optimizer = torch.optim.LBFGS([x, unused], **options)

        def closure():
            optimizer.zero_grad()
            a, b, c = x
            loss = 100 * (b - a * a) ** 2 + (1 - a) ** 2 + 5 * (c - b) ** 4
            loss.backward()
            return loss

        losses = [optimizer.step(closure).detach() for _ in range(3)]
        state = optimizer.state_dict()["state"][0]
        found += [losses, x, unused, sorted(state), state["n_iter"], state["func_evals"]]
        found += [state["d"], len(state["old_dirs"]), repr(optimizer)]
    two = [{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)]}]
    return [*found, failure(lambda: torch.optim.LBFGS(two), "per-parameter")]


@same
def test_refusals(torch):
    p = [torch.nn.Parameter(torch.ones(2))]
    q = [torch.nn.Parameter(torch.ones(2, 2))]
    p[0].grad = torch.ones(2)

    def said(action: Any) -> str:
        try:
            action()
        except Exception as e:
            return f"{type(e).__name__}: {e}"
        return "nothing"

    o = torch.optim
    capturable = (
        "Adam",
        "AdamW",
        "ASGD",
        "Adadelta",
        "Adamax",
        "NAdam",
        "RAdam",
        "RMSprop",
        "Rprop",
    )
    messages = [said(getattr(o, n)(p, capturable=True, foreach=False).step) for n in capturable]
    for name in (*OPTIONS, "LBFGS", "SparseAdam", "Adafactor"):
        for lr in (-1.0, torch.ones(2)):
            messages.append(said(lambda n=name, lr=lr: getattr(o, n)(p, lr=lr)))
    messages += [said(lambda k=k: o.Adam(p, **k)) for k in (
        {"betas": (1.0, 0.9)}, {"betas": (0.5, torch.tensor(0.9))},
        {"foreach": True, "fused": True},
        {"fused": True, "differentiable": True}, {"lr": torch.tensor(0.1), "foreach": True},
        {"eps": -1.0}, {"weight_decay": -1.0})]  # fmt: skip
    messages += [said(o.SparseAdam(p).step), said(lambda: o.SparseAdam(p, eps=0.0))]
    messages += [said(lambda: o.Rprop(p, etas=(1.5, 2))), said(lambda: o.Adadelta(p, rho=2.0))]
    messages += [said(lambda: o.Adafactor(p, **k)) for k in (
        {"beta2_decay": 1.0}, {"eps": (-1.0, 1.0)}, {"eps": (None, -1.0)}, {"d": 0.5},
        {"weight_decay": -1})]  # fmt: skip
    messages += [said(lambda: o.Muon(p)), said(lambda: o.Muon(q, momentum=-1.0)),
                 said(lambda: o.Muon(q, adjust_lr_fn="x")),
                 said(lambda: o.Muon(q, weight_decay=-1.0)),
                 said(lambda: o.Muon(q, lr=-1.0))]  # fmt: skip
    for key in ("lr_decay", "eps", "initial_accumulator_value", "weight_decay"):
        messages.append(said(lambda key=key: o.Adagrad(p, **{key: -1.0})))
    for key in ("alpha", "eps", "momentum", "weight_decay"):
        messages.append(said(lambda key=key: o.RMSprop(p, **{key: -1.0})))
    return [*messages, said(lambda: o.NAdam(p, momentum_decay=-1.0))]


@same
def test_hooks_of_one_and_of_all(torch):
    module = importlib.import_module(torch.__name__ + ".optim.optimizer")
    calls: list[Any] = []
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.RMSprop([p], lr=0.1)
    handles = [
        module.register_optimizer_step_pre_hook(lambda o, a, k: calls.append(["pre all", len(a)])),
        module.register_optimizer_step_post_hook(
            lambda o, a, k: calls.append(["post all", len(k)])
        ),
        optimizer.register_step_pre_hook(lambda o, a, k: calls.append("pre")),
        optimizer.register_step_post_hook(lambda o, a, k: calls.append("post")),
        optimizer.register_state_dict_pre_hook(lambda o: calls.append("state")),
        optimizer.register_state_dict_post_hook(lambda o, d: {**d, "more": 1}),
        optimizer.register_load_state_dict_pre_hook(lambda o, d: calls.append(sorted(d))),
        optimizer.register_load_state_dict_post_hook(
            lambda o: calls.append("loaded"), prepend=True
        ),
    ]
    p.grad = torch.ones(1)
    optimizer.step()
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    for handle in handles:
        handle.remove()
    optimizer.step()
    wrong = optimizer.register_step_pre_hook(lambda o, a, k: 3)
    raised = failure(optimizer.step, "must return None or a tuple")
    wrong.remove()
    return [calls, p, raised, isinstance(optimizer, torch.optim.Optimizer)]


@same
def test_copies_and_old_state_dicts(torch):
    found = []
    for name in ("Adam", "RMSprop", "SGD", "NAdam", "ASGD", "Adagrad"):
        optimizer, params = fresh(torch, name, "float64")
        walk(torch, optimizer, params, 2)
        state = optimizer.state_dict()
        for group in state["param_groups"]:  # as before these options were there
            for key in ("maximize", "foreach", "differentiable", "capturable"):
                group.pop(key, None)
        for entry in state["state"].values():
            if "step" in entry:
                entry["step"] = 2
        optimizer.load_state_dict(state)
        walk(torch, optimizer, params, 2, first=2)
        found += [name, params, repr(optimizer), flat(optimizer.state_dict())]
    again = copy.deepcopy(optimizer)
    return [*found, repr(again), len(again.state)]


@same
def test_modules_have_torchs_paths(torch):
    names = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "rmsprop": "RMSprop", "asgd": "ASGD",
             "adadelta": "Adadelta", "adagrad": "Adagrad", "adamax": "Adamax", "nadam": "NAdam",
             "radam": "RAdam", "rprop": "Rprop", "lbfgs": "LBFGS", "sparse_adam": "SparseAdam",
             "optimizer": "Optimizer", "_adafactor": "Adafactor", "_muon": "Muon"}  # fmt: skip
    found = []
    for module, name in names.items():
        there = importlib.import_module(f"{torch.__name__}.optim.{module}")
        found.append(getattr(there, name) is getattr(torch.optim, name))
    scheduler = importlib.import_module(f"{torch.__name__}.optim.lr_scheduler")
    return [*found, issubclass(scheduler._LRScheduler, scheduler.LRScheduler)]


@same
def test_swapped_state(torch):
    swap = torch.optim.swap_in_optimizer_params_and_state
    optimizer, params = fresh(torch, "Adam", "float64", lr=0.1)
    failures = [failure(lambda: swap(optimizer, {}, {}).__enter__(), "initialized")]
    walk(torch, optimizer, params, 1)
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["lr"] = 1.0
    others = {str(i): p.detach().clone() for i, p in enumerate(params)}
    with swap(optimizer, others, state):
        walk(torch, optimizer, list(others.values()), 1)
        inside = [optimizer.param_groups[0]["lr"], len(optimizer.state)]
    for wrong in (3, {"state": 3}, {"state": {0: 1}}, {"state": {}, "param_groups": 3},
                  {"state": {}, "param_groups": []}, {"state": {}, "param_groups": [3]},
                  {"state": {}, "param_groups": [{"params": [0]}]},
                  {"state": {9: {}}, "param_groups": state["param_groups"]}):  # fmt: skip
        failures.append(failure(lambda w=wrong: swap(optimizer, others, w).__enter__()))
    missing = dict(list(others.items())[:2])
    failures.append(failure(lambda: swap(optimizer, missing, state).__enter__(), "ordering"))
    return [params, list(others.values()), flat(state), inside, failures,
            optimizer.param_groups[0]["lr"]]  # fmt: skip


def test_a_step_is_one_command() -> None:
    with farspan.connect("local:") as session:
        for name, choices in (OPTIONS | REAL_ONLY).items():
            optimizer, params = fresh(farspan, name, "float64", [(3, 2)] * 6, **choices[-1])
            walk(farspan, optimizer, params, 1)
            for p in params:
                p.grad = farspan.ones_like(p)
            before = session.stats()["commands"]
            optimizer.step()
            assert session.stats()["commands"] - before == 1, name


def test_a_poisoned_gradient_skips_the_step() -> None:
    with warnings.catch_warnings(), farspan.connect("local:"):
        warnings.simplefilter("ignore")
        for name, choices in (OPTIONS | REAL_ONLY).items():
            optimizer, params = fresh(farspan, name, "float64", [(3, 2)] * 2, **choices[-1])
            walk(farspan, optimizer, params, 2)
            good = [p.detach().clone() for p in params]
            steps = [s["step"].clone() for s in optimizer.state.values() if "step" in s]
            params[0].grad = farspan.ones(3, 2, dtype=farspan.float64)
            bad = farspan.ones(9)[farspan.tensor([99])]
            params[1].grad = bad.reshape(1, 1).expand(3, 2).double()
            optimizer.step()
            for kept in (*zip(params, good, strict=True),
                         *zip([s["step"] for s in optimizer.state.values() if "step" in s],
                              steps, strict=True)):  # fmt: skip
                try:
                    assert kept[0].detach().equal(kept[1]), name
                except farspan.FarspanError:  # the failure is told once, at the next wait
                    assert kept[0].detach().equal(kept[1]), name
