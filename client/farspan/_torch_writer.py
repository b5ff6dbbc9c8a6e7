"""Writing torch's checkpoint files, for `torch.load`, also with `weights_only=True`.

The pickle is put together opcode by opcode (protocol 2, https://peps.python.org/pep-0307/) for a
closed list of types; nothing of it runs here.
"""

from __future__ import annotations

import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

import farspan
from farspan._tensor import Size, Tensor
from farspan._torch_file import STORAGES
from farspan.core.dtype import Device, DType
from farspan.nn.parameter import Parameter

_ALIGNMENT = 64  # of records in the file, so that torch can map them into memory
_NESTING_MAX = 200
_STORAGE_NAMES = {dtype: name for name, dtype in STORAGES.items()}


def write(obj: Any, file: IO[bytes]) -> None:
    """Write tensors, Parameters, numbers, text and containers of them as torch.save does. Waits.

    Tensors that share memory share one record. Raises TypeError for any other object.
    """
    pickle = _Pickle()
    pickle.put(obj, 0)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _record(archive, "data.pkl", b"\x80\x02" + b"".join(pickle.parts) + b".")
        _record(archive, "byteorder", b"little")
        for key, array in enumerate(pickle.arrays):
            _record(archive, f"data/{key}", memoryview(array).cast("B"))
        _record(archive, "version", b"3\n")


def _record(archive: zipfile.ZipFile, name: str, content: Any) -> None:
    info = zipfile.ZipInfo(f"archive/{name}", (1980, 1, 1, 0, 0, 0))
    begin = archive.start_dir + 30 + len(info.filename)
    gap = -(begin + 4) % _ALIGNMENT  # an extra field of id FB fills up to the alignment
    info.extra = struct.pack("<2sH", b"FB", gap) + b"Z" * gap
    archive.writestr(info, content)


class _Pickle:
    """The opcodes of an object, and the arrays that go beside it."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.arrays: list[np.ndarray[Any, Any]] = []
        self._dtypes: list[DType] = []  # of the arrays
        self._keys: dict[int, int] = {}  # by memory
        self._memo: dict[int, int] = {}  # by tensor: one that occurs twice is one object again
        self._alive: list[Any] = []  # what ids above stand for

    def put(self, obj: Any, depth: int) -> None:
        if depth > _NESTING_MAX:
            raise ValueError(f"save: containers are nested deeper than {_NESTING_MAX}")
        if isinstance(obj, Tensor):
            self._tensor(obj)
        elif isinstance(obj, (np.bool_, np.number)):
            self.put(obj.item(), depth)
        elif obj is None or isinstance(obj, (bool, int, float, complex, str)):
            self.parts.append(_plain(obj))
        elif isinstance(obj, Size):
            self._call("torch Size", (tuple(obj),), depth)
        elif isinstance(obj, Device):
            parts = (obj.type,) if obj.index is None else (obj.type, obj.index)
            self._call("torch device", parts, depth)
        elif isinstance(obj, DType):
            self.parts.append(_global(f"torch {obj.name}"))
        elif isinstance(obj, Mapping):
            self._mapping(obj, depth)
        elif isinstance(obj, (set, frozenset)):
            self._call(f"__builtin__ {type(obj).__name__}", (list(obj),), depth)
        elif type(obj) in (list, tuple):
            self.parts.append(b"](" if type(obj) is list else b"(")
            for item in obj:
                self.put(item, depth + 1)
            self.parts.append(b"e" if type(obj) is list else b"t")
        else:
            raise TypeError(
                f"save: a {type(obj).__module__}.{type(obj).__qualname__} cannot be saved; only "
                "tensors, numbers, text, None, dtypes, devices and containers of them"
            )

    def _mapping(self, obj: Mapping[Any, Any], depth: int) -> None:
        ordered = isinstance(obj, OrderedDict)
        self.parts.append(_global("collections OrderedDict") + b")R(" if ordered else b"}(")
        for key, value in obj.items():
            self.put(key, depth + 1)
            self.put(value, depth + 1)
        self.parts.append(b"u")
        if hasattr(obj, "_metadata"):
            self.put({"_metadata": obj._metadata}, depth + 1)
            self.parts.append(b"b")

    def _call(self, name: str, arguments: tuple[Any, ...], depth: int) -> None:
        self.parts.append(_global(name))
        self.put(arguments, depth + 1)
        self.parts.append(b"R")

    def _tensor(self, x: Tensor) -> None:
        if id(x) in self._memo:
            self.parts.append(b"j" + struct.pack("<I", self._memo[id(x)]))
            return
        if isinstance(x, Parameter):
            self.parts.append(_global("torch._utils _rebuild_parameter") + b"(")
            self._rebuild(x.detach(), False)
            end = _plain(x.requires_grad) + _global("collections OrderedDict") + b")RtR"
            self.parts.append(end)
        else:
            self._rebuild(x, x.requires_grad and x.is_leaf)
        number = self._memo[id(x)] = len(self._memo)
        self._alive.append(x)
        self.parts.append(b"r" + struct.pack("<I", number))

    def _rebuild(self, x: Tensor, requires_grad: bool) -> None:
        """Call _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)."""
        name = _STORAGE_NAMES.get(x.dtype.name)
        if name is None:
            raise TypeError(f"save: {x.dtype} has no place in a torch file")
        key = self._key(x)
        self.parts.append(_global("torch._utils _rebuild_tensor_v2") + b"((")
        self.parts += [_plain("storage"), _global(f"torch {name}"), _plain(str(key)), _plain("cpu")]
        self.parts.append(_plain(self.arrays[key].nbytes // x.itemsize) + b"tQ")
        for part in (x.storage_offset(), tuple(x.shape), tuple(x.stride()), requires_grad):
            self.put(part, 0)
        self.parts.append(_global("collections OrderedDict") + b")RtR")

    def _key(self, x: Tensor) -> int:
        """Return the number of the record that holds the tensor's memory, all of it."""
        memory = x._storage.memory
        if id(memory) not in self._keys:
            count = memory.nbytes // x.itemsize
            whole = x.detach().as_strided((count,), (1,), 0).cpu()
            if x.dtype == farspan.bfloat16:
                whole = whole.view(farspan.int16)
            self._keys[id(memory)] = len(self.arrays)
            self._alive.append(memory)
            self.arrays.append(np.ascontiguousarray(whole.numpy()))
            self._dtypes.append(x.dtype)
        key = self._keys[id(memory)]
        if self._dtypes[key] is not x.dtype:  # a record has one type; torch refuses it as well
            raise RuntimeError(
                f"save: tensors of {self._dtypes[key]} and {x.dtype} view the same memory; save a "
                "clone of one of them"
            )
        return key


def _global(name: str) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def _plain(x: Any) -> bytes:
    """Return the opcodes of None, a bool, a number or a text."""
    if x is None:
        return b"N"
    if isinstance(x, bool):
        return b"\x88" if x else b"\x89"
    if isinstance(x, int):
        if -(2**31) <= x < 2**31:
            return b"J" + struct.pack("<i", x)
        size = x.bit_length() // 8 + 1
        if size > 255:
            raise ValueError(f"save: an integer of {size} bytes is longer than a file may hold")
        return b"\x8a" + bytes([size]) + x.to_bytes(size, "little", signed=True)
    if isinstance(x, float):
        return b"G" + struct.pack(">d", x)
    if isinstance(x, complex):
        parts = _plain(x.real) + _plain(x.imag)
        return _global("__builtin__ complex") + parts + b"\x86R"
    text = x.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(text)) + text
