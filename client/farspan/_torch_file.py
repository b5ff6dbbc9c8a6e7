"""torch's own checkpoint files: a zip archive of a pickle and one record a storage.

The pickle is never executed. Reading walks its opcodes (named by the standard library's
`pickletools`) on a stack machine that knows a closed list of constructors: containers, numbers,
text, dtypes, devices and torch's tensor rebuilders; anything else is an error that names it.
Layout of the archive: torch/serialization.py and caffe2/serialize/inline_container.h.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any

import ml_dtypes
import numpy as np

import farspan
from farspan._tensor import Size, Tensor
from farspan.core import dtype as dtypes
from farspan.core.dtype import Device, DType
from farspan.core.errors import DeviceError
from farspan.core.limits import NUMEL_MAX, RANK_MAX
from farspan.nn.parameter import Parameter

PICKLE_BYTES_MAX = 256 << 20
KEY_PARTS_MAX = 64  # of a tuple as a key: shared parts would be hashed exponentially often
KEY_BITS_MAX = 64  # of an integer as a key: longer ones can be made to collide at will

#: torch's storage classes, by which files name the element type.
STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
    "BoolStorage": "bool", "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
}  # fmt: skip


def read(file: IO[bytes], place: Callable[[Tensor, str], Tensor]) -> Any:
    """Return what torch.save wrote; tensors that shared memory share it again.

    place: moves a tensor from the location its file names to where the caller wants it.
    Raises ValueError for a damaged or hostile file, and for objects other than data.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            records = _Records(archive, file.seek(0, io.SEEK_END))
            machine = _Machine(records, place)
            return machine.run(records.read("data.pkl", PICKLE_BYTES_MAX))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OverflowError, OSError) as error:
        raise _bad(f"it is not a readable archive ({error})") from None


def _bad(what: str) -> ValueError:
    return ValueError(f"load: this is not a valid torch checkpoint: {what}.")


class _Records:
    """The records of an archive: stored as they are, one name each, below one folder."""

    def __init__(self, archive: zipfile.ZipFile, size_bytes: int) -> None:
        self.archive = archive
        self.left_bytes = size_bytes  # records that overlap would together be more than the file
        infos = archive.infolist()
        pickles = [i.filename for i in infos if i.filename.endswith("data.pkl")]
        if len(pickles) != 1:
            raise _bad("it has no data.pkl, or several" + _hint(infos))
        self.folder = pickles[0].removesuffix("data.pkl")
        self.infos = {i.filename: i for i in infos}
        if len(self.infos) != len(infos):
            raise _bad("two records have one name")
        if f"{self.folder}byteorder" in self.infos:
            order = self.read("byteorder", 16)
            if bytes(order) != b"little":
                raise _bad(f"its byte order is {bytes(order)!r}, not little")

    def read(self, name: str, at_most: int) -> memoryview:
        info = self.infos.get(self.folder + name)
        if info is None:
            raise _bad(f"the record {name!r} is missing")
        # Compressed records could expand without bound; torch never writes them.
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise _bad(f"the record {name!r} is compressed or encrypted")
        if info.file_size > at_most:
            raise _bad(f"the record {name!r} takes {info.file_size} bytes, more than {at_most}")
        self.left_bytes -= info.file_size
        if self.left_bytes < 0:
            raise _bad("its records take more than the file, so they overlap or are cut off")
        content = self.archive.read(info)
        if len(content) != info.file_size:
            raise _bad(f"the record {name!r} is cut off")
        return memoryview(content)


def _hint(infos: list[zipfile.ZipInfo]) -> str:
    is_script = any(i.filename.endswith("constants.pkl") for i in infos)
    return "; it looks like TorchScript, which farspan does not run" if is_script else ""


class _Storage:
    """A record seen as elements; the first tensor made of it carries the memory."""

    def __init__(self, dtype: DType, array: np.ndarray[Any, Any], location: str) -> None:
        self.dtype = dtype
        self.array = array
        self.location = location
        self.owner: Tensor | None = None


