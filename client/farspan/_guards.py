"""What a compiled function can reach: its tensors by place, and the plain values it may branch on.

`World` walks closures, globals, modules, optimizers and containers once, before a trace; `holds`
then tells in a few microseconds whether a program of that trace still says what the function would
do. Nothing here issues a command. Read `_trace.py` next.
"""

from __future__ import annotations

import dis
import functools
import os
import sys
import types
from argparse import Namespace
from array import array
from collections import UserDict, UserList, deque
from collections.abc import Iterator
from io import IOBase
from typing import TYPE_CHECKING, Any

import numpy as np

from ._functions import Generator
from ._session import Session
from ._sites import _OWN
from ._tensor import Tensor
from .core import limits
from .core.call import Function
from .core.coerce import Tagged
from .core.dtype import Device, DType
from .core.op import Op
from .nn._tree import Tree, changes
from .optim.optimizer import Optimizer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Ops of ours, which never change: a user's function may hold one in a cell.
_FIXED = (Function, Op)
_PLAIN = (bool, int, float, complex, str, bytes, type(None), DType, Device, slice, type(...))
_GONE = object()
#: What reads a float in C, so that its tag does not hear of it, and answers yes or no.
_JUDGES = frozenset(("allclose", "isclose", "isfinite", "isinf", "isnan", "signbit"))
_IN_C = frozenset(("math", "cmath", "numpy"))
_LONG = "an array that is too long to look at before each call"


class Rate:
    """A number of an optimizer's group, or of a tuple in it: an argument of each Call."""

    def __init__(self, group: dict[str, Any], name: str, index: int | None) -> None:
        self.group, self.name, self.index = group, name, index
        self.tag = Tagged(self.read())
        self.seen = False  # somebody looked at it while the function ran

    def read(self) -> float:
        """Return the number that it is now."""
        value = self.group[self.name]
        return float(value if self.index is None else value[self.index])


