"""Sessions that a client might have: frames of valid commands over ids that are alive.

Everything follows from one `random.Random`; what is alive is read back from the engine, so that a
session goes on after whatever a wrong frame has done to it.
"""

from __future__ import annotations

import collections
import functools
import math
import random
from typing import Any

from farspan.core import command as cmd
from farspan.core.command import Frame
from farspan.core.dtype import DTYPES
from farspan.core.op import OPS

from fuzzing.corpus import Input, Template, corpus

F32 = next(d.code for d in DTYPES if d.name == "float32")
_UNKNOWN = (-1, ())
Key = tuple[int, tuple[int, ...]]  # dtype code and shape


@functools.cache
def by_key() -> dict[Key, tuple[Template, ...]]:
    """Return the templates by what their first input is."""
    found: dict[Key, list[Template]] = collections.defaultdict(list)
    for t in corpus():
        if t.inputs:
            found[t.inputs[0].dtype, t.inputs[0].shape].append(t)
    return {key: tuple(ts) for key, ts in found.items()}


@functools.cache
def by_op() -> tuple[tuple[Template, ...], ...]:
    """Return the templates of each op; an op with many is no likelier than one with few."""
    found: dict[int, list[Template]] = collections.defaultdict(list)
    for t in corpus():
        found[t.op.opcode].append(t)
    return tuple(tuple(ts) for ts in found.values())


@functools.cache
def by_overwriting() -> tuple[Template, ...]:
    """Return the templates of ops to which the old elements of what they write do not matter."""
    return tuple(t for t in corpus() if t.op.overwrites and t.inputs)


