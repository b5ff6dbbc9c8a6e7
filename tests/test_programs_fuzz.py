"""Small random programs: by a plan and command by command, the bits are the same."""

from __future__ import annotations

import random
from typing import Any

import farspan as torch
import pytest
from farspan import nn
from program_bodies import beside, record, session

ROWS, COLUMNS = 4, 6
MAPS = ["relu", "neg", "abs", "sigmoid", "tanh", "square"]
PAIRS = ["add", "sub", "mul", "maximum"]
STORES = ["add_", "mul_", "sub_", "copy_"]
KINDS = ["map", "pair", "number"] * 2 + ["store", "store_part", "store_row"] * 2
KINDS += ["sum", "where", "matmul", "index", "view", "rand", "again", "fill", "ints"]


def _program(seed: int, kinds: list[str] = KINDS) -> Any:
    """Return a function that does the same at each call to tensors it was made with."""
    choose = random.Random(seed)
    torch.manual_seed(seed)
    whole = torch.randn(2 * ROWS, COLUMNS)
    given, column = torch.randn(ROWS, COLUMNS), torch.randn(ROWS, 1)
    square, rows = torch.randn(COLUMNS, COLUMNS) * 0.3, torch.tensor([2, 0, 3, 1])
    choices = choose.getstate()

    def run() -> Any:
        choose.setstate(choices)
        pool = [given, whole[1 : ROWS + 1], whole[:ROWS], given * 0.5]
        for _ in range(choose.randrange(6, 26)):
            made = _one(choose, choose.choice(kinds), pool, column, square, rows)
            if made is not None:
                pool.append(made)
        return choose.sample(pool, choose.randrange(1, 4)), pool[-1]

    return run


