"""`farspan doctor`: what is wrong with an installation or a service, and what to do about it.

A check says what it found and, if that is not well, the remedy. It changes nothing, waits for
nothing without a bound, and shows no token. The checks: `doctor_machine.py`, `doctor_service.py`,
`doctor_tenants.py`.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import click

OK: Final = "ok"
WARN: Final = "warn"  # it works, but not well or not for long
FAIL: Final = "fail"
SKIP: Final = "skip"  # nobody said where to look
_COLORS: Final = {OK: "green", WARN: "yellow", FAIL: "red", SKIP: "bright_black"}
_COLUMNS: Final = 100


@dataclass(frozen=True, slots=True)
class Found:
    """What a check found. remedy: what to do, unless all is well."""

    check: str
    level: str
    said: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """Where to look. Everything may be left out; then what needs it is skipped."""

    address: str = ""  # of a gateway: grpc://host:port
    token: str = field(default="", repr=False)
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    tls_certificates: tuple[Path, ...] = ()  # a gateway's own files
    tokens: Path | None = None  # a gateway's own files: its --token-file,
    tenants: Path | None = None  # and its --tenants
    journal: Path | None = None
    operator: str = ""  # http://host:port
    operator_token: str = field(default="", repr=False)
    ray_address: str = ""
    ray_token_file: Path | None = None


Check = Callable[[Asked], Iterable[Found]]


def checks() -> tuple[Check, ...]:
    """Return all checks, in the order in which they are shown."""
    from farspan_server import doctor_machine as machine
    from farspan_server import doctor_service as service
    from farspan_server import doctor_tenants as tenants

    return (
        machine.versions,
        machine.protobuf,
        machine.kernels,
        machine.processor,
        machine.files,
        machine.memory,
        machine.journal,
        machine.certificates,
        tenants.tokens,
        tenants.quotas,
        service.gateway,
        service.workers,
        service.ray,
    )


def examine(asked: Asked, all_checks: Iterable[Check] | None = None) -> list[Found]:
    """Return what the checks find; one that breaks is a finding too."""
    found: list[Found] = []
    for check in checks() if all_checks is None else all_checks:
        try:
            found += check(asked)
        except Exception as error:  # the others are worth seeing all the same
            said = f"the check itself broke: {type(error).__name__}: {error}"
            found.append(Found(check.__name__, FAIL, said, "please report it, with this line"))
    return found


def status(found: Iterable[Found]) -> int:
    """Return the exit status: 1 if anything failed."""
    return int(any(each.level == FAIL for each in found))


def to_json(found: Iterable[Found]) -> str:
    """Return one line."""
    return json.dumps([asdict(each) for each in found])


def table(found: list[Found]) -> str:
    """Return lines for a terminal: level, check, what was found, and below it the remedy."""
    width = max((len(each.check) for each in found), default=0)
    lines = []
    for each in found:
        level = click.style(each.level.ljust(4), fg=_COLORS[each.level], bold=each.level == FAIL)
        indent = " " * (width + 8)
        text = textwrap.fill(each.said, _COLUMNS, subsequent_indent=indent, initial_indent=indent)
        lines.append(f"{level}  {each.check.ljust(width)}  {text.strip()}")
        if each.remedy:
            first = f"{indent}-> "
            lines.append(
                textwrap.fill(
                    each.remedy, _COLUMNS, initial_indent=first, subsequent_indent=indent + "   "
                )
            )
    counts = [
        f"{sum(each.level == level for each in found)} {level}" for level in (OK, WARN, FAIL, SKIP)
    ]
    return "\n".join([*lines, "", ", ".join(counts)])
