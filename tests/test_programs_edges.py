"""Plans at the edges: stores into parts, views of inputs that leave, `.data`."""

from __future__ import annotations

import farspan as torch
import numpy as np
import pytest
from farspan_worker.engine import Engine
from farspan_worker.programs.run import Program
from farspan_worker.store import Array
from program_bodies import beside, record, session


@pytest.mark.parametrize("exact", [True, False])
def test_a_store_into_a_part_takes_no_smaller_memory(exact: bool) -> None:
    with session() as s, torch.no_grad():
        x, w, v = torch.randn(8), torch.randn(4, 3), torch.randn(3)

        def run() -> object:
            y = x.flip(0)
            y[4:].mul_(w @ v)
            return y @ x

        beside(record(run, s, exact=exact))


def test_a_view_of_an_input_that_leaves_belongs_to_the_input() -> None:
    with session() as s, torch.no_grad():
        x = torch.randn(4)
        recorded = record(lambda: x[1:], s)
    program, inputs = Program(recorded.body, Engine()), recorded.fresh()
    for _ in range(2):
        (out,) = program.run(inputs, recorded.body.scalars) or ()
        assert out._base is inputs[0]
        inputs = recorded.fresh()


def test_inputs_whose_writes_are_counted_apart_are_left_to_the_commands() -> None:
    with session() as s, torch.no_grad():
        x = torch.randn(4)
        d = x[:]
        recorded = record(lambda: (d.add_(1), x * 2)[1], s)
    program = Program(recorded.body, Engine())

    def shared(apart: bool) -> list[Array]:
        first, _ = recorded.fresh()
        storage = first._storage.apart() if apart else first._storage
        window = storage.window(recorded.specs[1], 0)
        return [first, Array(window, recorded.specs[1], storage)]

    for apart in (True, False, True):
        inputs = shared(apart)
        before = inputs[0].array.copy()
        result = program.run(inputs, recorded.body.scalars)
        assert (result is None) is apart
        if result is not None:
            np.testing.assert_array_equal(inputs[0].array, before + 1)
