"""A trace: one run of a function, watched, and the program that stands for it from then on.

`trace` runs the function as ever - its values are real - and gathers the commands it issued.
`Traced.call` sends them as one Call and does on this side what the function did: fresh proxies,
versions of written memory, gradients of leaves. Neither waits.
"""

from __future__ import annotations

import dataclasses
import gc
import threading
import weakref
from itertools import islice
from typing import TYPE_CHECKING, Any

from . import _constants, _widen
from ._dispatch import Storage
from ._gather import Ref
from ._guards import World
from ._program import CallSite, Commands, Form, Program
from ._tensor import Tensor
from .core import command as cmd
from .core import limits, tape
from .core.coerce import Tagged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ._constants import Value
    from ._session import Session
    from .core.command import Frame


class Refused(Exception):
    """No program can be made of this call; `always` if of none like it either."""

    def __init__(self, why: str, always: bool = False) -> None:
        super().__init__(why)
        self.always = always


class Unsettled(Refused):
    """It makes tensors of these values; the next call tells whether it always does."""

    def __init__(self, values: list[Value]) -> None:
        super().__init__(
            "it makes tensors of Python values; if the next call makes the same, they stay"
        )
        self.values = values


class _State:
    """What of a tensor a function may change, as it was before."""

    __slots__ = ("grad", "rest", "tensor", "version")

    def __init__(self, t: Tensor) -> None:
        self.tensor = t
        self.version = t._storage.version
        self.grad = t._grad
        self.rest = _rest(t)


def _rest(t: Tensor) -> tuple[Any, ...]:
    return t._ref, t._spec, t._storage, t._node, t._index, t._base, t._generation, t._hooks


class _Source:
    """Where the tensor of an input slot is found before a Call."""

    __slots__ = ("argument", "constant", "grad", "spec", "tensor")

    def __init__(
        self, t: Tensor, argument: int = -1, grad: bool = False, constant: bool = False
    ) -> None:
        self.constant = constant
        self.argument, self.grad, self.tensor = argument, grad, None if argument >= 0 else t
        self.spec = t._grad._spec if grad and t._grad is not None else t._spec

    def find(self, arguments: Sequence[Tensor]) -> Tensor | None:
        """Return the tensor that takes the slot now."""
        t = self.tensor if self.argument < 0 else arguments[self.argument]
        return t._grad if self.grad and t is not None else t


class _Made:
    """A tensor that the function made, to be made anew by each Call."""

    __slots__ = ("base", "fields", "memory", "node", "output", "spec", "version")

    def __init__(self, t: Tensor, output: int, memory: int, base: Any) -> None:
        self.output, self.spec, self.memory, self.base = output, t._spec, memory, base
        self.version = t._storage.version
        keep = ("_offset", "_index", "_generation", "_made_by", "_in_no_grad", "_inference")
        self.fields = {k: v for k, v in t.__dict__.items() if k in keep}
        self.node = t._node


