"""DistributedDataParallel, so that programs can name it; making one is refused."""

from __future__ import annotations

from typing import Any

from farspan.nn.module import Module

__all__ = ["DistributedDataParallel"]


class DistributedDataParallel(Module):
    """Refused: there are no process groups here."""

    def __init__(self, module: Module, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(
            "torch.nn.parallel.DistributedDataParallel needs a process group, and this service has "
            "none: one program drives all devices of its session. Use the module as it is, or put "
            "parts of it on several devices with module.to('cpu:1')"
        )
