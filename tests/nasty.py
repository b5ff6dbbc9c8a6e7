"""Programs of the kind that break caches: loops that change something midway.

Each takes the library and `wrap`, which compiles a step or returns it as it is, and returns tensors
and numbers that depend on all that it did.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

Wrap = Callable[[Any], Any]
Program = Callable[[Any, Wrap], list[Any]]

PROGRAMS: dict[str, Program] = {}
STEPS = 12


def program(function: Program) -> Program:
    """Add a program to the table."""
    PROGRAMS[function.__name__] = function
    return function


def data(lib: Any, i: int, rows: int = 4, width: int = 5) -> Any:
    values = np.random.default_rng(i).standard_normal((rows, width)).astype("float32")
    return lib.tensor(values)


def fill(lib: Any, *modules: Any) -> None:
    """Give parameters values that both libraries share."""
    with lib.no_grad():
        for k, p in enumerate([p for m in modules for p in m.parameters()]):
            values = np.random.default_rng(100 + k).standard_normal(tuple(p.shape))
            p.copy_(lib.tensor(values.astype("float32") * 0.3))


def mlp(lib: Any, width: int = 5) -> Any:
    nn = lib.nn
    model = nn.Sequential(nn.Linear(width, 7), nn.Tanh(), nn.Linear(7, width))
    fill(lib, model)
    return model


def all_of(*modules: Any) -> list[Any]:
    parameters = [p for m in modules for p in m.parameters()]
    return [*parameters, *[p.grad for p in parameters], *[b for m in modules for b in m.buffers()]]


def versions(*tensors: Any) -> list[int]:
    return [t._version for t in tensors]


@program
def mutated_list(lib: Any, wrap: Wrap) -> list[Any]:
    scales, w = [1.0, 2.0], lib.ones(5)

    def step(x: Any) -> Any:
        for s in scales:
            x = x * s + w
        return x.tanh()

    step, kept = wrap(step), []
    for i in range(STEPS):
        if i in (5, 8):
            scales.append(0.5 * i)
        kept.append(step(data(lib, i)))
    return kept


@program
def python_branches_on_values(lib: Any, wrap: Wrap) -> list[Any]:
    model = mlp(lib)
    optimizer = lib.optim.SGD(model.parameters(), lr=0.1)

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    step, kept = wrap(step), []
    for i in range(STEPS):
        loss = step(data(lib, i))
        if loss.item() > 0.35:
            kept.append(step(data(lib, i + 100)) * 2)
        kept.append(loss)
    return [*kept, *all_of(model)]


@program
def optimizer_added_midway(lib: Any, wrap: Wrap) -> list[Any]:
    first, second = mlp(lib), mlp(lib)
    optimizers = [lib.optim.Adam(first.parameters(), lr=0.05)]

    def step(x: Any) -> Any:
        for o in optimizers:
            o.zero_grad()
        loss = (second(first(x)) ** 2).mean()
        loss.backward()
        for o in optimizers:
            o.step()
        return loss

    step, kept = wrap(step), []
    for i in range(STEPS):
        if i == 6:
            optimizers.append(lib.optim.SGD(second.parameters(), lr=0.1, momentum=0.9))
        kept.append(step(data(lib, i)))
    return [*kept, *all_of(first, second)]


@program
def gradients_set_to_zero(lib: Any, wrap: Wrap) -> list[Any]:
    model = mlp(lib)
    optimizer = lib.optim.SGD(model.parameters(), lr=0.1)

    def step(x: Any) -> Any:
        optimizer.zero_grad(set_to_none=False)
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    step, kept = wrap(step), []
    for i in range(STEPS):
        kept.append(step(data(lib, i)))
        if i == 3:
            first = next(model.parameters()).grad
        if i > 3:
            kept.append(first.sum())
    return [*kept, *all_of(model), versions(*[p.grad for p in model.parameters()])]


@program
def clipped(lib: Any, wrap: Wrap) -> list[Any]:
    model = mlp(lib)
    optimizer = lib.optim.Adam(model.parameters(), lr=0.05)

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        norm = lib.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        return loss, norm

    step, kept = wrap(step), []
    for i in range(STEPS):
        kept += step(data(lib, i))
    return [*kept, *all_of(model)]


@program
def moving_average_of_weights(lib: Any, wrap: Wrap) -> list[Any]:
    model = mlp(lib)
    average = copy.deepcopy(model)
    optimizer = lib.optim.SGD(model.parameters(), lr=0.1)

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = (model(x) - average(x).detach() + 1).square().mean()
        loss.backward()
        optimizer.step()
        with lib.no_grad():
            for a, p in zip(average.parameters(), model.parameters(), strict=True):
                a.mul_(0.9).add_(p, alpha=0.1)
        return loss

    step, kept = wrap(step), []
    for i in range(STEPS):
        kept.append(step(data(lib, i)))
    return [*kept, *all_of(model), *average.parameters()]


@program
def detached_aliases(lib: Any, wrap: Wrap) -> list[Any]:
    w = lib.ones(5, requires_grad=True)
    alias, kept = w.detach(), []

    def step(x: Any) -> Any:
        w.grad = None
        (x * w).sin().sum().backward()
        with lib.no_grad():
            w.sub_(w.grad * 0.1)
        return alias * 2

    step = wrap(step)
    for i in range(STEPS):
        kept.append(step(data(lib, i)))
        if i == 6:
            alias.zero_()
        kept.append(alias.clone())
    return [*kept, w, alias, versions(w, alias)]


@program
def writes_to_views(lib: Any, wrap: Wrap) -> list[Any]:
    table = lib.zeros(4, 5)
    row = table[1]

    def step(x: Any, i: int) -> Any:
        table[i % 4].add_(x[0])
        row.mul_(0.5)
        table[:, 1:3].t().copy_(x[:, :2].t())
        return table.sum(0)

    step, kept = wrap(step), []
    for i in range(STEPS):
        kept.append(step(data(lib, i), i % 2))
    return [*kept, table, row, versions(table, row)]


@program
def data_swapped(lib: Any, wrap: Wrap) -> list[Any]:
    model = mlp(lib)
    optimizer = lib.optim.SGD(model.parameters(), lr=0.1)

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    step, kept = wrap(step), []
    for i in range(STEPS):
        if i in (5, 9):
            model[0].weight.data = data(lib, i, 7)
        if i == 7:
            model[2].bias.data.fill_(0.25)
        kept.append(step(data(lib, i)))
    return [*kept, *all_of(model)]


@program
def frozen_midway(lib: Any, wrap: Wrap) -> list[Any]:
    model = mlp(lib)
    optimizer = lib.optim.Adam(model.parameters(), lr=0.05)

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    step, kept = wrap(step), []
    for i in range(STEPS):
        if i in (4, 8):
            model[0].requires_grad_(i == 8)
        kept.append(step(data(lib, i)))
    return [*kept, *all_of(model)]


@program
def shared_parameters(lib: Any, wrap: Wrap) -> list[Any]:
    first, second = mlp(lib), mlp(lib)
    second[0].weight = first[0].weight
    one = lib.optim.SGD(first.parameters(), lr=0.1, momentum=0.5)
    two = lib.optim.Adam(second.parameters(), lr=0.05)

    def step(model: Any, optimizer: Any, x: Any) -> Any:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    step, kept = wrap(step), []
    for i in range(STEPS):
        kept.append(step(first, one, data(lib, i)))
        kept.append(step(second, two, data(lib, i + 50)))
    return [*kept, *all_of(first, second)]


@program
def an_exception_midway(lib: Any, wrap: Wrap) -> list[Any]:
    model = mlp(lib)
    optimizer = lib.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    fail = [False]

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        if fail[0]:
            raise KeyError("stop")
        loss.backward()
        optimizer.step()
        return loss

    step, kept = wrap(step), []
    for i in range(STEPS):
        fail[0] = i in (5, 6, 9)
        try:
            kept.append(step(data(lib, i)))
        except KeyError:
            kept.append(i)
    return [*kept, *all_of(model)]


@program
def a_wrong_shape_midway(lib: Any, wrap: Wrap) -> list[Any]:
    model = mlp(lib)
    optimizer = lib.optim.SGD(model.parameters(), lr=0.1)

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    step, kept = wrap(step), []
    for i in range(STEPS):
        try:
            kept.append(step(data(lib, i, width=6 if i in (4, 8) else 5)))
        except RuntimeError:
            kept.append(i)
    return [*kept, *all_of(model)]


@program
def training_and_evaluation(lib: Any, wrap: Wrap) -> list[Any]:
    model = lib.nn.Sequential(mlp(lib), lib.nn.BatchNorm1d(5), lib.nn.Linear(5, 2))
    fill(lib, model)
    optimizer = lib.optim.SGD(model.parameters(), lr=0.05)  # Adam would follow roundings

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    def look(x: Any) -> Any:
        with lib.no_grad():
            return model(x).abs().sum()

    step, look, kept = wrap(step), wrap(look), []
    for i in range(STEPS):
        model.train()
        kept += [step(data(lib, i)), step(data(lib, i + 30))]
        if i % 3 == 2:
            model.eval()
        kept.append(look(data(lib, i)))
    return [*kept, *all_of(model)]


@program
def accumulated_over_three(lib: Any, wrap: Wrap) -> list[Any]:
    model = mlp(lib)
    optimizer = lib.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(x: Any) -> Any:
        loss = (model(x) ** 2).mean() / 3
        loss.backward()
        return loss

    step, kept = wrap(step), []
    for i in range(3 * STEPS):
        kept.append(step(data(lib, i, 2 if i % 8 == 7 else 4)))
        if i % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
    return [*kept, *all_of(model)[:4]]


@program
def a_state_that_is_carried(lib: Any, wrap: Wrap) -> list[Any]:
    cell = lib.nn.Linear(10, 5)
    fill(lib, cell)

    def step(x: Any, h: Any) -> Any:
        return lib.tanh(cell(lib.cat([x, h], 1)))

    step, kept, h = wrap(step), [], lib.zeros(4, 5)
    for i in range(STEPS):
        before = h
        h = step(data(lib, i), h)
        if i % 4 == 3:
            (h * before.detach()).sum().backward()
            h = h.detach()
            kept.append(cell.weight.grad.clone())
    return [*kept, h]


@program
def swapped_buffers(lib: Any, wrap: Wrap) -> list[Any]:
    a, b, kept = data(lib, 1), data(lib, 2), []

    def step(a: Any, b: Any) -> Any:
        b.copy_(a * 0.5 + b)
        return b.sum()

    step = wrap(step)
    for i in range(STEPS):
        kept.append(step(a, b))
        if i != 6:
            a, b = b, a
        if i == 8:
            kept.append(step(a, a))
    return [*kept, a, b, versions(a, b)]


@program
def overlapping_arguments(lib: Any, wrap: Wrap) -> list[Any]:
    whole, kept = data(lib, 1, 6), []

    def step(x: Any, y: Any) -> Any:
        x.add_(1)
        y.mul_(2)
        return x + y

    step = wrap(step)
    for i in range(STEPS):
        begin = (0, 0, 0, 1, 3)[i % 5]
        kept.append(step(whole[0:3], whole[begin : begin + 3]))
    return [*kept, whole, versions(whole)]