class World:
    """Everything that a function can reach, as it was when the walk began."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.rates: list[Rate] = []
        self._groups: list[tuple[dict[str, Any], str, Any]] = []  # options that hold rates
        self._dicts: list[tuple[Mapping[Any, Any], Any, Any]] = []  # (place, key, what is there)
        self._modules: list[tuple[Mapping[Any, Any], Any, Any]] = []  # the same, of modules
        self._slots: list[tuple[Any, str, Any]] = []  # (object, attribute, value)
        self._arrays: list[tuple[np.ndarray[Any, Any], bytes]] = []
        self._names: set[str] = set()  # that functions of the user's use
        self._spaces: dict[int, Mapping[str, Any]] = {}  # classes and modules of the user's
        self._used: set[tuple[int, str]] = set()  # (space, name) that were looked at
        self._cells: list[tuple[Any, Any]] = []
        self._lists: list[tuple[Any, tuple[Any, ...]]] = []
        self._sized: list[Any] = []
        self._sizes: list[int] = []
        self._seen: dict[int, Any] = {}  # kept alive, so that an id names one object
        self._changes = changes[0]
        self.by_value: list[Rate] = []
        self._values: list[float] = []
        self.full = False
        self.has_judges = False  # it reaches math or numpy, and names one of `_JUDGES`
        self._in_c = False
        self.unsure = ""  # what a function has a name for that cannot be looked at; "" if nothing
        self._long: set[str] = set()  # attributes that hold an array too long to look at
        self.unwatched = False  # it reaches an array that is too long to look at before each call

    # ------------------------------------------------------------------------------- the walk --
    def reach(self, roots: Iterable[Any]) -> None:
        """Note what can be reached from the roots.

        Of classes and modules that is what has a name that some function uses.
        """
        for root in roots:
            self.walk(root)
        before = -1
        while before != len(self._used) and not self.full:
            before = len(self._used)
            for key, space in list(self._spaces.items()):
                for name in (self._names | _IMPLIED) & space.keys():
                    if (key, name) not in self._used:
                        self._used.add((key, name))
                        self._dicts.append((space, name, space[name]))
                        if _is_long(space[name]):
                            self._long.add(name)
                        self._walk_member(space[name])
        self.has_judges |= self._in_c and not _JUDGES.isdisjoint(self._names)
        if not self._names.isdisjoint(("environ", "environb", "getenv")):
            self._size(os.environ._data)  # type: ignore[attr-defined]
            self._walk_dict(os.environ._data, self._dicts, 1)  # type: ignore[attr-defined]
        if not self._names.isdisjoint(self._long):
            self.unsure = _LONG
        if "param_groups" in self._names:  # a function that takes numbers out of it by itself
            for rate in self.rates:
                rate.tag.seen = True

    def _walk_member(self, value: Any) -> None:
        if isinstance(value, (staticmethod, classmethod)):
            self.walk(value.__func__, 1)
        elif isinstance(value, property):
            self.walk(value.fget, 1)
        else:
            self.walk(value, 1)

    def _add_class(self, cls: type) -> None:
        for c in cls.__mro__:
            if _is_users(c.__module__):
                self._spaces.setdefault(id(c), c.__dict__)

    def walk(self, value: Any, depth: int = 0) -> None:
        """Note what can be reached from a value."""
        if isinstance(value, _PLAIN) or isinstance(value, _FIXED) or id(value) in self._seen:
            return
        if depth > limits.GUARD_DEPTH_MAX or len(self._dicts) > limits.GUARDS_MAX:
            self.full = True
            return
        self._seen[id(value)] = value
        if isinstance(value, Tensor):
            self.tensors.append(value)
        elif isinstance(value, types.BuiltinFunctionType):
            self.has_judges |= value.__module__ in _IN_C and value.__name__ in _JUDGES
        elif isinstance(value, types.ModuleType):
            self._in_c |= value.__name__ in _IN_C
            if _is_users(value.__name__, getattr(value, "__file__", None)):
                self._spaces.setdefault(id(value), value.__dict__)
        elif isinstance(value, type):
            self._add_class(value)
        elif isinstance(value, np.ndarray):
            if value.nbytes <= limits.INLINE_BYTES_MAX and not value.dtype.hasobject:
                self._arrays.append((value, value.tobytes()))
            else:
                self.unwatched = True
        elif isinstance(value, (bytearray, array)):
            if memoryview(value).nbytes <= limits.INLINE_BYTES_MAX:
                self._lists.append((value, tuple(value)))
            else:
                self.unwatched = True
        elif isinstance(value, (Generator, Session)):
            return  # what they are now is the worker's to know
        elif isinstance(value, Tree):
            self._walk_module(value, depth)
        elif isinstance(value, Optimizer):
            self._walk_optimizer(value, depth)
        elif isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
            self._walk_function(value, depth)
        elif isinstance(value, dict):
            self._lists.append((value, tuple(value)))  # the order of its keys, too
            self._walk_dict(value, self._dicts, depth)
        elif isinstance(value, (list, tuple, set, frozenset, deque)):
            if not isinstance(value, (tuple, frozenset)):
                self._lists.append((value, tuple(value)))
            for item in value:
                self.walk(item, depth + 1)
        elif _is_ours_or_users(value):
            self._add_class(type(value))
            if hasattr(value, "__dict__"):
                self._size(value.__dict__)
                self._walk_dict(value.__dict__, self._dicts, depth)
            for name in _slots_of(type(value)):
                content = getattr(value, name, _GONE)
                self._slots.append((value, name, content))
                self.walk(content, depth + 1)

    def _size(self, place: Any) -> None:
        self._sized.append(place)
        self._sizes.append(len(place))

    def _walk_dict(self, place: dict[Any, Any], into: list[Any], depth: int) -> None:
        for key, value in list(place.items()):
            into.append((place, key, value))
            if type(key) is str and _is_long(value):
                self._long.add(key)
            self.walk(value, depth + 1)

    def _walk_module(self, module: Any, depth: int) -> None:
        state = module.__dict__
        self._add_class(type(module))
        self._size(state)
        tables = [state[name] for name in ("_parameters", "_buffers", "_modules")]
        for table in tables:  # a tree may be deep, which costs none of the depth
            self._seen.setdefault(id(table), table)
            self._size(table)
            self._walk_dict(table, self._modules, depth - 1)
        self._walk_dict(state, self._modules, depth)
        forward = getattr(type(module), "forward", None)
        if isinstance(forward, types.FunctionType):
            self.walk(forward, depth + 1)

    def _walk_optimizer(self, optimizer: Any, depth: int) -> None:
        for group in optimizer.param_groups:
            for name, value in list(group.items()):
                if name == "params":
                    self.walk(value, depth + 1)
                elif type(value) is float:
                    self.rates.append(Rate(group, name, None))
                    self._groups.append((group, name, value))
                elif type(value) is tuple and value and all(type(x) is float for x in value):
                    self.rates += [Rate(group, name, i) for i in range(len(value))]
                    self._groups.append((group, name, value))
                else:
                    self._dicts.append((group, name, value))
                    self.walk(value, depth + 1)
        self._lists.append((optimizer.param_groups, tuple(optimizer.param_groups)))
        self._size(optimizer.state)
        for param, state in list(optimizer.state.items()):
            self._dicts.append((optimizer.state, param, state))
            self.walk(state, depth + 1)
        self._add_class(type(optimizer))
        for name, value in list(optimizer.__dict__.items()):
            self._dicts.append((optimizer.__dict__, name, value))
            if name not in ("state", "param_groups", "defaults"):
                self.walk(value, depth + 1)

    def _walk_function(self, value: Any, depth: int) -> None:
        if isinstance(value, functools.partial):
            for part in (value.func, *value.args, *value.keywords.values()):
                self.walk(part, depth + 1)
            return
        if isinstance(value, types.MethodType):
            self.walk(value.__self__, depth + 1)
            self.walk(value.__func__, depth + 1)
            return
        if value.__code__.co_filename.startswith(_OWN) and not value.__closure__:
            return
        for cell in value.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:  # not bound yet
                continue
            self._cells.append((cell, content))
            self._walk_named(content, depth)
        for name in ("__defaults__", "__kwdefaults__"):
            defaults = getattr(value, name)
            self._slots.append((value, name, defaults))
            self.walk(defaults, depth)
        if not value.__code__.co_filename.startswith(_OWN):
            self._names |= _names_of(value.__code__)
            for name in _globals_of(value.__code__):
                if name in value.__globals__:
                    content = value.__globals__[name]
                    self._dicts.append((value.__globals__, name, content))
                    self._walk_named(content, depth)

    def _walk_named(self, value: Any, depth: int) -> None:
        """Note what a function's own names stand for; what cannot be looked at, too."""
        if isinstance(value, Iterator) and not isinstance(value, IOBase):
            self.unsure = "an iterator, which gives another thing each time"
        elif _is_long(value):
            self.unsure = _LONG
        self.walk(value, depth + 1)

    # --------------------------------------------------------------------------------- checks --
    def tag(self) -> None:
        """Let the numbers of optimizers be found again in commands."""
        for group, name, value in self._groups:
            tags = [r.tag for r in self.rates if r.group is group and r.name == name]
            group[name] = tags[0] if type(value) is float else tuple(tags)

    def untag(self) -> None:
        """Put the numbers back as they were, but for those that were changed meanwhile."""
        for rate in self.rates:
            rate.seen, rate.tag.live = rate.tag.seen, False
        for group, name, value in self._groups:
            have = group.get(name)
            if type(have) is Tagged or (type(have) is tuple and type(have[0]) is Tagged):
                group[name] = value

    def settle(self, arguments: set[int]) -> None:
        """Say which rates (by index) arrived as they are; the others must stay what they are."""
        self.by_value = [r for i, r in enumerate(self.rates) if i not in arguments]
        self._values = [r.read() for r in self.by_value]

    def unchanged(self) -> bool:
        """Return whether the function left all as it was: what it changed, a Call would not."""
        whole = [*self._dicts, *self._modules, *self._groups]
        return self._check(whole)

    def holds(self) -> bool:
        """Return whether all is as it was when the function was traced."""
        if self._changes != changes[0]:
            now = changes[0]
            if not self._check(self._modules):
                return False
            self._changes = now
        return self._check(self._dicts) and [r.read() for r in self.by_value] == self._values

    def _check(self, places: Iterable[tuple[Mapping[Any, Any], Any, Any]]) -> bool:
        for place, key, value in places:
            have = place.get(key, _GONE)
            if have is not value and not _equal(have, value):
                return False
        for cell, value in self._cells:
            have = cell.cell_contents
            if have is not value and not _equal(have, value):
                return False
        for items, values in self._lists:
            if len(items) != len(values):
                return False
            for have, value in zip(items, values, strict=True):
                if have is not value and not _equal(have, value):
                    return False
        for owner, name, value in self._slots:
            have = getattr(owner, name, _GONE)
            if have is not value and not _equal(have, value):
                return False
        for numbers, data in self._arrays:
            if numbers.tobytes() != data:
                return False
        return list(map(len, self._sized)) == self._sizes


