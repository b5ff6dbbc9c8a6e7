"""What is done in C where that was built: `fast` is the module `_fast.c`, or None.

Python's own way stays beside each use, says what it means, and serves everywhere else: where no
compiler was at hand, and with FARSPAN_PURE=1 in the environment. Nothing else imports `_fast`.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, Final

#: Which functions there are and what they are given; `_fast.c` has it too. A module that was built
#: from other sources is not used.
INTERFACE: Final = 4


def _load() -> tuple[Any, str]:
    """Return the module, or None and why there is none."""
    if os.environ.get("FARSPAN_PURE", "0") not in ("", "0"):
        return None, "FARSPAN_PURE is set"
    try:
        module = import_module("farspan._fast")
    except ImportError as error:
        return None, f"it was not built, or not for this Python: {error}"
    if module.INTERFACE != INTERFACE:
        return None, "it was built from other sources; install farspan again"
    return module, ""


fast, why_not = _load()


def describe() -> str:
    """Return what small operations of a client run on, for reports."""
    return "small operations in C" if fast else f"small operations in Python: {why_not}"
