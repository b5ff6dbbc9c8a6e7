"""save and load: nested containers of tensors and plain values, as safetensors or as torch does.

A file is data only; loading one can never run code. A flat dict of tensors is an ordinary
safetensors file for other tools; anything else keeps its structure as JSON in the metadata.
Whatever a file holds is checked before memory is taken for it; a bad file is a ValueError.
Format: https://github.com/huggingface/safetensors (8-byte length, JSON header, raw data).
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import IO, Any

import ml_dtypes
import numpy as np

import farspan
from farspan._tensor import Tensor
from farspan.core.dtype import Device

__all__ = ["load", "save"]

HEADER_BYTES_MAX = 100_000_000  # the bound of the format's reference implementation
NESTING_MAX = 64  # containers in containers; keeps a hostile file from exhausting the stack
DIMENSIONS_MAX = 64  # what numpy allows
_STRUCTURE_KEY = "farspan"

# What both the format and our tensors have; other types in a file are refused by name.
_DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(dtype)
    for name, dtype in {
        "BOOL": np.bool_,
        "U8": np.uint8,
        "I8": np.int8,
        "I16": np.int16,
        "I32": np.int32,
        "I64": np.int64,
        "U16": np.uint16,
        "U32": np.uint32,
        "U64": np.uint64,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "F32": np.float32,
        "F64": np.float64,
        "C64": np.complex64,
    }.items()
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

Path = str | os.PathLike[str]


def save(
    obj: Any,
    f: Path | IO[bytes],
    pickle_module: Any = None,
    pickle_protocol: int = 2,
    _use_new_zipfile_serialization: bool = True,
    *,
    format: str = "safetensors",
) -> None:
    """Write tensors, numbers, strings, None, and dicts, lists and tuples of them. Waits.

    f: a path, which is replaced only when everything is written, or a writable binary file.
    format: "safetensors", or "torch" for a zip archive that torch.load opens, which also keeps
    Parameters, shared memory, sets, dtypes and devices. The pickle arguments are torch's and
    have no effect: nothing is pickled. Raises TypeError for any other object.
    """
    if format not in ("safetensors", "torch"):
        raise ValueError(f"save: format {format!r} is neither 'safetensors' nor 'torch'")
    if format == "torch":
        from ._torch_writer import write as write_torch

        _written(f, lambda file: write_torch(obj, file))
        return
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    structure = _Packer(arrays).pack(obj, "", 0)
    metadata = {} if _is_plain(obj) else {_STRUCTURE_KEY: json.dumps(structure, allow_nan=False)}
    _written(f, lambda file: _write(file, arrays, metadata))


def _written(f: Path | IO[bytes], write: Callable[[IO[bytes]], None]) -> None:
    """Write to a file, or to a path that is replaced only when all is written."""
    if hasattr(f, "write"):
        write(f)  # type: ignore[arg-type]
        return
    path = os.path.realpath(os.fsdecode(f))  # a link goes on pointing there
    if os.path.exists(path) and not os.path.isfile(path):  # a device or a pipe, as /dev/null
        with open(path, "wb") as file:
            write(file)
        return
    unfinished = f"{path}.{os.getpid()}.{threading.get_ident()}.unfinished"
    try:
        with open(unfinished, "wb") as file:
            write(file)
        if os.path.exists(path):
            shutil.copymode(path, unfinished)
        os.replace(unfinished, path)
    except BaseException:
        if os.path.exists(unfinished):
            os.unlink(unfinished)
        raise


def load(
    f: Path | IO[bytes],
    map_location: Any = None,
    pickle_module: Any = None,
    *,
    weights_only: bool | None = None,
    mmap: bool | None = None,
    **pickle_load_args: Any,
) -> Any:
    """Return what ``save`` wrote, in either format, or the tensors of any safetensors file.

    map_location: a device, a dict from the file's locations to devices, or torch's function of
    (storage, location), whose ``.cpu()`` or ``.cuda()`` is followed; by default tensors are on
    the CPU. torch's own zip checkpoints are read as data: no file can run code, whatever
    weights_only says. Raises ValueError for a damaged or hostile file and for objects of classes.
    """
    content = _content(f)
    if content[:4] == b"PK\x03\x04":
        from ._torch_file import read

        return read(io.BytesIO(content), lambda x, at: _placed(x, map_location, at))
    if content[:2] == b"\x80\x02":
        raise ValueError(
            "load: this is a pickle, torch's format before version 1.6, which can run code; open "
            "it with torch and save it again"
        )
    header, data = _split(content)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or any(not isinstance(v, str) for v in metadata.values()):
        raise _bad("__metadata__ must be an object of strings")
    arrays = _arrays(header, data)
    tensors = {name: _placed(_tensor(array), map_location, "cpu") for name, array in arrays.items()}
    if _STRUCTURE_KEY not in metadata:
        return tensors
    structure = _parse_json(metadata[_STRUCTURE_KEY].encode(), "the structure in __metadata__")
    return _unpack(structure, tensors, 0)


def _content(f: Path | IO[bytes]) -> bytearray:
    if hasattr(f, "read"):
        return bytearray(f.read())
    with open(os.fspath(f), "rb") as file:
        content = bytearray(os.fstat(file.fileno()).st_size)
        del content[file.readinto(content) :]
    return content


class _Place:
    """What a map_location function gets for a storage: it says where the storage is to go."""

    def __init__(self, device: Any = None) -> None:
        self.device = device

    def cpu(self) -> _Place:
        return _Place("cpu")

    def cuda(self, device: int | None = None) -> _Place:
        return _Place("cuda" if device is None else f"cuda:{device}")


def _placed(x: Tensor, map_location: Any, location: str) -> Tensor:
    """Return the tensor on the device that `load`'s map_location names."""
    if isinstance(map_location, Mapping):
        map_location = map_location.get(location)
    elif callable(map_location) and not isinstance(map_location, Device):
        found = map_location(_Place(), location)
        map_location = getattr(found, "device", None)
    return x if map_location is None else x.to(map_location)


