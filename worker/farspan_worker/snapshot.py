"""Snapshot: all that an engine's next command can see, as data, and the engine made of it again.

Tensors with their views, versions and bases, the live tape, defined programs, generators and
poison; so a cut may fall between any two commands, inside forward or backward too. What is derived
(plans, kernels, caches) is not in it: an engine makes it again, by rule, with the same bits.

The bytes are a safetensors file (8-byte length, JSON header, raw data): one row of bytes for each
memory, and the structure as JSON in the metadata. Floats travel as their bits. Nothing executes.
Memories that are as they were at an earlier snapshot lie in its file, which is then a part of this
one: it follows the newest, whole.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from farspan.core import command as cmd
from farspan.core import limits, tape
from farspan.core.command import ErrorInfo
from farspan.core.dtype import DTYPES, Device
from farspan.core.errors import OutOfMemoryError, ProtocolError
from farspan.core.op import OPS
from farspan.core.spec import Spec
from farspan.core.words import Switch

from .snapshot_files import ALIGN_BYTES, VERSION, Layout, read_layout, room_for
from .store import Array, Poison, Recorded, Storage
from .unchanged import Place, Remembered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .engine import Engine
    from .programs.body import Body

_LENGTH: Final = struct.Struct("<Q")
_SCRATCH_BYTES: Final = 64 * limits.KiB
_F64: Final = struct.Struct("<d")
_C128: Final = struct.Struct("<dd")


@dataclass(slots=True)
class Transfers:
    """Bytes on their way into a session: those that came, and numbers of those that were used."""

    held: dict[int, Held | ErrorInfo] = field(default_factory=dict)
    used: list[int] = field(default_factory=list)


@dataclass(slots=True, frozen=True)
class Held:
    """A transfer that nobody has used yet; its first bytes, of `total`."""

    total: int
    data: Any  # uint8


@dataclass(slots=True)
class Taken:
    """A snapshot: the pieces of its own file, and what it refers to.

    own: the pieces are the engine's own memory, right for as long as it runs no command. older: the
    snapshots whose files follow its own. memo: what the next one can refer to.
    """

    pieces: list[memoryview]
    own: bool
    older: list[int]
    memo: Remembered


def take(engine: Engine, transfers: Transfers | None = None) -> memoryview:
    """Return the state of an engine between two commands, as a file. Waits for what computes it."""
    return joined(parts(engine, transfers))


def taken(
    engine: Engine,
    transfers: Transfers | None,
    copy_bytes_max: int,
    number: int = 0,
    base: Remembered | None = None,
) -> Taken:
    """Return snapshot `number`, copied if it is not longer than `copy_bytes_max`.

    base: of an earlier one; what has not been written since is referred to, and not copied.
    """
    found = _parts(engine, transfers, number, base)
    if engine.backend.remote:
        found.own = False
    elif sum(piece.nbytes for piece in found.pieces) <= copy_bytes_max:
        found.pieces, found.own = [joined(found.pieces)], False
    return found


def joined(pieces: Sequence[memoryview]) -> memoryview:
    """Return a copy of all pieces in one row."""
    whole = room_for(sum(piece.nbytes for piece in pieces))
    at = 0
    for piece in pieces:
        whole[at : at + piece.nbytes] = np.frombuffer(piece, np.uint8)
        at += piece.nbytes
    return whole.data


def parts(engine: Engine, transfers: Transfers | None = None) -> list[memoryview]:
    """Return the state of an engine between two commands, as the pieces of a file.

    On the host they are the engine's own memory: right for as long as it runs no command. Those of
    a GPU are copies.
    """
    return _parts(engine, transfers, 0, None).pieces


def _parts(
    engine: Engine, transfers: Transfers | None, number: int, base: Remembered | None
) -> Taken:
    writer = _Writer()
    given = transfers or Transfers()
    state = {
        "version": VERSION,
        "number": number,
        "device": str(engine.device),
        "commands": engine.commands,
        "applied": engine.applied,
        "peak": engine.budget.peak,
        "tensors": [[i, *writer.entry(x)] for i, x in engine.tensors.items()],
        "generators": [[i, bytes(g.get_state()).hex()] for i, g in engine.generators.items()],
        "programs": [_program(n, p.body) for n, p in engine.programs.defined()],
        "switches": [[s.program, s.plan] for s in engine.programs.switches.on],
        "modes": engine.backend.modes(),
        "skipped": _error(engine.skipped),
        "transfers": [[i, *_held(x)] for i, x in given.held.items()],
        "used": given.used,
    }
    state |= writer.tables()  # last: what has been met on the way
    there = {} if base is None else base.find(writer.roots)
    sizes = {} if base is None else base.sizes
    older = sorted({place.number for place in there.values()})
    state["files"] = [[n, sizes[n]] for n in older]
    state["there"] = [
        [k, older.index(place.number), place.offset, place.nbytes] for k, place in there.items()
    ]
    mine = [s for k, s in enumerate(writer.roots) if k not in there]
    found: list[Any] = [s.flat for s in mine]
    come: list[Any] = [x.data for x in given.held.values() if isinstance(x, Held)]
    if engine.backend.remote:
        found = [engine.backend.download(part) for part in found]
        come = [np.array(part) for part in come]
    lengths = [part.nbytes for part in (*found, *come)]
    header = _header(state, lengths)
    memo = Remembered(number, {n: sizes[n] for n in older})
    memo.sizes[number] = len(header) + sum(lengths)
    for k, place in there.items():
        memo.add(writer.roots[k], place)
    at = len(header)
    for storage, nbytes in zip(mine, lengths, strict=False):
        memo.add(storage, Place(number, at, nbytes))
        at += nbytes
    pieces = [memoryview(header), *(memoryview(x) for x in (*found, *come) if x.nbytes)]
    return Taken(pieces, True, older, memo)


def _header(state: dict[str, Any], sizes: list[int]) -> bytes:
    named: dict[str, Any] = {"__metadata__": {"farspan.session": json.dumps(state)}}
    at = 0
    for k, size in enumerate(sizes):
        named[f"memory.{k}"] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(named, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + _LENGTH.size) % ALIGN_BYTES)
    if len(text) > limits.SNAPSHOT_HEADER_BYTES_MAX:
        raise OutOfMemoryError(f"a snapshot of {len(sizes)} memories is too large to be restored")
    return _LENGTH.pack(len(text)) + text


class _Writer:
    """Numbers the things that an engine's tensors are made of, each once, as they are met."""

    def __init__(self) -> None:
        self.roots: list[Storage] = []  # memories whose bytes are kept
        self._storages: dict[int, int] = {}
        self._storage_rows: list[list[Any]] = []
        self._specs: dict[int, int] = {}
        self._spec_rows: list[list[Any]] = []
        self._arrays: dict[int, int] = {}
        self._array_rows: list[list[Any]] = []
        self._poison: dict[int, int] = {}
        self._poison_rows: list[list[Any]] = []
        self._nodes: dict[int, tape.Node] = {}
        self._unseen: list[tape.Node] = []

    def entry(self, x: Array | Poison) -> list[Any]:
        return ["p", self.poison(x)] if type(x) is Poison else ["a", self.array(x)]

    def tables(self) -> dict[str, Any]:
        """Return what was numbered. Nodes are numbered by age, so that they are made in order."""
        while self._unseen:
            for edge in self._unseen.pop().edges:
                if edge is not None:
                    self.node(edge[0])
        nodes = sorted(self._nodes.values(), key=lambda n: n.sequence)
        rows = []
        for node in nodes:  # their saved values have nodes of nothing, so none is met here
            rows.append(self._node_row(node))
        return {
            "nodes": rows,
            "arrays": self._array_rows,
            "storages": self._storage_rows,
            "specs": self._spec_rows,
            "poison": self._poison_rows,
        }

    def spec(self, spec: Spec | None) -> int:
        if spec is None:
            return -1
        at = self._specs.get(id(spec))
        if at is None:
            at = self._specs[id(spec)] = len(self._spec_rows)
            row = [spec.dtype.code, spec.shape, spec.stride, str(spec.device)]
            self._spec_rows.append(row)
        return at

    def storage(self, storage: Storage) -> int:
        at = self._storages.get(id(storage))
        if at is None:
            whole = storage.memory
            if whole is storage:
                row = [storage.version, len(self.roots), -1]
                self.roots.append(storage)
            else:
                row = [storage.version, -1, self.storage(whole)]
            at = self._storages[id(storage)] = len(self._storage_rows)
            self._storage_rows.append(row)
        return at

    def value(self, x: Array) -> list[int]:
        """Return a tensor without its place in the graph."""
        return [self.spec(x._spec), self.storage(x._storage), x._offset]

    def array(self, x: Any) -> int:
        """Number a tensor that has an id, or that one with an id is a view of, or both."""
        at = self._arrays.get(id(x))
        if at is None:
            base = -1 if x._base is None else self.array(x._base)
            node = -1 if x._node is None else self.node(x._node)
            at = self._arrays[id(x)] = len(self._array_rows)
            self._array_rows.append([*self.value(x), node, x._index, base, x._generation])
        return at

    def poison(self, x: Poison) -> int:
        at = self._poison.get(id(x))
        if at is None:
            base = -1 if x.base is None else self.poison(x.base)
            at = self._poison[id(x)] = len(self._poison_rows)
            self._poison_rows.append([_error(x.error), self.spec(x._spec), base, x._offset])
        return at

    def node(self, node: tape.Node) -> int:
        """Return what stands for a node: when it was made."""
        if id(node) not in self._nodes:
            self._nodes[id(node)] = node
            self._unseen.append(node)
        return node.sequence

    def _node_row(self, node: tape.Node) -> dict[str, Any]:
        row: dict[str, Any] = {
            "sequence": node.sequence,
            "edges": [None if e is None else [e[0].sequence, e[1]] for e in node.edges],
            "number": node.number,
            "freed": node.freed,
        }
        if node.op is None:
            return row
        return row | {
            "op": node.op.name,
            "mask": node.plan.mask,
            "static": node.static,
            "scalars": [_number(x) for x in node.scalars],
            "specs": [self.spec(s) for s in node.specs],
            "outs": [self.spec(s) for s in node.outs],
            "saved": [[name, self._saved(x)] for name, x in node.saved.items()],
            "versions": [[self.storage(s), v] for s, v in node.versions],
            "weight": node.site.count if type(node.site) is Recorded else 0,
        }

    def _saved(self, x: Any) -> Any:
        if type(x) is list:
            return {"list": [None if each is None else self.value(each) for each in x]}
        return None if x is None else self.value(x)


