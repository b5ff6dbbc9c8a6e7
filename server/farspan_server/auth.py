"""Who calls: bearer tokens to tenants, checked before any request body is parsed.

A token is 256 random bits, so its sha256 is as good as a slow hash: nobody can try them out. What a
person made up is refused if it is short. Tokens are never logged or repeated in an error; their
ids are. `token_file.py` reads and writes the file that `farspan token` keeps.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from farspan.core.errors import AuthError

TOKEN_CHARACTERS_MIN: Final = 16  # of one that was not made by `farspan token`
TOKENS_MAX: Final = 100_000  # of a gateway
TOKEN_BYTES: Final = 32  # random, of a token that we make
DEFAULT_TENANT: Final = "default"
TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Metadata = Iterable[tuple[str, str | bytes]] | None


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is kept: not the token, but the sha256 of it.

    id: names it in logs and lists; no secret. expires_s: Unix time; None: it does not.
    """

    id: str
    tenant: str
    digest: bytes = field(repr=False)
    created_s: float = 0.0
    expires_s: float | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose token a call came with."""

    tenant: str
    token: str  # its id
    place: bytes = field(default=b"", repr=False)  # where `Tokens` looks it up again


class Tokens:
    """The tokens that a gateway takes, each with its tenant. `put` replaces all of them.

    plain: token to tenant, none shorter than TOKEN_CHARACTERS_MIN.
    """

    def __init__(self, plain: Mapping[str, str], kept: Iterable[Token] = ()) -> None:
        # A place in the table is a hash under a key of this process: how long it takes to find one
        # tells nothing that helps to guess another.
        self._key = secrets.token_bytes(32)
        self._table: dict[bytes, Token] = {}
        self._plain = tuple(
            plain_token(token, tenant, number)
            for number, (token, tenant) in enumerate(plain.items(), 1)
        )
        self.put(kept)
        if not self._table:
            raise AuthError("gateway: no token given; one is required on any address")

    def __repr__(self) -> str:
        return f"Tokens({len(self._table)})"

    def __len__(self) -> int:
        return len(self._table)

    def put(self, kept: Iterable[Token]) -> None:
        """Take these from now on, beside the plain ones; AuthError, and no change, if too many.

        If none is left, since the last one was revoked, nobody may come in.
        """
        table = {self._place(each.digest): each for each in (*self._plain, *kept)}
        if len(table) > TOKENS_MAX:
            raise AuthError(f"gateway: {len(table)} tokens; at most {TOKENS_MAX}")
        self._table = table

    def caller(self, metadata: Metadata, now_s: float | None = None) -> Caller | None:
        """Return who calls, by the ``authorization: Bearer`` metadata, or None."""
        for name, value in metadata or ():
            if name == "authorization" and isinstance(value, str):
                scheme, _, token = value.partition(" ")
                if scheme.lower() == "bearer":
                    return self._find(digest_of(token.strip()), now_s)
        return None

    def tenant(self, metadata: Metadata) -> str | None:
        """Return the tenant of a call, or None."""
        found = self.caller(metadata)
        return None if found is None else found.tenant

    def knows(self, caller: Caller, now_s: float | None = None) -> bool:
        """Return whether that token is still good for its tenant."""
        known = self._table.get(caller.place)
        return known is not None and known.tenant == caller.tenant and _good(known, now_s)

    def _find(self, digest: bytes, now_s: float | None) -> Caller | None:
        place = self._place(digest)
        known = self._table.get(place)
        if known is None or not hmac.compare_digest(known.digest, digest):
            return None
        return Caller(known.tenant, known.id, place) if _good(known, now_s) else None

    def _place(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._key, digest_size=16).digest()


def plain_token(token: str, tenant: str, number: int) -> Token:
    """Return what is kept of a token that was given as it is; AuthError if it can be guessed."""
    if len(token) < TOKEN_CHARACTERS_MIN:
        raise AuthError(
            f"gateway: a token needs at least {TOKEN_CHARACTERS_MIN} characters; "
            "`farspan token new` makes one of 256 random bits"
        )
    check_tenant(tenant)
    # Its id is where it stands: anything made of a token that may be weak would help to guess it.
    return Token(f"plain-{number}", tenant, digest_of(token))


def new_token(tenant: str, now_s: float, expires_s: float | None = None) -> tuple[str, Token]:
    """Return a new token, and what is kept of it.

    The token is ``farspan_ID_SECRET``: its owner, and who finds it in a log, can see what it is.
    """
    check_tenant(tenant)
    name = secrets.token_hex(6)
    token = f"farspan_{name}_{secrets.token_hex(TOKEN_BYTES)}"
    return token, Token(name, tenant, digest_of(token), now_s, expires_s)


def check_tenant(tenant: str) -> None:
    """Raise AuthError unless this can be a tenant's name: it stands in logs, files and paths."""
    if TENANT.fullmatch(tenant) is None:
        raise AuthError(
            "gateway: a tenant's name has 1 to 64 letters, digits, dots, dashes and underscores, "
            "and begins with a letter or digit"
        )


def digest_of(token: str) -> bytes:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def _good(token: Token, now_s: float | None) -> bool:
    if token.expires_s is None:
        return True
    return (time.time() if now_s is None else now_s) < token.expires_s
