"""More programs that break caches: random numbers, threads of state, dtypes and devices."""

from __future__ import annotations

import copy
import random
from typing import Any

from nasty import STEPS, Program, Wrap, all_of, data, mlp

RANDOM: dict[str, Program] = {}


def program(function: Program) -> Program:
    """Add a program to the table."""
    RANDOM[function.__name__] = function
    return function


def trained(lib: Any, model: Any, optimizer: Any) -> Any:
    """Return a step of training."""

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    return step


@program
def seeds_set_midway(lib: Any, wrap: Wrap) -> list[Any]:
    kept = []

    def step(x: Any) -> Any:
        noise = lib.randn(4, 5)
        return lib.nn.functional.dropout(x + noise, 0.3).sum(0) * lib.rand(5)

    step = wrap(step)
    for i in range(STEPS):
        if i in (4, 9):
            lib.manual_seed(7)
        kept.append(step(data(lib, i % 5)))
    return kept


@program
def generators_of_its_own(lib: Any, wrap: Wrap) -> list[Any]:
    generator, kept = lib.Generator().manual_seed(3), []

    def step(x: Any) -> Any:
        return x + lib.randn(4, 5, generator=generator)

    step = wrap(step)
    for i in range(STEPS):
        if i == 5:
            state = generator.get_state()
        if i == 9:
            generator.set_state(state)
        kept.append(step(data(lib, i)))
    return [*kept, lib.rand(3, generator=generator)]


@program
def states_of_the_default_generator(lib: Any, wrap: Wrap) -> list[Any]:
    kept = []
    step = wrap(lambda x: lib.bernoulli(x.sigmoid()) + lib.dropout(x, 0.5, True))
    for i in range(STEPS):
        if i == 3:
            state = lib.get_rng_state()
        if i == 8:
            lib.set_rng_state(state)
        kept.append(step(data(lib, i % 3)))
    return kept


@program
def dropout_in_training(lib: Any, wrap: Wrap) -> list[Any]:
    model = lib.nn.Sequential(mlp(lib), lib.nn.Dropout(0.5), mlp(lib))
    step, kept = wrap(trained(lib, model, lib.optim.SGD(model.parameters(), lr=0.1))), []
    for i in range(STEPS):
        model.train(i % 5 != 4)
        kept.append(step(data(lib, i)))
    return [*kept, *all_of(model)]


@program
def a_generative_pair(lib: Any, wrap: Wrap) -> list[Any]:
    maker, judge = mlp(lib), mlp(lib)
    of_maker = lib.optim.Adam(maker.parameters(), lr=0.01, betas=(0.5, 0.99))
    of_judge = lib.optim.Adam(judge.parameters(), lr=0.01)

    def judged(x: Any) -> Any:
        made = maker(lib.randn(4, 5))
        of_judge.zero_grad()
        loss = (judge(x) - 1).square().mean() + judge(made.detach()).square().mean()
        loss.backward()
        of_judge.step()
        return loss

    def made() -> Any:
        of_maker.zero_grad()
        loss = (judge(maker(lib.randn(4, 5))) - 1).square().mean()
        loss.backward()
        of_maker.step()
        return loss

    judged, made, kept = wrap(judged), wrap(made), []
    for i in range(STEPS):
        kept.append(judged(data(lib, i)))
        if i % 3 != 1:
            kept.append(made())
    return [*kept, *all_of(maker, judge)]


@program
def casts_that_begin_midway(lib: Any, wrap: Wrap) -> list[Any]:
    model = mlp(lib)
    step, kept = wrap(trained(lib, model, lib.optim.SGD(model.parameters(), lr=0.1))), []
    for i in range(STEPS):
        with lib.autocast("cpu", dtype=lib.bfloat16, enabled=4 <= i < 8):
            kept.append(step(data(lib, i)).float())
    return [*kept, *all_of(model)]


@program
def default_dtype_changes(lib: Any, wrap: Wrap) -> list[Any]:
    kept = []
    step = wrap(lambda x: x.sum() * lib.ones(3) + lib.arange(3) / 2)
    try:
        for i in range(STEPS):
            lib.set_default_dtype(lib.float64 if 4 <= i < 8 else lib.float32)
            kept.append(step(data(lib, i)))
    finally:
        lib.set_default_dtype(lib.float32)
    return kept


@program
def dtypes_of_arguments(lib: Any, wrap: Wrap) -> list[Any]:
    kept = []
    step = wrap(lambda x, y: (x * 2 + y, x / 3, (x > y).sum()))
    for i in range(STEPS):
        x = data(lib, i) * 10
        x = (x.int(), x, x.double(), x.to(lib.int64))[i % 4]
        kept += step(x, data(lib, i + 1))
    return kept


@program
def odd_numbers(lib: Any, wrap: Wrap) -> list[Any]:
    numbers = [0.0, -0.0, float("inf"), float("nan"), 1, True, 1.0, 2**31, -1.5, False, 0]
    step, kept = wrap(lambda x, n: (x * n, x.ceil() / 4 + n)), []
    for k in (*range(11), *range(11)):
        kept += step(data(lib, k % 2), numbers[k])
    kept += [wrap(lambda x: x * 0.5 + 2)(data(lib, i)) for i in range(8)]
    return kept


