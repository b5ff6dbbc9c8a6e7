"""torch._jit_internal: marks for TorchScript, which change nothing here."""

from __future__ import annotations

from typing import Any

from .jit import Final, export, ignore, is_scripting, unused

__all__ = ["Final", "export", "ignore", "is_scripting", "unused"]


def _copy_to_script_wrapper(fn: Any) -> Any:
    """Return the function."""
    return fn
