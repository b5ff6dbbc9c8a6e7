"""docs/coverage.md is about the torch and the farspan that are here."""

from __future__ import annotations

import re
from pathlib import Path

import farspan
import torch
from api_names import NAMESPACES, public_names, resolve, why_not

PAGE = Path(__file__).resolve().parent.parent / "docs" / "coverage.md"


def listed() -> dict[str, dict[str, str]]:
    """Return {namespace: {name: what the page says of it}}."""
    found: dict[str, dict[str, str]] = {}
    for line in PAGE.read_text().splitlines():
        if line.startswith("## torch"):
            row = found.setdefault(line.removeprefix("## torch").lstrip("."), {})
        elif match := re.fullmatch(r"\*\*(.+)\*\* \((\d+)\): (.+)", line):
            names = re.findall(r"`([^`]+)`", match[3])
            assert len(names) == int(match[2]), line
            row |= dict.fromkeys(names, match[1])
    return found


def test_the_page_lists_the_names_that_torch_has() -> None:
    page = listed()
    assert list(page) == list(NAMESPACES)
    for space in NAMESPACES:
        assert sorted(page[space]) == sorted(public_names(torch, space)), space


def test_names_called_the_same_exist() -> None:
    for space, row in listed().items():
        home = resolve(farspan, space)
        same = [n for n, state in row.items() if state == "same" or state.startswith("differs")]
        assert [n for n in same if not hasattr(home, n)] == [], space
        assert "same" in row.values(), space


def test_reasons_on_the_page_are_those_given_now() -> None:
    for space, row in listed().items():
        for name, state in row.items():
            reason = why_not(space, name)
            planned = not state.startswith("not planned")
            assert planned if reason is None else state == f"not planned: {reason}", (space, name)
