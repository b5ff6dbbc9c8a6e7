"""torch._subclasses.fake_tensor: the class that no tensor has."""

from __future__ import annotations

from typing import Any

from ..core.errors import UnsupportedError

__all__ = ["FakeTensor", "FakeTensorMode", "is_fake"]


class FakeTensor:
    """A tensor without values, in torch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise UnsupportedError("FakeTensor: every tensor has values here")


class FakeTensorMode(FakeTensor):
    """What makes FakeTensors, in torch."""


def is_fake(x: Any) -> bool:
    """Return False."""
    return False
