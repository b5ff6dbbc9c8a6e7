"""Checks of a gateway's own files of tenants: tokens that are good, quotas that fit together."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from farspan.core import limits
from farspan.core.errors import FarspanError

from farspan_server import quotas as files
from farspan_server import token_file
from farspan_server.auth import Token
from farspan_server.config import GatewayConfig
from farspan_server.doctor import FAIL, OK, SKIP, WARN, Asked, Found
from farspan_server.quotas import Quota

DAYS_WARN: Final = 14  # until the last token of a tenant ends
MEMORY_MIN: Final = 64 * limits.MiB  # of a device, for programs that do anything
_MOST: Final = next(
    f.default for f in GatewayConfig.__dataclass_fields__.values() if f.name == "memory_bytes_max"
)


# --- tokens --------------------------------------------------------------------------------------
def tokens(asked: Asked) -> Iterable[Found]:
    """Whether a file of tokens can be read, and lets its tenants in."""
    if asked.tokens is None:
        return [Found("tokens", SKIP, "no --tokens FILE")]
    try:
        return list(_tokens(asked.tokens, token_file.read(asked.tokens)))
    except (FarspanError, OSError) as error:
        said = error if isinstance(error, FarspanError) else error.strerror
        return [Found("tokens", FAIL, f"{asked.tokens}: {said}", "mend that line of the file")]


def _tokens(path: Path, found: tuple[Token, ...]) -> Iterator[Found]:
    now_s = time.time()
    good: dict[str, float] = {}  # by tenant: when the last one ends
    for token in found:
        ends_s = float("inf") if token.expires_s is None else token.expires_s
        good[token.tenant] = max(good.get(token.tenant, 0.0), ends_s)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        yield Found(
            "tokens", WARN, f"others than its owner may read {path}", f"chmod 600 {path}"
        )  # fmt: skip
    over = sorted(tenant for tenant, ends_s in good.items() if ends_s <= now_s)
    if len(over) == len(good):
        yield Found(
            "tokens", FAIL, f"{path} has no token that is good: nobody comes in",
            "farspan token new TENANT --file " + str(path),
        )  # fmt: skip
        return
    soon = [t for t, ends_s in good.items() if now_s < ends_s <= now_s + DAYS_WARN * 86_400]
    for tenants, when in ((over, "has ended"), (sorted(soon), f"ends within {DAYS_WARN} days")):
        if tenants:
            yield Found(
                "tokens", WARN, f"the last token of {_some(tenants)} {when}",
                f"farspan token new {tenants[0]} --file {path}",
            )  # fmt: skip
    yield Found("tokens", OK, f"{len(found)} tokens of {len(good)} tenants")


# --- quotas --------------------------------------------------------------------------------------
def quotas(asked: Asked) -> Iterable[Found]:
    """Whether a tenants file can be read, and what it gives can be had."""
    if asked.tenants is None:
        return [Found("tenants", SKIP, "no --tenants FILE")]
    try:
        found = files.read(asked.tenants)
    except (FarspanError, OSError) as error:
        said = error if isinstance(error, FarspanError) else error.strerror
        remedy = "a gateway would not start with it, and one that serves keeps the old one"
        return [Found("tenants", FAIL, f"{asked.tenants}: {said}", remedy)]
    told = list(_contradictions("[default]", found.default))
    for tenant, quota in found.tenants.items():
        told += _contradictions(f"[tenant.{tenant}]", quota)
    told += _strangers(asked.tokens, set(found.tenants))
    told += _disk(asked.journal, found)
    return [*told, Found("tenants", OK, f"{len(found.tenants)} tenants have quotas of their own")]


def _contradictions(where: str, quota: Quota) -> Iterator[Found]:
    """Yield the quotas of one table of which one keeps another from being reached."""

    def warn(said: str, remedy: str) -> Found:
        return Found("tenants", WARN, f"{where}: {said}", remedy)

    for name in ("sessions", "devices"):
        if getattr(quota, name) == 0:
            yield warn(f"{name} = 0: it can open no session", "revoke its tokens, or give it some")
    each = quota.device_memory(_MOST)
    if quota.device_memory_bytes is not None and quota.device_memory_bytes > _MOST:
        yield warn(
            f"device_memory is {_gib(quota.device_memory_bytes)}, of which a gateway gives at most "
            f"{_gib(_MOST)}", "lower it, so that it says what holds",
        )  # fmt: skip
    if (
        quota.memory_bytes is not None
        and quota.devices
        and each * quota.devices > quota.memory_bytes
    ):
        yield warn(
            f"devices = {quota.devices}, but memory = {_gib(quota.memory_bytes)} is enough for "
            f"{quota.memory_bytes // each} of {_gib(each)}",
            "give more memory, or less to a device",
        )  # fmt: skip
    if 0 < each < MEMORY_MIN:
        yield warn(
            f"a device of its sessions has {_gib(each)}; few programs run in that",
            f"give at least {_gib(MEMORY_MIN)}: memory is shared by {quota.devices or 1} devices",
        )  # fmt: skip
    if quota.journal_bytes is not None and quota.journal_bytes < 2 * each:
        yield warn(
            f"journal = {_gib(quota.journal_bytes)} is less than two snapshots of a session of "
            f"{_gib(each)}: such a session ends when it is written", "give twice device_memory",
        )  # fmt: skip
    if quota.sessions is not None and quota.sessions > quota.calls:
        yield warn(
            f"sessions = {quota.sessions}, but calls = {quota.calls}, and each session with a "
            "client is one", "raise calls",
        )  # fmt: skip
    if quota.command_s == 0:
        yield warn(
            "command_seconds = 0: a command may hold its worker for ever",
            "give seconds; a large number will do",
        )  # fmt: skip


def _strangers(path: Path | None, named: set[str]) -> Iterator[Found]:
    if path is None or not named:
        return
    try:
        there = {token.tenant for token in token_file.read(path)}
    except (FarspanError, OSError):
        return  # that is the other check's
    if strange := sorted(named - there):
        yield Found(
            "tenants", WARN, f"{_some(strange)}: no token in {path} is of that name",
            "a name that is written in two ways? [default] holds for names without a table",
        )  # fmt: skip


def _disk(directory: Path | None, found: files.Quotas) -> Iterator[Found]:
    """Warn if the tenants' journals together can fill the disk for all of them."""
    import shutil

    given = [q.journal_bytes for q in found.tenants.values() if q.journal_bytes is not None]
    if directory is None or not given:
        return
    try:
        there = shutil.disk_usage(directory).total
    except OSError:
        return  # that is another check's
    if sum(given) > there:
        yield Found(
            "tenants", WARN, f"journals of {len(given)} tenants may take {_gib(sum(given))}, and "
            f"the disk has {_gib(there)}: one tenant can fill it for another",
            "lower `journal`, or take a larger disk",
        )  # fmt: skip


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _gib(nbytes: float) -> str:
    if nbytes < limits.GiB:
        return f"{nbytes / limits.MiB:g} MiB" if nbytes >= limits.MiB else f"{nbytes:g} bytes"
    return f"{nbytes / limits.GiB:.4g} GiB"
