"""Call sites: which line of the user's program issued a command.

Taken for every operation, so taking one is cheap; turned into text only for errors and reports.
"""

from __future__ import annotations

import linecache
import os
import sys
from typing import Any

#: Code object and instruction offset: cheap to take, resolved when needed. In anomaly mode the text
#: of the whole stack follows.
Site = tuple[Any, ...]
_OWN = os.path.dirname(os.path.abspath(__file__)) + os.sep
_is_own: dict[str, bool] = {}  # by file name: asked for several frames of every op


def call_site() -> Site | None:
    """Return where the innermost frame outside of farspan stands.

    The caller's caller and its caller are ours in any case, so the search begins above them.
    """
    frame = sys._getframe(3)
    while frame is not None:
        code = frame.f_code
        name = code.co_filename
        own = _is_own.get(name)
        if own is None:
            own = _is_own[name] = name.startswith(_OWN)
        if not own:
            return code, frame.f_lasti
        frame = frame.f_back  # type: ignore[assignment]
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
