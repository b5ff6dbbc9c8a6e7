"""Helpers of the parity tests: the same seeds, values and modules in farspan and in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import farspan as ft
import numpy as np
import torch


def to_ft(value: Any) -> Any:
    """Return torch tensors, wherever they stand in ``value``, as farspan tensors."""
    if isinstance(value, torch.Tensor):
        made = ft.tensor(value.detach().numpy().copy())
        return made.requires_grad_() if value.requires_grad else made
    if isinstance(value, Mapping):
        return {key: to_ft(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_ft(item) for item in value)
    return value


def to_torch(value: Any) -> Any:
    """Return farspan tensors, wherever they stand in ``value``, as torch tensors."""
    if isinstance(value, ft.Tensor):
        return torch.from_numpy(np.array(value.detach().cpu().numpy()))
    if isinstance(value, Mapping):
        return {key: to_torch(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_torch(item) for item in value)
    return value


def assert_same(mine: Any, theirs: Any, **tolerances: float) -> None:
    """Assert equal structure, shapes and dtypes, and values as close as torch asks for."""
    if isinstance(theirs, torch.Tensor):
        torch.testing.assert_close(to_torch(mine), theirs.detach(), **tolerances)
    elif isinstance(theirs, Mapping):
        assert list(mine) == list(theirs)
        for key in theirs:
            assert_same(mine[key], theirs[key], **tolerances)
    elif isinstance(theirs, (list, tuple)):
        assert len(mine) == len(theirs)
        for one, other in zip(mine, theirs, strict=True):
            assert_same(one, other, **tolerances)
    else:
        assert mine == theirs


def seeded(build: Callable[[Any], Any], seed: int = 0) -> tuple[Any, Any]:
    """Return ``build(farspan)`` and ``build(torch)``, each from a fresh seed."""
    made = []
    for api in (ft, torch):
        api.manual_seed(seed)
        made.append(build(api))
    return made[0], made[1]


def randn(*shape: int, seed: int = 0, **kwargs: Any) -> torch.Tensor:
    """Return the same normal values at every call, for use on both sides."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **kwargs)


def error_of(call: Callable[[], Any]) -> Exception:
    """Return the exception that ``call`` raises; fails if it raises none."""
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("no exception was raised")
