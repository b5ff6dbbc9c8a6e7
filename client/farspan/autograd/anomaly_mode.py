"""Anomaly detection: an error or a NaN in backward names the forward line that it comes from.

Errors of backward always name the innermost line of the forward op. With detection on, the whole
stack is kept, and backward looks for NaN and waits, so that the error is raised by its caller.
"""

from __future__ import annotations

import traceback
import warnings
from typing import Any

from .. import _interpose
from .._anomaly import anomaly
from .._sites import _OWN

__all__ = ["detect_anomaly", "set_detect_anomaly"]


def is_anomaly_enabled() -> bool:
    """Return whether backward looks for anomalies."""
    return anomaly.enabled


def is_anomaly_check_nan_enabled() -> bool:
    """Return whether it looks for NaN as well."""
    return anomaly.check_nan


def set_anomaly_enabled(mode: bool, check_nan: bool = True) -> None:
    """Switch detection on or off, for the whole process."""
    mode = bool(mode)
    if mode != anomaly.enabled:
        (_interpose.add if mode else _interpose.remove)(_interpose.PROFILER, _keep_stack)
    anomaly.enabled, anomaly.check_nan = mode, bool(check_nan)


def _keep_stack(call: Any, op: Any, tensors: Any, static: Any, scalars: Any, form: int) -> Any:
    """Let what an op records know the whole stack of its call."""
    made = call(op, tensors, static, scalars, form)
    first = made[0] if isinstance(made, tuple) and made else made
    node = getattr(first, "_node", None)
    if node is not None and node.site is not None and len(node.site) == 2:
        frames = [f for f in traceback.extract_stack() if not f.filename.startswith(_OWN)]
        node.site = (*node.site, "".join(traceback.format_list(frames)))
    return made


class set_detect_anomaly:
    """Switch detection on or off now; as a context, back at its end."""

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self.prev = anomaly.enabled
        self.prev_check_nan = anomaly.check_nan
        set_anomaly_enabled(mode, check_nan)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        set_anomaly_enabled(self.prev, self.prev_check_nan)


class detect_anomaly:
    """Detect anomalies inside of a ``with``: in forward, to keep stacks, and in backward."""

    def __init__(self, check_nan: bool = True) -> None:
        self.prev = anomaly.enabled
        self.check_nan = check_nan
        self.prev_check_nan = anomaly.check_nan
        warnings.warn(
            "Anomaly Detection has been enabled. This mode will increase the runtime and should "
            "only be enabled for debugging.",
            stacklevel=2,
        )

    def __enter__(self) -> None:
        set_anomaly_enabled(True, self.check_nan)

    def __exit__(self, *exc: object) -> None:
        set_anomaly_enabled(self.prev, self.prev_check_nan)
