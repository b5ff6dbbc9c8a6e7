"""A stand-in for cupy without a GPU: numpy's arrays behind a class that refuses what cupy refuses.

Arrays of the two worlds never mix unasked; names, methods and keywords are those that cupy has
(cupy_api.txt, from cupy itself); results are arrays where numpy gives scalars; indices out of range
wrap, as they do on the GPU. Stores whose outcome a GPU leaves to chance raise `Undefined`.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fake_cuda import CUDA, RawModule, tape


class Undefined(AssertionError):
    """A store that a GPU may do in any order: what is left there would vary from run to run."""


def _read_api() -> dict[str, list[str] | str]:
    found: dict[str, list[str] | str] = {}
    for line in (Path(__file__).parent / "cupy_api.txt").read_text().splitlines():
        called = re.fullmatch(r"([\w.]+)\((.*)\)", line)
        if called:
            found[called[1]] = [p for p in called[2].split(", ") if p]
        else:
            name, _, kind = line.partition(": ")
            found[name] = kind
    return found


API = _read_api()


def _check_call(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise TypeError as Python would if cupy's function were called so."""
    params = API[name]
    if not isinstance(params, list):
        return
    plain = [p for p in params if not p.startswith("*")]
    if len(args) > len(plain) and len(plain) == len(params):
        raise TypeError(f"{name}() takes {len(plain)} positional arguments, {len(args)} given")
    for key in kwargs:
        if key not in plain and not any(p.startswith("**") for p in params):
            raise TypeError(f"{name}() got an unexpected keyword argument '{key}'")


def _unwrap(x: Any, host: bool = False) -> Any:
    """Return numpy's array for ours. TypeError for an array of the host where cupy takes none."""
    if isinstance(x, ndarray):
        return x._a
    if isinstance(x, np.ndarray) and not host:
        raise TypeError(f"Unsupported type {type(x)}")
    if isinstance(x, (list, tuple)):
        return type(x)([_unwrap(i, host) for i in x])
    return x


def _do(f: Any) -> Any:
    """Return what f makes; a graph that is being captured makes it anew each time."""
    result = _wrap(f())
    tape.note(f, result)
    return result


def _wrap(x: Any) -> Any:
    if isinstance(x, (np.ndarray, np.generic)):
        return ndarray._of(np.asarray(x))
    if isinstance(x, tuple) and hasattr(x, "_fields"):  # linalg's named results
        return type(x)(*[_wrap(i) for i in x])
    return type(x)([_wrap(i) for i in x]) if isinstance(x, (list, tuple)) else x


class _Memory:
    """One allocation; identity is what says that two arrays share it."""

    def __init__(self, root: Any) -> None:
        self.root = root


class _Pointer:
    def __init__(self, mem: _Memory, start: int) -> None:
        self.mem, self.start = mem, start

    def __add__(self, offset: int) -> _Pointer:
        return _Pointer(self.mem, self.start + offset)

    @property
    def ptr(self) -> int:
        return int(_root_of(self.mem.root).__array_interface__["data"][0]) + self.start

    def copy_from_device_async(self, src: _Pointer, size: int, stream: Any = None) -> None:
        tape.store(lambda: ctypes.memmove(self.ptr, src.ptr, size))


class _Flags:
    """cupy's flags: no `writeable`."""

    def __init__(self, flags: Any) -> None:
        self.c_contiguous = flags.c_contiguous
        self.f_contiguous = flags.f_contiguous
        self.owndata = flags.owndata


_memories: dict[int, _Memory] = {}


def _root_of(a: Any) -> Any:
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