def _equal(have: Any, value: Any) -> bool:
    if type(have) is not type(value):
        return False
    if isinstance(value, _PLAIN):
        return bool(have == value) and (bool(value) or repr(have) == repr(value))  # -0.0
    if type(value) is tuple and len(have) == len(value):
        return all(a is b or _equal(a, b) for a, b in zip(have, value, strict=True))
    return type(value) is types.MethodType and bool(have == value)


def _is_long(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.nbytes > limits.INLINE_BYTES_MAX


def _is_ours_or_users(value: Any) -> bool:
    """Return whether an object's attributes are worth a look: not what a library keeps inside."""
    if isinstance(value, (types.SimpleNamespace, Namespace, UserDict, UserList)):
        return True
    cls = type(value)
    if not (hasattr(value, "__dict__") or _slots_of(cls)):
        return False
    root = cls.__module__.partition(".")[0]
    return root == "__main__" or not (root == "numpy" or root in sys.stdlib_module_names)


#: Names of methods that Python or a module calls without naming them.
_IMPLIED = frozenset(
    "forward __call__ __getattr__ __getitem__ __len__ __iter__ __enter__ __exit__".split()
)


@functools.lru_cache(maxsize=1024)
def _is_users(module: str, file: str | None = None) -> bool:
    """Return whether a module's names may change: not those of libraries."""
    root = module.partition(".")[0]
    if root == "__main__":
        return True
    file = file or getattr(sys.modules.get(module), "__file__", None) or ""
    return not (root in sys.stdlib_module_names or file.startswith(_OWN) or "-packages" in file)


def _slots_of(cls: type) -> tuple[str, ...]:
    """Return the names of a class's slots, those that Python makes aside."""
    names: list[str] = []
    for c in cls.__mro__:
        slots = c.__dict__.get("__slots__", ())
        names += (slots,) if isinstance(slots, str) else slots
    return tuple(n for n in names if not n.startswith("__"))


@functools.lru_cache(maxsize=1024)
def _names_of(code: types.CodeType) -> frozenset[str]:
    """Return all names that a function uses, of attributes too."""
    inner = [_names_of(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    return frozenset(code.co_names).union(*inner)


@functools.lru_cache(maxsize=1024)
def _globals_of(code: types.CodeType) -> tuple[str, ...]:
    """Return the global names that a function reads, those of functions within it too."""
    names = {
        i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            names |= set(_globals_of(const))
    return tuple(sorted(names))