class Traced:
    """A program with all that has to hold before a Call of it, and to be done after."""

    def __init__(self, session: Session, device: int, world: World) -> None:
        self.session, self.device, self.world = session, device, world
        self.program: Program
        self.site: CallSite
        self.sources: list[_Source] = []
        self.same: list[tuple[int, Tensor]] = []  # arguments that it reaches otherwise, too
        self.reached = frozenset(map(id, world.tensors))  # which `world` keeps alive
        self.graded: list[tuple[_Source, bool]] = []  # whether it has a gradient before
        self.flags: list[tuple[Tensor, bool]] = []  # whether it needs one
        self.rates: list[tuple[int, Any]] = []  # where numbers of optimizers stand among all
        self.made: list[_Made] = []
        self.memories: list[Any] = []  # of what is made: bytes, or the source whose memory it is
        self.result: Any = None
        self.grads: list[tuple[_Source, int | None]] = []  # which of `made` they get
        self.writes: list[tuple[_Source, int]] = []
        self.sharing: list[tuple[int, int]] = []  # of its inputs, as `_sharing` says
        self.bytes = 0
        self.calls = 0
        self.values: list[Value] = []  # of the constants
        self.given: list[float | None] = []  # numbers among the arguments; None: whatever they are
        self.places: dict[int, list[int]] = {}  # where those that arrived stand among all

    def holds(self, arguments: Sequence[Tensor], numbers: Sequence[float]) -> list[int] | None:
        """Return the ids of the inputs if the program stands for a call now, else None."""
        if numbers and not _widen.fits(self.given, numbers):
            return None
        ids = []
        for source in self.sources:
            t = source.find(arguments)
            if t is None or t._spec is not source.spec or t._ref.lane.session is not self.session:
                return None
            ids.append(t._ref.id)
        for source, has in self.graded:
            t = source.tensor if source.argument < 0 else arguments[source.argument]
            if (t._grad is not None) != has:  # type: ignore[union-attr]
                return None
        for i, t in self.same:
            if arguments[i] is not t:
                return None
        for t, needs in self.flags:
            node = t._node
            if (node is not None) != needs or t._hooks or (node is not None and node.hooks):
                return None
        if not self.reached.isdisjoint(map(id, arguments)):
            told = [i for i, _ in self.same]
            if any(id(t) in self.reached and i not in told for i, t in enumerate(arguments)):
                return None
        if self.writes and self.sharing != _sharing([s.find(arguments) for s in self.sources]):
            return None
        return ids if self.world.holds() else None

    def call(self, ids: list[int], arguments: Sequence[Tensor], numbers: Sequence[float]) -> Any:
        """Send the Call and return what the function would. Does not wait."""
        session, lane, form = self.session, self.session.lanes[self.device], self.program.form
        if session._over:
            session._refuse()
        outs = [next(session._ids) for _ in self.program.outputs]
        scalars: Sequence[Any] = ()
        if self.rates or numbers:
            scalars = list(form.scalars)
            for at, rate in self.rates:
                scalars[at] = rate.read()
            for i, places in self.places.items():
                for at in places:
                    scalars[at] = numbers[i]
            if form.same_scalars(scalars):
                scalars = ()
        self._drop_gradients(ids, arguments)
        with session._lock:
            if lane.freed:
                lane.free()  # before the Call, whose results may take over that memory
            known = session._replays[self.device].numbers.use(self.program)
            if not (known and self.program.told):
                session.define(lane, self.program)
            first, *_ = islice(session._numbers, form.span)  # the others are its commands'
            static = (self.program.number,)
            lane.add((cmd.CALL, 0, (*ids, *outs), static, tuple(scalars), first, self.site))
            lane.work += limits.IDLE_COMMANDS + self.bytes // limits.WORK_BYTES
        self.calls += 1
        made = self._make(outs, arguments)
        for source, delta in self.writes:
            source.find(arguments)._storage.version += delta  # type: ignore[union-attr]
        for source, which in self.grads:
            t = source.tensor if source.argument < 0 else arguments[source.argument]
            t._grad = None if which is None else made[which]  # type: ignore[union-attr]
        if lane.work >= lane.due:
            session.look(lane)
        return _filled(self.result, made, arguments, self.sources)

    def _drop_gradients(self, ids: list[int], arguments: Sequence[Tensor]) -> None:
        """Let go of gradients that the Call replaces, unless it looks at them."""
        known = set(ids)
        for source, _ in self.grads:
            t = source.tensor if source.argument < 0 else arguments[source.argument]
            old = t._grad  # type: ignore[union-attr]
            if old is not None and old._ref.id not in known:
                t._grad = None  # type: ignore[union-attr]

    def _make(self, outs: list[int], arguments: Sequence[Tensor]) -> list[Tensor]:
        memories = [
            Storage(m) if type(m) is int else m.find(arguments)._storage for m in self.memories
        ]
        made: list[Tensor] = []
        for m in self.made:
            memory = memories[m.memory]
            owns = type(self.memories[m.memory]) is int
            ref = Ref(self.session, self.device, outs[m.output], m.spec.nbytes if owns else 0)
            t = Tensor._new(ref, m.spec, memory)
            if m.fields:
                t.__dict__.update(m.fields)
            if owns:
                memory.version = m.version
            if type(m.node) is tape.Leaf:
                t._node = tape.Leaf(weakref.ref(t))
            elif m.node is not None:
                t._node = m.node
            if m.base is not None:
                base = made[m.base] if type(m.base) is int else m.base.find(arguments)
                t._base, t._generation = base, base._generation
            made.append(t)
        return made


def _sharing(inputs: Sequence[Tensor | None]) -> list[tuple[int, int]]:
    """Return which inputs share memory with one before them: its number, and bytes between both.

    Empty if none does. Whether a write is allowed, and what it changes, depends on it.
    """
    found: list[tuple[int, int]] = []
    first: dict[int, tuple[int, int]] = {}
    for t in inputs:
        assert t is not None
        at = t._offset * t._spec.dtype.itemsize
        i, begin = first.setdefault(id(t._storage.memory), (len(first), at))
        found.append((i, at - begin))
    return found if len(first) < len(found) else []