def _one(
    choose: random.Random, kind: str, pool: list[Any], column: Any, square: Any, rows: Any
) -> Any:
    x, y = choose.choice(pool), choose.choice(pool)
    if kind == "map":
        return getattr(torch, choose.choice(MAPS))(x)
    if kind == "pair":
        return getattr(torch, choose.choice(PAIRS))(x, choose.choice([y, column, y[1]]))
    if kind == "number":
        return choose.choice([x * 0.5, x + 2, 1 - x])
    if kind == "store":
        getattr(x, choose.choice(STORES))(choose.choice([y.tanh(), y * 0.5, y]).clamp(-3, 3))
    elif kind == "store_part":
        begin = choose.randrange(COLUMNS // 2)
        part = x[:, begin : begin + 3] if choose.random() < 0.5 else x[1:3, ::2]
        getattr(part, choose.choice(STORES))(y[: part.shape[0], :3].sigmoid())
    elif kind == "store_row":
        getattr(x[choose.randrange(ROWS)], choose.choice(STORES))((y[0] @ square).tanh())
    elif kind == "fill":
        x[choose.randrange(ROWS), 1:].fill_(0.25)
    elif kind == "sum":
        return x.sum(choose.choice([0, 1]), keepdim=True) * 0.1 + y
    elif kind == "where":
        return torch.where(x > y, x, y * 2)
    elif kind == "matmul":
        return (x @ square).tanh()
    elif kind == "index":
        return x[rows]
    elif kind == "view":
        return choose.choice([x.T.reshape(ROWS, COLUMNS), x.view_as(x), x.flip(0), x.detach()])
    elif kind == "rand":
        return torch.rand(ROWS, COLUMNS)
    elif kind == "again":
        return (x.relu() + 1) * (x.relu() + 1).sigmoid()
    elif kind == "join":
        return _joined(choose, x, y, pool)
    elif kind == "ints":
        return x.clamp(-9, 9).to(torch.int64).floor_divide(3).to(torch.float32)
    return None


def _training(seed: int) -> Any:
    """Return a training step of a small net of random layers."""
    choose = random.Random(seed)
    torch.manual_seed(seed)
    width, rows = choose.choice([4, 8, 16]), choose.choice([3, 8, 32])
    layers = [
        choose.choice([
            lambda: nn.Linear(width, width), lambda: nn.LayerNorm(width), nn.GELU, nn.ReLU, nn.Tanh,
            lambda: nn.Sequential(
                nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
            ),
        ])() for _ in range(choose.randrange(2, 9))
    ]  # fmt: skip
    layers += [nn.Linear(width, 3)]
    skips = [choose.random() < 0.4 for _ in layers]
    parameters = [p for layer in layers for p in layer.parameters()]
    optimizer = choose.choice([
        lambda: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
        lambda: torch.optim.SGD(parameters, lr=0.05, foreach=False),
        lambda: torch.optim.AdamW(parameters, lr=1e-2),
        lambda: torch.optim.Adam(parameters, lr=1e-2),
    ])()  # fmt: skip
    x, y = torch.randn(rows, width), torch.randint(0, 3, (rows,))
    to_none, early, keeps = choose.random() < 0.6, choose.random() < 0.5, choose.random() < 0.3

    def step() -> Any:
        if early:
            optimizer.zero_grad(to_none)
        h, seen = x, []
        for layer, skip in zip(layers, skips, strict=True):
            out = layer(h)
            h = h + out if skip and out.shape == h.shape else out
            seen.append(h)
        loss = nn.functional.cross_entropy(h, y)
        loss.backward()
        optimizer.step()
        if not early:
            optimizer.zero_grad(to_none)
        return loss.detach(), seen[len(seen) // 2].detach() if keeps else None

    step()
    step()
    return step


@pytest.mark.parametrize("exact", [True, False])
def test_random_training_steps_by_plans_and_by_commands(exact: bool) -> None:
    with session() as s:
        s.replay = False
        for seed in range(12):
            beside(record(_training(seed), s, exact=exact))


def _joined(choose: random.Random, x: Any, y: Any, pool: list[Any]) -> Any:
    """Return what copies make of fresh parts, some of which others see too."""
    a, b, c = x * 2, y + 1, (x - y).tanh()
    if choose.random() < 0.3:
        pool.append(choose.choice([a, b, c]))
    return choose.choice([
        lambda: torch.cat([a[:2], b[2:]], 0),
        lambda: torch.cat([x[:, :2] * 3, y[:, :3] + c[:, :3], c[:, 5:].neg()], 1),
        lambda: torch.stack([a, b, c], choose.randrange(3)).reshape(3 * ROWS, COLUMNS)[2:6],
        lambda: torch.cat([torch.cat([a, b], 1), torch.stack([c, a], 1).view(ROWS, -1)])[2:6, 3:9],
        lambda: a.T.clone().T + b.T.contiguous().T,
        lambda: torch.stack([a.T @ b, (c.T @ a).T.clone()], 1).view(-1, COLUMNS)[1:5],
        lambda: torch.cat([a.unsqueeze(0), b.unsqueeze(0)], 0).permute(1, 2, 0).clone()[..., 1],
    ])()  # fmt: skip


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("part", range(4))
def test_random_copies_by_plans_and_by_commands(part: int, exact: bool) -> None:
    with session() as s, torch.no_grad():
        for seed in range(20 * part, 20 * part + 20):
            beside(record(_program(seed, [*KINDS, *["join"] * 8]), s, exact=exact))


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("part", range(6))
def test_random_programs_by_plans_and_by_commands(part: int, exact: bool) -> None:
    with session() as s, torch.no_grad():
        for seed in range(20 * part, 20 * part + 20):
            beside(record(_program(seed), s, exact=exact))


@pytest.mark.parametrize("exact", [True, False])
def test_stores_by_loops_into_memory_that_steps_share(exact: bool) -> None:
    """These stored into memory that had been laid over another one, and moved half of it."""
    with session() as s, torch.no_grad():
        for seed in (1031, 1093, 1148, 1176):
            beside(record(_program(seed), s, exact=exact))
