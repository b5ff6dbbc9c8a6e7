"""Process-wide switches of torch that programs set: threads, determinism, precision, warnings.

farspan computes deterministically whatever they say, and an operator gives each worker its threads;
so they are kept and reported as set, for programs that look. Precision of products goes to GPUs.
"""

from __future__ import annotations

import os
from typing import Any

from . import _state
from .core.errors import ArgumentError, DTypeError
from .core.op import OPS

__all__ = [
    "are_deterministic_algorithms_enabled", "get_deterministic_debug_mode",
    "get_float32_matmul_precision", "get_num_interop_threads", "get_num_threads",
    "is_deterministic_algorithms_warn_only_enabled", "is_warn_always_enabled",
    "set_deterministic_debug_mode", "set_float32_matmul_precision", "set_flush_denormal",
    "set_num_interop_threads", "set_num_threads", "set_warn_always",
    "use_deterministic_algorithms",
]  # fmt: skip

_MODES = ("default", "warn", "error")
_PRECISIONS = ("highest", "high", "medium")


def _threads_of(variable: str) -> int:
    """Return the first of OpenMP's numbers, one a nesting level; the cores where it is none."""
    first = variable.partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else os.cpu_count() or 1


class _Settings:
    threads = _threads_of(os.environ.get("OMP_NUM_THREADS", ""))
    interop_threads = os.cpu_count() or 1
    deterministic_mode = 0  # an index into _MODES
    matmul_precision = "highest"
    warn_always = False


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Ask for the same bits at every run; farspan gives them always."""
    set_deterministic_debug_mode(0 if not mode else 1 if warn_only else 2)


def are_deterministic_algorithms_enabled() -> bool:
    """Return what `use_deterministic_algorithms` set."""
    return _Settings.deterministic_mode > 0


def is_deterministic_algorithms_warn_only_enabled() -> bool:
    """Return whether only a warning was asked for where an algorithm is not deterministic."""
    return _Settings.deterministic_mode == 1


def set_deterministic_debug_mode(debug_mode: int | str) -> None:
    """Set the mode: 0 or "default", 1 or "warn", 2 or "error"."""
    if not isinstance(debug_mode, (int, str)):
        raise ArgumentError(f"debug_mode must be str or int, but got {type(debug_mode).__name__}")
    if isinstance(debug_mode, str):
        if debug_mode not in _MODES:
            raise DTypeError(
                "invalid value of debug_mode, expected one of `default`, `warn`, `error`, but got "
                f"{debug_mode}"
            )
        debug_mode = _MODES.index(debug_mode)
    if debug_mode not in (0, 1, 2):
        raise DTypeError(f"invalid value of debug_mode, expected 0, 1, or 2, but got {debug_mode}")
    _Settings.deterministic_mode = debug_mode


def get_deterministic_debug_mode() -> int:
    """Return the mode: 0 default, 1 warn, 2 error."""
    return _Settings.deterministic_mode


def set_float32_matmul_precision(precision: str) -> None:
    """Allow TF32 inside of matrix products of float32 on GPUs ("high", "medium").

    On CPU workers it stays float32. Holds for all sessions of this process, from the next command.
    """
    if precision not in _PRECISIONS:
        raise DTypeError(
            f"float32 matmul precision {precision!r} is none of {', '.join(_PRECISIONS)}"
        )
    before, _Settings.matmul_precision = _Settings.matmul_precision, precision
    if (before == "highest") is not (precision == "highest"):
        for session in _state.opened():
            tell_precision(session)


def tell_precision(session: Any) -> None:
    """Tell a session's GPUs whether TF32 is allowed. Does not wait."""
    op = OPS["_math_mode"]
    for at, device in enumerate(session.devices):
        if device.type == "cuda":
            _, static, scalars = op.bind(_Settings.matmul_precision != "highest")
            session.issue(at, op.opcode, 0, [], static, scalars)


def get_float32_matmul_precision() -> str:
    """Return "highest", "high" or "medium"."""
    return _Settings.matmul_precision


def set_num_threads(num: int) -> None:
    """Note how many threads the program would use; a worker's are its operator's choice."""
    _Settings.threads = _positive(num, "set_num_threads")


def get_num_threads() -> int:
    """Return what `set_num_threads` noted, else OMP_NUM_THREADS or the number of cores."""
    return _Settings.threads


def set_num_interop_threads(num: int) -> None:
    """Note the number; commands of one device run in order, on one thread."""
    _Settings.interop_threads = _positive(num, "set_num_interop_threads")


def get_num_interop_threads() -> int:
    """Return what `set_num_interop_threads` noted, else the number of cores."""
    return _Settings.interop_threads


def set_flush_denormal(mode: bool) -> bool:
    """Return False: denormal numbers are kept, as on any processor torch cannot switch."""
    return False


def set_warn_always(b: bool, /) -> None:
    """Ask for repeated warnings."""
    _Settings.warn_always = b


def is_warn_always_enabled() -> bool:
    """Return what `set_warn_always` set."""
    return _Settings.warn_always


def _positive(number: Any, name: str) -> int:
    if not isinstance(number, int):
        raise DTypeError(f"{name} expects an int, but got {type(number).__name__}")
    if number <= 0:
        raise DTypeError(f"{name} expects a positive integer")
    return number
