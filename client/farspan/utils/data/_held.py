"""Which tensors a dataset, a collate function and an init function hold or name.

A worker process cannot reach the parent's session, so what its code will use goes along as
arrays. Found are tensors in attributes, containers, closures, and globals that the code names.
"""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from farspan._tensor import Tensor

__all__ = ["tensors_in"]

_PLAIN = (bool, int, float, complex, str, bytes, np.ndarray, np.generic, type(None))
_LIBRARIES = sys.stdlib_module_names | {"builtins", "farspan", "numpy"}


def tensors_in(*roots: Any) -> list[Tensor]:
    """Return the tensors that objects and their code can reach, each once."""
    found, seen, left = [], set(), list(roots)
    while left:
        obj = left.pop()
        if isinstance(obj, _PLAIN) or id(obj) in seen:
            continue
        seen.add(id(obj))
        if isinstance(obj, Tensor):
            found.append(obj)
        else:
            left.extend(_parts(obj))
    return found


def _parts(obj: Any) -> Iterable[Any]:
    """Return what an object consists of, except that plain values may be left out."""
    if isinstance(obj, ModuleType):
        return ()
    if isinstance(obj, type):
        return () if _is_library(obj) else [*vars(obj).values(), *obj.__bases__]
    if isinstance(obj, FunctionType):
        return _of_function(obj)
    if isinstance(obj, (staticmethod, classmethod)):
        return (obj.__func__,)
    if isinstance(obj, property):
        return (obj.fget,)
    if isinstance(obj, MethodType):
        return (obj.__self__, obj.__func__)
    parts = [type(obj), *getattr(obj, "__dict__", {}).values(), *_slots(obj)]
    if isinstance(obj, functools.partial):
        parts += [obj.func, obj.args, obj.keywords]
    elif isinstance(obj, Mapping) and _is_iterated_safely(obj):
        parts += obj.values()
    elif isinstance(obj, (list, tuple, set, frozenset, deque)):
        parts += [x for x in obj if not isinstance(x, _PLAIN)]
    return parts


def _is_iterated_safely(obj: Any) -> bool:
    """Say whether a mapping's values are there already: a user's own may load them one by one."""
    return isinstance(obj, dict) or _is_library(type(obj))


def _is_library(obj: Any) -> bool:
    return str(getattr(obj, "__module__", None)).partition(".")[0] in _LIBRARIES


def _slots(obj: Any) -> Iterator[Any]:
    for cls in type(obj).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(obj, name):
                yield getattr(obj, name)


def _of_function(function: FunctionType) -> Iterator[Any]:
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from vars(function).values()  # what functools.wraps wraps is there
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # of a name that has no value yet
            continue
    if not _is_library(function):
        names = set(_names(function.__code__))
        for name in names & function.__globals__.keys():
            value = function.__globals__[name]
            if isinstance(value, ModuleType) and value.__name__.partition(".")[0] not in _LIBRARIES:
                yield from (vars(value)[n] for n in names & vars(value).keys())
            else:
                yield value


def _names(code: CodeType) -> Iterator[str]:
    """Return the global names, and the attributes, that code and the functions in it mention."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
