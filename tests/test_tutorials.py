"""Twenty PyTorch programs, as they are, print the same losses under torch and under farspan.

float64 over 50 steps and float32 over the first 10, on `local:` and over gRPC. Only the meaning of
`import torch` changes.
"""

from __future__ import annotations

import builtins
import functools
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "tutorials"
PROGRAMS = sorted(p.stem for p in FOLDER.glob("*.py"))
LINES_MAX = 150
# Bounds of the losses' differences, relative beyond 1, by dtype; and how many steps.
RUNS = {"float64": (50, 1e-8), "float32": (10, 1e-4)}


def run(name: str, library: str, dtype: str) -> list[float]:
    """Return the losses of a program in which `import torch` gives `library`."""

    def import_(module: str, *args: Any) -> Any:
        parts = module.split(".")
        if parts[0] != "torch":
            return builtins.__import__(module, *args)
        found = importlib.import_module(".".join([library, *parts[1:]]))
        has_names = len(args) > 2 and args[2]
        return found if has_names else importlib.import_module(library)

    code = compile((FOLDER / f"{name}.py").read_text(), f"{name}.py", "exec")
    program: dict[str, Any] = {
        "__name__": name,
        "__builtins__": {**vars(builtins), "__import__": import_},
    }
    exec(code, program)
    steps, _ = RUNS[dtype]
    kind = getattr(importlib.import_module(library), dtype)
    return program["train"](steps=steps, dtype=kind)  # type: ignore[no-any-return]


@functools.cache
def losses_of_torch(name: str, dtype: str) -> list[float]:
    with torch.backends.mkldnn.flags(enabled=False):
        return run(name, "torch", dtype)


def test_there_are_twenty_and_they_are_short() -> None:
    assert len(PROGRAMS) == 20
    for name in PROGRAMS:
        assert len((FOLDER / f"{name}.py").read_text().splitlines()) <= LINES_MAX, name


@pytest.mark.parametrize("dtype", RUNS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_losses_are_torchs(name: str, dtype: str, session: Any) -> None:
    theirs = losses_of_torch(name, dtype)
    ours = run(name, "farspan", dtype)
    _, bound = RUNS[dtype]
    assert len(ours) == len(theirs) >= RUNS[dtype][0]
    worst = max(abs(a - b) / max(1, abs(b)) for a, b in zip(ours, theirs, strict=True))
    assert worst <= bound, (worst, ours, theirs)
