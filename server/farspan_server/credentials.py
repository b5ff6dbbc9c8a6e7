"""The gateway's TLS: certificate files that may be replaced while it serves.

gRPC asks before each handshake. Connections that are open keep what they were opened with.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from farspan.core.errors import BadValueError

from farspan_server.watched import Watched

log = logging.getLogger(__name__)


def server_credentials(
    certificate: Path, key: Path, client_ca: Path | None, reloaded: Callable[[str], None]
) -> grpc.ServerCredentials:
    """Return credentials that follow the files; BadValueError or OSError if they are no pair now.

    client_ca: then clients must show a certificate of this authority. reloaded(error or "") is
    called on a thread of gRPC, once for each change; files that are no pair (yet) change nothing.
    """

    def read() -> Any:
        try:  # gRPC would only fail each handshake
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            if client_ca is not None:
                context.load_verify_locations(client_ca)
        except ssl.SSLError as error:
            raise BadValueError(
                f"gateway: the certificate, its key and the authority do not fit: {error.reason}"
            ) from None
        pair = (key.read_bytes(), certificate.read_bytes())
        authority = None if client_ca is None else client_ca.read_bytes()
        return grpc.ssl_server_certificate_configuration([pair], authority)

    paths = (certificate, key) if client_ca is None else (certificate, key, client_ca)
    files = Watched(paths, read)
    turn = threading.Lock()

    def fetch() -> Any:
        with turn:
            try:
                if not files.look():
                    return None  # what gRPC has is still right
            except (BadValueError, OSError) as error:
                reason = str(error) if isinstance(error, BadValueError) else type(error).__name__
                log.warning("the certificates were not reloaded: %s", reason)
                reloaded(reason)
                return None
            log.info("the certificates were reloaded")
            reloaded("")
            return files.value

    return grpc.dynamic_ssl_server_credentials(
        files.value, fetch, require_client_authentication=client_ca is not None
    )
