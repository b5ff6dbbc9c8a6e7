"""torch.jit as it is under ``PYTORCH_JIT=0``: programs stay Python, and give the same values.

There is no TorchScript: a file of it is neither read nor written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from .core.errors import UnsupportedError

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


def script(obj: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the function, class or module itself, as torch does under ``PYTORCH_JIT=0``."""
    return obj


def trace(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the function or module itself, as torch does under ``PYTORCH_JIT=0``."""
    return func


def trace_module(mod: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the module itself, as torch does under ``PYTORCH_JIT=0``."""
    return mod


class TracerWarning(Warning):
    """What tracing warns of, in torch; nothing is traced here."""


class ScriptModule:
    """The class that no object has: ``isinstance(x, torch.jit.ScriptModule)`` is False."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _refuse("ScriptModule")()


class ScriptFunction(ScriptModule):
    """The class that no function has."""


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
