"""The file of tokens that `farspan token` keeps and a gateway watches: hashes, no token.

One token a line: ``ID TENANT sha256:HEX CREATED EXPIRES``, times in UTC, ``-`` for never. A line
of one word, ``TOKEN`` or ``TENANT:TOKEN``, is a token as it is: for a secret that is mounted.
Written whole, to a new file with mode 0600 that then takes the old one's place.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from farspan.core import limits
from farspan.core.errors import AuthError

from farspan_server.auth import DEFAULT_TENANT, Token, check_tenant, plain_token

FILE_BYTES_MAX: Final = 32 * limits.MiB
_HASH: Final = "sha256:"
_HEAD: Final = "# tokens, hashed: id, tenant, hash, created, expires; see `farspan token -h`"


def parse(text: str) -> tuple[Token, ...]:
    """Return the tokens of a file; AuthError names the line, never what it holds."""
    found: dict[bytes, Token] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        try:
            token = _plain(words[0], number) if len(words) == 1 else _kept(words)
        except AuthError as error:
            raise AuthError(f"line {number} of the tokens: {error}") from None
        except (ValueError, IndexError):
            raise AuthError(
                f"line {number} of the tokens is neither a token nor ID TENANT sha256:HEX CREATED "
                "EXPIRES"
            ) from None
        if token.digest in found:
            raise AuthError(f"line {number} of the tokens: that token has come before")
        found[token.digest] = token
    return tuple(found.values())


def read(path: Path) -> tuple[Token, ...]:
    """Return the tokens in a file. OSError, AuthError."""
    return parse(_text(path))


def reread(paths: Sequence[Path]) -> list[Token]:
    """Return the tokens in files that a gateway watches. OSError, AuthError.

    A file of no token is one whose last token was revoked: `farspan token` leaves a line in it. One
    of no text at all is being written, or was cut off, and would lock everybody out.
    """
    texts = [_text(path) for path in paths]
    if not all(texts):
        raise AuthError("no token given: a file of tokens is empty")
    return [token for text in texts for token in parse(text)]


def plain(text: str) -> dict[str, str]:
    """Return the tokens, with their tenants, of lines of TOKEN or TENANT:TOKEN."""
    found = {}
    for word in text.split():
        tenant, _, token = word.rpartition(":")
        found[token] = tenant or DEFAULT_TENANT
    return found


def change(path: Path, edit: Callable[[list[str]], None]) -> None:
    """Edit the lines of a file, which need not be there; nobody else does meanwhile. OSError."""
    path = path.resolve()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(path):
        lines = path.read_text().splitlines() if path.exists() else [_HEAD]
        edit(lines)
        _replace(path, "\n".join(lines) + "\n")


def line_of(token: Token) -> str:
    """Return the line that keeps a token."""
    times = (time_of(token.created_s), time_of(token.expires_s))
    return " ".join((token.id, token.tenant, _HASH + token.digest.hex(), *times))


def without(lines: Sequence[str], named: str) -> list[str]:
    """Return the lines without the token of this id."""
    return [line for line in lines if line.split()[:1] != [named] or len(line.split()) == 1]


def time_of(seconds: float | None) -> str:
    """Return a Unix time as text.

    >>> time_of(0.0), time_of(None)
    ('1970-01-01T00:00:00Z', '-')
    """
    if seconds is None:
        return "-"
    found = datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)
    return found.strftime("%Y-%m-%dT%H:%M:%SZ")


def _text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise AuthError(f"the tokens are more than {FILE_BYTES_MAX} bytes")
    return data.decode("utf-8", "replace")


def _kept(words: list[str]) -> Token:
    name, tenant, digest, created, expires = words
    check_tenant(tenant)
    if not digest.startswith(_HASH) or len(digest) != len(_HASH) + 64:
        raise ValueError
    start, end = _seconds(created), _seconds(expires)
    return Token(name, tenant, bytes.fromhex(digest[len(_HASH) :]), start or 0.0, end)


def _plain(word: str, number: int) -> Token:
    tenant, _, token = word.rpartition(":")
    return plain_token(token, tenant or DEFAULT_TENANT, number)


def _seconds(text: str) -> float | None:
    if text == "-":
        return None
    found = datetime.datetime.fromisoformat(text)  # somebody may have written it, without a Z
    return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).timestamp()


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold off others who change the file: what two add at once must not lose one of them."""
    fd = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _replace(path: Path, text: str) -> None:
    fd, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(fd, "w") as file:
            file.write(text)
            file.flush()
            if path.exists():  # root's command, a gateway of another user: it has to read the file
                before = path.stat()
                if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    with contextlib.suppress(PermissionError):
                        os.fchown(fd, before.st_uid, before.st_gid)
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