class Session:
    """Makes the frames of one session; `live` says which tensors there are."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.live: dict[int, Key] = {}
        self.recorded: dict[int, list[int]] = {}  # results with a graph, and what they came from
        self.programs: dict[int, tuple[list[Input], int]] = {}  # inputs, number of outputs
        self.transfers: dict[int, bytes] = {}  # that the frames made so far read
        self.frame = Frame(0)
        self._id = 1
        self._number = 1
        self._transfer = 1
        self._sequence = 0
        self._by_key: dict[Key, list[int]] = {}

    def resync(self, engine: Any) -> None:
        """Take what is alive from the engine itself."""
        self.live = {
            i: _UNKNOWN if x._spec is None else (x._spec.dtype.code, x._spec.shape)
            for i, x in engine.tensors.items()
        }
        self._id = max([self._id, *(i + 1 for i in self.live if i < 2**40)])
        self._by_key = {}
        for i, key in self.live.items():
            self._by_key.setdefault(key, []).append(i)
        self.recorded = {i: s for i, s in self.recorded.items() if i in self.live}
        self.programs = {n: p for n, p in self.programs.items() if n in engine.programs._programs}

    def next_frame(self, commands: int) -> Frame:
        """Return a frame of about so many commands, with the Puts that they need."""
        self._sequence += 1
        self.frame = Frame(0, self._sequence, 1, F32)
        for _ in range(commands):
            self._one()
            if len(self.frame.payloads) > 40 or len(self.frame) > 60:
                break
        return self.frame

    # ------------------------------------------------------------------------------- commands --
    def _one(self) -> None:
        draw = self.rng.random()
        if draw < 0.80 or not self.live:
            self._op()
        elif draw < 0.83:
            self._fill()
        elif draw < 0.86 and self.recorded:
            self._backward()
        elif draw < 0.90:
            self._get()
        elif draw < 0.93:
            count = self.rng.randrange(1, 4)
            gone = self.rng.sample(sorted(self.live), min(count, len(self.live)))
            self._add(cmd.FREE, gone, (), number=0)
            for i in gone:
                self._by_key.get(self.live.pop(i), []).remove(i)
                self.recorded.pop(i, None)
        elif draw < 0.95:
            self._add(cmd.GROW, [self._any()], (self.rng.choice([0, 8, 64, 4_096]),))
        elif draw < 0.96:
            old = self._any()
            same = self._by_key.get(self.live[old], [old])
            self._add(cmd.LINK, [old, self.rng.choice(same)])
        elif draw < 0.965 and self.programs:
            gone_program = self.rng.choice(sorted(self.programs))
            del self.programs[gone_program]
            self._add(cmd.UNDEFINE, [], (gone_program,))
        elif draw < 0.98 and self.programs:
            self._call(self.rng.choice(sorted(self.programs)))
        else:
            self._define()

    def _add(
        self, opcode: int, ids: Any, static: Any = (), scalars: Any = (), mode: int = 0,
        number: int | None = None,
    ) -> None:  # fmt: skip
        if number is None:
            number, self._number = self._number, self._number + 1
        self.frame.add(opcode, ids, static, scalars, mode, number)

    def _any(self) -> int:
        return self.rng.choice(sorted(self.live))

    def _new(self, key: Key) -> int:
        made, self._id = self._id, self._id + 1
        self.live[made] = key
        self._by_key.setdefault(key, []).append(made)
        return made

    def _given(self, x: Input) -> int:
        """Return a tensor like an input: one that is there, or a Put."""
        there = self._by_key.get((x.dtype, x.shape))
        if there and self.rng.random() < 0.5:
            return self.rng.choice(there)
        return self.put(x)

    def put(self, x: Input) -> int:
        """Add the Put of an input; its bytes ride along, or come as a transfer."""
        out = self._new((x.dtype, x.shape))
        if self.rng.random() < 0.95:
            self._add(cmd.PUT, [out], (x.dtype, x.shape, len(self.frame.payloads), 0))
            self.frame.payloads.append(x.data)
        else:
            transfer, self._transfer = self._transfer, self._transfer + 1
            self.transfers[transfer] = x.data
            self._add(cmd.PUT, [out], (x.dtype, x.shape, -1, transfer))
        return out

    def _template(self) -> Template:
        if self.live and self.rng.random() < 0.6:
            fitting = by_key().get(self.live[self._any()])
            if fitting:
                return self.rng.choice(fitting)
        return self.rng.choice(self.rng.choice(by_op()))

    def _op(self) -> None:
        t = self._template()
        ids = [self._given(x) for x in t.inputs]
        mode, outs = 0, [(s.dtype.code, s.shape) for s in t.outs]
        if t.mask and self.rng.random() < 0.4:
            mode = (t.mask & self.rng.choice([t.mask, -1, 1, 2]) or t.mask) << 2
        draw = self.rng.random()
        one = (
            len(outs) == 1
            and math.prod(outs[0][1]) <= 4_096
            and not t.op.lists
            and t.inputs
            and t.op.family != "view"
        )
        if draw < 0.10 and one and outs[0] == (t.inputs[0].dtype, t.inputs[0].shape):
            made, mode = [], mode | cmd.INPLACE
        elif draw < 0.13 and one and not mode:
            made, mode = [self._new(outs[0])], cmd.OUT
            self._add(cmd.PUT, made, (*outs[0], len(self.frame.payloads), 0))
            numel = math.prod(outs[0][1])
            self.frame.payloads.append(bytes(numel * DTYPES[outs[0][0]].itemsize))
        else:
            made = [self._new(key if not t.op.dynamic else _UNKNOWN) for key in outs]
        self._add(t.op.opcode, [*ids, *made], t.static, t.scalars, mode)
        if mode >> 2 and made:
            self.recorded[made[0]] = [i for k, i in enumerate(ids) if mode >> 2 >> k & 1]

    def _fill(self) -> None:
        """Overwrite a tensor, which heals one that is poisoned; or fail, which makes such ones."""
        if self.rng.random() < 0.4:
            key = (F32, (3, 4))
            x, out = self._given(Input(*key, bytes(48))), self._new(key)
            self._add(OPS["mm"].opcode, [x, x, out])
            part = self._new((F32, (2, 4)))
            self._add(OPS["slice.Tensor"].opcode, [out, part], (0, 0, 2, 1))
            self._add(OPS["zero"].opcode, [self.rng.choice([out, part])], (), (), cmd.INPLACE)
            return
        kind = self.rng.choice(by_overwriting())
        rest = [self._given(x) for x in kind.inputs[1:]]
        self._add(kind.op.opcode, [self._any(), *rest], kind.static, kind.scalars, cmd.INPLACE)

    def _backward(self) -> None:
        root = self.rng.choice(sorted(self.recorded))
        code, shape = self.live[root]
        if code < 0 or math.prod(shape) > 8_192:
            return
        numel = math.prod(shape)
        seed = self.put(Input(code, shape, bytes(numel * DTYPES[code].itemsize)))
        stops = [i for i in self.recorded[root] if i in self.live][: self.rng.randrange(0, 4)]
        pairs = [j for i in stops for j in (i, self._new(self.live[i]))]
        keep = self.rng.choice([0, 1, 1, cmd.CHECK_NAN, cmd.CHECK_NAN | 1])
        self._add(cmd.BACKWARD, [root, seed, *pairs], (1, keep))

    def _get(self) -> None:
        kind = self.rng.choice([cmd.GET_BYTES] * 4 + list(range(cmd.GET_IDS + 1)))
        about = self.rng.choice(sorted(self.programs) or [0]) if kind == cmd.GET_PROGRAM else 0
        if kind == cmd.GET_PROGRAM and not self.programs:
            kind = cmd.GET_SPEC
        of = [] if kind >= cmd.GET_MEMORY else [self._any()]
        self._add(cmd.GET, of, (self._number, kind, about))

    # ------------------------------------------------------------------------------- programs --
    def _define(self) -> None:
        """Define a program of a few ops, and call it as often as makes a plan of it."""
        inputs, made, rows = self._body()
        if not rows:
            return
        program = self.rng.randrange(4)
        outs = self.rng.sample(made, self.rng.randrange(1, min(4, len(made)) + 1)) if made else []
        slots = {("in", k): k for k in range(len(inputs))}
        slots |= {("made", k): len(inputs) + k for k in range(len(made))}
        static = (program, len(rows), len(inputs), self.rng.choice([0, cmd.PROGRAM_EXACT]))
        self._add(cmd.DEFINE, [slots["made", o] for o in outs], static, number=0)
        for k, (opcode, mode, names, own, scalars) in enumerate(rows):
            self._add(opcode, [slots[n] for n in names], own, scalars, mode, number=k)
        self.programs[program] = inputs, len(outs)
        for _ in range(self.rng.randrange(1, 4)):
            self._call(program)

    def _body(self) -> tuple[list[Input], list[int], list[Any]]:
        inputs: list[Input] = []
        there: dict[Key, list[Any]] = {}
        made: list[int] = []
        rows: list[Any] = []
        for _ in range(self.rng.randrange(2, 7)):
            fitting = by_key().get(self.rng.choice(sorted(there))) if there else None
            if fitting and self.rng.random() < 0.8:
                t = self.rng.choice(fitting)
            else:
                t = self.rng.choice(self.rng.choice(by_op()))
            if t.op.dynamic or not t.inputs:
                continue
            names = []
            for x in t.inputs:
                known = there.setdefault((x.dtype, x.shape), [])
                if not known or self.rng.random() < 0.2:
                    known.append(("in", len(inputs)))
                    inputs.append(x)
                names.append(self.rng.choice(known))
            mode = t.mask << 2 if t.mask and self.rng.random() < 0.3 else 0
            for s in t.outs:
                there.setdefault((s.dtype.code, s.shape), []).append(("made", len(made)))
                names.append(("made", len(made)))
                made.append(len(made))
            rows.append((t.op.opcode, mode, names, t.static, t.scalars))
            if mode and t.outs and self.rng.random() < 0.5:  # back from the result, with itself
                out, stop = names[len(t.inputs)], next(k for k in range(64) if t.mask >> k & 1)
                x = t.inputs[stop]
                there.setdefault((x.dtype, x.shape), []).append(("made", len(made)))
                gradient = ("made", len(made))
                made.append(len(made))
                rows.append((cmd.BACKWARD, 0, [out, out, names[stop], gradient], (1, 0), ()))
        return inputs, made, rows

    def _call(self, program: int) -> None:
        inputs, outs = self.programs[program]
        ids = [self._given(x) for x in inputs]
        self._add(cmd.CALL, [*ids, *(self._new(_UNKNOWN) for _ in range(outs))], (program,))
