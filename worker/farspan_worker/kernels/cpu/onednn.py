"""oneDNN through its C API by ctypes: descriptors, primitives and routes between plain arrays.

The library is that of the wheel `onednn-cpu-gomp` (3.2, OpenMP, no SYCL), found and opened at its
first use, never at import. Every return code is checked. Nothing here knows operators; numbers of
kinds and arguments are those of `dnnl_types.h`. Read conv.py next.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import math
import os
import threading
from collections.abc import Sequence
from ctypes import byref, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint, c_void_p
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from farspan.core.limits import MiB

PACKAGE: Final = "onednn-cpu-gomp"
FLOAT32: Final = 3
_ANY: Final = 1  # a format tag: the primitive chooses its layout
_BLOCKS_OF_16: Final = {3: 56, 4: 78, 5: 121}  # by rank: aBc16b, aBcd16b, aBcde16b
_RANK_MAX: Final = 12
_UNIMPLEMENTED: Final = 3
_CPU: Final = 1
_IN_ORDER: Final = 1
_USER: Final = 1  # scratchpad mode: the memory is ours

SRC_1: Final = 2  # the second operand of a binary primitive
TRAINING, INFERENCE, BACKWARD = 64, 96, 128
SRC, DST, WEIGHTS, BIAS, MEAN, VARIANCE, SCALE, SHIFT, WORKSPACE, SCRATCH = (
    1, 17, 33, 41, 49, 50, 51, 52, 64, 80,
)  # fmt: skip
DIFF_SRC, DIFF_DST, DIFF_WEIGHTS, DIFF_BIAS, DIFF_SCALE, DIFF_SHIFT = 129, 145, 161, 169, 255, 256
_QUERY: Final = {
    SRC: 129, DIFF_SRC: 130, WEIGHTS: 131, DIFF_WEIGHTS: 132, DST: 133, DIFF_DST: 134,
    WORKSPACE: 135, SCRATCH: 136,
}  # fmt: skip

#: Bytes of scratch memory that a thread keeps; a primitive that wants more gets it for one call.
_SCRATCH_BYTES_MAX: Final = 64 * MiB
#: Below this a primitive runs on the calling thread alone: of products and convolutions the root of
#: the product of their three sizes (about their multiplications), of others elements. Waking
#: another thread takes 5 us on an idle machine, a time slice on a busy one, where the library's
#: gradients of weights also spin. Measured by benchmarks/threads.py.
ALONE: Final = 1 << 23, 1 << 20
_PRODUCTS: Final = ("matmul", "convolution")
#: Routes kept, over all ops; each holds some tens of KiB of generated code.
ROUTES_MAX: Final = 512


class OneDnnError(RuntimeError):
    """A call of the library failed; `code` is its dnnl_status_t."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"oneDNN: {what} returned status {code}")
        self.code = code

    @property
    def unimplemented(self) -> bool:
        """Whether the library merely has no such primitive for these descriptors."""
        return self.code == _UNIMPLEMENTED


class Argument(ctypes.Structure):
    _fields_ = (("argument", c_int), ("memory", c_void_p))


_Dims = c_int64 * _RANK_MAX


def dims(values: Sequence[int]) -> Any:
    """Return a dnnl_dims_t."""
    return _Dims(*values)


