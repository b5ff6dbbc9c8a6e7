"""skip_init: a module without the work of initializing it."""

from __future__ import annotations

import inspect
from typing import Any

import farspan
from farspan.nn.module import Module

__all__ = ["skip_init"]


def skip_init(module_cls: Any, *args: Any, **kwargs: Any) -> Any:
    """Return ``module_cls(*args, **kwargs)`` with uninitialized parameters; draws no numbers.

    Raises RuntimeError if it is no Module or takes no ``device``. The initializers are not run:
    they find nothing to fill while this makes the module.
    """
    if not issubclass(module_cls, Module):
        raise RuntimeError(f"Expected a Module; got {module_cls}")
    if "device" not in inspect.signature(module_cls).parameters:
        raise RuntimeError("Module must support a 'device' arg to skip initialization")
    with farspan.nn.init.skipped():
        return module_cls(*args, **kwargs)
