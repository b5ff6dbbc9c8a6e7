"""Programs that change something midway: eager, replayed, compiled, and PyTorch's own."""

from __future__ import annotations

import random
import sys
import threading
from typing import Any

import farspan
import numpy as np
import pytest
import torch
from nasty_more import PROGRAMS
from nasty_random import RANDOM

EXPECTED_EAGER = {
    "a_state_that_is_carried", "hooks_of_many_kinds", "a_hook_that_keeps_gradients",
    "attributes_of_an_object", "a_closure_of_lbfgs", "weights_normed_and_cloned",
    "a_rate_that_is_a_local",
}  # fmt: skip


def plain(function: Any) -> Any:
    return function


def values(result: Any) -> list[Any]:
    if isinstance(result, (list, tuple)):
        return [v for part in result for v in values(part)]
    return [result.detach().numpy().copy() if hasattr(result, "detach") else result]


def reading(function: Any) -> Any:
    """Return the function with a value read after each call, where automatic replay cuts."""

    def read(*args: Any) -> Any:
        result = function(*args)
        first = result[0] if isinstance(result, tuple) else result
        if first is not None:
            first.detach().sum().item()
        return result

    return read


def run(program: Any, wrap: Any, connect: Any = None, **options: Any) -> tuple[list[Any], Any]:
    with (connect or farspan.connect)(**options) as session:
        farspan.manual_seed(5)
        return values(program(farspan, wrap)), session.stats()


def assert_same(found: list[Any], expected: list[Any], exact: bool = True) -> None:
    assert len(found) == len(expected)
    for k, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        if isinstance(theirs, np.ndarray):
            assert mine.shape == theirs.shape and mine.dtype == theirs.dtype, k
            if exact:
                assert mine.tobytes() == theirs.tobytes(), k
            else:
                np.testing.assert_allclose(mine, theirs, 1e-4, 1e-5, err_msg=str(k))
        else:
            assert mine == theirs, k


@pytest.mark.parametrize("name", PROGRAMS)
def test_eager_is_what_torch_gives(name: str) -> None:
    expected = values(PROGRAMS[name](torch, plain))
    found, _ = run(PROGRAMS[name], plain, address="local:", replay=False)
    assert_same(found, expected, exact=False)


@pytest.mark.parametrize("wrap", [plain, reading])
@pytest.mark.parametrize("name", [*PROGRAMS, *RANDOM])
def test_replay_gives_the_same_bits(name: str, wrap: Any) -> None:
    program = {**PROGRAMS, **RANDOM}[name]
    expected, _ = run(program, wrap, address="local:", replay=False)
    found, stats = run(program, wrap, address="local:", replay=True)
    assert_same(found, expected)
    if wrap is reading:
        assert stats["replay"]["hits"] >= 2


@pytest.mark.parametrize("name", [*PROGRAMS, *RANDOM])
def test_replay_gives_the_same_bits_over_a_wire(name: str, service: tuple[str, str]) -> None:
    program = {**PROGRAMS, **RANDOM}[name]
    options = {"address": service[0], "token": service[1], "timeout": 20}
    expected, _ = run(program, reading, replay=False, **options)
    found, _ = run(program, reading, replay=True, **options)
    assert_same(found, expected)


@pytest.mark.parametrize("wrap", [plain, reading])
@pytest.mark.parametrize("name", [*PROGRAMS, *RANDOM])
def test_compiled_does_the_same(name: str, wrap: Any) -> None:
    program = {**PROGRAMS, **RANDOM}[name]
    expected, _ = run(program, wrap, address="local:", replay=False)
    for replay in (False, True):
        compiled: list[Any] = []

        def compile(function: Any, compiled: list[Any] = compiled) -> Any:
            compiled.append(farspan.compile(function))
            return wrap(compiled[-1])

        found, stats = run(program, compile, address="local:", replay=replay)
        assert_same(found, expected, exact=False)
        if name not in EXPECTED_EAGER:
            assert stats["calls"] >= 4, [f.explain(show=False) for f in compiled]


def test_programs_in_threads_on_one_session(service: tuple[str, str]) -> None:
    """Their runs are cut at each other's waits, and one's results are no others'."""
    names = list(PROGRAMS)
    with farspan.connect("local:", replay=False):
        expected = {name: values(PROGRAMS[name](farspan, reading)) for name in names[:18]}
    wrong: list[str] = []

    def work(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(3):
            name = choose.choice(list(expected))
            compiled = choose.random() < 0.3
            wrap = (lambda f: reading(farspan.compile(f))) if compiled else reading
            try:
                assert_same(values(PROGRAMS[name](farspan, wrap)), expected[name], not compiled)
            except Exception as error:
                wrong.append(f"{name}: {error!r}")

    for address, token in (("local:", None), service):
        with farspan.connect(address, token=token, replay=True, timeout=20) as session:
            before = sys.getswitchinterval()
            sys.setswitchinterval(1e-5)
            threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
            sys.setswitchinterval(before)
            assert not wrong
            assert session.stats()["replay"]["hits"] >= 5
