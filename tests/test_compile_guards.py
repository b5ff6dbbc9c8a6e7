"""farspan.compile: what a function can reach may change between calls, and results follow."""

from __future__ import annotations

import copy
import itertools
import math
import os
import types
from argparse import Namespace
from array import array
from collections import UserDict, UserList, deque
from collections.abc import Callable
from typing import Any

import farspan as torch
import numpy as np
import pytest
from farspan import nn, optim
from farspan.core import limits
from same_bits import bits

Compile = Callable[[Any], Any]


class Config:
    scale = 2.0


class Slotted:
    __slots__ = ("scale",)


class Scaled(nn.Module):
    factor = 2.0

    def helped(self, x: Any) -> Any:
        return x * GLOBAL["scale"] * self.factor

    def forward(self, x: Any) -> Any:
        return self.helped(x)


GLOBAL = {"scale": 1.0}
MODULE: Any = types.ModuleType("settings_of_a_user")
NAMESPACE = types.SimpleNamespace()
OPTIONS = Namespace()
SLOTTED = Slotted()
ARRAY = np.ones(1)
FLAGS: set[str] = set()
LATEST = deque([0.0], maxlen=1)
TABLE: UserDict[str, float] = UserDict(scale=0.0)
SCALES = UserList([0.0])
ORDERED = {2.0: 2.0, 3.0: 3.0}
RAW, BYTES = array("d", [0.0]), bytearray(1)
SCALED = Scaled()


def scaled(x: Any, scale: float = 2.0, *, power: float = 1.0) -> Any:
    return x * scale**power


PLACES: dict[str, tuple[Any, Any]] = {
    "module": (lambda x: x * MODULE.scale, lambda v: setattr(MODULE, "scale", v)),
    "class": (lambda x: x * Config.scale, lambda v: setattr(Config, "scale", v)),
    "namespace": (lambda x: x * NAMESPACE.scale, lambda v: setattr(NAMESPACE, "scale", v)),
    "options": (lambda x: x * OPTIONS.scale, lambda v: setattr(OPTIONS, "scale", v)),
    "slot": (lambda x: x * SLOTTED.scale, lambda v: setattr(SLOTTED, "scale", v)),
    "array": (lambda x: x * float(ARRAY[0]), lambda v: ARRAY.fill(v)),
    "set": (
        lambda x: x * (3 if "three" in FLAGS else 2),
        lambda v: (FLAGS.clear(), FLAGS.add("three" if v == 3 else "two")),
    ),
    "deque": (lambda x: x * LATEST[0], LATEST.append),
    "user's dict": (lambda x: x * TABLE["scale"], lambda v: TABLE.update(scale=v)),
    "user's list": (lambda x: x * SCALES[0], lambda v: SCALES.__setitem__(0, v)),
    "order of a dict": (
        lambda x: x * list(ORDERED.values())[-1],
        lambda v: ORDERED.update({v: ORDERED.pop(v)}),
    ),
    "array of Python's": (lambda x: x * RAW[0], lambda v: RAW.__setitem__(0, v)),
    "bytes": (lambda x: x * BYTES[0], lambda v: BYTES.__setitem__(0, int(v))),
    "method": (lambda x: SCALED(x), lambda v: GLOBAL.update(scale=v)),
    "default": (
        lambda x: scaled(x),
        lambda v: setattr(scaled, "__defaults__", (v,)),
    ),
    "keyword's default": (
        lambda x: scaled(x),
        lambda v: scaled.__kwdefaults__.update(power=v),
    ),
    "environment": (
        lambda x: x * float(os.environ.get("FARSPAN_TEST_SCALE", "1")),
        lambda v: os.environ.update(FARSPAN_TEST_SCALE=str(v)),
    ),
    "class of a module": (lambda x: SCALED(x), lambda v: setattr(Scaled, "factor", v)),
}


def both(program: Callable[[Compile], Any], calls: int = 1) -> None:
    """Run a program eagerly and compiled; assert equal bits, and that programs were called."""
    found = []
    for make in (lambda f: f, torch.compile):
        with torch.connect("local:", replay=False) as session:
            torch.manual_seed(0)
            found.append(bits(program(make)))
            assert make is not torch.compile or session.stats()["calls"] >= calls
    assert found[0] == found[1]


