"""TLS for links beyond one host, without an authority: the link's opening proves the certificate.

A listener makes a certificate that lives as long as it does; its hash goes into both proofs of
the opening (`farspan.core.link`), so that whoever stands between two sides has another hash, and
fails. `TlsSocket` exists because `ssl.SSLSocket` may not be read and written at the same time.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import socket
import ssl
import tempfile
import threading
from pathlib import Path

from farspan.core import limits

_READ_BYTES = 256 * limits.KiB  # encrypted bytes of one system call
_VALID = datetime.timedelta(days=3_650)  # nobody checks the dates: the opening is the check


def listener_context() -> tuple[ssl.SSLContext, bytes]:
    """Return a context with a fresh certificate, and the binding for the openings under it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "farspan link")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + _VALID)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + certificate.public_bytes(serialization.Encoding.PEM)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with tempfile.TemporaryDirectory() as folder:  # ssl reads files only; this one is gone at once
        path = Path(folder) / "link.pem"
        path.touch(mode=0o600)
        path.write_bytes(pem)
        context.load_cert_chain(path)
    return context, binding(certificate.public_bytes(serialization.Encoding.DER))


def dialer_context() -> ssl.SSLContext:
    """Return a context that takes any certificate; the opening then proves the one it saw."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def binding(certificate: bytes | None) -> bytes:
    """Return what a certificate (DER) adds to the proofs of an opening."""
    if certificate is None:
        raise ConnectionError("TLS without a certificate")
    return hashlib.sha256(certificate).digest()


class TlsSocket:
    """A connected socket under TLS, after the handshake: one thread reads while others write.

    Writers take turns by a lock of their own, as those of `socket_link.Link` do.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, listener: bool) -> None:
        self._sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=listener)
        self._state = threading.Lock()  # guards the three above; never held while waiting
        self._shake_hands()

    @property
    def certificate(self) -> bytes | None:
        """The other side's certificate (DER), if it showed one."""
        return self._tls.getpeercert(binary_form=True)

    @property
    def family(self) -> int:
        return self._sock.family

    def recv(self, count: int) -> bytes:
        """Return at most `count` bytes; none at the end. Waits."""
        while True:
            with self._state:
                try:
                    return self._tls.read(count)
                except ssl.SSLWantReadError:
                    pass
                except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                    return b""
            self._fill()

    def sendall(self, data: bytes | memoryview) -> None:
        """Write the bytes. Waits. One thread at a time."""
        view = memoryview(data)
        with self._state:
            while view:  # a memory buffer takes all it is given, a record at a time
                view = view[self._tls.write(view) :]
            encrypted = self._out.read()
        self._sock.sendall(encrypted)

    def sendmsg(self, parts: list[memoryview]) -> int:
        """Write the first part and return its size."""
        self.sendall(parts[0])
        return len(parts[0])

    def makefile(self, mode: str, buffering: int) -> io.BufferedReader:
        """Return a buffered reader."""
        assert mode == "rb"
        return io.BufferedReader(_Reader(self), buffering)

    def settimeout(self, seconds: float | None) -> None:
        self._sock.settimeout(seconds)

    def setsockopt(self, *arguments: int | bytes) -> None:
        self._sock.setsockopt(*arguments)  # type: ignore[arg-type]

    def shutdown(self, how: int) -> None:
        self._sock.shutdown(how)

    def close(self) -> None:
        self._sock.close()

    def _shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._sock.sendall(self._out.read())
                self._fill()
            else:
                self._sock.sendall(self._out.read())
                return

    def _fill(self) -> None:
        encrypted = self._sock.recv(_READ_BYTES)
        with self._state:
            if encrypted:
                self._in.write(encrypted)
            else:
                self._in.write_eof()


class _Reader(io.RawIOBase):
    def __init__(self, source: TlsSocket) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._source.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)
