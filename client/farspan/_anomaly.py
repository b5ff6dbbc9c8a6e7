"""Anomaly detection: whose forward call was it that backward fails in, or that gave a NaN?

Of the whole process, as in torch; `autograd/anomaly_mode.py` is what users see.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from .core import tape
from .core.call import fn
from .core.errors import AutogradError, FarspanError
from .core.names import backward_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .core.tape import Edge


class Anomaly:
    """Whether backward looks for what is wrong; of the whole process, as in torch."""

    enabled = False
    check_nan = True


anomaly = Anomaly()


def wait_for_anomaly(session: Any, needed: Iterable[tape.Node]) -> None:
    """Let what goes wrong in the pass be raised by the call that asked for it. Waits."""
    try:
        session.synchronize()
    except FarspanError as error:
        node = next((n for n in needed if n.number == error.forward), None)
        if node is not None:
            tell_forward(node)
        raise


def tell_forward(node: tape.Node) -> None:
    """Warn with the stack of the forward call that recorded a node, as torch does."""
    stack = node.site[2] if node.site is not None and len(node.site) > 2 else None
    where = (
        f"Traceback of forward call that caused the error:\n{stack}"
        if stack
        else "No forward pass information available. Enable detect anomaly during forward pass for "
        "more information."
    )
    warnings.warn(f"Error detected in {backward_name(node)}. {where}", stacklevel=6)


def check_nan(node: tape.Node, pairs: list[tuple[Edge, Any]]) -> None:
    at = tape.first_bad(node, pairs, lambda g: bool(fn.any(fn.isnan(g))))
    if at >= 0:
        raise AutogradError(
            f"Function '{backward_name(node)}' returned nan values in its {at}th output."
        )
