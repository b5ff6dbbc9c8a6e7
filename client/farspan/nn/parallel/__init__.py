"""DataParallel on one device; what needs a process group says what to do instead.

A session's devices are reached by name: put modules on them with ``to``. DataParallel is what
torch's is without GPUs: it calls its module, so that programs and state dicts fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from farspan.nn.module import Module
from farspan.nn.parallel.distributed import DistributedDataParallel

__all__ = ["DataParallel", "DistributedDataParallel", "data_parallel"]


class DataParallel(Module):
    """Calls ``module`` on its own device; parameters are named ``module.*`` as torch's are."""

    def __init__(
        self,
        module: Any,
        device_ids: Sequence[Any] | None = None,
        output_device: Any = None,
        dim: int = 0,
    ) -> None:
        super().__init__()
        self.module = module
        self.device_ids: list[Any] = []
        self.output_device = output_device
        self.dim = dim

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.module(*inputs, **kwargs)


def data_parallel(
    module: Module,
    inputs: Any,
    device_ids: Sequence[Any] | None = None,
    output_device: Any = None,
    dim: int = 0,
    module_kwargs: dict[str, Any] | None = None,
) -> Any:
    """Return ``module`` of the inputs, computed on its own device."""
    args = inputs if isinstance(inputs, tuple) else (inputs,)
    return module(*args, **(module_kwargs or {}))


def __getattr__(name: str) -> Any:
    """Refuse the parts that DataParallel has in torch."""
    if name in ("gather", "parallel_apply", "replicate", "scatter"):
        raise NotImplementedError(
            f"torch.nn.parallel.{name} is not part of this service: one program drives all devices "
            "of its session. Put modules and tensors on a device with to('cpu:1')"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
