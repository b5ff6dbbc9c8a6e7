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

import farspan
import pytest
import torch
from api_names import NAMESPACES, full, public_names, resolve
from farspan.core.call import Function

TESTS = os.path.dirname(os.path.abspath(__file__))
#: Where what notes a call seems to stand: inside of farspan, which looks for its user's line.
SEEMS = str(Path(farspan.__file__).parent / "_noted.py")
#: What may be replaced by a function; other callable objects have attributes, and are watched.
CALLED = (
    types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.WrapperDescriptorType,
    types.MethodDescriptorType, Function,
)  # fmt: skip
#: Classes whose objects the library hands out; programs only ask whether something is one.
ASKED_FOR = ("dtype", "layout", "memory_format")


class Recorder:
    """Collects names; those of the running test count when it has passed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proven: set[str] = set()
        self.called: set[str] = set()
        self.watched: dict[str, dict[str, str]] = {}
        self.classes: dict[Any, list[str]] = {}
        self.begun: set[type] = set()
        self.between: set[types.CodeType] = set()  # of metaclasses, which construct for others

    def pytest_sessionstart(self) -> None:
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
        while frame.f_code.co_filename in (SEEMS, __file__) or frame.f_code in self.between:
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
            if known_as in ASKED_FOR or not self.wrap_class(value, known_as):
                self.watch(home, name, known_as)
            return
        if isinstance(value, property):
            made = property(self.noting(value.fget, known_as), value.fset, value.fdel)
        elif isinstance(value, (staticmethod, classmethod)):
            made = type(value)(self.noting(value.__func__, known_as))
        elif isinstance(value, CALLED):
            made = self.noting(value, known_as)
        elif inspect.isclass(home):
            made = property(self.noting(lambda this: value, known_as))
        else:
            self.watch(home, name, known_as)
            return
        setattr(home, name, made)

    def noting(self, function: Any, name: str) -> Any:
        @functools.wraps(function)
        def noted(*args: Any, **kwargs: Any) -> Any:
            self.note(name)
            return function(*args, **kwargs)

        noted.__code__ = noted.__code__.replace(co_filename=SEEMS)
        return noted

    def wrap_class(self, cls: Any, name: str) -> bool:
        """Note each construction; False if the class makes its objects in another way."""
        home = next(c for c in cls.__mro__ if "__init__" in vars(c))
        if not isinstance(home.__init__, types.FunctionType) or issubclass(cls, BaseException):
            return False
        self.classes.setdefault(cls, []).append(name)
        if home not in self.begun:
            self.begun.add(home)
            home.__init__ = self.beginning(home.__init__)
        construct = type(cls).__call__
        if isinstance(construct, types.FunctionType):
            self.between.add(construct.__code__)
        return True

    def beginning(self, begin: Any) -> Any:
        """Return an `__init__` that notes the object's class, or the nearest above with a name."""

        @functools.wraps(begin)
        def begun(this: Any, *args: Any, **kwargs: Any) -> None:
            nearest = next((c for c in type(this).__mro__ if c in self.classes), None)
            for name in self.classes.get(nearest, ()):
                self.note(name)
            begin(this, *args, **kwargs)

        begun.__code__ = begun.__code__.replace(co_filename=SEEMS)
        return begun

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
