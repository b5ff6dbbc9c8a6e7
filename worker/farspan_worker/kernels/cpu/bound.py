"""Primitives bound to fixed addresses: what a program's steps call.

A `Bound` is one op, or a part of one, over values that lie at known addresses in known layouts. All
is made ready when it is bound; a step is one call of the library with fixed arguments. Nothing here
knows operators, and no address is checked: who places values owns the memory. Read bind.py next.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from ctypes import byref, c_int, c_void_p
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .checks import require_finite, require_numbers
from .onednn import (
    DST,
    SCRATCH,
    SRC,
    After,
    Argument,
    Desc,
    Kind,
    OneDnnError,
    check,
    is_asked,
    lib,
    on_one_thread,
    path,
    plain,
    reorder_kind,
)
from .onednn import (
    operand as argument_of,
)

if TYPE_CHECKING:
    from farspan.core.spec import Spec

Step = tuple[Callable[..., Any], tuple[Any, ...]]

_LINE: Final = 64  # bytes: everything starts at a multiple of it
#: A primitive that touches more bytes lets other threads of Python run meanwhile. Below it that
#: costs more than the primitive takes: whoever wakes keeps the interpreter for up to 5 ms.
_RELEASE_BYTES: Final = 1 << 18


class Layout:
    """How a value lies in memory, where the library chose it: shape, order and blocks, and bytes.

    Equal layouts are equal byte for byte. `nbytes` may exceed the elements' (blocks are filled up).
    """

    __slots__ = ("desc", "nbytes", "shape")

    def __init__(self, desc: Desc, shape: Sequence[int]) -> None:
        self.desc, self.shape = desc, tuple(shape)
        self.nbytes = desc.nbytes

    @classmethod
    def of(cls, spec: Spec) -> Layout:
        """Return the layout of a float32 tensor with these strides."""
        return cls(plain(spec.shape, spec.stride), spec.shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.shape == other.shape and self.desc == other.desc

    __hash__ = None  # type: ignore[assignment]


class Operand:
    """A value while an op is being bound: its place (a slot of the op, or scratch) and layout."""

    __slots__ = ("desc", "offset", "shape", "slot", "spec", "stride")

    def __init__(
        self, desc: Desc | None, slot: int, offset: int = 0, spec: Spec | None = None,
        shape: Sequence[int] = (), is_plain: bool = True,
    ) -> None:  # fmt: skip
        #: None where there is no plain descriptor (no float32, or a layout is to be asked for)
        self.desc = desc
        self.slot = slot  # -1: in the scratch memory
        self.offset = offset  # bytes
        self.spec = spec  # what the op's tensor is; its elements may lie otherwise
        self.shape: tuple[int, ...] = tuple(shape) if spec is None else spec.shape
        #: in elements; None where only the library knows how the value lies
        self.stride = None if spec is None or not is_plain else spec.stride

    def flat(self) -> Operand:
        """Return the memory as one row of floats: with what fills up blocks, which is zeros."""
        assert self.desc is not None
        return self.seen_as((self.desc.nbytes // 4,))

    def seen_as(
        self, shape: Sequence[int], stride: Sequence[int] | None = None, skip: int = 0
    ) -> Operand:
        """Return the same memory under another shape and strides (elements), `skip` elements on."""
        stride = tuple(_c_order(shape) if stride is None else stride)
        made = Operand(plain(shape, stride), self.slot, self.offset + 4 * skip, shape=shape)
        made.stride = stride
        return made


class _Codes(dict[int, None]):
    """What a call of the library returns, from its status: None, or OneDnnError is raised."""

    def __missing__(self, code: int) -> None:
        raise OneDnnError("primitive execute", code)


#: As `restype` of the library's function it is called with the status, in C: 0.05 us a call.
_checked: Final = _Codes({0: None}).__getitem__
_calls: dict[bool, Any] = {}


def _execute(releases: bool) -> Any:
    """Return `dnnl_primitive_execute` that raises, with or without the interpreter's lock."""
    if not _calls:
        for free, opened in ((True, lib().c), (False, ctypes.PyDLL(path() or ""))):
            call = opened["dnnl_primitive_execute"]
            call.restype = _checked
            _calls[free] = call
    return _calls[releases]


