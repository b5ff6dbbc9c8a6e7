"""A pytest plugin that notes which public names the tests call beside torch, and pass.

`pytest --record-names FOLDER` wraps farspan's public functions, methods and classes; a name counts
if a file of the tests that also imports torch called it, in a test that passed. Each process
writes one JSON list into FOLDER; `benchmarks/api_coverage.py` reads them.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
import types
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_names import NAMESPACES, full, public_names, resolve

TESTS = os.path.dirname(os.path.abspath(__file__))


class Recorder:
    """Collects names; those of the running test count when it has passed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proven: set[str] = set()
        self.called: set[str] = set()
        self.watched: dict[str, dict[str, str]] = {}
        self.between: set[types.CodeType] = set()  # of metaclasses, which construct for others

    def pytest_sessionstart(self) -> None:
        import farspan
        import torch

        for space in NAMESPACES:
            home = resolve(farspan, space)
            for name in public_names(torch, space):
                if home is not None and hasattr(home, name):
                    self.wrap(home, name, full(space, name))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        self.called = set()
        outcome = yield
        if outcome.excinfo is None:  # type: ignore[attr-defined]
            self.proven |= self.called

    def pytest_sessionfinish(self) -> None:
        if self.proven:
            self.folder.mkdir(parents=True, exist_ok=True)
            out = self.folder / f"{uuid.uuid4().hex}.json"
            out.write_text(json.dumps(sorted(self.proven)))

    def note(self, name: str) -> None:
        """Count a name if what called it is a test beside torch.

        One object may have several names, each noting; the caller is beyond all that note.
        """
        frame = sys._getframe(2)
        while frame.f_code.co_filename == __file__ or frame.f_code in self.between:
            assert frame.f_back is not None
            frame = frame.f_back
        if frame.f_code.co_filename.startswith(TESTS) and self.compares(frame):
            self.called.add(name)

    @staticmethod
    def compares(frame: types.FrameType) -> bool:
        """Say whether the file of this frame has torch at hand, to compare with."""
        names = frame.f_globals
        return "torch" in names or "same" in names

    def wrap(self, home: Any, name: str, known_as: str) -> None:
        """Put what notes its use in the place of a name."""
        value = inspect.getattr_static(home, name, None)
        value = getattr(home, name) if value is None else value
        made: Any
        if inspect.isclass(value):
            if not self.wrap_class(value, known_as):
                self.watch(home, name, known_as)
            return
        if isinstance(value, property):
            made = property(self.noting(value.fget, known_as), value.fset, value.fdel)
        elif isinstance(value, (staticmethod, classmethod)):
            made = type(value)(self.noting(value.__func__, known_as))
        elif callable(value):
            made = self.noting(value, known_as)
        else:
            self.watch(home, name, known_as)
            return
        setattr(home, name, made)

    def noting(self, function: Any, name: str) -> Any:
        @functools.wraps(function)
        def noted(*args: Any, **kwargs: Any) -> Any:
            self.note(name)
            return function(*args, **kwargs)

        return noted

    def wrap_class(self, cls: Any, name: str) -> bool:
        """Note each construction; False if the class makes its objects in another way."""
        begin = cls.__init__
        if not isinstance(begin, types.FunctionType) or issubclass(cls, BaseException):
            return False
        try:
            cls.__init__ = self.noting(begin, name)
        except TypeError:
            return False
        construct = type(cls).__call__
        if isinstance(construct, types.FunctionType):
            self.between.add(construct.__code__)
        return True

    def watch(self, home: Any, name: str, known_as: str) -> None:
        """Note each reading of a constant, or of a class that cannot be wrapped, from a module."""
        if not isinstance(home, types.ModuleType):
            return
        if type(home) is types.ModuleType:
            home.__class__ = type("Watched", (types.ModuleType,), {
                "__getattribute__": self.reading(home.__name__)
            })  # fmt: skip
        self.watched.setdefault(home.__name__, {})[name] = known_as

    def reading(self, module: str) -> Any:
        watched = self.watched.setdefault(module, {})

        def __getattribute__(this: Any, name: str) -> Any:
            if name in watched:
                self.note(watched[name])
            return types.ModuleType.__getattribute__(this, name)

        return __getattribute__
