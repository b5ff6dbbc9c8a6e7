"""torch.backends.mkldnn: switches of oneDNN, kept as set."""

import contextlib
from typing import Any

enabled = True
deterministic = False


def is_available() -> bool:
    """Return False: the client has no oneDNN."""
    return False


def flags(enabled: bool = False, **kwargs: Any) -> Any:
    """Return a context; which library computes is the worker's rule, not the program's."""
    return contextlib.nullcontext()