class _ArrayCall:
    """A function of numpy arrays over fixed addresses, for what the library has no primitive."""

    __slots__ = ("arrays", "function", "kinds")

    def __init__(self, function: Callable[..., None], kinds: list[tuple[Any, ...]]) -> None:
        self.function, self.kinds = function, kinds
        self.arrays: list[Any] = [None] * len(kinds)

    def place(self, i: int, address: int) -> None:
        shape, stride, dtype = self.kinds[i]
        size = np.dtype(dtype).itemsize
        span = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        memory = (ctypes.c_char * (span * size)).from_address(address)
        self.arrays[i] = np.ndarray(shape, dtype, memory, 0, [s * size for s in stride])

    def __call__(self) -> None:
        self.function(*self.arrays)


def aligned(nbytes: int) -> int:
    """Return the bytes that a value takes when the next one starts at a line of the cache."""
    return -(-nbytes // _LINE) * _LINE


class Binding:
    """An op while it is being bound: operands for its slots, and the primitives added so far."""

    def __init__(self, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> None:
        self.inputs, self.outputs = list(inputs), list(outputs)
        self._parts: list[tuple[str, Any, list[tuple[int, Operand]]]] = []
        self._copies: list[tuple[Operand, Desc, Operand]] = []
        self._temporary_bytes = 0
        self._scratch_bytes = 0
        #: what is to be done to each element of the result, and the further operands of that
        self.then: tuple[After, ...] = ()
        self.others: list[Operand] = []
        self.exact = True
        #: inputs that hold neither NaN nor infinities, nor numbers beyond 1e18
        self.finite: frozenset[int] = frozenset()

    def extra(self) -> dict[int, Operand]:
        """Return the arguments that are operands of what is done after the primitive."""
        binary = [i for i, step in enumerate(self.then) if step.other is not None]
        return {argument_of(i): o for i, o in zip(binary, self.others, strict=True)}

    def temporary(self, desc: Desc, shape: Sequence[int] = ()) -> Operand:
        """Return memory that lives within one run of the op."""
        made = Operand(desc, -1, self._temporary_bytes, shape=shape)
        self._temporary_bytes += aligned(desc.nbytes)
        return made

    def add(
        self, kind: Kind, inputs: Mapping[int, Operand], outputs: Mapping[int, Operand]
    ) -> None:
        """Add a primitive; what it wants in another layout is reordered before or after.

        An output whose descriptor is None takes the layout that the primitive chose.
        """
        slots, after = [], []
        for argument, given in inputs.items():
            assert given.desc is not None
            wanted = kind.desc(argument) if is_asked(argument) else given.desc
            slots.append((argument, given if wanted == given.desc else self.copy(given, wanted)))
        for argument, given in outputs.items():
            wanted = kind.desc(argument) if is_asked(argument) else given.desc
            assert wanted is not None
            if given.desc is None:
                given.desc = wanted
            if wanted == given.desc:
                slots.append((argument, given))
                continue
            inner = self.temporary(wanted)
            slots.append((argument, inner))
            after.append((inner, given))
        scratch = kind.desc(SCRATCH)
        if scratch.handle and scratch.nbytes:
            self._scratch_bytes = max(self._scratch_bytes, aligned(scratch.nbytes))
            slots.append((SCRATCH, Operand(scratch, -2)))
        self._parts.append((kind.name, kind, slots))
        for inner, given in after:
            self.reorder(inner, given)

    def copy(self, given: Operand, wanted: Desc) -> Operand:
        """Return a value reordered into another layout, once for all that want it so."""
        for operand, desc, copy in self._copies:
            if operand is given and desc == wanted:
                return copy
        copy = self.temporary(wanted)
        self.reorder(given, copy)
        self._copies.append((given, wanted, copy))
        return copy

    def reorder(self, source: Operand, target: Operand) -> None:
        """Add a copy from one layout to another."""
        assert source.desc is not None and target.desc is not None
        kind = reorder_kind(source.desc, target.desc)
        self._parts.append(("reorder", kind, [(SRC, source), (DST, target)]))

    def call(self, function: Callable[..., None], *operands: Operand, dtype: Any = "f4") -> None:
        """Add a function of numpy arrays, which writes its results to the last of them."""
        self._parts.append(("call", (function, dtype), list(enumerate(operands))))

    def bound(self) -> Bound:
        """Return the op, ready but for addresses."""
        return Bound(
            self._parts, len(self.inputs), self.outputs, self._temporary_bytes, self._scratch_bytes
        )


class Bound:
    """An op bound to fixed addresses; calling it runs it. Not for two threads at once.

    Slots count the op's tensors as its command does, then its outputs. Each must be placed, and the
    scratch memory, before the first run; placing again re-points what is there, and `steps` stay
    valid. Memory is the caller's and must outlive the runs.
    """

    __slots__ = (
        "_arrays",
        "_handles",
        "_kept",
        "inputs",
        "outputs",
        "raises",
        "scratch_bytes",
        "steps",
    )

    def __init__(
        self, parts: Sequence[tuple[str, Any, list[tuple[int, Operand]]]], inputs: int,
        outputs: Sequence[Operand], temporary_bytes: int, scratch_bytes: int,
    ) -> None:  # fmt: skip
        self.inputs = inputs  # how many slots are inputs
        #: of each output: its layout (None for what is no float32)
        self.outputs = [None if o.desc is None else Layout(o.desc, o.shape) for o in outputs]
        #: bytes of memory that hold nothing between runs; several ops may share them
        self.scratch_bytes = temporary_bytes + scratch_bytes
        self.steps: tuple[Step, ...] = ()
        #: whether values can make it raise UnfitError
        self.raises = any(
            name == "call" and what[0] in (require_finite, require_numbers)
            for name, what, _ in parts
        )
        #: by slot (-1: scratch memory): memory objects of the library, and offsets into the value
        self._handles: dict[int, list[tuple[c_void_p, int]]] = {}
        self._arrays: dict[int, list[tuple[_ArrayCall, int, int]]] = {}
        self._kept: list[Any] = []
        for name, what, slots in parts:
            made = self._called if name == "call" else self._primitive
            self.steps += (made(name, what, slots, temporary_bytes),)

    def _called(
        self, name: str, what: Any, slots: list[tuple[int, Operand]], scratch_at: int
    ) -> Step:
        function, dtype = what
        kinds = [(o.shape, o.stride or _c_order(o.shape), dtype) for _, o in slots]
        made = _ArrayCall(function, kinds)
        for i, operand in slots:
            self._arrays.setdefault(operand.slot, []).append((made, i, operand.offset))
        return made, ()

    def _primitive(
        self, name: str, kind: Any, slots: list[tuple[int, Operand]], scratch_at: int
    ) -> Step:
        c, nbytes, pairs, made = lib().c, 0, [], c_void_p()
        self._kept.append((kind, slots))
        for argument, operand in slots:
            assert operand.desc is not None
            memory = c_void_p()
            code = c.dnnl_memory_create(
                byref(memory), c_void_p(operand.desc.handle), lib().engine, c_void_p(0)
            )
            check(code, "memory_create")
            at = (-1, scratch_at) if operand.slot == -2 else (operand.slot, operand.offset)
            self._handles.setdefault(at[0], []).append((memory, at[1]))
            pairs.append(Argument(argument, memory))
            nbytes += operand.desc.nbytes
        kind.instantiate(made)
        arguments = (Argument * len(pairs))(*pairs)
        self._kept.append(_Owned(made))
        call = _execute(nbytes > _RELEASE_BYTES)
        if kind.alone:
            call = on_one_thread(call)
        return call, (made, lib().stream, c_int(len(pairs)), arguments)

    def place(self, slot: int, address: int) -> None:
        """Say where the value of a slot is; its memory has the layout it was bound with."""
        bind = lib().bind
        for memory, offset in self._handles.get(slot, ()):
            check(bind(memory, address + offset), "memory_set_data_handle")
        for call, i, offset in self._arrays.get(slot, ()):
            call.place(i, address + offset)

    def place_scratch(self, address: int) -> None:
        """Say where `scratch_bytes` of scratch memory are, from a multiple of 64 on."""
        self.place(-1, address)

    def __call__(self) -> None:
        """Run all steps. Blocks until they are done."""
        for function, arguments in self.steps:
            function(*arguments)

    def __del__(self) -> None:
        for memories in self._handles.values():
            for memory, _ in memories:
                lib().c.dnnl_memory_destroy(memory)


class _Owned:
    """A primitive of the library, destroyed with this."""

    __slots__ = ("handle",)

    def __init__(self, handle: c_void_p) -> None:
        self.handle = handle

    def __del__(self) -> None:
        lib().c.dnnl_primitive_destroy(self.handle)


def _c_order(shape: Sequence[int]) -> tuple[int, ...]:
    steps = [1]
    for n in reversed(shape[1:]):
        steps.append(steps[-1] * n)
    return tuple(steps[::-1]) if shape else ()


def reorder(source: Layout, target: Layout) -> Bound:
    """Return the copy of a value from one layout (slot 0) to another (slot 1); exact."""
    given, made = Operand(source.desc, 0), Operand(target.desc, 1, shape=target.shape)
    binding = Binding([given], [made])
    binding.reorder(given, made)
    return binding.bound()
