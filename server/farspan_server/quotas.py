"""What a tenant may have, as the tenants file (TOML) says, and the machines that hold it to that.

No I/O or clock here: times come in. `tenancy.py` is the gateway's use of it, `pool.py` counts
devices and memory, since it gives them. Nothing in the file is a secret.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from farspan.core import limits
from farspan.core.errors import AuthError, BadValueError

from farspan_server.auth import check_tenant

FILE_BYTES_MAX: Final = 4 * limits.MiB
#: A slower one would hold a frame of FRAME_COMMANDS_MAX commands for more than a lease.
COMMANDS_PER_S_MIN: Final = 100.0
BURST_S: Final = 1.0  # of a tenant's rate that may come at once
_UNITS: Final = {"": 1, "B": 1} | {
    f"{letter}{end}": base**power
    for power, letter in enumerate("KMGT", 1)
    for end, base in (("iB", 1024), ("B", 1000))
}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)")


@dataclass(frozen=True, slots=True)
class Quota:
    """What one tenant may have at a time; None: as much as the gateway has.

    memory_bytes: of all devices of its sessions together; each device of a session is given
    device_memory_bytes of it when it gets its worker, and no more.
    """

    sessions: int | None = None
    devices: int | None = None
    memory_bytes: int | None = None
    device_memory_bytes: int | None = None
    journal_bytes: int | None = None  # journals, uploads in them, and snapshots
    commands_per_s: float | None = None
    command_s: float | None = None  # a longer command ends its session; 0: none does
    calls: int = 4_096  # calls under way: one a session, one a transfer
    weight: int = 1  # workers that it gets in its turn, beside others' in line
    certificates: frozenset[str] = frozenset()  # common names, one of which its clients must show

    def device_memory(self, most: int) -> int:
        """Return the bytes of one device of a session; the gateway gives at most `most`."""
        if self.device_memory_bytes is not None:
            return min(self.device_memory_bytes, most)
        if self.memory_bytes is None:
            return most
        return max(1, min(most, self.memory_bytes // (self.devices or 1)))


@dataclass(frozen=True, slots=True)
class Quotas:
    """The quota of each tenant. `default` is that of tenants without one of their own."""

    default: Quota = field(default_factory=Quota)
    tenants: Mapping[str, Quota] = field(default_factory=dict)

    def of(self, tenant: str) -> Quota:
        """Return a tenant's quota."""
        return self.tenants.get(tenant, self.default)


def parse(text: str) -> Quotas:
    """Return what a tenants file says. BadValueError names the place that is wrong.

    >>> parse('[default]\\ndevices = 2\\n[tenant.anna]\\nmemory = "4 GiB"').of("anna").devices
    2
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadValueError(f"tenants: {error}") from None
    unknown = found.keys() - {"default", "tenant"}
    if unknown:
        raise BadValueError(f"tenants: [{min(unknown)}] is neither [default] nor [tenant.NAME]")
    default = _quota(found.get("default", {}), Quota(), "[default]")
    named = found.get("tenant", {})
    if not isinstance(named, dict):
        raise BadValueError("tenants: write a tenant as [tenant.NAME]")
    tenants = {}
    for name, body in named.items():
        try:
            check_tenant(name)
        except AuthError as error:
            raise BadValueError(f"tenants: [tenant.{name!r}]: {error}") from None
        tenants[name] = _quota(body, default, f"[tenant.{name}]")
    return Quotas(default, tenants)


def read(path: Path) -> Quotas:
    """Return what a tenants file says. OSError, BadValueError."""
    with path.open("rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise BadValueError(f"tenants: the file has more than {FILE_BYTES_MAX} bytes")
    return parse(data.decode("utf-8", "replace"))


def _quota(body: Any, default: Quota, where: str) -> Quota:
    if not isinstance(body, dict):
        raise BadValueError(f"tenants: {where} is not a table")
    given: dict[str, Any] = {}
    for key, value in body.items():
        read, name = _KEYS.get(key, (None, ""))
        if read is None:
            known = ", ".join(_KEYS)
            raise BadValueError(f"tenants: {where} {key}: not known; there are {known}")
        given[name] = read(value, f"{where} {key}")
    made = replace(default, **given)
    share, whole = made.device_memory_bytes, made.memory_bytes
    if share is not None and whole is not None and share > whole:
        raise BadValueError(f"tenants: {where}: device_memory is more than memory")
    return made


def _count(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise BadValueError(f"tenants: {where}: {value!r} is no number from 0 up")
    return value


def _positive(value: Any, where: str) -> int:
    if _count(value, where) == 0:
        raise BadValueError(f"tenants: {where}: at least 1")
    return int(value)


def size(text: str) -> int:
    """Return a number of bytes.

    >>> size("1.5 GiB")
    1610612736
    """
    return _size(int(text) if text.isdecimal() else text, "a size")


def _size(value: Any, where: str) -> int:
    if isinstance(value, str):
        found = _SIZE.fullmatch(value.strip())
        if found is None or found[2] not in _UNITS:
            raise BadValueError(f'tenants: {where}: {value!r}; write bytes, or as in "1.5 GiB"')
        return int(float(found[1]) * _UNITS[found[2]])
    return _count(value, where)


def _rate(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadValueError(f"tenants: {where}: {value!r} is no number")
    if not COMMANDS_PER_S_MIN <= value < 1e12:
        raise BadValueError(f"tenants: {where}: {value!r}; at least {COMMANDS_PER_S_MIN:g}")
    return float(value)


def _seconds(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise BadValueError(f"tenants: {where}: {value!r} is no number of seconds")
    return float(value)


def _names(value: Any, where: str) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise BadValueError(f"tenants: {where}: a list of names is expected")
    return frozenset(value)


_KEYS: Final[dict[str, tuple[Any, str]]] = {
    "sessions": (_count, "sessions"),
    "devices": (_count, "devices"),
    "memory": (_size, "memory_bytes"),
    "device_memory": (_size, "device_memory_bytes"),
    "journal": (_size, "journal_bytes"),
    "commands_per_s": (_rate, "commands_per_s"),
    "command_seconds": (_seconds, "command_s"),
    "calls": (_positive, "calls"),
    "weight": (_positive, "weight"),
    "certificates": (_names, "certificates"),
}
assert {name for _, name in _KEYS.values()} == {each.name for each in fields(Quota)}


class Bucket:
    """A rate that is kept by waiting: tokens flow in, takers may go into debt and wait it off.

    Who takes first waits least, so takers go on in their order, whichever session they are of.
    """

    def __init__(self) -> None:
        self._level = 0.0
        self._at_s: float | None = None  # None: full
        self._rate = 0.0

    def take(self, count: int, per_s: float, now_s: float) -> float:
        """Return the seconds to wait before `count` commands may go on. per_s may change."""
        most = per_s * BURST_S
        if self._at_s is None:
            self._level = most
        else:
            past_s = max(0.0, now_s - self._at_s)
            # A debt is time to wait: at another rate it is as much time as before, at most.
            self._level *= per_s / self._rate if self._level < 0 else 1.0
            self._level = min(most, self._level + past_s * per_s)
        self._at_s, self._rate = now_s, per_s
        self._level -= count
        return max(0.0, -self._level / per_s)
