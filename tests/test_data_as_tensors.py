"""Python's data, protocols, torch's old constructors: one expression, two libraries, one text."""

from __future__ import annotations

import copy
import threading
import warnings
from typing import Any

import farspan
import numpy as np
import pytest
import torch as real
from farspan.core.dtype import PLACES

EXPRESSIONS = """
torch.tensor([np.ones(2), np.zeros(2)])
torch.tensor([[1, 2], np.ones(2)])
torch.tensor([np.float64(1), 2])
torch.tensor([np.float32(1)])
torch.tensor([np.int32(1), np.int32(2)])
torch.tensor([np.bool_(True)])
torch.tensor([1, 2.5])
torch.tensor([True, 2])
torch.tensor([1j, 1])
torch.tensor(range(3))
torch.tensor([])
torch.tensor([[], []]).shape
torch.tensor([torch.tensor(1), torch.tensor([2])])
torch.tensor([torch.tensor(1, dtype=torch.float64), 2])
torch.tensor([3, torch.tensor(1.5)])
torch.tensor([torch.ones(2), torch.ones(2)])
torch.tensor([[1, 2], [3]])
torch.tensor([[[1, 2], [3]], [[1], [2]]])
torch.tensor(["a"])
torch.tensor("a")
torch.tensor(None)
torch.tensor([None])
torch.tensor({1: 2})
torch.tensor(2**70)
torch.tensor([2**70], dtype=torch.float32)
torch.tensor([300], dtype=torch.uint8)
torch.tensor([-200], dtype=torch.uint8)
torch.tensor(np.array([300]), dtype=torch.uint8)
torch.tensor(2**31, dtype=torch.int32)
torch.tensor(float("nan"), dtype=torch.int32)
torch.tensor(1.7, dtype=torch.int32)
torch.tensor(1j, dtype=torch.float32)
torch.FloatTensor([1, 2])
torch.LongTensor([1.7])
torch.BoolTensor([True])
torch.FloatTensor(2, 3).shape
torch.Tensor(2, 3).shape
torch.Tensor([1, 2])
torch.Tensor(1.5)
torch.FloatTensor
isinstance(torch.ones(2), torch.FloatTensor)
isinstance(torch.ones(2), torch.LongTensor)
torch.ones(2).type()
torch.ones(2).type("torch.DoubleTensor")
torch.ones(2).type(torch.LongTensor)
torch.tensor([1, 2]) == np.array([1, 3])
np.array([1, 3]) == torch.tensor([1, 2])
torch.tensor([1, 2]) < np.array([1, 3])
2.5 // torch.tensor([1, 2])
np.float64(7) // torch.tensor([2, 3])
(1,) + torch.Size([2])
torch.Size([1]) + (2,)
2 * torch.Size([1, 2])
int(torch.ones(2))
float(torch.ones(2))
f"{torch.tensor(1.23456)}"
f"{torch.tensor(True)}, {torch.tensor(3):5d}|"
f"{torch.tensor(1.5, requires_grad=True)}"
f"{torch.ones(2)}"
f"{torch.nn.Parameter(torch.tensor(1.5))}"
copy.copy(torch.ones(2, requires_grad=True))
copy.copy(torch.ones(2, requires_grad=True) * 2)
copy.copy(torch.nn.Parameter(torch.ones(1)))
"""


def outcome(module: Any, expression: str) -> tuple[str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return "value", repr(eval(expression, {"torch": module, "np": np, "copy": copy}))
        except Exception as e:
            kind = next(c for c in type(e).__mro__ if c.__module__ == "builtins")
            return kind.__name__, str(e).splitlines()[0]


@pytest.mark.parametrize("expression", EXPRESSIONS.strip().splitlines())
def test_expressions_say_what_torch_says(expression: str) -> None:
    with farspan.connect("local:"):
        assert outcome(farspan, expression) == outcome(real, expression)


@pytest.mark.parametrize(
    "expression",
    [
        "torch.tensor([True]) - 2",
        "2 - torch.tensor([True])",
        "torch.ones(1) - True",
        "torch.ones(1) - torch.tensor([True])",
        "torch.tensor([True]) - torch.tensor([True])",
    ],
)
def test_bools_are_not_subtracted(expression: str) -> None:
    with farspan.connect("local:"):
        kind, text = outcome(farspan, expression)
        wanted, said = outcome(real, expression)
        assert kind == wanted and text.endswith(said)


def test_a_list_of_scalars_is_read_in_one_wait() -> None:
    with farspan.connect("local:") as session:
        losses = [farspan.ones(3).sum() * i for i in range(20)]
        before = session.stats()["sync_points"]
        assert farspan.tensor(losses).tolist() == [3.0 * i for i in range(20)]
        after = session.stats()["sync_points"]
        assert after - before <= 2  # the list, and tolist()


def test_copying_from_a_tensor_warns() -> None:
    with farspan.connect("local:"), pytest.warns(UserWarning, match="copy construct"):
        farspan.tensor(farspan.ones(2))


def test_a_copied_leaf_shares_memory_and_has_its_own_grad() -> None:
    with farspan.connect("local:"):
        x = farspan.ones(2, requires_grad=True)
        y = copy.copy(x)
        (y * 3).sum().backward()
        assert x.grad is None and y.grad.tolist() == [3, 3]
        x.data.add_(1)
        assert y.tolist() == [2, 2]


def test_a_device_is_a_context_of_its_thread() -> None:
    with farspan.connect("local:cpu:2", devices="cpu:2"):
        seen = []
        with farspan.device("cpu:1") as outer:
            assert farspan.ones(2).device is outer is farspan.tensor(1).device
            other = threading.Thread(target=lambda: seen.append(farspan.ones(1).device))
            other.start()
            other.join()
            with farspan.device("cpu"):
                assert farspan.rand(2).device != outer
            assert farspan.rand(2).device is outer
        assert seen == [farspan.ones(1).device] != [outer]
        assert PLACES.device is None
