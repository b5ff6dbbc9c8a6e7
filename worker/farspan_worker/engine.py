"""Engine: the state machine of one session on one device. `handle(frame) -> events`.

It decodes nothing and does no I/O: a shell hands it frames and the transfers they read, and sends
its events. Time, threads and sockets are outside; randomness is session data that only commands
advance. A failed command poisons what depends on it and nothing else.
"""

from __future__ import annotations

import os
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
from farspan.core import command as cmd
from farspan.core import limits, tape
from farspan.core.command import ErrorInfo, Event, Failed, Frame, Send, Value
from farspan.core.dtype import DTYPES, Defaults, Device
from farspan.core.errors import BY_NAME, FarspanError, ProtocolError
from farspan.core.op import Op, op_at, table
from farspan.core.random import Generator
from farspan.core.spec import Spec

from . import plan as plans
from .store import Array, Budget, Poison, Storage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from farspan.core.command import Static

DEFAULT_SEED = 67280421310721  # torch's default_rng_seed_val


class Engine:
    """Tensors, tape, generators and byte budget of one session on one device."""

    def __init__(self, device: str = "cpu", memory_bytes_max: int | None = None) -> None:
        table()
        self.device = Device(device)
        self.budget = Budget(memory_bytes_max or default_memory_bytes())
        self.tensors: dict[int, Array | Poison] = {}
        self.generators: dict[int, Generator] = {}
        self.poisoned = 0  # entries that are Poison
        self.commands = 0  # run since the start
        self.applied = 0  # sequence of the last frame
        self._events: list[Event] = []
        self._failed = 0  # Failed events of this frame
        self._number = 0  # of the command that runs
        self._transfers: Mapping[int, Any] = {}
        self._payloads: Sequence[Any] = ()

    def handle(self, frame: Frame, transfers: Mapping[int, Any] | None = None) -> list[Event]:
        """Run a frame's commands in order and return what is to be told.

        transfers: by number, the bytes (or ErrorInfo) of each that `frame.transfers()` names.
        ProtocolError: the frame is not one a client of ours sends; the session must end.
        """
        self._events, self._failed = [], 0
        self._transfers, self._payloads = transfers or {}, frame.payloads
        if not 0 <= frame.default_dtype < len(DTYPES):
            raise ProtocolError(f"unknown dtype code {frame.default_dtype}")
        before = Defaults.dtype
        Defaults.dtype = DTYPES[frame.default_dtype]
        try:
            with np.errstate(all="ignore"):
                self._run(frame)
        finally:
            Defaults.dtype = before
            self._transfers, self._payloads = {}, ()
        self.applied = frame.sequence
        return self._events

    def adopt(self, id_: int, array: Any, spec: Spec) -> None:
        """Let tensor `id_` live in an array of the caller's own memory (`from_numpy` on local:)."""
        self.budget.check(array.nbytes)
        self._set(id_, Array(array, spec, Storage(array, self.budget)))

    def close(self) -> None:
        """Drop every tensor."""
        self.tensors.clear()
        self.generators.clear()

    def stats(self) -> dict[str, int]:
        """Return counts an operator reads."""
        return {
            "commands": self.commands,
            "tensors": len(self.tensors),
            "bytes": self.budget.used,
            "bytes_peak": self.budget.peak,
            "bytes_max": self.budget.limit,
        }

    def _run(self, frame: Frame) -> None:
        ids = frame.ids
        at = number = 0
        special = {cmd.FREE: self._free, cmd.GET: self._get, cmd.PUT: self._put,
                   cmd.BACKWARD: self._backward}  # fmt: skip
        columns = zip(
            frame.opcodes, frame.modes, frame.counts, frame.statics, frame.scalar_counts,
            frame.numbers, strict=True,
        )  # fmt: skip
        for opcode, mode, count, static, scalar_count, self._number in columns:
            mine = ids[at : at + count]
            at += count
            scalars = frame.scalars[number : number + scalar_count] if scalar_count else ()
            number += scalar_count
            if opcode >= cmd.FIRST_OPCODE:
                self._apply(op_at(opcode), mode, mine, static, scalars)
            elif opcode in special:
                special[opcode](mine, static)
            else:
                raise ProtocolError(f"unknown opcode {opcode}")
            self.commands += 1

    # ------------------------------------------------------------------------------------ ops --
    def _apply(
        self, op: Op, mode: int, ids: list[int], static: Static, scalars: Sequence[Any]
    ) -> None:
        form, mask = mode & 3, mode >> 2
        flat = _recipe(op, static).flat
        if flat > len(ids):
            raise ProtocolError(f"{op.name} names {len(ids)} tensors, not {flat}")
        known = len(ids) if form == cmd.OUT else flat
        inputs = self._look_up(ids[:known])
        outs = ids[flat:] if form == cmd.FUNCTIONAL else []
        if self.poisoned:
            bad = next((x for x in inputs if type(x) is Poison), None)
            if bad is not None and not self._heal(op, form, inputs):
                for out in outs:
                    self._set(out, Poison(bad.error))
                return
        try:
            generator = self._generator(op, static) if op.random else None
            results = plans.run(op, inputs, static, scalars, form, self.budget, generator)
        except ProtocolError:
            raise
        except Exception as e:
            self._fail(e, op.base, outs, _specs_of(op, inputs, static, scalars))
            return
        if form == cmd.FUNCTIONAL:
            if len(results) != len(outs):
                raise ProtocolError(f"{op.name} has {len(results)} outputs, not {len(outs)}")
            for out, result in zip(outs, results, strict=True):
                self._set(out, result)
        if mask:
            self._record(op, form, mask, inputs, results, static, scalars)

    def _record(
        self, op: Op, form: int, mask: int, inputs: Any, results: Any, static: Any, scalars: Any
    ) -> None:
        plan = op.vjp_plan(static, mask)
        if plan is None:
            raise ProtocolError(f"{op.name} has no gradient for the inputs of mask {mask}")
        for i, x in enumerate(inputs):
            if plan.mask >> i & 1 and tape.edge_of(x) is None:
                x._node = tape.Leaf()
        if form == cmd.INPLACE:
            node = tape.record_inplace(op, plan, inputs, static, tuple(scalars))
        else:
            node = tape.record(op, plan, inputs, results, static, tuple(scalars))
        node.number = self._number

    def _heal(self, op: Op, form: int, inputs: list[Any]) -> bool:
        """Return whether the op overwrites a poisoned target whole, which heals it."""
        target = inputs[0]
        if form != cmd.INPLACE or not op.overwrites or type(target) is not Poison:
            return False
        if target.spec is None or any(type(x) is Poison for x in inputs[1:]):
            return False
        array = plans.empty(target.spec.contiguous_)
        healed = Array(array, target.spec.contiguous_, Storage(array, self.budget))
        for id_, entry in self.tensors.items():
            if entry is target:
                self.tensors[id_] = healed
                self.poisoned -= 1
                break
        inputs[0] = healed
        return True

    def _generator(self, op: Op, static: Static) -> Generator:
        number = 0
        for arg, value in zip((a for a in op.args if a.kind != "T"), static, strict=True):
            if arg.kind[0] == "G" and value is not None:
                number = value
        found = self.generators.get(number)
        if found is None:
            found = self.generators[number] = Generator(DEFAULT_SEED)
        return found

    # ------------------------------------------------------------------------------- commands --
    def _free(self, ids: list[int], static: Static) -> None:
        for i in ids:
            if type(self.tensors.pop(i, None)) is Poison:
                self.poisoned -= 1

    def _get(self, ids: list[int], static: Static) -> None:
        request, kind, device = _unpack(static, 3)
        if not ids:  # a barrier: all before it has run
            self._events.append(Value(request, 0, (), b""))
            return
        (x,) = self._look_up(ids)
        if type(x) is Poison:
            if kind == cmd.GET_SEND:
                self._events.append(Send(device, request, 0, (), error=x.error))
            else:
                self._events.append(Value(request, 0, (), error=x.error))
            return
        spec = x._spec
        data: bytes | memoryview = b""
        if kind != cmd.GET_SPEC:
            # A copy: later commands of this very frame may write to the tensor.
            copied = np.array(x.array, order="C", copy=True)
            data = memoryview(copied.reshape(-1).view(np.uint8))
        if kind == cmd.GET_SEND:
            self._events.append(Send(device, request, spec.dtype.code, spec.shape, data))
        else:
            self._events.append(Value(request, spec.dtype.code, spec.shape, data))

    def _put(self, ids: list[int], static: Static) -> None:
        code, shape, payload, transfer = _unpack(static, 4)
        (out,) = ids
        if not 0 <= code < len(DTYPES) or payload >= len(self._payloads):
            raise ProtocolError("a Put without its bytes")
        data = self._payloads[payload] if payload >= 0 else self._transfers.get(transfer)
        if isinstance(data, ErrorInfo):
            self._set(out, Poison(data))
            return
        if data is None:
            raise ProtocolError(f"transfer {transfer} is not there")
        spec = Spec.make(shape, DTYPES[code], self.device)
        if len(data) != spec.nbytes:
            raise ProtocolError(f"a Put of {len(data)} bytes for {spec.nbytes}")
        try:
            self.budget.check(spec.nbytes)
            flat = np.frombuffer(data, np.uint8).copy().view(spec.dtype.numpy)
        except Exception as e:
            self._fail(e, "tensor", [out])
            return
        array = flat.reshape(shape)
        self._set(out, Array(array, spec, Storage(array, self.budget)))

    def _backward(self, ids: list[int], static: Static) -> None:
        count, keep = _unpack(static, 2)
        roots = self._look_up(ids[:count])
        seeds = self._look_up(ids[count : 2 * count])
        pairs = ids[2 * count :]
        stops, outs = self._look_up(pairs[::2]), pairs[1::2]
        bad = next((x for x in (*roots, *seeds, *stops) if type(x) is Poison), None)
        if bad is not None:
            for out in outs:
                self._set(out, Poison(bad.error))
            return
        for x in roots:
            if tape.edge_of(x) is None:  # a leaf that no op has used: its gradient is the seed
                x._node = tape.Leaf()
        edges = [tape.edge_of(x) for x in roots]
        wanted = [tape.edge_of(x) for x in stops]
        shared = {id(x._storage) for x in seeds}

        def unpack(node: tape.Node, name: str, saved: Array) -> Array:
            shared.add(id(saved._storage))
            return saved

        try:
            found = tape.walk(
                list(zip(edges, seeds, strict=True)),
                {w for w in wanted if w is not None},
                unpack,
                keep=bool(keep),
            )
            for stop, edge, out in zip(stops, wanted, outs, strict=True):
                gradient = found.get(edge)
                if gradient is None:
                    error = ErrorInfo("AutogradError", _SKIPPED, self._number)
                    self._set(out, Poison(error, stop._spec))
                else:
                    self._set(out, self._own(gradient, stop._spec, shared))
        except ProtocolError:
            raise
        except Exception as e:
            self._fail(e, "backward", outs)

    def _own(self, gradient: Array, like: Spec, shared: set[int]) -> Array:
        """Return the gradient in memory of its own, laid out as the tensor it belongs to."""
        spec = gradient._spec.with_(shape=like.shape, stride=like.stride if like.dense else None)
        if gradient._spec is spec and id(gradient._storage) not in shared:
            if gradient._storage.nbytes == spec.nbytes:
                shared.add(id(gradient._storage))
                return gradient._save()
        self.budget.check(spec.nbytes)
        array = plans.empty(spec)
        array[...] = gradient.array
        return Array(array, spec, Storage(array, self.budget))

    # -------------------------------------------------------------------------------- helpers --
    def _look_up(self, ids: Sequence[int]) -> list[Any]:
        tensors = self.tensors
        try:
            return [tensors[i] for i in ids]
        except KeyError as e:
            raise ProtocolError(f"unknown tensor {e}") from None

    def _set(self, out: int, value: Array | Poison) -> None:
        if out in self.tensors:
            raise ProtocolError(f"tensor {out} exists already")
        if len(self.tensors) >= limits.TENSORS_PER_SESSION_MAX:
            raise ProtocolError("too many live tensors")
        self.poisoned += type(value) is Poison
        self.tensors[out] = value

    def _fail(
        self, error: Exception, name: str, outs: Sequence[int], specs: Sequence[Spec] = ()
    ) -> None:
        info = ErrorInfo(*describe(error, name), self._number)
        for out, spec in zip_longest(outs, specs[: len(outs)]):
            self._set(out, Poison(info, spec))
        if self._failed < limits.ERRORS_PER_FRAME_MAX:
            self._failed += 1
            self._events.append(Failed(info))


