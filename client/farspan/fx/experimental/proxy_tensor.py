"""torch.fx.experimental.proxy_tensor: no trace is ever made."""

from __future__ import annotations

__all__ = ["get_proxy_mode"]


def get_proxy_mode() -> None:
    """Return None: nothing is traced."""