@program
def strides_of_arguments(lib: Any, wrap: Wrap) -> list[Any]:
    kept, step = [], wrap(lambda x: (x.reshape(-1)[:4], x.t().contiguous(), x.sum(0)))
    for i in range(STEPS):
        whole = data(lib, i, 10, 10)
        x = (whole, whole.t(), whole[::2], whole[:, 1:5], whole[3:4].expand(5, 10))[i % 5]
        kept += step(x)
    return kept


@program
def copies_of_models(lib: Any, wrap: Wrap) -> list[Any]:
    model, kept = mlp(lib), []
    for k in range(4):
        model = copy.deepcopy(model)
        step = wrap(trained(lib, model, lib.optim.SGD(model.parameters(), lr=0.1 * (k + 1))))
        for i in range(6):
            kept.append(step(data(lib, i)))
    return [*kept, *all_of(model)]


@program
def inference_between(lib: Any, wrap: Wrap) -> list[Any]:
    model = mlp(lib)
    step = wrap(trained(lib, model, lib.optim.Adam(model.parameters(), lr=0.05)))
    look, kept = wrap(lambda x: model(x) * 2), []
    for i in range(STEPS):
        kept.append(step(data(lib, i)))
        with lib.inference_mode():
            kept.append(look(data(lib, i)) + 0)
        with lib.no_grad():
            kept.append(look(data(lib, i)))
    return [*kept, *all_of(model)]


@program
def written_through_numpy_of_a_copy(lib: Any, wrap: Wrap) -> list[Any]:
    w, kept = lib.ones(5), []
    step = wrap(lambda x: (x * w + 1).exp().sum(0))
    for i in range(STEPS):
        if i in (3, 7):
            w.copy_(lib.from_numpy(w.clone().numpy() * 2))
        kept.append(step(data(lib, i)))
    return kept


@program
def memory_that_is_seen(lib: Any, wrap: Wrap) -> list[Any]:
    w, kept = lib.ones(5), []
    step = wrap(lambda x: w.add_(x.mean(0)) * 2 + 1)
    for i in range(STEPS):
        kept.append(step(data(lib, i)))
        if i == 6:
            seen = w.numpy()
        if i > 6 and seen.flags.writeable:  # over a wire it is a copy
            kept.append(float(seen.sum()))
            seen[0] = i
    return [*kept, w]


@program
def choices_of_python(lib: Any, wrap: Wrap) -> list[Any]:
    choose = random.Random(2)
    ways = [lambda x: x.sin() * 2, lambda x: x.cos() + x, lambda x: x.neg().exp()]
    step, kept = wrap(lambda x, k: ways[k](x).sum(0)), []
    for i in range(3 * STEPS):
        kept.append(step(data(lib, i), choose.randrange(3)))
    return kept


@program
def sorted_and_gathered(lib: Any, wrap: Wrap) -> list[Any]:
    kept = []

    def step(x: Any) -> Any:
        top, at = x.topk(3, dim=1)
        out = lib.zeros(4, 5).scatter_(1, at, top)
        out[out > 0.5] = 0.25
        return out, lib.cumsum(x, 1), x.argmax(1), out.index_add_(0, lib.arange(4), x)

    step = wrap(step)
    for i in range(STEPS):
        kept += step(data(lib, i))
    return kept


@program
def grown_and_set(lib: Any, wrap: Wrap) -> list[Any]:
    x, kept = data(lib, 1), []
    step = wrap(lambda x: x.mul_(1.1).sum() + x[0])
    for i in range(STEPS):
        if i == 5:
            x = x.clone().resize_(6, 5)
            x[4:] = 1.0
        if i == 8:
            x = x.clone().set_(data(lib, 2))
        kept.append(step(x))
    return [*kept, x]


@program
def lists_and_dicts(lib: Any, wrap: Wrap) -> list[Any]:
    def step(batch: Any) -> Any:
        parts = [batch["y"][0] + 1, batch["y"][-1].sum()]
        return batch["x"] * 2, {"b": parts}

    step, kept = wrap(step), []
    for i in range(STEPS):
        y = [data(lib, i + k) for k in range(2 if i < 8 else 3)]
        first, rest = step({"x": data(lib, i), "y": y})
        kept += [first, *rest["b"]]
    return kept


@program
def complex_numbers(lib: Any, wrap: Wrap) -> list[Any]:
    w = lib.ones(5, dtype=lib.complex64, requires_grad=True)
    kept = []

    def step(x: Any) -> Any:
        w.grad = None
        loss = (lib.fft.fft(x) * w * 1j).abs().sum()
        loss.backward()
        return loss, w.grad.clone()

    step = wrap(step)
    for i in range(STEPS):
        kept += step(data(lib, i))
        if i == 6:
            with lib.no_grad():
                w.mul_(1 + 2j)
    return [*kept, w]


@program
def recurrent(lib: Any, wrap: Wrap) -> list[Any]:
    cell = lib.nn.GRU(5, 6, batch_first=True)
    optimizer = lib.optim.Adam(cell.parameters(), lr=0.01)

    def step(x: Any, h: Any) -> Any:
        optimizer.zero_grad()
        out, h = cell(x, h)
        loss = out.square().mean()
        loss.backward()
        optimizer.step()
        return loss, h.detach()

    step, kept, h = wrap(step), [], lib.zeros(1, 2, 6)
    for i in range(STEPS):
        x = data(lib, i, 6 if i % 4 != 3 else 4).view(2, -1, 5)
        loss, h = step(x, h)
        kept.append(loss)
    return [*kept, h, *all_of(cell)]