@pytest.mark.parametrize("name", PLACES)
def test_a_number_is_looked_at_wherever_it_stands(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, change = PLACES[name]
    monkeypatch.setenv("FARSPAN_TEST_SCALE", "1")  # puts it back, too
    monkeypatch.setattr(scaled, "__defaults__", (2.0,))
    monkeypatch.setattr(scaled, "__kwdefaults__", {"power": 1.0})

    def program(make: Compile) -> Any:
        compiled, results = make(lambda x: function(x)), []
        for value in (2.0, 2.0, 3.0, 3.0, 2.0):
            change(value)
            results.append(compiled(torch.ones(2)))
        return results

    both(program)


@pytest.mark.parametrize("kind", ["count", "iter", "generator"])
def test_a_function_with_an_iterator_of_its_own_stays_eager(kind: str) -> None:
    makes = {"count": itertools.count, "iter": lambda: iter(range(9)),
             "generator": lambda: (n for n in range(9))}  # fmt: skip
    numbers = makes[kind]()
    f = torch.compile(lambda x: x * next(numbers))
    assert [f(torch.ones(())).item() for _ in range(5)] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert "an iterator" in f.explain(show=False)


def test_a_number_in_a_long_array_is_never_an_old_one() -> None:
    numbers = np.zeros(limits.INLINE_BYTES_MAX)
    f = torch.compile(lambda x: x * float(numbers[0]))
    for value in (1.0, 1.0, 2.0, 3.0):
        numbers[0] = value
        assert f(torch.ones(())).item() == value
    assert "too long to look at" in f.explain(show=False)


def test_a_number_in_a_long_array_of_an_object_is_never_an_old_one() -> None:
    holder = types.SimpleNamespace(numbers=np.zeros(limits.INLINE_BYTES_MAX), more=1.0)
    f = torch.compile(lambda x: x * float(holder.numbers[0]))
    for value in (1.0, 1.0, 2.0, 3.0):
        holder.numbers[0] = value
        assert f(torch.ones(())).item() == value
    assert "too long to look at" in f.explain(show=False)
    other = torch.compile(lambda x: x * holder.more)  # names no array
    for _ in range(3):
        other(torch.ones(()))
    assert "1 programs" in other.explain(show=False)


def test_a_function_may_hold_an_op() -> None:
    gelu, tables = nn.functional.gelu, [torch.tanh, torch.exp]
    x = torch.rand(5)
    f = torch.compile(lambda: tables[0](gelu(x)))
    kept = [f(), f(), f()]
    assert "0 programs" not in f.explain(show=False) and torch.allclose(kept[0], kept[2])
    tables[0] = torch.exp
    assert torch.allclose(f(), torch.exp(gelu(x)))


def test_modules_that_are_deep_in_modules_are_looked_at() -> None:
    def program(make: Compile) -> Any:
        inner = nn.Dropout(0.5)
        model: Any = inner
        for _ in range(9):
            model = nn.Sequential(model)
        compiled, results = make(lambda x: model(x) * 2), []
        for training in (True, True, False, False, True):
            inner.train(training)
            results.append(compiled(torch.ones(8)))
        return results

    both(program, calls=2)


def test_arguments_are_told_apart() -> None:
    def program(make: Compile) -> Any:
        times = make(lambda x, a: x * a)
        part = make(lambda x, s: x[s] * 2)
        x = torch.arange(4.0)
        zeros = [times(torch.ones(2), a) for a in (0.0, -0.0, 0.0, -0.0)]
        return zeros, [part(x, slice(a, 3)) for a in (0, 1, 1)]

    both(program, calls=3)


def test_an_argument_that_a_function_changes_in_python() -> None:
    def keep(x: Any, d: dict[str, Any]) -> Any:
        d["x"] = x
        return x * 2

    def program(make: Compile) -> Any:
        compiled, results = make(keep), []
        for i in range(3):
            d: dict[str, Any] = {}
            results += [compiled(torch.full((2,), float(i)), d), d["x"]]
        return results

    both(program, calls=0)


def test_one_tensor_in_two_places_gets_one_gradient() -> None:
    def program(make: Compile) -> Any:
        w, results = torch.ones(2, requires_grad=True), []

        def gradients(x: Any) -> None:
            w.grad = x.grad = None
            (x * w).sum().backward()

        compiled = make(gradients)
        v = torch.full((2,), 3.0, requires_grad=True)
        for x in (v, v, w, w, v):
            compiled(x)
            results += [w.grad * 1, x.grad * 1]
        return results

    both(program)


def test_the_dtype_of_autocast_selects_the_program() -> None:
    def program(make: Compile) -> Any:
        compiled, results = make(lambda x: x @ x), []
        for dtype in (torch.bfloat16, torch.bfloat16, torch.float16, torch.float16):
            with torch.autocast("cpu", dtype=dtype):
                results.append(compiled(torch.ones(4, 4)).float())
        return results

    both(program, calls=2)


def test_an_attribute_that_a_call_makes_is_seen() -> None:
    def program(make: Compile) -> Any:
        thing = types.SimpleNamespace()

        def once(x: Any) -> Any:
            if hasattr(thing, "done"):
                return x * 2
            thing.done = True
            return x * 1

        compiled = make(once)
        return [compiled(torch.ones(2)) for _ in range(4)]

    both(program)


def test_a_function_without_tensors_goes_with_its_session() -> None:
    f = torch.compile(lambda: torch.ones(3) * 2)
    for _ in range(2):
        with torch.connect("local:", replay=False):
            assert [f().tolist() for _ in range(3)] == [[2.0] * 3] * 3


def test_a_compiled_function_within_another() -> None:
    with torch.connect("local:", replay=False) as session:
        g = torch.compile(lambda x: x * 2 + 1)
        assert [g(torch.ones(1)).item() for _ in range(2)] == [3.0, 3.0]
        before = session.stats()["calls"]
        f = torch.compile(lambda x: g(x) * 3)
        assert [f(torch.ones(1)).item() for _ in range(3)] == [9.0] * 3
        assert session.stats()["calls"] == before + 2


class Every(optim.SGD):
    """An optimizer that writes at each second step."""

    count = 0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.count += 1
        if self.count % 2 == 0:
            super().step()


def reload(i: int, model: Any, optimizer: Any) -> None:
    if i == 4:
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.param_groups[0]["lr"] = 0.1 * (i + 1)


def hook(i: int, model: Any, optimizer: Any) -> None:
    if i == 4:
        model.weight.register_hook(lambda g: g * 3)
        model.bias.register_post_accumulate_grad_hook(lambda p: p.grad.mul_(2))


def rate(i: int, model: Any, optimizer: Any) -> None:
    optimizer.param_groups[0]["lr"] = 0.1 * (i // 2 + 1)


def nothing(*_: Any) -> None: ...


TRAININGS: dict[str, tuple[Any, Any, Any]] = {
    "an optimizer is loaded": (optim.Adam, reload, nothing),
    "hooks come": (optim.SGD, hook, nothing),
    "a rate is returned": (optim.Adam, rate, lambda o: o.param_groups[0]["lr"]),
    "a rate is computed with": (optim.Adam, rate, lambda o: math.sqrt(o.param_groups[0]["lr"])),
    "an optimizer counts": (Every, nothing, nothing),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_step_follows_its_optimizer(name: str) -> None:
    make_optimizer, change, also = TRAININGS[name]
    found = []
    for make in (lambda f: f, torch.compile):
        with torch.connect("local:", replay=False):
            torch.manual_seed(0)
            model = nn.Linear(3, 2)
            optimizer = make_optimizer(model.parameters(), lr=0.1)

            def step(x: Any, model: Any = model, optimizer: Any = optimizer) -> Any:
                optimizer.zero_grad()
                loss = (model(x) ** 2).mean()
                loss.backward()
                optimizer.step()
                return loss, also(optimizer)

            compiled, numbers, tensors = make(step), [], []
            for i in range(8):
                change(i, model, optimizer)
                loss, number = compiled(torch.ones(4, 3) * i)
                numbers.append(number)
                tensors.append(loss)
            tensors += [*model.parameters(), *[p.grad for p in model.parameters()]]
            found.append((numbers, [t.tolist() for t in tensors]))
    assert found[0][0] == found[1][0]
    for mine, theirs in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)
