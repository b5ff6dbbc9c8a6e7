"""Data pipes: datasets that are chained by method calls, `pipe.map(f).batch(8)`.

torch keeps these classes without developing them; the pipes themselves live in other packages.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from farspan.utils.data.dataset import Dataset, IterableDataset

__all__ = [
    "DFIterDataPipe", "DataChunk", "IterDataPipe", "MapDataPipe", "argument_validation",
    "functional_datapipe", "guaranteed_datapipes_determinism", "non_deterministic",
    "runtime_validation", "runtime_validation_disabled",
]  # fmt: skip


_deterministic = False


class _Chained:
    """Finds registered pipes as methods: ``pipe.name(...)`` is ``Registered(pipe, ...)``."""

    functions: ClassVar[dict[str, Callable[..., Any]]] = {}

    def __getattr__(self, name: str) -> Any:
        made = type(self).functions.get(name)
        if made is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return functools.partial(made, self)

    @classmethod
    def register_function(cls, name: str, function: Callable[..., Any]) -> None:
        """Make ``pipe.name(...)`` call ``function(pipe, ...)``."""
        cls.functions[name] = function

    @classmethod
    def register_datapipe_as_function(
        cls, name: str, made: Callable[..., Any], enable_df_api_tracing: bool = False
    ) -> None:
        """Make ``pipe.name(...)`` construct a pipe. Raises RuntimeError if the name is taken."""
        if name in cls.functions:
            raise RuntimeError(
                f"Unable to add DataPipe function name {name} as it is already taken"
            )
        cls.functions[name] = made


class IterDataPipe(_Chained, IterableDataset[Any]):
    """The parent of pipes that are streams; subclasses write ``__iter__``."""

    functions: ClassVar[dict[str, Callable[..., Any]]] = {}


class DFIterDataPipe(IterDataPipe):
    """The parent of pipes of data frames."""


class MapDataPipe(_Chained, Dataset[Any]):
    """The parent of pipes with samples by key; subclasses write ``__getitem__``."""

    functions: ClassVar[dict[str, Callable[..., Any]]] = {}


class DataChunk(list[Any]):
    """A batch inside of a pipe: a list that shows its items one a line."""

    def __init__(self, items: Any) -> None:
        items = list(items)
        super().__init__(items)
        self.items = items

    def as_str(self, indent: str = "") -> str:
        """Return the items in brackets, each line indented."""
        return indent + "[" + ", ".join(str(i) for i in iter(self)) + "]"

    def raw_iterator(self) -> Iterator[Any]:
        """Iterate over the items."""
        yield from self.items


def functional_datapipe(name: str, enable_df_api_tracing: bool = False) -> Callable[[Any], Any]:
    """Decorate a pipe's class, so that other pipes have it as method `name`."""

    def decorate(cls: Any) -> Any:
        if not issubclass(cls, (IterDataPipe, MapDataPipe)):
            raise TypeError("`functional_datapipe` can only decorate IterDataPipe or MapDataPipe")
        family = IterDataPipe if issubclass(cls, IterDataPipe) else MapDataPipe
        family.register_datapipe_as_function(name, cls)
        return cls

    return decorate


@contextmanager
def guaranteed_datapipes_determinism() -> Iterator[None]:
    """Refuse, inside of the block, pipes that are marked as not deterministic."""
    global _deterministic
    before, _deterministic = _deterministic, True
    try:
        yield
    finally:
        _deterministic = before


def non_deterministic(arg: Any) -> Any:
    """Decorate a pipe whose order may differ from run to run, or one for which `arg` says so."""
    if isinstance(arg, type):
        return _guarded(arg, lambda *args, **kwargs: True)
    return lambda cls: _guarded(cls, arg)


def _guarded(cls: type, says: Callable[..., bool]) -> Any:
    @functools.wraps(cls, updated=())
    def make(*args: Any, **kwargs: Any) -> Any:
        if _deterministic and says(*args, **kwargs):
            raise TypeError(
                f"{cls.__name__} is non-deterministic, but you set "
                "'guaranteed_datapipes_determinism'. You can turn off determinism for this "
                "DataPipe if that is acceptable for your application"
            )
        return cls(*args, **kwargs)

    return make


def argument_validation(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function: the element types of pipes are not checked here."""
    return f


def runtime_validation(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, an ``__iter__``: the element types of pipes are not checked here."""
    if f.__name__ != "__iter__":
        raise TypeError(f"Can not decorate function {f.__name__} with 'runtime_validation'")
    return f


@contextmanager
def runtime_validation_disabled() -> Iterator[None]:
    """Do nothing, since no element types are checked."""
    yield
