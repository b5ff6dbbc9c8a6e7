"""Every Python block of README and docs runs, and every docstring's example says what it prints."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import farspan
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^(<!-- (?P<note>[^\n]*) -->\n)?```python\n(?P<code>.*?)^```", re.M | re.S)
BLOCKS = [
    pytest.param(m["code"], m["note"] or "", id=f"{page.name}-{i}")
    for page in PAGES
    for i, m in enumerate(BLOCK.finditer(page.read_text()))
]


@pytest.mark.parametrize(("code", "note"), BLOCKS)
def test_every_block_runs(
    code: str, note: str, request: Any, monkeypatch: Any, tmp_path: Any
) -> None:
    names: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    if "needs a service" in note:
        address, token = request.getfixturevalue("service")
        code = code.replace("grpc://127.0.0.1:7070", address)
        names["TOKEN"] = token
    exec(compile(code, "<documentation>", "exec"), names)


MODULES = [
    m.name
    for m in pkgutil.walk_packages(farspan.__path__, "farspan.")
    if "_pb" not in m.name and not m.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_every_example_prints_what_it_says(name: str) -> None:
    with farspan.connect("local:"):
        result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