def _filled(tree: Any, made: list[Tensor], arguments: Any, sources: Any) -> Any:
    """Return a result of the function's form, with these tensors in it."""
    kind, value = tree
    if kind == "made":
        return made[value]
    if kind == "source":
        return value.find(arguments)
    if kind == "value":
        return value
    if kind == "dict":
        cls, items = value
        return cls((k, _filled(v, made, arguments, sources)) for k, v in items)
    parts = [_filled(v, made, arguments, sources) for v in value]
    return kind(*parts) if hasattr(kind, "_fields") else kind(parts)


# ----------------------------------------------------------------------------------- the trace --
def trace(
    session: Session,
    function: Callable[[], Any],
    roots: Sequence[Any],
    arguments: list[Tensor],
    values: list[Value] | None = None,
    tags: Sequence[Tagged] = (),
) -> tuple[Any, Traced | Refused]:
    """Run the function and return its result, and what stands for it from now on, or why nothing.

    roots: all from where it reaches tensors. arguments: tensors that differ from call to call.
    values: of an Unsettled call like this one, before. tags: numbers among the arguments.
    """
    world = World()
    world.reach(roots)
    for tag in tags:
        tag.seen = world.has_judges
    known = _Known(world, arguments)
    watched = _Watched(session._numbers)
    try:
        try:
            if not watched.begin(session):
                return function(), Refused("another thread's call was traced meanwhile")
            world.tag()
            result = function()
        finally:
            world.untag()
            for tag in tags:
                tag.live = False
            frames = watched.end(session)
    finally:  # a Ctrl-C within the lines above leaves nothing behind
        if session._numbers is watched:
            world.untag()
            watched.end(session)
    if watched.strangers or any(watched.is_stranger(frame) for frame, _, _ in frames):
        return result, Refused("another thread used the session meanwhile")
    try:
        return result, _Maker(session, world, known, frames, tags).make(result, arguments, values)
    except Refused as why:
        return result, why


