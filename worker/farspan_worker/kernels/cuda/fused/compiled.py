"""Modules: texts of CUDA C compiled by NVRTC, the latest used kept. Nothing runs here.

cupy compiles, loads and caches on disk; what NVRTC says of a text that it refuses becomes an
Unfused, so that the plain kernels run instead, and is counted and logged once.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from typing import Any, Final

from ...cpu.loops.group import Unfused

log = logging.getLogger("farspan.worker")

#: Modules kept; each is some tens of KiB on the device.
MODULES_MAX: Final = 1_024
_COMMON: Final = ("-std=c++17", "--prec-div=true", "--prec-sqrt=true", "--ftz=false")


def options(exact: bool) -> tuple[str, ...]:
    """Return NVRTC's options: products and sums are contracted in inexact text only."""
    return (*_COMMON, f"-fmad={'false' if exact else 'true'}")


class Modules:
    """The compiled texts of one device, by text and options; used from one thread at a time."""

    def __init__(self, module: Any) -> None:
        self._cupy = module
        self._made: OrderedDict[Any, Any] = OrderedDict()
        self._lock = threading.Lock()
        self.compiled = 0
        self.refused: dict[str, str] = {}  # kernel's name -> NVRTC's first words about it

    def functions(self, text: str, names: tuple[str, ...], exact: bool) -> list[Any]:
        """Return kernels of a text. Unfused: NVRTC or the driver refused it."""
        key = text, exact
        with self._lock:
            found = self._made.get(key)
            if found is None:
                found = self._made[key] = self._compile(text, names, exact)
                while len(self._made) > MODULES_MAX:
                    self._made.popitem(last=False)
            self._made.move_to_end(key)
        if isinstance(found, Unfused):
            raise found
        return list(found)

    def _compile(self, text: str, names: tuple[str, ...], exact: bool) -> Any:
        try:
            made = self._cupy.RawModule(code=text, options=options(exact), backend="nvrtc")
            found = [made.get_function(name) for name in names]
        except MemoryError:
            raise
        except Exception as error:  # whatever it is, the plain kernels compute the same
            said = f"{type(error).__name__}: {error}".strip()[:400]
            if names[0] not in self.refused:
                log.warning("a kernel of NVRTC's is left out, plain ones run: %s", said)
            self.refused[names[0]] = said
            return Unfused(f"NVRTC refused a kernel: {said}")
        self.compiled += 1
        return found