def _held(x: Held | ErrorInfo) -> list[Any]:
    return [x.total, None] if isinstance(x, Held) else [0, _error(x)]


def _error(error: ErrorInfo | None) -> list[Any] | None:
    return None if error is None else [error.kind, error.message, error.command, error.forward]


def _number(x: Any) -> Any:
    """Return a Python number as JSON that keeps its type and its bits."""
    if type(x) is float:
        return ["f", _F64.pack(x).hex()]
    if type(x) is complex:
        return ["c", _C128.pack(x.real, x.imag).hex()]
    return x


def _program(number: int, body: Body) -> dict[str, Any]:
    rows = [
        [
            c.op.opcode if c.op else cmd.BACKWARD, c.mode, len(c.slots), c.static, c.end - c.begin,
            c.relative,
        ]
        for c in body.commands
    ]  # fmt: skip
    return {
        "static": [number, len(rows), body.inputs, int(body.exact)],
        "outputs": body.outputs,
        "rows": rows,
        "slots": [s for c in body.commands for s in c.slots],
        "scalars": [_number(x) for x in body.scalars],
        "default_dtype": body.default_dtype,
    }


class Restorer:
    """Takes a snapshot's bytes as they come and makes the engine's state of them.

    First the file of the snapshot itself, then those that it refers to. engine: a new one; of
    another kind of device it computes other bits. Its budget is charged as memory is made.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._head = bytearray()
        self._size: int | None = None  # of the header, with its length
        self._layout: Layout | None = None  # once the header is there
        self._scratch = np.empty(_SCRATCH_BYTES, np.uint8)  # for what is looked at, or skipped
        self._at = self._filled = 0
        self.transfers = Transfers()
        self.memo = Remembered(0, {})

    @property
    def applied(self) -> int:
        """The last frame that is in the state."""
        return self._engine.applied

    def room(self) -> tuple[Any, bool]:
        """Return where the next bytes go (uint8), and whether they are left alone there.

        `filled` is told how many have come. ProtocolError: all that belong to the snapshot have.
        """
        if self._layout is None:
            wanted = (self._size or _LENGTH.size) - len(self._head)
            return self._scratch[:wanted], False
        if self._at >= len(self._layout.rows):
            raise ProtocolError("snapshot: bytes left over")
        nbytes, memory = self._layout.rows[self._at]
        if memory is None:
            return self._scratch[: nbytes - self._filled], False
        return memory[self._filled :], True

    def filled(self, count: int) -> None:
        """Take that so many bytes have come into `room`. ProtocolError, OutOfMemoryError."""
        if self._layout is None:
            self._head += self._scratch[:count].tobytes()
            self._look_at_head()
            return
        self._filled += count
        self._next_row()

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next piece. ProtocolError: it is no snapshot; OutOfMemoryError: too large."""
        view = np.frombuffer(data, np.uint8)
        while view.nbytes:
            room, _ = self.room()
            count = min(view.nbytes, room.nbytes)
            room[:count] = view[:count]
            self.filled(count)
            view = view[count:]

    def finish(self) -> None:
        """Give the engine its state. ProtocolError: bytes are missing, or contradict each other."""
        layout = self._layout
        if layout is None or self._at < len(layout.rows):
            raise ProtocolError("snapshot: cut short")
        try:
            reader = _Reader(self._engine, layout.state, layout.memories)
            reader.read()
            self.transfers = reader.transfers()
            self.memo = Remembered(layout.number, layout.sizes)
            for storage, k in reader.roots:
                self.memo.add(storage, layout.places[k])
        except (ProtocolError, OutOfMemoryError):
            raise
        except Exception as error:  # whatever does not fit together
            raise ProtocolError(f"snapshot: not one of ours ({type(error).__name__})") from error

    def _look_at_head(self) -> None:
        if self._size is None and len(self._head) == _LENGTH.size:
            (length,) = _LENGTH.unpack(self._head)
            if not 2 <= length <= limits.SNAPSHOT_HEADER_BYTES_MAX:
                raise ProtocolError(f"snapshot: a header of {length} bytes")
            self._size = _LENGTH.size + length
        elif len(self._head) == self._size:
            self._layout = read_layout(bytes(self._head[_LENGTH.size :]), self._size)
            self._engine.budget.check(sum(place.nbytes for place in self._layout.places))
            self._layout.make_room()
            self._next_row()

    def _next_row(self) -> None:
        assert self._layout is not None
        rows = self._layout.rows
        while self._at < len(rows) and self._filled == rows[self._at][0]:
            self._at += 1
            self._filled = 0