class ndarray:
    """An array "on the GPU". `ndarray(shape, dtype, memptr, strides)` is a window on memory."""

    __slots__ = ("__weakref__", "_a", "_mem")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape: Any, dtype: Any, memptr: _Pointer, strides: Any = None) -> None:
        root = memptr.mem.root
        order = sorted(range(root.ndim), key=lambda d: -root.strides[d])
        flat = root.transpose(order).reshape(-1).view(np.uint8)
        self._a = np.ndarray(shape, dtype, flat, memptr.start, strides)
        self._mem = memptr.mem

    @classmethod
    def _of(cls, a: Any, mem: _Memory | None = None) -> ndarray:
        made = cls.__new__(cls)
        made._a, made._mem = a, mem
        return made

    @property
    def data(self) -> _Pointer:
        root = _root_of(self._a)
        if self._mem is None or (
            self._mem.root is not root and _root_of(self._mem.root) is not root
        ):
            found = _memories.get(id(root))
            if found is None or found.root is not root:
                if len(_memories) > 10_000:
                    _memories.clear()
                found = _memories[id(root)] = _Memory(root)
            self._mem = found
        start = self._a.__array_interface__["data"][0] - root.__array_interface__["data"][0]
        return _Pointer(self._mem, start)

    # -------------------------------------------------------------------- what cupy refuses --
    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct "
            "a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """Numbers of numpy meet arrays of the GPU; arrays of the host do not."""
        name = ufunc.__name__
        if method != "__call__" or any(isinstance(x, np.ndarray) for x in inputs) or kwargs:
            raise TypeError(f"numpy.{name} over an array of the GPU")
        if name not in API:
            return NotImplemented
        return _do(lambda: ufunc(*_unwrap(inputs)))

    def __array_function__(self, func: Any, *rest: Any) -> Any:
        raise TypeError(f"numpy.{func.__name__} over an array of the GPU")

    # ----------------------------------------------------------------------------- scalars --
    def __bool__(self) -> bool:
        tape.read()
        return bool(self._a)

    def __int__(self) -> int:
        tape.read()
        return int(self._a)

    def __float__(self) -> float:
        tape.read()
        return float(self._a)

    def __complex__(self) -> complex:
        tape.read()
        return complex(self._a)

    def __len__(self) -> int:
        return len(self._a)

    def __iter__(self) -> Iterator[ndarray]:
        return iter(
            [_wrap(self._a[i : i + 1].reshape(self._a.shape[1:])) for i in range(len(self))]
        )

    def __repr__(self) -> str:
        return f"fake {self._a!r}"

    # ---------------------------------------------------------------------------- indexing --
    def _place(self, key: Any) -> tuple[Any, bool]:
        """Return numpy's index for ours, wrapped into range, and whether it holds index arrays."""
        items = key if isinstance(key, tuple) else (key,)
        used = sum(
            i._a.ndim if isinstance(i, ndarray) and i.dtype.kind == "b" else 1
            for i in items
            if i is not None and i is not Ellipsis
        )
        found: list[Any] = []
        dim, fancy = 0, False
        for i in items:
            if isinstance(i, (list, np.ndarray)):
                i = _wrap(np.asarray(i, None if len(i) else np.int64))
            if i is None:
                found.append(i)
            elif i is Ellipsis:
                found.append(i)
                dim += self._a.ndim - used
            elif isinstance(i, ndarray):
                fancy = True
                if i.dtype.kind == "b":
                    tape.read()
                if i.dtype.kind not in "biu":
                    raise IndexError("arrays used as indices must be of integer or boolean type")
                if i.dtype.kind == "b":
                    found.append(i._a)
                    dim += i._a.ndim
                    continue
                n = self._a.shape[dim]
                found.append(i._a % n if n else i._a)
                dim += 1
            else:
                found.append(i)
                dim += 1
        return tuple(found), fancy

    def __getitem__(self, key: Any) -> Any:
        place, fancy = self._place(key)
        found = self._a[place]
        if not fancy and not isinstance(found, np.ndarray):  # an element is a view, as in cupy
            found = self._a[place if Ellipsis in place else (*place, Ellipsis)]
        return _do(lambda: self._a[place]) if fancy else _wrap(found)

    def __setitem__(self, key: Any, value: Any) -> None:
        place, fancy = self._place(key)
        if isinstance(value, np.ndarray) and value.ndim:
            raise TypeError("a store of an array of the host")
        new = np.asarray(_unwrap(value, host=True))
        if fancy:
            self._check_once(place, new)
        elif isinstance(value, ndarray) and value._a is not self._a:
            target = self._a[place if Ellipsis in place else (*place, Ellipsis)]
            same = target.__array_interface__["data"] == new.__array_interface__["data"]
            if not (same and target.strides == new.strides) and np.shares_memory(target, new):
                raise Undefined("a store into memory that is read")
        tape.store(lambda: self._a.__setitem__(place, new))

    def _check_once(self, place: Any, new: Any) -> None:
        if not new.size or not (new != new.reshape(-1)[0]).any():
            return
        numbers = np.arange(self._a.size).reshape(self._a.shape)[place]
        order = np.argsort(numbers, axis=None, kind="stable")
        sorted_, values = numbers.reshape(-1)[order], np.broadcast_to(new, numbers.shape)
        values = values.reshape(-1)[order]
        twice = sorted_[1:] == sorted_[:-1]
        if (twice & (values[1:] != values[:-1])).any():
            raise Undefined("two different values for one place")

    # -------------------------------------------------------------------------- attributes --
    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    itemsize = property(lambda self: self._a.itemsize)
    nbytes = property(lambda self: self._a.nbytes)
    strides = property(lambda self: self._a.strides)
    flags = property(lambda self: _Flags(self._a.flags))
    T = property(lambda self: _wrap(self._a.T))
    mT = property(lambda self: _wrap(self._a.mT))
    base = property(lambda self: None if self._a.base is None else self)

    @property
    def real(self) -> ndarray:
        return _wrap(self._a.real)

    @real.setter
    def real(self, value: Any) -> None:
        self._a.real = _unwrap(value)

    @property
    def imag(self) -> ndarray:
        return _wrap(self._a.imag)

    @imag.setter
    def imag(self, value: Any) -> None:
        self._a.imag = _unwrap(value)

    def item(self) -> Any:
        tape.read()
        return self._a.item()

    def get(
        self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True
    ) -> Any:
        tape.read()
        if out is None:
            return self._a.copy(order)
        assert out.dtype == self._a.dtype and out.shape == self._a.shape
        out[...] = self._a
        return out

    def set(self, arr: Any, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray) or arr.dtype != self._a.dtype:
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        assert arr.shape == self._a.shape
        tape.store(lambda: self._a.__setitem__(..., arr))

    def take(self, indices: Any, axis: Any = None, out: Any = None) -> Any:
        return _do(lambda: np.take(self._a, _unwrap(indices, host=True), axis=axis, mode="wrap"))

    def nonzero(self) -> Any:
        if not self._a.ndim:
            raise ValueError("Calling nonzero on 0d arrays is not allowed.")
        tape.read()
        return _wrap(self._a.nonzero())

    def copy(self, order: str = "C") -> ndarray:
        return _do(lambda: self._a.copy(order))

    def repeat(self, repeats: Any, axis: Any = None) -> Any:
        if isinstance(repeats, (ndarray, np.ndarray)):
            raise TypeError("cupy's repeat takes numbers, not an array")
        return _do(lambda: self._a.repeat(repeats, axis))


