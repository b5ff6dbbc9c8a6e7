"""torch.distributed.rpc: calls between processes are not there; workers are reached as devices."""

from __future__ import annotations

from ..core.call import unsupported

__all__ = ["init_rpc", "is_available", "remote", "rpc_async", "rpc_sync", "shutdown"]


def is_available() -> bool:
    """Return False."""
    return False


init_rpc, remote, rpc_async, rpc_sync, shutdown = (
    unsupported(f"distributed.rpc.{name}", "one program drives all workers of a session")
    for name in ("init_rpc", "remote", "rpc_async", "rpc_sync", "shutdown")
)
