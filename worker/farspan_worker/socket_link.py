"""A blocking socket that speaks `farspan.core.link`: dial, accept, send, receive.

Any thread may send; one thread receives. Keys are passed in and never logged.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading

from farspan.core import limits, link
from farspan.core.errors import AuthError, ConnectError, FarspanError, ProtocolError

_BUFFER_BYTES = 256 * limits.KiB  # a header and a usual frame in one system call


class Link:
    """One opened connection. Made by `dial` and `accept`."""

    def __init__(self, sock: socket.socket, purpose: link.Purpose) -> None:
        self.purpose = purpose
        self._sock = sock
        self._stream = sock.makefile("rb", buffering=_BUFFER_BYTES)
        self._sending = threading.Lock()

    def send(self, *parts: bytes | memoryview) -> None:
        """Write the parts as one piece. Waits at most CONNECT_S for a peer that does not read.

        Raises OSError when the connection is gone; a peer too slow to read counts as gone.
        """
        with self._sending:
            try:
                _send_all(self._sock, [memoryview(part) for part in parts if len(part)])
            except BlockingIOError:
                self.close()
                raise ConnectionResetError("the peer of a link does not read") from None

    def receive(self) -> tuple[link.Header, bytes]:
        """Return the next message. Waits. Raises EOFError at the end, ProtocolError at nonsense."""
        head = self._stream.read(link.HEADER_BYTES)
        if len(head) < link.HEADER_BYTES:
            raise EOFError("link closed")
        header = link.unpack_header(head)
        payload = self._stream.read(header.payload_bytes)
        if len(payload) < header.payload_bytes:
            raise EOFError("link closed inside a message")
        return header, payload

    def close(self) -> None:
        """End the connection; the thread that receives wakes with EOFError. May be called twice."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


def dial(address: str, key: bytes, purpose: link.Purpose) -> Link:
    """Return an opened link to a listener; raise ConnectError or AuthError within CONNECT_S."""
    target = link.split_address(address)
    try:
        if isinstance(target, str):
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(limits.CONNECT_S)
            sock.connect(target)
        else:
            sock = socket.create_connection(target, timeout=limits.CONNECT_S)
    except OSError as error:
        raise ConnectError(f"nothing answers at {address}: {error}") from error
    try:
        dialer = link.Dialer(key, os.urandom(link.NONCE_BYTES))
        sock.sendall(dialer.reply(_read(sock, link.CHALLENGE_BYTES)))
        dialer.accept(_read_proof(sock))
        sock.sendall(link.pack_purpose(purpose))
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError) and not isinstance(error, FarspanError):
            raise ConnectError(f"the opening with {address} failed: {error}") from error
        raise
    return Link(_opened(sock), purpose)


def accept(sock: socket.socket, key: bytes) -> Link:
    """Return the opened link of an accepted socket; raise AuthError, ProtocolError or OSError.

    Reads 64 bytes before it knows that the peer holds the key, within CONNECT_S.
    """
    sock.settimeout(limits.CONNECT_S)
    listener = link.Listener(key, os.urandom(link.NONCE_BYTES))
    sock.sendall(listener.challenge)
    sock.sendall(listener.answer(_read(sock, link.REPLY_BYTES)))
    header = link.unpack_header(_read(sock, link.HEADER_BYTES))
    if header.kind != link.PURPOSE:
        raise ProtocolError(f"link: the first message has kind {header.kind}, not PURPOSE")
    purpose = link.unpack_purpose(_read(sock, header.payload_bytes))
    return Link(_opened(sock), purpose)


def listen(address: str) -> tuple[socket.socket, str]:
    """Return a listening socket and the address that others dial (port 0 is filled in)."""
    target = link.split_address(address)
    if isinstance(target, str):
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(target)
        os.chmod(target, 0o600)
        actual = address
    else:
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        sock = socket.create_server(target, family=family)
        host = f"[{target[0]}]" if family == socket.AF_INET6 else target[0]
        actual = f"{host}:{sock.getsockname()[1]}"
    sock.listen(128)
    return sock, actual


def _opened(sock: socket.socket) -> socket.socket:
    sock.settimeout(None)
    wait = struct.pack("ll", int(limits.CONNECT_S), 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return sock


def _send_all(sock: socket.socket, parts: list[memoryview]) -> None:
    while parts:
        sent = sock.sendmsg(parts)
        while parts and sent >= len(parts[0]):
            sent -= len(parts.pop(0))
        if sent:
            parts[0] = parts[0][sent:]


def _read_proof(sock: socket.socket) -> bytes:
    try:
        return _read(sock, link.PROOF_BYTES)
    except ConnectionResetError:
        raise AuthError("the listener refused the key of this link") from None


def _read(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise ConnectionResetError("the peer closed the link while it opened")
        data += piece
    return bytes(data)
