"""Who calls: bearer tokens to tenants, checked before any request body is parsed.

Tokens are compared by digest in constant time and are never logged or repeated in an error.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from farspan.core.errors import AuthError

TOKEN_CHARACTERS_MIN: Final = 16  # shorter ones can be guessed
DEFAULT_TENANT: Final = "default"


class Tokens:
    """The tokens that a gateway takes, each with its tenant.

    tokens: token to tenant; at least one, none shorter than TOKEN_CHARACTERS_MIN.
    """

    def __init__(self, tokens: Mapping[str, str]) -> None:
        if not tokens:
            raise AuthError("gateway: no token given; one is required on any address")
        if any(len(token) < TOKEN_CHARACTERS_MIN for token in tokens):
            raise AuthError(f"gateway: a token needs at least {TOKEN_CHARACTERS_MIN} characters")
        self._tenants = [(_digest(token), tenant) for token, tenant in tokens.items()]

    def __repr__(self) -> str:
        return f"Tokens({len(self._tenants)})"

    def tenant(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
        """Return the tenant of a call by its ``authorization: Bearer`` metadata, or None."""
        for name, value in metadata or ():
            if name == "authorization" and isinstance(value, str):
                scheme, _, token = value.partition(" ")
                if scheme.lower() == "bearer":
                    return self._find(_digest(token.strip()))
        return None

    def _find(self, digest: bytes) -> str | None:
        found = None
        for known, tenant in self._tenants:  # all of them, so that time says nothing
            if hmac.compare_digest(known, digest):
                found = tenant
        return found


def read_tokens(path: Path) -> dict[str, str]:
    """Return the tokens in a file: one a line, ``token`` or ``tenant:token``."""
    tokens = {}
    for line in path.read_text().splitlines():
        tenant, _, token = line.strip().rpartition(":")
        if token and not line.startswith("#"):
            tokens[token] = tenant or DEFAULT_TENANT
    return tokens


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
