"""What `vs_torch.py` runs: each row is one program, written once as a function of the library.

A row gets `torch` or `farspan`, and `wrap`, which compiles the part of it that every compiler takes
(a forward pass with its loss). Same seed, same numbers: all backends must report the same loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Wrap = Callable[[Any], Any]


def unwrapped(function: Any) -> Any:
    """Return the function as it is."""
    return function


@dataclass(frozen=True, slots=True)
class Work:
    """One program, ready to run.

    step(*state) -> the next state, a tuple of tensors; `start` is the first state.
    watched: tensors that the last steps wrote, beside the state, which `read` adds up.
    """

    step: Callable[..., tuple[Any, ...]]
    start: tuple[Any, ...] = ()
    watched: tuple[Any, ...] = ()
    carries: bool = False  # whether a step's state goes into the next step

    def run(self, step: Callable[..., tuple[Any, ...]], count: int) -> tuple[Any, ...]:
        """Return the state after `count` steps. Does not wait."""
        state = self.start
        for _ in range(count):
            state = step(*state) if self.carries else step()
        return state

    def read(self, state: tuple[Any, ...]) -> float:
        """Return a number that depends on all that has run. Waits."""
        total = state[0].sum()
        for each in (*state[1:], *self.watched):
            total = total + each.detach().sum()
        return float(total)


@dataclass(frozen=True, slots=True)
class Row:
    """One program of the table. compile_whole: torch.compile is tried on the whole step too."""

    name: str
    title: str
    build: Callable[[Any, Wrap, bool], Work]
    trains: bool = True


def _training(lib: Any, model: Any, loss_of: Wrap, optimizer: Any) -> Work:
    """Return a training step: zero, forward and loss, backward, update."""

    def step() -> tuple[Any, ...]:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        return (loss.detach(),)

    return Work(step, watched=(next(iter(model.parameters())),))


def _adam(lib: Any, model: Any) -> Any:
    return lib.optim.Adam(model.parameters(), lr=1e-3, fused=True)


# --------------------------------------------------------------------------------------- models --
def mlp(lib: Any, wrap: Wrap, smoke: bool) -> Work:
    nn, width = lib.nn, 32 if smoke else 512
    model = nn.Sequential(
        nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )
    x, y = lib.randn(64, 784), lib.randint(0, 10, (64,))
    forward = wrap(lambda: nn.functional.cross_entropy(model(x), y))
    return _training(lib, model, forward, _adam(lib, model))


def tiny_mlp(lib: Any, wrap: Wrap, smoke: bool) -> Work:
    nn = lib.nn
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    x, y = lib.randn(32, 64), lib.randint(0, 10, (32,))
    forward = wrap(lambda: nn.functional.cross_entropy(model(x), y))
    return _training(lib, model, forward, lib.optim.SGD(model.parameters(), lr=0.01))


def cnn(lib: Any, wrap: Wrap, smoke: bool) -> Work:
    nn, batch = lib.nn, 2 if smoke else 64
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    x, y = lib.randn(batch, 1, 28, 28), lib.randint(0, 10, (batch,))
    forward = wrap(lambda: nn.functional.cross_entropy(model(x), y))
    return _training(lib, model, forward, _adam(lib, model))


def transformer(width: int) -> Callable[[Any, Wrap, bool], Work]:
    """Return the row of two pre-norm blocks with heads of 64, on 8 x 128 tokens."""

    def build(lib: Any, wrap: Wrap, smoke: bool) -> Work:
        nn, fn, d = lib.nn, lib.nn.functional, 64 if smoke else width

        class Block(nn.Module):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
                self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
                self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

            def forward(self, x: Any) -> Any:
                b, s, _ = x.shape
                parts = self.qkv(self.norm1(x)).view(b, s, 3, d // 64, 64).permute(2, 0, 3, 1, 4)
                q, k, v = parts
                mixed = fn.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, s, d)
                x = x + self.out(mixed)
                return x + self.down(fn.gelu(self.up(self.norm2(x))))

        model = nn.Sequential(Block(), Block())
        x = lib.randn(2 if smoke else 8, 16 if smoke else 128, d)
        forward = wrap(lambda: (model(x) ** 2).mean())
        return _training(lib, model, forward, _adam(lib, model))

    return build


def resnet18(lib: Any, wrap: Wrap, smoke: bool) -> Work:
    nn, fn = lib.nn, lib.nn.functional

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, inside: int, outside: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
            self.norm1 = nn.BatchNorm2d(outside)
            self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(outside)
            self.skip = nn.Identity() if inside == outside else nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )  # fmt: skip

        def forward(self, x: Any) -> Any:
            y = fn.relu(self.norm1(self.conv1(x)))
            return fn.relu(self.norm2(self.conv2(y)) + self.skip(x))

    layers: list[Any] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
                         nn.MaxPool2d(3, 2, 1)]  # fmt: skip
    widths = (64, 64, 128, 256, 512)
    for number, (inside, outside) in enumerate(itertools.pairwise(widths)):
        layers += [Block(inside, outside, 1 if number == 0 else 2), Block(outside, outside, 1)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
    batch, size = (2, 32) if smoke else (8, 64)
    x, y = lib.randn(batch, 3, size, size), lib.randint(0, 10, (batch,))
    forward = wrap(lambda: fn.cross_entropy(model(x), y))
    return _training(lib, model, forward, _adam(lib, model))


def lstm(lib: Any, wrap: Wrap, smoke: bool) -> Work:
    nn = lib.nn
    batch, steps = (2, 5) if smoke else (32, 50)
    recurrent, head = nn.LSTM(64, 128, batch_first=True), nn.Linear(128, 10)
    x, y = lib.randn(batch, steps, 64), lib.randint(0, 10, (batch,))
    forward = wrap(lambda: nn.functional.cross_entropy(head(recurrent(x)[0][:, -1]), y))
    model = nn.ModuleList([recurrent, head])
    return _training(lib, model, forward, _adam(lib, model))


def gcn(lib: Any, wrap: Wrap, smoke: bool) -> Work:
    """Two graph convolutions: gather, then scatter-add (Kipf and Welling 2017, eq. 2)."""
    nn, fn = lib.nn, lib.nn.functional
    nodes, edges = (50, 200) if smoke else (2_000, 16_000)
    source, target = lib.randint(0, nodes, (edges,)), lib.randint(0, nodes, (edges,))
    degree = lib.ones(nodes).index_add_(0, target, lib.ones(edges))
    weight = (degree[source] * degree[target]).rsqrt().unsqueeze(1)
    first, second = nn.Linear(64, 64), nn.Linear(64, 16)
    x, y = lib.randn(nodes, 64), lib.randint(0, 16, (nodes,))
    places = {64: target.unsqueeze(1).expand(edges, 64), 16: target.unsqueeze(1).expand(edges, 16)}

    def mix(h: Any) -> Any:
        messages = h.index_select(0, source) * weight
        return h.scatter_add(0, places[h.shape[1]], messages)

    forward = wrap(lambda: fn.cross_entropy(mix(second(fn.relu(mix(first(x))))), y))
    model = nn.ModuleList([first, second])
    return _training(lib, model, forward, _adam(lib, model))


# ------------------------------------------------------------------------------------ operations --
def chain(count: int, long: bool) -> Callable[[Any, Wrap, bool], Work]:
    """Return the row of a pointwise chain over `count` elements, each result the next input."""

    def build(lib: Any, wrap: Wrap, smoke: bool) -> Work:
        gelu = lib.nn.functional.gelu
        n = min(count, 1_000) if smoke else count
        a, b = lib.full((n,), 0.9), lib.full((n,), 0.1)

        def short_step(x: Any) -> tuple[Any, ...]:
            return (x * a + b,)

        def long_step(x: Any) -> tuple[Any, ...]:
            return (lib.tanh(gelu(x * a + b)) * a + b,)

        start = (lib.randn(n),)
        return Work(wrap(long_step if long else short_step), start, carries=True)

    return build


def adam_10m(lib: Any, wrap: Wrap, smoke: bool) -> Work:
    parts, size = (2, 100) if smoke else (10, 1_000)
    weights = [lib.nn.Parameter(lib.randn(size, size)) for _ in range(parts)]
    for weight in weights:
        weight.grad = lib.randn(size, size)
    optimizer = lib.optim.Adam(weights, lr=1e-3, fused=True)

    def step() -> tuple[Any, ...]:
        optimizer.step()
        return (weights[0].detach(),)

    return Work(wrap(step), watched=(weights[-1],))


def tiny_ops(lib: Any, wrap: Wrap, smoke: bool) -> Work:
    a, b = lib.full((4, 4), 0.01), lib.full((4, 4), 0.99)

    def step(x: Any) -> tuple[Any, ...]:
        for _ in range(5 if smoke else 500):
            x = (x + a) * b
        return (x,)

    return Work(wrap(step), (lib.ones(4, 4),), carries=True)


ROWS = [
    Row("mlp", "MLP 784-512-512-10, batch 64, Adam", mlp),
    Row("cnn", "LeNet-like CNN, 1x28x28, batch 64, Adam", cnn),
    Row("transformer256", "2 transformer blocks, d=256, 8x128 tokens", transformer(256)),
    Row("tiny", "MLP 64-128-10, batch 32, SGD", tiny_mlp),
    Row("transformer512", "2 transformer blocks, d=512, 8x128 tokens", transformer(512)),
    Row("resnet18", "ResNet-18 at 64x64, batch 8", resnet18),
    Row("lstm", "LSTM 64-128, 50 steps, batch 32", lstm),
    Row("gcn", "GCN, 2,000 nodes, 16,000 edges", gcn),
    Row("chain10k", "x*a+b, 10,000 elements", chain(10_000, False), False),
    Row("chain1m", "x*a+b, 1 M elements", chain(1_000_000, False), False),
    Row("chain16m", "x*a+b, 16 M elements", chain(16_000_000, False), False),
    Row("long10k", "tanh(gelu(x*a+b))*a+b, 10,000", chain(10_000, True), False),
    Row("long1m", "tanh(gelu(x*a+b))*a+b, 1 M", chain(1_000_000, True), False),
    Row("long16m", "tanh(gelu(x*a+b))*a+b, 16 M", chain(16_000_000, True), False),
    Row("adam10m", "Adam over 10 M parameters", adam_10m, False),
    Row("tinyops", "1,000 ops on 4x4 tensors", tiny_ops, False),
]
BY_NAME = {row.name: row for row in ROWS}
