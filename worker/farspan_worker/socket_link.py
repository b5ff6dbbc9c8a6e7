"""A blocking socket that speaks `farspan.core.link`: dial, listen, send, receive.

Any thread may send; one thread receives. Keys are passed in and never logged.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading

from farspan.core import addresses, limits, link
from farspan.core.errors import AuthError, ConnectError, FarspanError, ProtocolError

from farspan_worker import tls

Sock = socket.socket | tls.TlsSocket

_BUFFER_BYTES = 256 * limits.KiB  # a header and a usual frame in one system call


class Link:
    """One opened connection. Made by `dial` and `Listener.open`."""

    def __init__(self, sock: Sock, purpose: link.Purpose) -> None:
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
        _end(self._sock)
        self._sock.close()


def dial(address: str, key: bytes, purpose: link.Purpose) -> Link:
    """Return an opened link to a listener; raise ConnectError or AuthError within CONNECT_S."""
    target = addresses.split_address(address)
    try:
        if isinstance(target, str):
            plain = socket.socket(socket.AF_UNIX)
            plain.settimeout(limits.CONNECT_S)
            plain.connect(target)
        else:
            plain = socket.create_connection(target, timeout=limits.CONNECT_S)
    except OSError as error:
        raise ConnectError(f"nothing answers at {address}: {error}") from error
    try:
        sock: Sock = plain
        binding = b""
        if addresses.is_tls(address):
            sock = tls.TlsSocket(plain, tls.dialer_context(), listener=False)
            binding = tls.binding(sock.certificate)
        dialer = link.Dialer(key, os.urandom(link.NONCE_BYTES), binding)
        sock.sendall(dialer.reply(_read(sock, link.CHALLENGE_BYTES)))
        dialer.accept(_read_proof(sock))
        sock.sendall(link.pack_purpose(purpose))
    except BaseException as error:
        plain.close()
        if isinstance(error, OSError) and not isinstance(error, FarspanError):
            raise ConnectError(f"the opening with {address} failed: {error}") from error
        raise
    return Link(_opened(sock), purpose)


class Listener:
    """A listening socket. `address` is what others dial (port 0 is filled in)."""

    def __init__(self, address: str) -> None:
        addresses.check_listen(address)
        target = addresses.split_address(address)
        self._context, self._binding = None, b""
        if isinstance(target, str):
            self._sock = socket.socket(socket.AF_UNIX)
            self._sock.bind(target)
            os.chmod(target, 0o600)
            self.address = address
        else:
            family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
            self._sock = socket.create_server(target, family=family)
            self.address = addresses.join_address(address, self._sock.getsockname()[1])
            if addresses.is_tls(address):
                self._context, self._binding = tls.listener_context()
        self._sock.listen(128)

    def wait(self) -> socket.socket:
        """Return the next connection, not yet opened. OSError once the listener is closed."""
        return self._sock.accept()[0]

    def open(self, plain: socket.socket, key: bytes) -> Link:
        """Return the link of a connection; raise AuthError, ProtocolError or OSError.

        Reads 64 bytes (and TLS's handshake) before it knows that the peer holds the key, within
        CONNECT_S.
        """
        # One bound for all of it, or a stranger could send a byte now and then for ever.
        bound = threading.Timer(limits.CONNECT_S, _end, (plain,))
        bound.start()
        try:
            return self._open(plain, key)
        finally:
            bound.cancel()

    def _open(self, plain: socket.socket, key: bytes) -> Link:
        sock: Sock = plain
        if self._context is not None:
            sock = tls.TlsSocket(plain, self._context, listener=True)
        listener = link.Listener(key, os.urandom(link.NONCE_BYTES), self._binding)
        sock.sendall(listener.challenge)
        sock.sendall(listener.answer(_read(sock, link.REPLY_BYTES)))
        header = link.unpack_header(_read(sock, link.HEADER_BYTES))
        if header.kind != link.PURPOSE:
            raise ProtocolError(f"link: the first message has kind {header.kind}, not PURPOSE")
        purpose = link.unpack_purpose(_read(sock, header.payload_bytes))
        return Link(_opened(sock), purpose)

    def close(self) -> None:
        """Stop listening; a `wait` in another thread raises OSError."""
        _end(self._sock)
        self._sock.close()
        target = addresses.split_address(self.address)
        if isinstance(target, str):
            with contextlib.suppress(OSError):
                os.unlink(target)


def _end(sock: Sock) -> None:
    """Have every thread that waits on the socket go on, with an error or an end."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _opened(sock: Sock) -> Sock:
    sock.settimeout(None)
    wait = struct.pack("ll", int(limits.CONNECT_S), 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return sock


def _send_all(sock: Sock, parts: list[memoryview]) -> None:
    while parts:
        sent = sock.sendmsg(parts)
        while parts and sent >= len(parts[0]):
            sent -= len(parts.pop(0))
        if sent:
            parts[0] = parts[0][sent:]


def _read_proof(sock: Sock) -> bytes:
    try:
        return _read(sock, link.PROOF_BYTES)
    except ConnectionResetError:
        raise AuthError("the listener refused the key of this link") from None


def _read(sock: Sock, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise ConnectionResetError("the peer closed the link while it opened")
        data += piece
    return bytes(data)
