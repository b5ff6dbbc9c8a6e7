"""torch.jit: there is no TorchScript, so compiling for it is refused in words.

Under torch's own switch ``PYTORCH_JIT=0``, which `farspan run` sets, `script` and `trace` return
what they are given, as they do in torch: programs stay Python, and give the same values.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NoReturn

from .core.errors import UnsupportedError
from .nn.module import Module

__all__ = [
    "Attribute", "Final", "ScriptFunction", "ScriptModule", "TracerWarning", "annotate", "export",
    "freeze", "ignore", "interface", "is_scripting", "is_tracing", "load", "save", "script",
    "script_if_tracing", "script_method", "trace", "trace_module", "unused",
]  # fmt: skip

from typing import Final


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise UnsupportedError(
            f"torch.jit.{name}: farspan has no TorchScript; call the Python function as it is"
        )

    refuse.__name__ = refuse.__qualname__ = name
    refuse.__doc__ = "Raise UnsupportedError: TorchScript is not planned."
    return refuse


load, save, freeze = map(_refuse, ("load", "save", "freeze"))


def _switched_off(name: str, obj: Any) -> Any:
    if os.environ.get("PYTORCH_JIT") != "0":
        _refuse(name)()
    return obj


def script(obj: Any, *args: Any, **kwargs: Any) -> Any:
    """Raise UnsupportedError; under ``PYTORCH_JIT=0`` return the function, class or module."""
    return _switched_off("script", obj)


def trace(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Raise UnsupportedError; under ``PYTORCH_JIT=0`` return the function or module itself."""
    return _switched_off("trace", func)


def trace_module(mod: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    """Raise UnsupportedError; under ``PYTORCH_JIT=0`` return the module itself."""
    return _switched_off("trace_module", mod)


class TracerWarning(Warning):
    """What tracing warns of, in torch; nothing is traced here."""


class ScriptModule(Module):
    """A Module, as in torch under ``PYTORCH_JIT=0``: for classes written to be scripted."""


class ScriptFunction:
    """The class that no function has."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _refuse("ScriptFunction")()


def optimize_for_inference(mod: Any, other_methods: Any = None) -> Any:
    """Return the module itself."""
    return mod


def is_scripting() -> bool:
    """Return False."""
    return False


def is_tracing() -> bool:
    """Return False."""
    return False


def export(fn: Any) -> Any:
    """Return the function."""
    return fn


unused = script_method = script_if_tracing = interface = export
_overload = _overload_method = _script_if_tracing = export


def ignore(drop: Any = False, **kwargs: Any) -> Any:
    """Return the function; may be given arguments, as a decorator."""
    return drop if callable(drop) else export


def annotate(the_type: Any, the_value: Any) -> Any:
    """Return the value."""
    return the_value


def Attribute(value: Any, type: Any) -> Any:
    """Return the value."""
    return value
