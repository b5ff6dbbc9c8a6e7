"""Call sites: which line of the user's program issued a command.

Taken for every operation, so taking one is cheap; turned into text only for errors and reports.
"""

from __future__ import annotations

import linecache
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

#: Code object and instruction offset: cheap to take, resolved when needed. In anomaly mode the text
#: of the whole stack follows.
Site = tuple[Any, ...]
_OWN = os.path.dirname(os.path.abspath(__file__)) + os.sep
theirs: set[str] = set()  # names of files that are not ours; of ours. Asked for frames of every op.
_ours: set[str] = set()


def call_site() -> Site | None:
    """Return where the innermost frame outside of farspan stands.

    The caller's caller and its caller are ours in any case, so the search begins above them.
    """
    return site_from(sys._getframe(3))


def site_from(frame: FrameType | None) -> Site | None:
    """Return where the innermost frame outside of farspan stands, at or above this one."""
    while frame is not None:
        code = frame.f_code
        name = code.co_filename
        if name in theirs:
            return code, frame.f_lasti
        if name in _ours:
            frame = frame.f_back
        else:
            (_ours if name.startswith(_OWN) else theirs).add(name)
    return None


def describe_site(site: Site | None) -> str:
    """Return ``file.py:12 in function: source line`` for a call site."""
    if site is None:
        return "an unknown line"
    code, at = site[:2]
    line = code.co_firstlineno
    for start, end, number in code.co_lines():
        if start <= at < end and number is not None:
            line = number
    text = linecache.getline(code.co_filename, line).strip()
    where = f"{os.path.basename(code.co_filename)}:{line} in {code.co_name}()"
    return f"{where}: {text}" if text else where
