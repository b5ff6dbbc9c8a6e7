"""torch.ops: operators by their ATen names, and namespaces of C++ extensions, which are empty.

``torch.ops.aten.add.Tensor(x, y)`` is ``torch.add(x, y)``: the overload is found by the arguments.
"""

from __future__ import annotations

from typing import Any

from .core.call import fn
from .core.errors import UnsupportedError


class _Operator:
    """An ATen operator, or an overload of it; libraries use them as keys too."""

    def __init__(self, name: str, overload: str = "") -> None:
        self.__name__, self._overload = name, overload

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            found = getattr(fn, self.__name__)
        except AttributeError:
            raise UnsupportedError(f"torch.ops.{self}: farspan has no such operator") from None
        return found(*args, **kwargs)

    def __getattr__(self, overload: str) -> _Operator:
        if overload.startswith("__") or self._overload:
            raise AttributeError(overload)
        made = self.__dict__[overload] = _Operator(self.__name__, overload)
        return made

    def __str__(self) -> str:
        return f"aten.{self.__name__}" + f".{self._overload}" * bool(self._overload)

    def __repr__(self) -> str:
        kind = "OpOverload" if self._overload else "OpOverloadPacket"
        return f"<{kind}(op='{str(self).replace('.', '::', 1)}')>"


class _Aten:
    """torch's own operators; one that farspan has not is refused when it is called."""

    def __getattr__(self, name: str) -> _Operator:
        if name.startswith("__"):
            raise AttributeError(name)
        made = self.__dict__[name] = _Operator(name)
        return made


class _Namespace:
    """The operators of one extension: none."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, op: str) -> Any:
        raise AttributeError(f"'_OpNamespace' '{self.name}' object has no attribute '{op}'")


aten = _Aten()


def load_library(path: str) -> None:
    """Raise UnsupportedError: no code is loaded into workers."""
    raise UnsupportedError(f"torch.ops.load_library: farspan runs no extensions ({path})")


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    namespace = globals()[name] = _Namespace(name)
    return namespace
