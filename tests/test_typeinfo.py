"""finfo and iinfo say what torch says."""

from __future__ import annotations

import farspan as ft
import pytest
import torch


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64", "complex64"])
def test_finfo_equals_torch(name: str) -> None:
    mine, theirs = ft.finfo(getattr(ft, name)), torch.finfo(getattr(torch, name))
    for field in ("bits", "min", "max", "eps", "tiny", "smallest_normal", "dtype"):
        assert getattr(mine, field) == getattr(theirs, field), field
    assert repr(mine) == repr(theirs)


@pytest.mark.parametrize("name", ["uint8", "int8", "int16", "int32", "int64", "uint16", "uint64"])
def test_iinfo_equals_torch(name: str) -> None:
    mine, theirs = ft.iinfo(getattr(ft, name)), torch.iinfo(getattr(torch, name))
    for field in ("bits", "min", "max", "dtype"):
        assert getattr(mine, field) == getattr(theirs, field), field
    assert repr(mine) == repr(theirs)


def test_wrong_kind_is_refused() -> None:
    for api in (ft, torch):
        with pytest.raises(TypeError, match="requires a floating point input type"):
            api.finfo(api.int64)
        with pytest.raises(TypeError, match="requires an integer input type"):
            api.iinfo(api.float32)