_SKIPPED = "a tensor on the way to this gradient failed to be computed, so it has no gradient"


def _recipe(op: Op, static: Static) -> Any:
    try:
        return op.recipe(static)
    except (TypeError, ValueError, LookupError, FarspanError):
        raise ProtocolError(f"arguments that do not fit {op.name}") from None


def _specs_of(op: Op, inputs: Any, static: Static, scalars: Any) -> Sequence[Spec]:
    """Return the specs of a failed op's outputs, if its metadata rule still knows them."""
    try:
        return plans.plan_for(op, inputs, static, scalars).outs
    except Exception:
        return ()


def _unpack(static: Static, count: int) -> Static:
    if len(static) != count:
        raise ProtocolError("a command with the wrong number of arguments")
    return static


def describe(error: Exception, name: str) -> tuple[str, str]:
    """Return the kind and message that a client sees for an exception of a kernel."""
    kind = type(error).__name__
    if isinstance(error, FarspanError) and kind in BY_NAME:
        return kind, f"{name}: {error}"
    if isinstance(error, MemoryError):
        return "OutOfMemoryError", f"{name}: the device has no memory left for this"
    if isinstance(error, IndexError):
        return "ValueRangeError", f"{name}: {error}"
    if isinstance(error, np.linalg.LinAlgError):
        return "LinalgError", f"{name}: {error}"
    if isinstance(error, ZeroDivisionError):
        return "ProgramError", f"{name}: ZeroDivisionError"
    return "ServiceError", f"{name}: {kind}: {error}"


def default_memory_bytes() -> int:
    """Return the budget of a session that was given none: most of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 4 // 5