class _Constructor:
    """What a pickle may call. It stands on the stack only: data never holds one."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make


class _Machine:
    """Builds the object that a pickle describes; calls nothing but the constructors it knows."""

    def __init__(self, records: _Records, place: Callable[[Tensor, str], Tensor]) -> None:
        self.records = records
        self.place = place
        self.stack: list[Any] = []  # what came since the latest mark
        self.below: list[list[Any]] = []  # what came before each mark
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, _Storage] = {}
        makers = {
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_parameter_with_state": _parameter,
            "torch.Size": lambda sizes=(): Size(_all_sizes(sizes)),
            "torch.device": _device,
            "collections.OrderedDict": _ordered,
        }
        for module in ("builtins", "__builtin__"):
            makers[f"{module}.set"] = lambda items=(): set(_as_keys(items))
            makers[f"{module}.frozenset"] = lambda items=(): frozenset(_as_keys(items))
            makers[f"{module}.complex"] = complex
        self.known: dict[str, Any] = {name: _Constructor(make) for name, make in makers.items()}
        for name, dtype in STORAGES.items():
            self.known[f"torch.{name}"] = dtypes.BY_NAME[dtype]
        for name, known in dtypes.BY_NAME.items():
            self.known.setdefault(f"torch.{name}", known)

    def run(self, text: memoryview) -> Any:
        try:
            for opcode, argument, _ in pickletools.genops(bytes(text)):
                if opcode.name == "STOP":
                    if len(self.stack) != 1 or self.below:
                        raise _bad("its pickle leaves other than one object")
                    _check_data(self.stack[0])
                    return self.stack[0]
                step = _STEPS.get(opcode.name)
                if step is None:
                    raise _bad(f"its pickle uses {opcode.name}, which data does not need")
                step(self, argument)
        except ValueError as error:
            if str(error).startswith("load:"):
                raise
            raise _bad(f"its pickle is damaged ({error})") from None
        except (IndexError, KeyError, TypeError, AttributeError) as error:
            raise _bad(f"its pickle is damaged ({type(error).__name__}: {error})") from None
        raise _bad("its pickle has no end")

    # ------------------------------------------------------------------------ stack and memo --
    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError("too few objects")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is set:
            target.update(_as_keys(items))
        elif type(target) is list:
            target.extend(items)
        else:
            raise TypeError(f"cannot append to {type(target).__name__}")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) not in (dict, OrderedDict) or len(items) % 2:
            raise TypeError("pairs for no dict")
        target.update(zip(_as_keys(items[::2]), items[1::2], strict=True))

    def name(self, name: str) -> None:
        if name not in self.known:
            raise ValueError(
                f"load: the file holds {name}, which is code or an object of a class; farspan "
                "reads data only: tensors, state_dicts, containers, numbers and text"
            )
        self.stack.append(self.known[name])

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise TypeError("a global whose name is no text")
        self.name(f"{module}.{name}")

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(arguments) is not tuple or type(function) is not _Constructor:
            raise TypeError("a call of something that is not a constructor")
        self.stack.append(function.make(*arguments))

    def build(self) -> None:
        """Give an OrderedDict the `_metadata` that state_dicts have; nothing else has state."""
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is not OrderedDict or type(state) is not dict or set(state) - {"_metadata"}:
            raise TypeError(f"state for a {type(target).__name__}")
        for key, value in state.items():
            setattr(target, key, value)

    # ------------------------------------------------------------------------------- tensors --
    def storage(self) -> None:
        """Replace a persistent id, ("storage", type, key, location, count), by its memory."""
        tag, dtype, key, location, count = self.stack.pop()
        if tag != "storage" or type(key) is not str or type(location) is not str:
            raise TypeError("a persistent id that is no storage")
        if type(dtype) is not DType:
            raise TypeError("a storage of no type")
        if key not in self.storages:
            raw = self.records.read(f"data/{key}", 1 << 62)
            if type(count) is not int or len(raw) != count * dtype.itemsize:
                raise _bad(f"the record data/{key} has {len(raw)} bytes for {count} elements")
            kind = ml_dtypes.bfloat16 if dtype.name == "bfloat16" else dtype.numpy
            if dtype.name == "bool" and len(raw) and np.frombuffer(raw, np.uint8).max() > 1:
                raise _bad(f"the record data/{key} has booleans that are neither 0 nor 1")
            # A copy: the array owns aligned, writable memory.
            self.storages[key] = _Storage(dtype, np.frombuffer(raw, kind).copy(), location)
        elif self.storages[key].dtype is not dtype:
            raise _bad(f"the record data/{key} is of two types")
        self.stack.append(self.storages[key])

    def tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any = False, *_: Any
    ) -> Tensor:
        """Return a tensor on a storage; one that covers all of it carries the memory itself."""
        if type(storage) is not _Storage or not _are_sizes((offset, *size, *stride)):
            raise TypeError("a tensor without a storage, or with sizes that are none")
        if len(size) != len(stride) or len(size) > RANK_MAX:
            raise _bad(
                f"a tensor of {len(size)} dims, at most {RANK_MAX}, has {len(stride)} strides"
            )
        array = storage.array
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if last >= array.size if 0 not in size else offset > array.size:
            raise _bad(f"a tensor of size {size} reaches beyond its {array.size} elements")
        if math.prod(n for n in size if n) * array.itemsize > NUMEL_MAX:  # numpy's bound, in bytes
            raise _bad(f"a tensor of size {size} has too many elements")
        if requires_grad and not (storage.dtype.is_floating_point or storage.dtype.is_complex):
            raise _bad(f"a tensor of {storage.dtype} requires a gradient")
        whole = offset == 0 and _contiguous(size) == tuple(stride) and math.prod(size) == array.size
        if storage.owner is None:
            first = _upload(array.reshape(size) if whole else array)
            storage.owner = self.place(first, storage.location)
            made = storage.owner if whole else _window(storage.owner, size, stride, offset)
        else:
            made = _window(storage.owner, size, stride, offset)
        return made.requires_grad_() if requires_grad else made


def _upload(array: np.ndarray[Any, Any]) -> Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return farspan.from_numpy(array.view(np.int16)).view(farspan.bfloat16)
    return farspan.from_numpy(array)


def _window(owner: Tensor, size: Any, stride: Any, offset: int) -> Tensor:
    return owner.detach().as_strided(size, stride, offset).detach()


def _are_sizes(values: tuple[Any, ...]) -> bool:
    return all(type(v) is int and 0 <= v < 2**62 for v in values)


def _contiguous(size: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for n in reversed(size):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


def _parameter(data: Any, requires_grad: Any = True, *rest: Any) -> Parameter:
    if not isinstance(data, Tensor):
        raise TypeError("a parameter without a tensor")
    if requires_grad and not (data.is_floating_point() or data.is_complex()):
        raise TypeError(f"a parameter of {data.dtype} that requires a gradient")
    return Parameter(data, bool(requires_grad))


def _device(*parts: Any) -> Device:
    try:
        return Device(*parts)
    except DeviceError as error:
        raise ValueError(error) from None


def _ordered(pairs: Any = ()) -> OrderedDict[Any, Any]:
    pairs = [tuple(pair) for pair in pairs]
    _as_keys([key for key, _ in pairs])
    return OrderedDict(pairs)


def _all_sizes(sizes: Any) -> tuple[int, ...]:
    if type(sizes) not in (tuple, list) or not _are_sizes(tuple(sizes)):
        raise TypeError("a Size of other than sizes")
    return tuple(sizes)


def _as_keys(items: Any) -> Any:
    """Return the items; TypeError if hashing one of them could take long, or all of the stack."""
    for item in items:
        left = [item]
        for part in left:  # which grows
            if isinstance(part, (tuple, frozenset)):
                left.extend(part)
            elif not isinstance(part, _KEYS):
                raise TypeError(f"a {type(part).__name__} as a key")
            elif isinstance(part, int) and part.bit_length() > KEY_BITS_MAX:
                raise TypeError(f"an integer of {part.bit_length()} bits as a key")
            if len(left) > KEY_PARTS_MAX:
                raise TypeError(f"a key of more than {KEY_PARTS_MAX} parts")
    return items


_KEYS = (str, bytes, int, float, complex, type(None), DType, Device, Tensor)


def _check_data(obj: Any) -> None:
    """Raise TypeError if what the pickle builds with, not only what it builds, is in an object."""
    seen, left = set(), [obj]
    while left:
        x = left.pop()
        if type(x) in (_Constructor, _Storage):
            raise TypeError("a constructor or a storage where data should be")
        if isinstance(x, (dict, list, tuple)) and id(x) not in seen:
            seen.add(id(x))
            left.extend(x.values() if isinstance(x, dict) else x)


def _push(value: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda m, _: m.push(value())


_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "MARK": lambda m, _: m.mark(),
    "NONE": _push(lambda: None),
    "NEWTRUE": _push(lambda: True),
    "NEWFALSE": _push(lambda: False),
    "EMPTY_LIST": _push(list),
    "EMPTY_DICT": _push(dict),
    "EMPTY_TUPLE": _push(tuple),
    "EMPTY_SET": _push(set),
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE",
         "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        lambda m, argument: m.push(argument),
    ),
    "TUPLE": lambda m, _: m.push(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "APPEND": lambda m, _: m.append([m.stack.pop()]),
    "APPENDS": lambda m, _: m.append(m.since_mark()),
    "ADDITEMS": lambda m, _: m.append(m.since_mark()),
    "SETITEM": lambda m, _: m.set_items([m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m, _: m.set_items(m.since_mark()),
    "GLOBAL": lambda m, argument: m.name(argument.replace(" ", ".")),
    "STACK_GLOBAL": lambda m, _: m.stack_global(),
    "REDUCE": lambda m, _: m.reduce(),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.storage(),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda m, at: m.memo.__setitem__(at, m.stack[-1])),
    "MEMOIZE": lambda m, _: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda m, at: m.push(m.memo[at])),
}  # fmt: skip
