"""torch.distributed.tensor: classes that libraries test for; a tensor lives on one worker here."""

from __future__ import annotations

from typing import Any

from ...core.call import unsupported
from ...core.errors import UnsupportedError

__all__ = ["DTensor", "Partial", "Placement", "Replicate", "Shard", "distribute_tensor"]

_WHY = "a tensor lives on one worker; move it with x.to('cpu:1')"


class DTensor:
    """A tensor on several processes, in torch; ``isinstance(x, DTensor)`` is False."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise UnsupportedError(f"{type(self).__name__} is not supported: {_WHY}")


class Placement(DTensor):
    """Where the parts of a DTensor are, in torch."""


class Shard(Placement):
    """A DTensor cut along a dim, in torch."""


class Replicate(Placement):
    """A DTensor that every process has, in torch."""


class Partial(Placement):
    """A DTensor that is the sum of its parts, in torch."""


distribute_tensor = unsupported("distribute_tensor", _WHY)
