"""Addresses of links: ``host:port``, ``tls:host:port``, ``unix:/path``; read and checked as text.

Nothing here resolves a name or opens a socket.
"""

from __future__ import annotations

import ipaddress

from farspan.core.errors import BadValueError


def split_address(address: str) -> tuple[str, int] | str:
    """Return (host, port), or the path of a Unix socket for ``"unix:/path"``.

    ``"tls:host:port"`` is a listener that speaks TLS; `is_tls` tells.

    >>> split_address("[::1]:7070"), split_address("unix:/run/w.sock")
    (('::1', 7070), '/run/w.sock')
    """
    if address.startswith("unix:"):
        return address.removeprefix("unix:")
    host, _, port = address.removeprefix("tls:").rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"address {address!r}: expected host:port, tls:host:port or unix:/path")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_address(like: str, port: int) -> str:
    """Return the address `like` with the port that the system chose.

    >>> join_address("tls:[::1]:0", 7070)
    'tls:[::1]:7070'
    """
    return f"{like.rpartition(':')[0]}:{port}"


def is_tls(address: str) -> bool:
    """Return whether the listener at an address speaks TLS."""
    return address.startswith("tls:")


def check_listen(address: str) -> None:
    """Raise BadValueError if others than this machine could reach a listener without TLS."""
    target = split_address(address)
    if isinstance(target, str) or is_tls(address):
        return
    try:
        loopback = ipaddress.ip_address(target[0]).is_loopback
    except ValueError:
        loopback = target[0] == "localhost"
    if not loopback:
        raise BadValueError(
            f"listening at {address}: other machines can reach it; write tls:{address}"
        )
