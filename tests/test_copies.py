"""Copies lie in memory as their specs say, whatever the layout of what they copy."""

from __future__ import annotations

from typing import Any

import farspan as torch
import pytest


@pytest.mark.parametrize("dims", [(2, 0, 1), (1, 2, 0), (0, 2, 1), (2, 1, 0)])
def test_a_copy_of_a_result_with_its_dims_in_another_order(session: Any, dims: Any) -> None:
    """A result that an op made, so that it is no view and has memory of its own."""
    x = torch.arange(24.0).reshape(2, 3, 4)
    back = [dims.index(d) for d in range(3)]
    made = x.permute(dims).contiguous().permute(back) / 2
    copied, expected = made, x / 2
    for _ in range(3):
        copied = copied.clone()
        assert copied.stride() == made.stride() != x.stride()
        assert copied.permute(dims).clone().tolist() == expected.permute(dims).tolist()
        assert copied.detach()[1].clone().sub_(3).tolist() == (expected[1] - 3).tolist()
        assert copied.tolist() == expected.tolist()