def restore(engine: Engine, data: bytes | bytearray | memoryview) -> Transfers:
    """Give a new engine the state of a snapshot; return its transfers. Raises as `Restorer`."""
    restorer = Restorer(engine)
    restorer.feed(data)
    restorer.finish()
    return restorer.transfers


class _Reader:
    """Makes an engine's tensors of the tables of a snapshot."""

    def __init__(self, engine: Engine, state: dict[str, Any], memories: list[Any]) -> None:
        self._engine = engine
        self._state = state
        self._memories = memories
        self.roots: list[tuple[Storage, int]] = []  # those that own a memory, and which
        self._specs: list[Spec] = []
        self._storages: list[Storage] = []
        self._arrays: list[Array] = []
        self._poison: list[Poison] = []
        self._nodes: dict[int, tape.Node] = {}
        self._moved = False  # from another kind of device

    def read(self) -> None:
        engine, state = self._engine, self._state
        self._moved = Device(state["device"]).type != engine.device.type
        self._specs = [self._spec(row) for row in state["specs"]]
        for row in state["storages"]:
            self._storages.append(self._storage(row))
        for row in state["poison"]:
            self._poison.append(self._poisoned(row))
        for row in state["nodes"]:
            self._nodes[row["sequence"]] = self._node(row)
        for row in state["arrays"]:
            self._arrays.append(self._array(row))
        counts = [state["commands"], state["applied"], state["peak"]]
        counts += [row[0] for row in (*state["tensors"], *state["generators"])]
        if any(type(count) is not int or count < 0 for count in counts):
            raise ProtocolError("snapshot: a count that is none")
        for id_, kind, at in state["tensors"]:
            engine.tensors[id_] = self._poison[at] if kind == "p" else self._arrays[at]
        engine.poisoned = sum(type(x) is Poison for x in engine.tensors.values())
        for number, text in state["generators"]:
            self._generator(number, bytes.fromhex(text))
        for row in state["programs"]:
            rows = [(*r[:3], _tuples(r[3]), *r[4:]) for r in row["rows"]]
            scalars = [_of_number(x) for x in row["scalars"]]
            static = tuple(row["static"])
            dtype = row["default_dtype"]
            engine.programs.define(row["outputs"], static, rows, row["slots"], scalars, dtype)
        for program, plan in state.get("switches", ()):  # none in one of an older release
            engine.programs.switches.take(Switch(program, plan))
        if not self._moved:
            engine.backend.set_modes(state["modes"])
        engine.skipped = _error_of(state["skipped"])
        engine.commands, engine.applied = state["commands"], state["applied"]
        engine.budget.peak = state["peak"]

    def transfers(self) -> Transfers:
        """Return what had come and was not used yet."""
        rest = iter(self._memories[sum(row[1] >= 0 for row in self._state["storages"]) :])
        held: dict[int, Held | ErrorInfo] = {}
        for transfer, total, error in self._state["transfers"]:
            held[transfer] = Held(total, next(rest)) if error is None else ErrorInfo(*error)
        return Transfers(held, self._state["used"])

    def _spec(self, row: list[Any]) -> Spec:
        code, shape, stride, device = row
        if not 0 <= code < len(DTYPES):
            raise ProtocolError(f"snapshot: no dtype has code {code}")
        if len(shape) != len(stride) or any(type(n) is not int or n < 0 for n in (*shape, *stride)):
            raise ProtocolError("snapshot: a layout that cannot be")  # it would reach outside
        where = self._engine.device if self._moved else Device(device)
        return Spec.make(tuple(shape), DTYPES[code], where, tuple(stride))

    def _generator(self, number: int, state: bytes) -> None:
        """Go on with a generator; one of another kind begins anew, at a seed made of its state."""
        made = self._engine.generator(number)
        if self._moved:  # of the state, so that no way back gives the same numbers again
            made.manual_seed(int.from_bytes(hashlib.sha256(state).digest()[:8], "little"))
        else:
            made.set_state(state)

    def _storage(self, row: list[int]) -> Storage:
        version, memory, whole = row
        if whole >= 0:
            made = self._storages[whole].apart()
        else:
            flat = self._memories[memory]
            array = self._engine.backend.upload(flat, flat.dtype, flat.shape)
            made = Storage(array, self._engine.budget)
            self.roots.append((made, memory))
        made.version = version
        return made

    def _poisoned(self, row: list[Any]) -> Poison:
        error, spec, base, offset = row
        whole = None if base < 0 else self._poison[base]
        return Poison(ErrorInfo(*error), None if spec < 0 else self._specs[spec], whole, offset)

    def _value(self, fields: list[int]) -> Array:
        spec, storage, offset = self._specs[fields[0]], self._storages[fields[1]], fields[2]
        return Array(storage.memory.window(spec, offset), spec, storage, offset)

    def _array(self, fields: list[int]) -> Array:
        made = self._value(fields)
        node, made._index, base, made._generation = fields[3:]
        made._node = None if node < 0 else self._nodes[node]
        made._base = None if base < 0 else self._arrays[base]
        return made

    def _node(self, row: dict[str, Any]) -> tape.Node:
        edges = tuple(None if e is None else (self._nodes[e[0]], e[1]) for e in row["edges"])
        if "op" not in row:
            return tape.Leaf()
        op = OPS[row["op"]]
        node = tape.Node(op, edges)
        node.static = _tuples(row["static"])
        plan = op.vjp_plan(node.static, row["mask"])
        if plan is None or plan.mask != row["mask"]:
            raise ProtocolError(f"snapshot: {op.name} has no such gradient")
        node.plan = plan
        node.scalars = tuple(_of_number(x) for x in row["scalars"])
        node.specs = tuple(self._specs[at] for at in row["specs"])
        node.outs = tuple(self._specs[at] for at in row["outs"])
        node.saved = {name: self._saved(x) for name, x in row["saved"]}
        node.versions = tuple((self._storages[at], version) for at, version in row["versions"])
        node.number, node.freed = row["number"], row["freed"]
        if row.get("weight") in (1, 3):  # none in a snapshot of an older release
            node.site = Recorded(self._engine.budget, row["weight"])
        return node

    def _saved(self, x: Any) -> Any:
        if isinstance(x, dict):
            return [None if each is None else self._value(each) for each in x["list"]]
        return None if x is None else self._value(x)


def _error_of(row: list[Any] | None) -> ErrorInfo | None:
    return None if row is None else ErrorInfo(*row)


def _of_number(x: Any) -> Any:
    if type(x) is list:
        kind, text = x
        bits = bytes.fromhex(text)
        return _F64.unpack(bits)[0] if kind == "f" else complex(*_C128.unpack(bits))
    return x


def _tuples(x: Any) -> Any:
    """Return JSON's lists as the tuples that they were."""
    return tuple([_tuples(each) for each in x]) if type(x) is list else x