_STORES = ("fill", "put", "sort", "partition")


def _method(name: str) -> Any:
    def run(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        _check_call("ndarray." + name, args, kwargs)
        out = kwargs.get("out")
        given = {k: _unwrap(v) for k, v in kwargs.items()}
        f = lambda: getattr(self._a, name)(*_unwrap(args), **given)  # noqa: E731
        if out is None and name not in _STORES:
            return _do(f)
        return tape.store(f) if out is None else (tape.store(f), out)[1]

    return run


for _name in [n.removeprefix("ndarray.") for n in API if n.startswith("ndarray.")]:
    if not hasattr(ndarray, _name) and hasattr(np.ndarray, _name):
        setattr(ndarray, _name, _method(_name))


def _operator(name: str) -> Any:
    inplace = name.startswith("__i") and name not in ("__invert__",)

    def run(self: ndarray, *args: Any) -> Any:
        for x in args:
            if isinstance(x, np.ndarray) or not isinstance(
                x, (ndarray, np.generic, bool, int, float, complex)
            ):
                return NotImplemented
        f = lambda: getattr(self._a, name)(*_unwrap(args))  # noqa: E731
        if inplace:
            tape.store(f)
            return self
        result = _wrap(f())
        if result is not NotImplemented:
            tape.note(f, result)
        return result

    return run


_BINARY = "add sub mul truediv floordiv mod pow and or xor lshift rshift matmul".split()
for _name in [
    *[f"__{n}__" for n in "neg pos abs invert eq ne lt le gt ge".split()],
    *[f"__{p}{n}__" for n in _BINARY for p in ("", "r", "i")],
]:
    if _name != "__imatmul__":
        setattr(ndarray, _name, _operator(_name))


class ufunc:
    """A ufunc: its keywords, and of numpy's methods those that cupy has."""

    def __init__(self, name: str) -> None:
        self.__name__, self._f = name, getattr(np, name)
        self.nin, self.nout = self._f.nin, self._f.nout

    def __call__(self, *args: Any, out: Any = None, dtype: Any = None, casting: Any = None) -> Any:
        more = {"dtype": dtype} if dtype is not None else {}
        if casting is not None:
            more["casting"] = casting
        if out is not None:
            more["out"] = _unwrap(out)
        f = lambda: self._f(*_unwrap(args), **more)  # noqa: E731
        return _do(f) if out is None else (tape.store(f), out)[1]

    def outer(self, a: Any, b: Any) -> Any:
        return _do(lambda: self._f.outer(_unwrap(a), _unwrap(b)))

    def at(self, target: ndarray, places: Any, values: Any = None) -> None:
        if target.dtype.kind == "f" and self.__name__ in ("add", "subtract"):
            raise Undefined(f"{self.__name__}.at adds in the order of threads")
        self._only("add", "subtract", "maximum", "minimum", method="at")
        tape.store(lambda: self._f.at(target._a, _unwrap(places), _unwrap(values)))

    def reduce(self, array: Any, axis: Any = 0, dtype: Any = None, out: Any = None,
               keepdims: bool = False) -> Any:  # fmt: skip
        self._only("add", "multiply", method="reduce")
        return _do(lambda: self._f.reduce(_unwrap(array), axis, dtype, keepdims=keepdims))

    def accumulate(self, array: Any, axis: Any = 0, dtype: Any = None, out: Any = None) -> Any:
        self._only("add", "multiply", method="accumulate")
        return _do(lambda: self._f.accumulate(_unwrap(array), axis, dtype))

    def reduceat(self, array: Any, indices: Any, axis: Any = 0, dtype: Any = None) -> Any:
        self._only("add", method="reduceat")
        return _do(lambda: self._f.reduceat(_unwrap(array), _unwrap(indices), axis, dtype))

    def _only(self, *names: str, method: str) -> None:
        if self.__name__ not in names:
            raise NotImplementedError(f"`cupy_{self.__name__}.{method}` is not supported yet")


#: These wait for the device, since shapes follow from values.
_READS = {"unique", "nonzero", "argwhere", "array_equal", "allclose", "linalg.matrix_rank"}
#: These take arrays of the host, which they copy to the GPU.
_ACCEPT = {"array", "asarray", "ascontiguousarray", "asanyarray", "asnumpy"}


class Space(types.SimpleNamespace):
    """A namespace of functions, made as they are asked for."""

    def __init__(self, real: Any, prefix: str = "") -> None:
        super().__init__()
        self._real, self._prefix = real, prefix

    def __getattr__(self, name: str) -> Any:
        kind = API.get(self._prefix + name)
        real = getattr(self._real, name, None)
        if kind is None or real is None:
            if name in ("pi", "e", "inf", "nan", "newaxis"):
                return real
            raise AttributeError(f"cupy has no attribute {self._prefix + name!r}")
        if isinstance(kind, str) and kind.startswith("ufunc"):
            made: Any = ufunc(name) if isinstance(real, np.ufunc) else self._function(name, real)
        else:
            made = real if isinstance(real, type) else self._function(name, real)
        setattr(self, name, made)
        return made

    def _function(self, name: str, real: Any) -> Any:
        full = self._prefix + name

        def run(*args: Any, **kwargs: Any) -> Any:
            _check_call(full, args, kwargs)
            host = name in _ACCEPT
            out = kwargs.get("out")
            given = {k: _unwrap(v, host) for k, v in kwargs.items()}
            if full in _READS:
                tape.read()
            f = lambda: real(*_unwrap(args, host), **given)  # noqa: E731
            return _do(f) if out is None else (tape.store(f), out)[1]

        run.__name__ = name
        return run


class FakeCupy(Space):
    """The module itself."""

    def __init__(self) -> None:
        super().__init__(np)
        self.ndarray, self.ufunc, self.cuda = ndarray, ufunc, CUDA
        self.RawModule = RawModule
        self.linalg = Space(np.linalg, "linalg.")
        self.fft = Space(np.fft, "fft.")
        tricks = Space(np.lib.stride_tricks, "lib.stride_tricks.")
        self.lib = types.SimpleNamespace(stride_tricks=tricks)

    errstate_linalg = staticmethod(contextlib.nullcontext)

    def take(self, a: Any, indices: Any, axis: Any = None, out: Any = None) -> Any:
        return a.take(indices, axis)

    def may_share_memory(self, a: Any, b: Any) -> bool:
        return np.may_share_memory(a._a, b._a)

    def put_along_axis(self, arr: Any, indices: Any, values: Any, axis: Any) -> None:
        places = np.take_along_axis(np.arange(arr.size).reshape(arr.shape), indices._a, axis)
        new = np.broadcast_to(_unwrap(values), places.shape)
        flat = ndarray._of(np.empty(arr.size))
        flat._check_once((places.reshape(-1),), new.reshape(-1))
        tape.store(lambda: np.put_along_axis(arr._a, indices._a, _unwrap(values), axis))

    def repeat(self, a: Any, repeats: Any, axis: Any = None) -> Any:
        return a.repeat(repeats, axis)

    def flatnonzero(self, a: Any) -> Any:
        tape.read()
        return _wrap(np.flatnonzero(_unwrap(a)))
