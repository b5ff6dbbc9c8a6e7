"""Engine: the state machine of one session on one device. `handle(frame) -> events`.

It decodes nothing and does no I/O: a shell hands it frames and the transfers they read, and sends
its events. Time, threads and sockets are outside; randomness is session data that only commands
advance. A failed command poisons what depends on it and nothing else.
"""

from __future__ import annotations

from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
from farspan.core import command as cmd
from farspan.core import limits, tape
from farspan.core.buffers import owned
from farspan.core.command import ErrorInfo, Event, Failed, Frame, Send, Value
from farspan.core.dtype import DTYPES, Defaults, Device, int64, uint8
from farspan.core.errors import FarspanError, OutOfMemoryError, ProtocolError
from farspan.core.op import Op, op_at, table
from farspan.core.random import Generator
from farspan.core.spec import Spec
from farspan.core.units import human

from . import gradients
from . import plan as plans
from .backend import open_backend
from .checks import check_form, describe, gradient_spec, ints, recipe_of
from .programs.body import check_static
from .programs.run import Programs
from .store import Array, Budget, Foreign, Poison, Recorded, Storage, default_memory_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from farspan.core.command import Static

    from .timeline import Timeline

DEFAULT_SEED = 67280421310721  # torch's default_rng_seed_val


class Engine:
    """Tensors, tape, generators and byte budget of one session on one device."""

    compute = staticmethod(plans.run)  # how one op runs

    def __init__(
        self, device: str = "cpu", memory_bytes_max: int | None = None, xp: Any = None
    ) -> None:
        """UnsupportedError: no such device here. xp: for "cuda:N", what to use instead of cupy."""
        table()
        self.device = Device(device)
        self.backend = open_backend(self.device, memory_bytes_max, xp)
        self.budget = Budget(
            memory_bytes_max or self.backend.memory_bytes() or default_memory_bytes(), self.backend
        )
        self.tensors: dict[int, Array | Poison] = {}
        self.budget.weigh = self._weigh
        self.objects_max = limits.OBJECTS_STEP  # tensors and nodes until they are weighed again
        self.generators: dict[int, Generator] = {}
        self.programs = Programs(self)
        self.poisoned = 0  # entries that are Poison
        self.commands = 0  # run since the start
        self.frames = 0  # begun since the start
        self.applied = 0  # sequence of the last frame
        self.steady = False  # which kernels run does not depend on time: a replay repeats it
        self.skipped: ErrorInfo | None = None  # why the last skipped store was
        self.timeline: Timeline | None = None  # while the client profiles
        self.outlet: Any = None  # as `inbox.Engine` has it
        self._events: list[Event] = []
        self._failed = 0  # Failed events of this frame
        self._told_bytes = 0  # of values that this frame's Gets have copied
        self._number = 0  # of the command that runs
        self._transfers: Mapping[int, Any] = {}
        self._payloads: Sequence[Any] = ()

    def handle(self, frame: Frame, transfers: Mapping[int, Any] | None = None) -> list[Event]:
        """Run a frame's commands in order and return what is to be told.

        transfers: by number, the bytes (or ErrorInfo) of each that `frame.transfers()` names.
        ProtocolError: the frame is not one a client of ours sends; the session must end.
        """
        self._failed = self._told_bytes = 0
        self.frames += 1
        self._weigh()
        return self.resume(frame, transfers)

    def resume(self, frame: Frame, transfers: Mapping[int, Any] | None = None) -> list[Event]:
        """Run the next piece of the frame that `handle` had the first piece of."""
        self._events = []
        self._transfers, self._payloads = transfers or {}, frame.payloads
        if not 0 <= frame.default_dtype < len(DTYPES):
            raise ProtocolError(f"unknown dtype code {frame.default_dtype}")
        if not DTYPES[frame.default_dtype].is_floating_point:
            raise ProtocolError(f"default dtype {DTYPES[frame.default_dtype].name}")
        before = Defaults.dtype
        Defaults.dtype = DTYPES[frame.default_dtype]
        try:
            with self.backend.turn():
                self._run(frame)
        finally:
            Defaults.dtype = before
            self._transfers, self._payloads = {}, ()
        self.applied = frame.sequence
        events, self._events = self._events, []  # the bytes of values are not ours to keep
        return events

    @property
    def running(self) -> int:
        """The number of the command that runs, or ran last."""
        return self._number

    def adopt(self, id_: int, array: Any, spec: Spec) -> None:
        """Let tensor `id_` live in an array of the caller's own memory (`from_numpy` on local:)."""
        if self.backend.remote:
            raise ProtocolError(f"{self.device} cannot adopt memory of this process")
        span, size = spec.span(), array.itemsize
        self.budget.check(span * size)
        # The storage is all between the first and the last element, whatever the array skips.
        whole = np.lib.stride_tricks.as_strided(array, (span,), (size,))
        self._set(id_, Array(array, spec, Foreign(whole, self.budget)))

    def close(self) -> None:
        """Drop every tensor."""
        self.tensors.clear()
        self.generators.clear()
        self.programs.close()
        self.backend.close()

    def stats(self) -> dict[str, int]:
        """Return counts an operator reads."""
        return {
            "commands": self.commands,
            "tensors": len(self.tensors),
            "bytes": self.budget.used,
            "bytes_peak": self.budget.peak,
            "bytes_max": self.budget.whole,
            "bytes_objects": self.budget.objects,
            **self.programs.stats(),
            **self.backend.stats(),
        }

    def _run(self, frame: Frame) -> None:
        ids = frame.ids
        at = number = 0
        special = {cmd.FREE: self._free, cmd.GET: self._get, cmd.PUT: self._put,
                   cmd.BACKWARD: self._backward, cmd.LINK: self._link,
                   cmd.GROW: self._grow}  # fmt: skip
        programs = self.programs
        columns = zip(
            frame.opcodes, frame.modes, frame.counts, frame.statics, frame.scalar_counts,
            frame.numbers, strict=True,
        )  # fmt: skip
        if self.timeline is not None:
            columns = self.timeline.running(frame.sequence, columns)
        for opcode, mode, count, static, scalar_count, self._number in columns:
            mine = ids[at : at + count]
            at += count
            scalars = frame.scalars[number : number + scalar_count] if scalar_count else ()
            number += scalar_count
            if opcode >= cmd.FIRST_OPCODE:
                self._apply(op_at(opcode), mode, mine, static, scalars)
            elif opcode in special:
                special[opcode](mine, static)
            elif opcode == cmd.CALL:
                programs.call(mine, static, scalars)
            elif opcode == cmd.UNDEFINE:
                programs.undefine(ints(static, len(static)))
            elif opcode == cmd.DEFINE:
                rows = list(islice(columns, check_static(static)[1]))
                end, last = at + sum(r[2] for r in rows), number + sum(r[4] for r in rows)
                body = (rows, ids[at:end], frame.scalars[number:last], frame.default_dtype)
                programs.define(mine, static, *body)
                at, number = end, last
            else:
                raise ProtocolError(f"unknown opcode {opcode}")
            self.commands += 1

    # ------------------------------------------------------------------------------------ ops --
    def _apply(
        self, op: Op, mode: int, ids: list[int], static: Static, scalars: Sequence[Any]
    ) -> None:
        form, mask = mode & 3, mode >> 2
        recipe = op.recipes.get(static) or recipe_of(op, static)
        flat = recipe.flat
        if flat > len(ids) or form:
            check_form(op, form, flat, ids)
        outs = [] if form else ids[flat:]
        tensors = self.tensors
        try:
            inputs = [*map(tensors.__getitem__, ids if form == cmd.OUT else ids[:flat])]
        except KeyError as e:
            raise ProtocolError(f"unknown tensor {e}") from None
        try:
            if self.poisoned:
                bad = next((x for x in inputs if type(x) is Poison), None)
                if bad is not None and not self._heal(op, form, inputs):
                    self._spread(bad.error, op, inputs, static, scalars, outs)
                    return
            if len(tensors) + self.budget.nodes > self.objects_max and (outs or mask):
                self._check_count()  # first: what fails has written nothing
            generator = self._generator(op, static) if op.random else None
            results = self.compute(op, inputs, static, scalars, form, self.budget, generator)
        except ProtocolError:
            raise
        except Exception as e:
            specs = [spec for spec, _ in self._outputs_of(op, inputs, static, scalars)]
            self._fail(e, op.base, outs, specs, inputs)
            return
        if not form:
            if len(results) != len(outs):
                raise ProtocolError(f"{op.name} has {len(results)} outputs, not {len(outs)}")
            for out, result in zip(outs, results, strict=True):
                if out in tensors:
                    raise ProtocolError(f"tensor {out} exists already")
                tensors[out] = result
        if mask:
            self._record(op, form, mask, inputs, results, static, scalars)

    def _record(
        self, op: Op, form: int, mask: int, inputs: Any, results: Any, static: Any, scalars: Any
    ) -> None:
        plan = op.vjp_plan(static, mask)
        if plan is None:
            raise ProtocolError(f"{op.name} has no gradient for the inputs of mask {mask:#x}")
        mask, edges = plan.mask, []
        for x in inputs:
            edge = None
            if mask & 1:
                edge = tape.edge_of(x)
                if edge is None:
                    x._node = tape.Leaf()
                    edge = (x._node, x._index)
            edges.append(edge)
            mask >>= 1
        if form == cmd.INPLACE:
            node = tape.record_inplace(op, plan, inputs, static, tuple(scalars))
            node.site = Recorded(self.budget, 3)  # a view's base and its views get nodes, too
        else:
            node = tape.record(op, plan, inputs, results, static, tuple(scalars), tuple(edges))
            node.site = Recorded(self.budget)
        node.number = self._number

    def _spread(
        self, error: ErrorInfo, op: Op, inputs: Any, static: Any, scalars: Any, outs: list[int]
    ) -> None:
        """Poison what an op with a poisoned input makes; what it stores is not stored."""
        if not outs:
            self.skipped = error
        known = self._outputs_of(op, inputs, static, scalars)
        unknown: list[tuple[Spec | None, int]] = [(None, 0)] * (len(outs) - len(known))
        for out, (spec, offset) in zip(outs, (*known, *unknown), strict=False):
            base = None
            if spec is not None and op.family == "view" and inputs[0]._spec is not None:
                base = inputs[0].base or inputs[0]
                offset = plans.place(inputs[0], spec, offset)
            self._set(out, Poison(error, spec, base, offset))

    def _heal(self, op: Op, form: int, inputs: list[Any]) -> bool:
        """Return whether the op overwrites a poisoned target whole, which heals it and its views.

        A window of a poisoned tensor is not enough: the rest would still be unknown.
        """
        target = inputs[0]
        if form != cmd.INPLACE or not op.overwrites or type(target) is not Poison:
            return False
        if target._spec is None or any(type(x) is Poison for x in inputs[1:]):
            return False
        root = target.base or target
        spec = root._spec
        if spec is None or not target._spec.dense or target._spec.nbytes != spec.nbytes:
            return False
        self.budget.check(spec.nbytes)
        memory = Storage(self.backend.empty(spec), self.budget)
        base = Array(memory.window(spec, root._offset), spec, memory, root._offset)
        for id_, entry in self.tensors.items():
            if entry is root:
                healed = base
            elif type(entry) is Poison and entry.base is root and entry._spec:
                window = memory.window(entry._spec, entry._offset)
                healed = Array(window, entry._spec, memory, entry._offset)
                healed._base = base
            else:
                continue
            self.tensors[id_] = healed
            self.poisoned -= 1
            if entry is target:
                inputs[0] = healed
        return True

    def generator_number(self, op: Op, static: Static) -> int:
        """Return which generator a random op draws from."""
        number = 0
        for arg, value in zip((a for a in op.args if a.kind != "T"), static, strict=True):
            if arg.kind[0] == "G" and value is not None:
                (number,) = ints((value,), 1)
        return number

    def generator(self, number: int) -> Generator:
        """Return a generator of the session; a new one has torch's default seed."""
        found = self.generators.get(number)
        if found is None:
            self.budget.check(0)
            found = self.generators[number] = self.backend.generator(DEFAULT_SEED)
        return found

    def _generator(self, op: Op, static: Static) -> Generator:
        return self.generator(self.generator_number(op, static))

    # ------------------------------------------------------------------------------- commands --
    def _free(self, ids: list[int], static: Static) -> None:
        held = self.programs.held
        for i in ids:
            gone = self.tensors.pop(i, None)
            if gone is None:
                self.generators.pop(i, None)
            elif type(gone) is Poison:
                self.poisoned -= 1
            elif held and gone._storage in held:  # by plans, for their next Call
                storage, gone = gone._storage, None
                held.let_go(storage)

    def _get(self, ids: list[int], static: Static) -> None:
        request, kind, device = ints(static, 3)
        if len(ids) > 1:
            raise ProtocolError("a Get of several tensors")
        if not ids:  # a barrier: all before it has run
            self._events.append(self._answer(request, kind, device))
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
            try:
                self.budget.check(spec.nbytes)  # an expanded view may be larger than any memory
                self._told_bytes += spec.nbytes
                if self._told_bytes > self.budget.whole:
                    raise OutOfMemoryError(
                        f"reading {human(self._told_bytes)} at once, with a limit of "
                        f"{human(self.budget.whole)}; wait between reads"
                    )
                # A copy: later commands of this very frame may write to the tensor.
                room = None if kind == cmd.GET_SEND else self.outlet
                copied = self.backend.download(x.array, room)
            except Exception as e:
                info = ErrorInfo(*describe(e, "reading a tensor", [x]), self._number)
                failed = Value(request, 0, (), error=info)
                send = Send(device, request, 0, (), error=info)
                self._events.append(send if kind == cmd.GET_SEND else failed)
                return
            data = copied.reshape(-1).view(np.uint8).data
        if kind == cmd.GET_SEND:
            self._events.append(Send(device, request, spec.dtype.code, spec.shape, data))
        else:
            self._events.append(Value(request, spec.dtype.code, spec.shape, data))

    def _answer(self, request: int, kind: int, about: int) -> Value:
        """Answer a barrier, what memory the session has here, how a program runs, or what ran."""
        if kind == cmd.GET_SPEC:
            return Value(request, 0, (), b"")
        if kind == cmd.GET_PROGRAM:
            text = self.programs.explain(about)
            return Value(request, uint8.code, (len(text),), text)
        if kind in (cmd.GET_TRACE, cmd.GET_TRACE_END):
            from .timeline import Timeline  # only here: it brings what the wire needs

            text = (self.timeline or Timeline()).to_json().encode()
            self.timeline = Timeline() if kind == cmd.GET_TRACE else None
            return Value(request, uint8.code, (len(text),), text)
        if kind == cmd.GET_IDS:
            ids = [*self.tensors, *filter(None, self.generators)]  # 0 is the device's own generator
            told = np.array(ids, np.int64).view(np.uint8).data
            return Value(request, int64.code, (len(ids),), told)
        if kind == cmd.GET_RELEASE:
            self.programs.arena.put_to_sleep()
            self.backend.release()
        used = self.budget.used
        counts = np.array([used, self.budget.peak, self.budget.whole], np.int64)
        if kind == cmd.GET_MEMORY_ANEW:
            self.budget.peak = used
        return Value(request, int64.code, (3,), counts.view(np.uint8).data)

    def _put(self, ids: list[int], static: Static) -> None:
        if len(static) != 4 or len(ids) != 1:
            raise ProtocolError("a Put with the wrong number of arguments")
        (out,), shape = ids, static[1]
        code, payload, transfer = ints((static[0], *static[2:]), 3)
        if not 0 <= code < len(DTYPES) or not -1 <= payload < len(self._payloads):
            raise ProtocolError("a Put without its bytes")
        data = self._payloads[payload] if payload >= 0 else self._transfers.get(transfer)
        if data is None:
            raise ProtocolError(f"transfer {transfer} is not there")
        try:
            spec = Spec.make(shape, DTYPES[code], self.device)
        except (TypeError, FarspanError):
            raise ProtocolError("a Put of a shape that cannot be") from None
        if isinstance(data, ErrorInfo):
            if data.command > 0:  # of a command that has been reported where it failed
                self._set(out, Poison(data, spec))
            else:
                self._report(ErrorInfo(data.kind, data.message, self._number), [out], [spec])
            return
        if len(data) != spec.nbytes:
            raise ProtocolError(f"a Put of {len(data)} bytes for {spec.nbytes}")
        try:
            if len(self.tensors) + self.budget.nodes >= self.objects_max:
                self._check_count()
            self.budget.check(spec.nbytes)
            array = self.backend.upload(owned(data), spec.dtype.numpy, shape)
        except Exception as e:
            self._fail(e, "tensor", [out])
            return
        self._set(out, Array(array, spec, Storage(array, self.budget)))

    def _backward(self, ids: list[int], static: Static) -> None:
        count, keep = ints(static, 2)
        if not 0 < 2 * count <= len(ids) or len(ids) % 2:
            raise ProtocolError("a Backward with the wrong number of tensors")
        roots = self._look_up(ids[:count])
        seeds = self._look_up(ids[count : 2 * count])
        pairs = ids[2 * count :]
        stops, outs = self._look_up(pairs[::2]), pairs[1::2]
        bad = next((x for x in (*roots, *seeds, *stops) if type(x) is Poison), None)
        if bad is not None:
            for stop, out in zip(stops, outs, strict=True):
                self._set(out, Poison(bad.error, gradient_spec(stop._spec)))
            return
        for x in roots:
            if tape.edge_of(x) is None:  # a leaf that no op has used: its gradient is the seed
                x._node = tape.Leaf()
        if not pairs and not keep:
            tape.let_go([(x._node, x._index) for x in roots])
            return
        found = gradients.walk(self, roots, seeds, stops, keep)
        if isinstance(found, ErrorInfo):
            self._report(found, outs, [gradient_spec(x._spec) for x in stops])
            return
        for out, result in zip(outs, found, strict=True):
            self._set(out, result)

    def _link(self, ids: list[int], static: Static) -> None:
        """Let a tensor take another's place in the graph: `.data =` gave that one its memory."""
        if len(ids) != 2 or static:
            raise ProtocolError("a Link of other than two tensors")
        old, new = self._look_up(ids)
        if type(old) is Poison or type(new) is Poison:
            return  # there is no graph; an op that uses `new` makes its leaf
        if tape.edge_of(old) is None:
            old._node = tape.Leaf()
        new._node, new._index = old._node, old._index

    def _grow(self, ids: list[int], static: Static) -> None:
        """Make the memory of a tensor longer if need be; every tensor on it goes along.

        It counts as a write, as torch counts `resize_`.
        """
        (nbytes,) = ints(static, 1)
        if len(ids) != 1:
            raise ProtocolError("a Grow of other than one tensor")
        (x,) = self._look_up(ids)
        if type(x) is Poison:
            return
        x._storage.version += 1
        memory = x._storage.memory
        if nbytes <= memory.nbytes:
            return
        there = [(i, t) for i, t in self.tensors.items()
                 if type(t) is Array and t._storage.memory is memory]  # fmt: skip
        try:
            memory.grow(nbytes)
        except Exception as e:  # what comes next would look at memory that is not there
            info = ErrorInfo(*describe(e, "resize_", [x]), self._number)
            for i, _ in there:
                del self.tensors[i]
            self._report(info, [i for i, _ in there], [t._spec for _, t in there])
            return
        for _, t in there:
            t._storage.follow()
            t.array = memory.window(t._spec, t._offset)

    def own(self, gradient: Array, like: Spec, shared: set[int]) -> Array:
        """Return the gradient in memory of its own, laid out as the tensor it belongs to."""
        spec = gradient._spec
        if spec is not like or not like.contiguous:
            spec = spec.with_(shape=like.shape, stride=gradient_spec(like).stride)
        if gradient._spec is spec and id(gradient._storage.memory) not in shared:
            if gradient._storage.nbytes == spec.nbytes:
                shared.add(id(gradient._storage.memory))
                return gradient._save()
        self.budget.check(spec.nbytes)
        array = self.backend.empty(spec)
        array[...] = gradient.array
        return Array(array, spec, Storage(array, self.budget))

    # -------------------------------------------------------------------------------- helpers --
    def _outputs_of(
        self, op: Op, inputs: Any, static: Static, scalars: Any
    ) -> Sequence[tuple[Spec | None, int]]:
        """Return spec and offset of each output, if the metadata rule knows them unevaluated."""
        try:
            plan = plans.plan_for(op, inputs, static, scalars, self.backend)
        except Exception:
            return ()
        return plan.views or ([] if op.dynamic else [(spec, 0) for spec in plan.outs])

    def _look_up(self, ids: Sequence[int]) -> list[Any]:
        tensors = self.tensors
        try:
            return [tensors[i] for i in ids]
        except KeyError as e:
            raise ProtocolError(f"unknown tensor {e}") from None

    def _check_count(self) -> None:
        """Raise if tensors and nodes, however small, take too much, as a replay of them does."""
        if len(self.tensors) >= limits.TENSORS_PER_SESSION_MAX:
            raise ProtocolError("too many live tensors")
        self._weigh()
        self.budget.check(0)

    def _weigh(self) -> None:
        """Charge the session for what its tensors, nodes and generators are beside elements."""
        tensors, budget = len(self.tensors), self.budget
        budget.charge_objects(tensors, len(self.generators))
        # Beyond the limit each one asks: what takes no elements, as a recorded write, never would.
        step = limits.OBJECTS_STEP if budget.used <= budget.limit else -1
        self.objects_max = tensors + budget.nodes + step

    def _set(self, out: int, value: Array | Poison) -> None:
        if out in self.tensors:
            raise ProtocolError(f"tensor {out} exists already")
        if len(self.tensors) >= limits.TENSORS_PER_SESSION_MAX:
            raise ProtocolError("too many live tensors")
        self.poisoned += type(value) is Poison
        self.tensors[out] = value

    def _fail(
        self,
        error: Exception,
        name: str,
        outs: Sequence[int],
        specs: Sequence[Spec | None] = (),
        inputs: Sequence[Any] = (),
    ) -> None:
        self._report(ErrorInfo(*describe(error, name, inputs), self._number), outs, specs)

    def _report(
        self, info: ErrorInfo, outs: Sequence[int], specs: Sequence[Spec | None] = ()
    ) -> None:
        for out, spec in zip_longest(outs, specs[: len(outs)]):
            self._set(out, Poison(info, spec))
        if self._failed < limits.ERRORS_PER_FRAME_MAX:
            self._failed += 1
            self._events.append(Failed(info))
