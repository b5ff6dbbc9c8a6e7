"""Checks: what a command may be, and what its client is told of an exception.

Nothing here touches a tensor or knows an engine's state; read engine.py next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from farspan.core import command as cmd
from farspan.core.errors import BY_NAME, FarspanError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from farspan.core.command import Static
    from farspan.core.op import Op
    from farspan.core.spec import Spec


_INTS: Final = {int, bool}


def check_form(op: Op, form: int, flat: int, ids: list[int]) -> None:
    """Raise unless a command's ids can be those of an op that takes `flat` tensors."""
    if flat > len(ids) or (form == cmd.INPLACE and not flat):
        raise ProtocolError(f"{op.name} names {len(ids)} tensors, not {flat}")
    if form == cmd.INPLACE and len(op.schema.returns) != 1:
        raise ProtocolError(f"{op.name} in place has no place for its results")
    if form > cmd.OUT:
        raise ProtocolError(f"{op.name} in an unknown form")


def recipe_of(op: Op, static: Static) -> Any:
    """Return how an op takes its arguments. ProtocolError: these cannot be its static ones."""
    try:
        return op.recipe(static)
    except (TypeError, ValueError, LookupError, FarspanError):
        raise ProtocolError(f"arguments that do not fit {op.name}") from None


def gradient_spec(spec: Spec) -> Spec:
    """Return the layout of a gradient: its tensor's own if dense, else contiguous."""
    return spec if spec is None or spec.contiguous or spec.dense else spec.contiguous_


def ints(static: Static, count: int) -> Static:
    """Return a command's static arguments. ProtocolError: they are not so many ints."""
    if len(static) != count or not _INTS.issuperset(map(type, static)):
        raise ProtocolError("a command of the protocol with the wrong arguments")
    return static


def describe(error: Exception, name: str, inputs: Sequence[Any] = ()) -> tuple[str, str]:
    """Return the kind and message that a client sees for an exception of a kernel."""
    kind = type(error).__name__
    said = str(error)
    if isinstance(error, FarspanError) and kind in BY_NAME:
        pass
    elif isinstance(error, MemoryError):
        kind, said = "OutOfMemoryError", "the device has no memory left for this"
    elif isinstance(error, IndexError):
        kind = "ValueRangeError"
    elif isinstance(error, np.linalg.LinAlgError):
        kind = "LinalgError"
    elif isinstance(error, ZeroDivisionError):
        kind, said = "ProgramError", "ZeroDivisionError"
    elif isinstance(error, TypeError):  # numpy's and Python's where torch's kernels raise theirs
        kind = "DTypeError"
    elif isinstance(error, ValueError | OverflowError):
        kind = "ParameterError"
    else:
        kind, said = "ServiceError", f"{kind}: {said}"
    got = [f"{x._spec.dtype.name}{list(x._spec.shape)}" for x in inputs[:4] if x._spec is not None]
    more = f" and {len(inputs) - 4} more" if len(inputs) > 4 else ""
    return kind, f"{name}: {said}" + (f" (it got {', '.join(got)}{more})" if got else "")