class _Watched:
    """The numbers of commands while a function is traced, and whether other threads take some."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self.numbers = numbers
        self.strangers = False
        self._tracer = threading.get_ident()
        self._first = 0

    def begin(self, session: Session) -> bool:
        """Let the session keep what is issued from now on; False if it does for another trace."""
        with session._lock:
            if session.traced is not None:
                return False
            session.flush()
            self._first = next(self.numbers)
            session._numbers = self  # first, so that `end` knows of it whatever comes between
            session.take_numbers(self)
            session._traced_lines = {}
            session.traced, session.tracer = [], self._tracer
            session.traced_room = 2 * limits.PROGRAM_COMMANDS_MAX
            return True

    def end(self, session: Session) -> list[tuple[Frame, list[Any], list[Any]]]:
        """Return the frames that left since `begin`, if there was one."""
        with session._lock:
            if session._numbers is not self:
                return []
            try:
                session.flush()
            finally:
                session.take_numbers(self.numbers)
                frames, session.traced = session.traced or [], None
            return frames

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        if threading.get_ident() != self._tracer:
            self.strangers = True
        return next(self.numbers)

    def is_stranger(self, frame: Frame) -> bool:
        """Return whether a command has a number from before: it was about to be issued then."""
        return any(0 < number < self._first for number in frame.numbers)


class _Known:
    """The tensors that a function can reach, before it runs."""

    def __init__(self, world: World, arguments: list[Tensor]) -> None:
        self.sources: dict[int, _Source] = {}  # by id of the engine's tensor
        self.states: list[tuple[_Source, _State]] = []
        self.same: list[tuple[int, Tensor]] = []  # arguments that it reaches otherwise, too
        for i, t in enumerate(arguments):
            self._add(t, _Source(t, i), _Source(t, i, True) if t._grad is not None else None)
        mine = {id(t): i for i, t in enumerate(arguments)}
        for t in world.tensors:
            if id(t) in mine:
                self.same.append((mine[id(t)], t))
            else:
                self._add(t, _Source(t), _Source(t, -1, True) if t._grad is not None else None)

    def _add(self, t: Tensor, source: _Source, of_grad: _Source | None) -> None:
        self.sources.setdefault(t._ref.id, source)
        self.states.append((source, _State(t)))
        if of_grad is not None and t._grad is not None:
            self.sources.setdefault(t._grad._ref.id, of_grad)
            self.states.append((of_grad, _State(t._grad)))


class _Maker:
    """Makes a Traced of what was watched, or says why it cannot."""

    def __init__(
        self, session: Session, world: World, known: _Known, frames: Any, tags: Sequence[Tagged]
    ) -> None:
        self.session, self.world, self.known, self.frames = session, world, known, frames
        self.tags = tags
        self.values: list[Value] = []  # of constants
        self.made: list[Tensor] = []
        self.places: dict[int, int] = {}  # by identity of a tensor that was made: its place

    def make(
        self, result: Any, arguments: list[Tensor], values: list[Value] | None = None
    ) -> Traced:
        """Return what stands for such calls. Refused: nothing can.

        values: what tensors the call before this one made of Python values.
        """
        run, device = self._commands()
        if self.world.full:
            raise Refused("it reaches too much to look at before each call", True)
        if self.world.unsure:
            raise Refused(f"it has a name for {self.world.unsure}", True)
        if not self.world.unchanged():
            raise Refused("it changes what it reaches in Python: attributes, lists or options")
        if run.puts:
            self._settle_values(run, device, values)
        form = Form(run)
        if form.refusal:
            raise Refused(form.refusal, True)
        traced = Traced(self.session, device, self.world)
        traced.result = self._tree(result, arguments)
        self._effects(traced)
        slots = {i: slot for slot, i in enumerate(_ids_of(form, run.ids))}
        traced.sources = self._sources(form, run.ids)
        before = {id(source): state.tensor for source, state in self.known.states}
        sources = traced.sources  # a gradient may be another one by now
        traced.sharing = _sharing(
            [before[id(s)] if id(s) in before else s.find(arguments) for s in sources]
        )
        self._check_survivors(device, run.ids, slots, form.inputs)
        self._outputs(traced, form, slots)
        self._numbers(traced, run)
        if any(_is_hooked(state.tensor) for _, state in self.known.states):
            raise Refused("a tensor has hooks, which are the client's work", True)
        traced.same = self.known.same
        traced.graded = [
            (s, state.grad is not None)
            for s, state in self.known.states
            if not s.grad and state.tensor._node is not None
        ]
        traced.flags = [
            (s.tensor, state.rest[3] is not None)
            for s, state in self.known.states
            if s.tensor is not None and not s.grad
        ]
        lines: dict[int, Any] = {}
        first = run.numbers[0]
        for number in run.numbers:
            known = self.session._forward_lines(number)
            if type(known) is dict:
                lines[number - first] = {n - first: site for n, site in known.items()}
        traced.site = CallSite(form.relative, form.sites, lines)
        return traced

    def _settle_values(self, run: Commands, device: int, values: list[Value] | None) -> None:
        """Let tensors made of Python values be inputs, if the call before had the same."""
        found = _constants.values_of(run)
        if found is None or self.world.unwatched:
            why = "it makes tensors of large arrays, or reaches such arrays and makes tensors"
            raise Refused(why, True)
        if found != values:
            raise Unsettled(found)
        self.values = found
        refusal = Form(run).refusal
        if refusal:
            raise Refused(refusal, True)
        for id_, constant in _constants.install(self.session, device, run).items():
            self.known.sources[id_] = _Source(constant, constant=True)

    def _commands(self) -> tuple[Commands, int]:
        devices = {frame.device for frame, _, _ in self.frames if set(frame.opcodes) != {cmd.FREE}}
        if len(devices) != 1:
            raise Refused("it works on several devices" if devices else "it does nothing", True)
        run = Commands()
        dtypes = {frame.default_dtype for frame, _, _ in self.frames}
        if len(dtypes) > 1:
            raise Refused("it changes the default dtype", True)
        for frame, sites, tagged in self.frames:
            if frame.device in devices:
                run.add(dataclasses.replace(frame, scalars=tagged), sites)
        return run, devices.pop()

    def _numbers(self, traced: Traced, run: Commands) -> None:
        """Find the numbers of optimizers among those of the commands."""
        rates = {id(r.tag): i for i, r in enumerate(self.world.rates) if not r.seen}
        found = [(at, rates[id(x)]) for at, x in enumerate(run.scalars) if id(x) in rates]
        self.world.settle({i for _, i in found})
        traced.rates = [(at, self.world.rates[i]) for at, i in found]
        traced.given, traced.values = [x.real for x in self.tags], self.values
        traced.places = _widen.places_of(self.tags, run)
        form = traced.program.form
        form.set_scalars([x.real if type(x) is Tagged else x for x in run.scalars])

    def _sources(self, form: Form, ids: list[int]) -> list[_Source]:
        sources = []
        for at in form.first_at[: form.inputs]:
            source = self.known.sources.get(ids[at])
            if source is None:
                raise Refused("it uses a tensor that cannot be found again before the next call")
            sources.append(source)
        return sources

    def _tree(self, value: Any, arguments: list[Tensor]) -> tuple[Any, Any]:
        if isinstance(value, Tensor):
            for i, t in enumerate(arguments):
                if t is value:
                    return "source", _Source(t, i)
            if any(t is value for t in self.world.tensors):
                return "source", _Source(value)
            return "made", self._place(value)
        if type(value) is Tagged:
            value.seen = True  # untagged by now: what `_numbers` reads is on the rate
            for rate in self.world.rates:
                rate.seen = rate.seen or rate.tag is value
            return "value", value.real
        if value is None or isinstance(value, (bool, int, float, str)):
            return "value", value
        if isinstance(value, dict):
            items = [(k, self._tree(v, arguments)) for k, v in value.items()]
            return "dict", (type(value), items)
        if isinstance(value, (list, tuple)):
            return type(value), [self._tree(v, arguments) for v in value]
        raise Refused(f"it returns a {type(value).__name__}, which no program can make", True)

    def _place(self, t: Tensor) -> int:
        """Return the place of a tensor among those that a Call makes; its base stands before it."""
        if id(t) not in self.places:
            if type(t) is not Tensor or t._grad is not None or t._hooks or t._retains:
                raise Refused("a result is a Parameter, or has a gradient or hooks")
            node = t._node
            if node is not None and type(node) is not tape.Leaf:
                if not tape.leads_to_freed(node, set()):
                    raise Refused(
                        "its result is differentiated later; where such steps repeat, automatic "
                        "replay makes a whole step one Call, rounded as programs are", True,
                    )  # fmt: skip
            if t._base is not None and not self._is_known(t._base):
                self._place(t._base)
            self.places[id(t)] = len(self.made)
            self.made.append(t)
        return self.places[id(t)]

    def _is_known(self, t: Tensor) -> bool:
        source = self.known.sources.get(t._ref.id)
        return source is not None and any(s.tensor is t for _, s in self.known.states)

    def _effects(self, traced: Traced) -> None:
        """Note what changed of the tensors it reaches: gradients, and counts of writes."""
        counted: set[int] = set()
        for source, state in self.known.states:
            t = state.tensor
            now = _rest(t)
            if any(a is not b for a, b in zip(now[:4], state.rest[:4], strict=True)) or (
                now[4:] != state.rest[4:]
            ):
                raise Refused("it gives a tensor from outside another memory or history")
            storage = t._storage
            if storage.version != state.version and id(storage) not in counted:
                counted.add(id(storage))
                traced.writes.append((source, storage.version - state.version))
            if t._grad is not state.grad and not source.grad:
                grad = t._grad
                if grad is not None and self._is_known(grad):
                    raise Refused("a gradient is a tensor from outside")
                traced.grads.append((source, None if grad is None else self._place(grad)))

    def _check_survivors(
        self, device: int, ids: list[int], slots: dict[int, int], inputs: int
    ) -> None:
        lane = self.session.lanes[device]
        expected = {t._ref.id for t in self.made}
        for last in (False, True):
            gone = set(lane.freed)
            alive = {i for i, s in slots.items() if s >= inputs and i in lane.held} - gone
            if alive <= expected:
                return
            if not last:
                gc.collect()
        raise Refused("a tensor made in it lives on elsewhere: in a list, an attribute or a state")

    def _outputs(self, traced: Traced, form: Form, slots: dict[int, int]) -> None:
        for t in self.made:
            if slots.get(t._ref.id, -1) < form.inputs:
                raise Refused("a result is no tensor of its commands")
        traced.program = Program(form, {slots[t._ref.id] for t in self.made}, 0)
        if traced.program.is_wide:
            raise Refused("it has more results than one command may name", True)
        order = {slot: i for i, slot in enumerate(traced.program.outputs)}
        owners: dict[int, int] = {}
        sources = {id(s.tensor._storage): src for src, s in reversed(self.known.states)}
        for t in self.made:
            storage = t._storage
            if storage._whole is not None and id(storage) not in sources:
                raise Refused("a result shares memory by .data or detach()")
            if id(storage) not in owners:
                owners[id(storage)] = len(traced.memories)
                traced.memories.append(sources.get(id(storage)) or storage.nbytes)
                traced.bytes += 0 if id(storage) in sources else storage.nbytes
            base: Any = None
            if t._base is not None:
                known = self.known.sources.get(t._base._ref.id)
                base = known if self._is_known(t._base) else self.places[id(t._base)]
            traced.made.append(_Made(t, order[slots[t._ref.id]], owners[id(storage)], base))


def _is_hooked(t: Tensor) -> bool:
    return bool(t._hooks or (t._node is not None and t._node.hooks))


def _ids_of(form: Form, ids: list[int]) -> list[int]:
    """Return the id of each slot."""
    return [ids[at] for at in form.first_at]