def _bad(what: str) -> ValueError:
    return ValueError(f"load: this is not a valid safetensors file: {what}.")


def _is_plain(obj: Any) -> bool:
    """Say whether the layout alone says everything: a dict of string keys to tensors."""
    return type(obj) is dict and all(
        isinstance(key, str) and key != "__metadata__" and isinstance(value, Tensor)
        for key, value in obj.items()
    )


class _Packer:
    """Turns an object into JSON values and puts its tensors' arrays aside, each under a name.

    JSON scalars stand for themselves; everything else is an object of one tagged entry:
    tensor (its name), dict or odict (pairs), list, tuple, float (inf and nan as text).
    """

    def __init__(self, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
        self._arrays = arrays
        self._names: dict[int, str] = {}

    def pack(self, obj: Any, path: str, depth: int) -> Any:
        if depth > NESTING_MAX:
            raise ValueError(f"save: containers are nested deeper than {NESTING_MAX} at {path!r}")
        if isinstance(obj, Tensor):
            return {"tensor": self._put(obj, path)}
        if obj is None or type(obj) in (bool, int, str):
            return obj
        if type(obj) is float:
            return obj if math.isfinite(obj) else {"float": repr(obj)}
        if isinstance(obj, Mapping):
            kind = "odict" if isinstance(obj, OrderedDict) else "dict"
            return {kind: [self._pair(k, v, path, depth) for k, v in obj.items()]}
        if type(obj) in (list, tuple):
            items = [self.pack(v, _join(path, i), depth + 1) for i, v in enumerate(obj)]
            return {type(obj).__name__: items}
        if isinstance(obj, (np.bool_, np.number)):
            return self.pack(obj.item(), path, depth)
        raise TypeError(
            f"save: {path or 'the object'} is a {type(obj).__name__}; only tensors, numbers, "
            "strings, None, dicts, lists and tuples can be saved."
        )

    def _pair(self, key: Any, value: Any, path: str, depth: int) -> list[Any]:
        if key is not None and type(key) not in (bool, int, float, str):
            raise TypeError(f"save: the key {key!r} in {path or 'the object'} cannot be saved.")
        return [self.pack(key, path, depth + 1), self.pack(value, _join(path, key), depth + 1)]

    def _put(self, tensor: Tensor, path: str) -> str:
        """Return the tensor's name in the file; one that occurs twice is written once."""
        known = self._names.get(id(tensor))
        if known is not None:
            return known
        name = path or "tensor"
        while name in self._arrays or name == "__metadata__":
            name += "_"
        self._names[id(tensor)] = name
        self._arrays[name] = _array(tensor)
        return name


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _write(
    file: IO[bytes], arrays: dict[str, np.ndarray[Any, Any]], metadata: dict[str, str]
) -> None:
    # Large items first, so that every array starts at a multiple of its item size.
    order = sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name in order:
        array = arrays[name]
        if array.dtype not in _NAMES:
            raise TypeError(f"save: {name} has dtype {array.dtype}, which has no place in a file.")
        end = offset + array.nbytes
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_BYTES_MAX:
        raise ValueError(f"save: the header takes {len(text)} bytes of {HEADER_BYTES_MAX}.")
    file.write(struct.pack("<Q", len(text)))
    file.write(text)
    for name in order:
        file.write(arrays[name].reshape(-1).view(np.uint8).data)


def _split(content: bytearray) -> tuple[dict[str, Any], memoryview]:
    """Return the header as parsed JSON and the bytes after it."""
    if len(content) < 8:
        raise _bad(f"it has {len(content)} bytes, fewer than the 8 of the header's length")
    (length,) = struct.unpack_from("<Q", content)
    if length > HEADER_BYTES_MAX:
        raise _bad(f"its header would take {length} bytes, more than {HEADER_BYTES_MAX}")
    if length > len(content) - 8:
        raise _bad(f"its header would take {length} bytes, but only {len(content) - 8} follow")
    header = _parse_json(bytes(content[8 : 8 + length]), "the header")
    if not isinstance(header, dict):
        raise _bad("the header is not a JSON object")
    return header, memoryview(content)[8 + length :]


def _parse_json(text: bytes, what: str) -> Any:
    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise _bad(f"a name occurs twice in {what}")
        return result

    def refuse(constant: str) -> None:
        raise _bad(f"{what} holds {constant}")

    try:
        return json.loads(
            text.decode("utf-8"), object_pairs_hook=without_duplicates, parse_constant=refuse
        )
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _bad(f"{what} is not JSON ({error})") from None
    except RecursionError:
        raise _bad(f"{what} is nested too deeply") from None


def _arrays(header: dict[str, Any], data: memoryview) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays after checking that they tile the data exactly, without overlap."""
    described = {name: _described(name, entry) for name, entry in header.items()}
    position = 0
    for name, (dtype, shape, start, end) in sorted(
        described.items(), key=lambda item: (item[1][2], item[1][3])
    ):
        if start != position:
            kind = "overlaps what is before it" if start < position else "leaves a hole"
            raise _bad(f"the data of {name!r} starts at {start}, not at {position}, and {kind}")
        wanted = math.prod(shape) * dtype.itemsize
        if end - start != wanted:
            raise _bad(f"{name!r} has {end - start} bytes, but {dtype} {shape} takes {wanted}")
        position = end
    if position != len(data):
        raise _bad(f"its tensors take {position} bytes, but {len(data)} are there")
    arrays = {}
    for name, (dtype, shape, start, end) in described.items():
        raw = np.frombuffer(data[start:end], dtype=np.uint8)
        if dtype == np.bool_ and raw.size and raw.max() > 1:
            raise _bad(f"{name!r} has booleans that are neither 0 nor 1")
        # A copy: the array must own aligned memory and must not keep the whole file alive.
        arrays[name] = raw.copy().view(dtype).reshape(shape)
    return arrays


def _described(name: str, entry: Any) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _bad(f"{name!r} needs dtype, shape and data_offsets, nothing else")
    dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise _bad(f"{name!r} has the dtype {entry['dtype']!r}, which is not known")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_sizes(shape) or len(shape) > DIMENSIONS_MAX:
        raise _bad(f"{name!r} has a shape that is not a list of up to {DIMENSIONS_MAX} sizes")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _bad(f"{name!r} has data_offsets that are not [begin, end]")
    return dtype, tuple(shape), offsets[0], offsets[1]


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 2**63 for value in values
    )


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Return the values as an array; waits. bfloat16 has no numpy() and goes as integers."""
    tensor = tensor.detach().cpu()
    if tensor.dtype != farspan.bfloat16:
        return np.asarray(tensor.numpy(), order="C")
    as_integers = tensor.contiguous().view(farspan.int16).numpy()
    return np.asarray(as_integers, order="C").view(ml_dtypes.bfloat16)


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return farspan.from_numpy(array.view(np.int16)).view(farspan.bfloat16)
    return farspan.from_numpy(array)


def _unpack(node: Any, tensors: dict[str, Tensor], depth: int) -> Any:
    """Return the object that ``_Packer`` described."""
    if depth > NESTING_MAX:
        raise _bad(f"its containers are nested deeper than {NESTING_MAX}")
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    if not isinstance(node, dict) or len(node) != 1:
        raise _bad("its structure has an entry without a tag")
    ((tag, value),) = node.items()
    if tag == "tensor" and isinstance(value, str) and value in tensors:
        return tensors[value]
    if tag == "float" and value in ("inf", "-inf", "nan"):
        return float(value)
    if isinstance(value, list) and tag in ("list", "tuple", "dict", "odict"):
        if tag in ("dict", "odict"):
            return _unpack_pairs(OrderedDict() if tag == "odict" else {}, value, tensors, depth)
        items = [_unpack(item, tensors, depth + 1) for item in value]
        return items if tag == "list" else tuple(items)
    raise _bad(f"its structure has a wrong entry {tag!r}")


def _unpack_pairs(
    result: dict[Any, Any], pairs: list[Any], tensors: dict[str, Tensor], depth: int
) -> dict[Any, Any]:
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise _bad("its structure has a dict entry that is not a pair")
        key = _unpack(pair[0], tensors, depth + 1)
        if isinstance(key, (dict, list, tuple, Tensor)):
            raise _bad("its structure has a dict key that is not a plain value")
        result[key] = _unpack(pair[1], tensors, depth + 1)
    return result
