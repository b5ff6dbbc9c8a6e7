"""Warnings of operations name the user's line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import farspan as torch
import pytest


@pytest.mark.parametrize(
    "call",
    [
        lambda: torch.ones(2, 3, 4).T,
        lambda: torch.meshgrid(torch.ones(2), torch.ones(3)),
        lambda: torch.add(torch.ones(2), 2, torch.ones(2)),
    ],
)
def test_a_warning_names_the_users_line(call: Callable[[], Any]) -> None:
    with torch.connect("local:"), pytest.warns(UserWarning) as noted:
        call()
    (warning,) = noted
    assert warning.filename == __file__