# ------------------------------------------------------------------------------------- library --
def path() -> str | None:
    """Return where the library is: FARSPAN_ONEDNN, or the installed wheel's; None without one."""
    given = os.environ.get("FARSPAN_ONEDNN")
    if given is not None:
        return given or None
    try:
        files = importlib.metadata.distribution(PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = next((f for f in files if f.name == "libdnnl.so.3"), None)
    return None if found is None else os.fspath(found.locate())


class _Library:
    """The opened library, one CPU engine and one stream."""

    def __init__(self, at: str) -> None:
        # libgomp reads its policy when it is loaded; without one its threads spin between calls,
        # which costs 10 to 50 times where anything else has threads. A setting of the user's stays.
        before = os.environ.get("OMP_WAIT_POLICY")
        os.environ["OMP_WAIT_POLICY"] = before or "PASSIVE"
        try:
            self.c = ctypes.CDLL(at)
        finally:
            if before is None:
                del os.environ["OMP_WAIT_POLICY"]
        c = self.c
        c.dnnl_primitive_desc_query_md.restype = c_void_p
        c.dnnl_memory_desc_get_size.restype = c_size_t
        c.dnnl_memory_desc_get_size.argtypes = [c_void_p]
        c.dnnl_memory_desc_equal.argtypes = [c_void_p, c_void_p]
        for name in ("memory_desc", "memory", "primitive_desc", "primitive"):
            getattr(c, f"dnnl_{name}_destroy").argtypes = [c_void_p]
        self.bind = c.dnnl_memory_set_data_handle
        self.bind.argtypes = [c_void_p, c_void_p]
        self.execute = c.dnnl_primitive_execute
        self.execute.argtypes = [c_void_p, c_void_p, c_int, c_void_p]
        self.engine, self.stream, self.attributes = c_void_p(), c_void_p(), c_void_p()
        check(c.dnnl_engine_create(byref(self.engine), _CPU, c_size_t(0)), "engine_create")
        check(c.dnnl_stream_create(byref(self.stream), self.engine, _IN_ORDER), "stream_create")
        check(c.dnnl_primitive_attr_create(byref(self.attributes)), "attr_create")
        check(
            c.dnnl_primitive_attr_set_scratchpad_mode(self.attributes, _USER), "set_scratchpad_mode"
        )
        # Called for each small primitive, and shorter than what letting the lock go costs.
        held = ctypes.PyDLL(at)
        self.threads: int = held.omp_get_max_threads()
        self.max_threads, self.set_threads = held.omp_get_max_threads, held.omp_set_num_threads
        self.set_threads.argtypes, self.set_threads.restype = [c_int], None
        # A forked child has this thread alone; the team that libgomp remembers is not there.
        os.register_at_fork(after_in_child=functools.partial(c.omp_set_num_threads, 1))


def check(code: int, what: str) -> None:
    """Raise OneDnnError unless a call succeeded."""
    if code:
        raise OneDnnError(what, code)


class _Alone:
    """A context in which the library uses the calling thread only, if `alone`."""

    __slots__ = ("_before", "alone")

    def __init__(self, alone: bool) -> None:
        self.alone = alone

    def __enter__(self) -> None:
        if self.alone:
            self._before = lib().max_threads()
            lib().set_threads(1)

    def __exit__(self, *error: object) -> None:
        if self.alone:
            lib().set_threads(self._before)


def is_small(name: str, sizes: Sequence[int]) -> bool:
    """Return whether a primitive over tensors of these sizes is to run on one thread of several."""
    if lib().threads == 1:
        return False
    if name.startswith(_PRODUCTS):
        root = math.sqrt(math.prod(sorted(sizes)[-3:]))
        # A convolution multiplies by the width of its window more: seldom by less than two.
        return root < (ALONE[0] // 2 if name.startswith("convolution") else ALONE[0])
    return sum(sizes) < ALONE[1]


def on_one_thread(call: Any) -> Any:
    """Return a function that lets the library use the calling thread only."""
    most, use = lib().max_threads, lib().set_threads

    def run(*arguments: Any) -> Any:
        before = most()
        use(1)
        try:
            return call(*arguments)
        finally:
            use(before)

    return run


_lock = threading.Lock()
_library: _Library | None = None
_failure = ""


def available() -> str:
    """Open the library if that was not done yet; return "" or why there is none."""
    global _library, _failure
    with _lock:
        if _library is None and not _failure:
            at = path()
            if at is None:
                _failure = f"the package {PACKAGE} is not installed"
            else:
                try:
                    _library = _Library(at)
                except (OSError, OneDnnError, AttributeError) as error:
                    _failure = str(error)
    return "" if _library is not None else _failure


def lib() -> _Library:
    """Return the opened library; only after `available()` has said "" in this process."""
    assert _library is not None
    return _library


# --------------------------------------------------------------------------------- descriptors --
class Desc:
    """A memory descriptor: shape, type and strides in elements, or a layout left to choose."""

    __slots__ = ("_numel", "handle", "kind", "owned")

    def __init__(self, handle: int, owned: bool, kind: Kind | None = None, numel: int = -1) -> None:
        self.handle = handle
        self._numel = numel
        self.owned = owned
        self.kind = kind  # whose descriptor it is, if it is not ours

    @property
    def nbytes(self) -> int:
        return int(lib().c.dnnl_memory_desc_get_size(self.handle))

    @property
    def numel(self) -> int:
        """How many elements there are; with what fills up blocks where the library chose."""
        return self.nbytes // 4 if self._numel < 0 else self._numel

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Desc) and bool(
            lib().c.dnnl_memory_desc_equal(self.handle, other.handle)
        )

    __hash__ = None  # type: ignore[assignment]

    def __del__(self) -> None:
        if self.owned and _library is not None:
            _library.c.dnnl_memory_desc_destroy(self.handle)


def plain(shape: Sequence[int], strides: Sequence[int] | None = None) -> Desc:
    """Return the descriptor of a float32 array; strides in elements, C order without them."""
    if strides is None:
        steps = [1]
        for n in reversed(shape[1:]):
            steps.append(steps[-1] * n)
        strides = steps[::-1]
    made = c_void_p()
    code = lib().c.dnnl_memory_desc_create_with_strides(
        byref(made), len(shape), dims(shape), FLOAT32, dims(strides)
    )
    check(code, "memory_desc_create_with_strides")
    return Desc(made.value or 0, True, None, math.prod(shape))


def free(shape: Sequence[int]) -> Desc:
    """Return the descriptor of a float32 array whose layout the primitive may choose."""
    return _tagged(shape, _ANY)


def blocked(shape: Sequence[int]) -> Desc:
    """Return the descriptor of float32 images with their channels in blocks of 16."""
    return _tagged(shape, _BLOCKS_OF_16[len(shape)])


def _tagged(shape: Sequence[int], tag: int) -> Desc:
    made = c_void_p()
    code = lib().c.dnnl_memory_desc_create_with_tag(
        byref(made), len(shape), dims(shape), FLOAT32, tag
    )
    check(code, "memory_desc_create_with_tag")
    return Desc(made.value or 0, True, None, math.prod(shape))


@dataclass(frozen=True, slots=True)
class After:
    """One step after a primitive: an eltwise function, a binary one with `other`, or + dst."""

    algorithm: int = 0  # 0: the old element of dst times `alpha` is added
    alpha: float = 1.0
    beta: float = 0.0
    other: Desc | None = None


def operand(step: int) -> int:
    """Return the argument that is the other operand of a primitive's step of this number."""
    return (step + 1) << 15 | SRC_1


def _with_steps(steps: Sequence[After]) -> c_void_p:
    """Return attributes with these steps; the caller destroys them."""
    c, made, chain = lib().c, c_void_p(), c_void_p()
    check(c.dnnl_primitive_attr_create(byref(made)), "attr_create")
    check(c.dnnl_primitive_attr_set_scratchpad_mode(made, _USER), "set_scratchpad_mode")
    check(c.dnnl_post_ops_create(byref(chain)), "post_ops_create")
    for step in steps:
        if step.other is not None:
            code = c.dnnl_post_ops_append_binary(chain, step.algorithm, c_void_p(step.other.handle))
        elif step.algorithm:
            code = c.dnnl_post_ops_append_eltwise(
                chain, step.algorithm, c_float(step.alpha), c_float(step.beta)
            )
        else:
            code = c.dnnl_post_ops_append_sum(chain, c_float(step.alpha), 0, 0)
        check(code, "post_ops_append")
    check(c.dnnl_primitive_attr_set_post_ops(made, chain), "attr_set_post_ops")
    check(c.dnnl_post_ops_destroy(chain), "post_ops_destroy")
    return made


class Kind:
    """A primitive descriptor: what is computed, over which layouts."""

    __slots__ = ("alone", "handle", "kept", "name")

    def __init__(self, name: str, *arguments: Any, then: Sequence[After] = ()) -> None:
        """arguments: those of `dnnl_<name>_primitive_desc_create` between engine and attributes.

        then: what is done to each element of the result before it is stored.
        """
        self.handle, self.name = c_void_p(), name
        self.kept = arguments  # a hint must outlive what was made from it
        library = lib()
        attributes = _with_steps(then) if then else library.attributes
        values = [a.handle if isinstance(a, (Desc, Kind)) else a for a in arguments]
        values = [c_void_p(a) if type(a) is int and a > 1 << 31 else a for a in values]
        create = getattr(library.c, f"dnnl_{name}_primitive_desc_create")
        #: whether it is made for, and must run on, the calling thread only
        self.alone = is_small(name, [a.numel for a in arguments if isinstance(a, Desc)])
        with _Alone(self.alone):
            code = create(byref(self.handle), library.engine, *values, attributes)
        if then:
            check(library.c.dnnl_primitive_attr_destroy(attributes), "attr_destroy")
        check(code, name)

    def desc(self, argument: int) -> Desc:
        """Return the descriptor that the primitive wants for one of its arguments."""
        found = lib().c.dnnl_primitive_desc_query_md(self.handle, _QUERY[argument], 0)
        return Desc(found or 0, False, self)

    def instantiate(self, made: c_void_p) -> None:
        """Make a primitive of this kind, which the caller destroys."""
        with _Alone(self.alone):
            check(lib().c.dnnl_primitive_create(byref(made), self.handle), f"{self.name} create")

    @property
    def implementation(self) -> str:
        """The name of the library's implementation, e.g. "jit:avx512_core"."""
        said = c_char_p()
        check(lib().c.dnnl_primitive_desc_query(self.handle, 8, 0, byref(said)), "query")
        return (said.value or b"").decode()

    def __del__(self) -> None:
        if self.handle and _library is not None:
            _library.c.dnnl_primitive_desc_destroy(self.handle)


# ------------------------------------------------------------------------------------ execution --
def is_asked(argument: int) -> bool:
    """Return whether a primitive says in which layout it wants this argument."""
    return argument in _QUERY


class _Primitive:
    """A primitive with a memory object for each of its arguments, bound to addresses per call."""

    __slots__ = ("_alone", "_arguments", "_at", "_memories", "handle", "kept", "name")

    def __init__(self, kind: Kind, name: str, slots: Sequence[tuple[int, Desc]]) -> None:
        c = lib().c
        self.handle, self.name, self.kept = c_void_p(), name, (kind, slots)
        self._memories: list[int] = []
        self._alone = kind.alone
        kind.instantiate(self.handle)
        for _, desc in slots:
            made = c_void_p()
            code = c.dnnl_memory_create(
                byref(made), c_void_p(desc.handle), lib().engine, c_void_p(0)
            )
            check(code, "memory_create")
            self._memories.append(made.value or 0)
        pairs = [Argument(a, m) for (a, _), m in zip(slots, self._memories, strict=True)]
        self._arguments = (Argument * len(pairs))(*pairs)
        self._at = ctypes.addressof(self._arguments)

    def __call__(self, pointers: Sequence[int]) -> None:
        """Run on these addresses, one a slot. Not reentrant: its route holds a lock."""
        library = lib()
        for memory, pointer in zip(self._memories, pointers, strict=True):
            if library.bind(memory, pointer):
                raise OneDnnError("memory_set_data_handle", 1)
        with _Alone(self._alone):
            code = library.execute(self.handle, library.stream, len(self._memories), self._at)
        if code:
            raise OneDnnError(f"{self.name} execute", code)

    def __del__(self) -> None:
        if _library is not None:
            for memory in self._memories:
                _library.c.dnnl_memory_destroy(memory)
            if self.handle:
                _library.c.dnnl_primitive_destroy(self.handle)


def reorder_kind(source: Desc, target: Desc) -> Kind:
    """Return the copy between two layouts."""
    library = lib()
    made = Kind.__new__(Kind)
    made.handle, made.name, made.kept = c_void_p(), "reorder", (source, target)
    made.alone = is_small("reorder", [source.numel, target.numel])
    with _Alone(made.alone):
        code = library.c.dnnl_reorder_primitive_desc_create(
            byref(made.handle), c_void_p(source.handle), library.engine, c_void_p(target.handle),
            library.engine, None,
        )  # fmt: skip
    check(code, "reorder")
    return made


def _reorder(source: Desc, target: Desc) -> _Primitive:
    kind = reorder_kind(source, target)
    return _Primitive(kind, kind.name, [(SRC, source), (DST, target)])


class Route:
    """A primitive between arrays in layouts of their own; those it wants otherwise are reordered.

    inputs, outputs: (argument, descriptor of the array) in the order in which a call gives
    addresses. What a primitive wants is asked of `kind`, where the argument can be.
    """

    __slots__ = ("_after", "_before", "_bytes", "_lock", "_primitive", "_temporaries", "kind")

    def __init__(
        self,
        kind: Kind,
        inputs: Sequence[tuple[int, Desc]],
        outputs: Sequence[tuple[int, Desc]],
    ) -> None:
        self.kind = kind
        self._before: list[tuple[_Primitive, int]] = []
        self._after: list[tuple[_Primitive, int]] = []
        #: (index among the primitive's pointers, offset in the scratch memory)
        self._temporaries: list[tuple[int, int]] = []
        self._bytes = 0
        self._lock = threading.Lock()
        slots = []
        for i, (argument, given) in enumerate((*inputs, *outputs)):
            wanted = kind.desc(argument) if argument in _QUERY else given
            if wanted != given:
                self._reserve(i, wanted)
                if i < len(inputs):
                    self._before.append((_reorder(given, wanted), i))
                else:
                    self._after.append((_reorder(wanted, given), i))
            slots.append((argument, wanted))
        scratch = kind.desc(SCRATCH)
        if scratch.handle and scratch.nbytes:
            self._reserve(len(slots), scratch)
            slots.append((SCRATCH, scratch))
        self._primitive = _Primitive(kind, kind.name, slots)

    def _reserve(self, index: int, desc: Desc) -> None:
        self._temporaries.append((index, self._bytes))
        self._bytes += -(-desc.nbytes // 64) * 64

    def __call__(self, *arrays: Any) -> None:
        """Run on arrays, or addresses: inputs first, then outputs. Blocks until it is done."""
        given = [a if type(a) is int else a.ctypes.data for a in arrays]
        with self._lock:
            if not self._temporaries:
                self._primitive(given)
                return
            memory, at = scratch(self._bytes)
            inner = [*given, 0] if self._temporaries[-1][0] == len(given) else list(given)
            for index, offset in self._temporaries:
                inner[index] = at + offset
            for reorder, i in self._before:
                reorder((given[i], inner[i]))
            self._primitive(inner)
            for reorder, i in self._after:
                reorder((inner[i], given[i]))
            del memory


_local = threading.local()


def scratch(nbytes: int) -> tuple[Any, int]:
    """Return memory of this thread and its first address that is a multiple of 64."""
    memory = getattr(_local, "memory", None)
    if memory is None or memory.nbytes < nbytes + 64:
        memory = np.empty(nbytes + 64, np.uint8)
        if nbytes <= _SCRATCH_BYTES_MAX:
            _local.memory = memory
    at = memory.ctypes.data
    return memory, at + -at % 64


def cached(build: Any) -> Any:
    """Return `build`, a function of hashable values, with its routes kept, the latest used."""
    return functools.lru_cache(maxsize=ROUTES_MAX)(build)


def number(x: float) -> Any:
    return c_float(x)


def flags(x: int) -> Any:
    return c_uint(x)
