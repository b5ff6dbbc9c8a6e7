"""The quick way of common operations: what a small op pays, spelled out.

An op whose metadata is known and whose one result is small needs no more than an id, a command, a
claim and a proxy. These functions do just that, in one frame of Python and without a call that can
be spared; for all else they hand over to `_dispatch.apply`, which says what an op means.
"""

from __future__ import annotations

from sys import _getframe
from typing import TYPE_CHECKING, Any, Final

from . import _dispatch
from ._gather import Lane, LargeRef, Ref
from ._native import fast
from ._sites import site_from, theirs
from ._tensor import Tensor
from .core import limits, tape
from .core.call import Choice, Function, named, set_quickening
from .core.command import FUNCTIONAL, INPLACE
from .core.errors import ProgramError
from .core.schema import MISSING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .core.op import Op
    from .core.spec import Spec

_new: Final = object.__new__
_mode: Final = _dispatch.mode
#: Nobody stands between an op and its dispatch: no vmap, hook, profiler or cast.
is_usual = True
#: The classes of tensors that are only that: a Parameter is one too.
plain_types: set[type] = {Tensor}
_NOT_RECORDED: Final = (None, 0, None)
_BY_VALUE: Final = "by value"
FEW: Final = 1 << 62  # ints up to here are sent as they are
memos: list[dict[Any, Any]] = []


def set_usual(usual: bool) -> None:
    """Say whether ops may take the quick way."""
    global is_usual
    is_usual = usual
    if fast:
        fast.set_usual(usual)


def forget() -> None:
    """Forget the metadata of all ops: the default dtype, a part of it, is another now."""
    for memo in memos:
        memo.clear()


def _learn(memo: dict[Any, Any], key: Any, op: Op, static: Any, specs: tuple[Spec, ...]) -> Any:
    """Note and return what is known of an op's result: see `_facts`."""
    try:
        found = _facts(op, static, specs, ())
    except ProgramError:  # the general way says it by the name that was called
        found = False
    if len(memo) >= limits.MEMO_ENTRIES_MAX:
        memo.clear()
    memo[key] = found
    return found


def _facts(op: Op, static: Any, specs: tuple[Spec, ...], scalars: tuple[Any, ...]) -> Any:
    """Return (spec, bytes, work, if it can be recorded) of an op's result; False: it is not small.

    Or there are several results, or views, or the op draws or writes.
    """
    facts = _dispatch.known(op, static, specs, scalars)
    if facts.moved or not facts.plain or op.random or op.writes or op.body is not None:
        return False
    if facts.nbytes >= limits.FREE_BYTES:
        return False
    work = max(1, facts.nbytes // limits.WORK_BYTES)
    return facts.outs[0], facts.nbytes, work, facts.differentiable


def ways(function: Function, count: int) -> Callable[..., Any]:
    """Set and return the way of a function's calls with so many arguments, a tensor first.

    Which op they mean is found at the first one: see `_first_op`.
    """
    if count == 1:
        many = function.many or ways(function, 3)

        if function.is_composite:
            function.one = lambda self, depth=1: many((self,), depth + 1)
            return function.one

        def first_one(self: Any, depth: int = 1) -> Any:
            found = _first_op(function, (self,))
            function.one = unary(*found, general_one) if found else general_one
            return general_one(self, depth + 1)

        memo: dict[Any, Any] = {}
        memos.append(memo)

        def general_one(self: Any, depth: int = 1) -> Any:
            if is_usual and type(self) is Tensor:
                found = memo.get(self._spec)
                if found is None:
                    found = _learn_call(memo, self._spec, function, (self,), [self])
                if found and not found[0].schema.return_names:
                    op, static, scalars, facts = found
                    return run(op, static, scalars, (self,), facts, depth + 1)
            return many((self,), depth + 1)

        function.one = first_one
        return first_one

    if count > 2:
        function.many = several(function)
        return function.many
    if function.is_composite:
        many = function.many or ways(function, 3)
        function.two = lambda self, other, depth=1: many((self, other), depth + 1)
        return function.two
    if function.form == INPLACE:
        from ._quick_writes import into

        function.two = into(function)
        return function.two
    general_two = with_value(function)

    def first_two(self: Any, other: Any, depth: int = 1) -> Any:
        if type(other) is Tensor:
            found = _first_op(function, (self, other))
            function.two = binary(*found, general_two) if found else general_two
        return general_two(self, other, depth + 1)

    function.two = first_two
    return first_two


def _first_op(function: Function, args: tuple[Any, ...]) -> tuple[Op, Any] | None:
    """Return the op, and its static, that such a call issues and nothing else; None: it does more.

    The same for all tensors, whatever their shapes: an argument that may be a number is none.
    """
    choice = function.choose(args, {}) if function.form == FUNCTIONAL else None
    if type(choice) is not Choice or choice.packed is not None or choice.op.body is not None:
        return None
    op = choice.op
    if op.schema.return_names or any(a.kind not in ("T", "T?") for a in op.args[: len(args)]):
        return None
    if op.family == "view":
        return None
    tensors, static, scalars = op.bind(*args)
    return (op, static) if tensors == args and not scalars else None


def unary(op: Op, static: Any, general: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of one tensor that issues `op`."""
    memo: dict[Spec, Any] = {}
    plans: dict[int, Any] = {}
    memos.append(memo)

    def quick(self: Any, depth: int = 1) -> Any:
        if not (type(self) is Tensor and is_usual):
            return general(self, depth + 1)
        spec = self._spec
        facts = memo.get(spec)
        if facts is None:
            facts = _learn(memo, spec, op, static, (spec,))
        if not facts or self._base is not None:
            return general(self, depth + 1)
        ref = self._ref
        planned = _NOT_RECORDED
        if self._node is not None and facts[3] and _mode.grad:
            planned = plans.get(1) or _plan(plans, op, static, 1)
        return _issue(ref, op, planned, self, spec, static, (), facts, depth + 1)

    def record(planned: Any, number: int, site: Any, result: Any, x: Any) -> None:
        plan, _, keeps = planned
        edges = ((x._node, x._index),)
        node = _record(op, plan, keeps, edges, (x,), (x._spec,), result, static, ())
        node.number, node.site = number, site

    return fast.Quick(memo, op.opcode, static, quick, 1, plans, record) if fast else quick


def with_value(function: Function) -> Callable[..., Any]:
    """Return the way of calls with a tensor and something that is none: a number, a dim, a size."""
    memo: dict[Any, Any] = {}
    memos.append(memo)
    many = function.many or ways(function, 3)

    def quick(self: Any, value: Any, depth: int = 1) -> Any:
        kind = type(value)
        if not (type(self) is Tensor and is_usual and (kind is float or kind is int)):
            return many((self, value), depth + 1)
        spec = self._spec
        found = memo.get((spec, kind))
        if found is None:
            _learn_value(memo, function, self, value)
            found = memo[spec, kind]
        if found is _BY_VALUE:
            found = memo.get((spec, value))
            if found is None:
                _learn_value(memo, function, self, value)
                found = memo.get((spec, value))
        if found and found[3] is None:
            op, static, facts, _, scalars = found
            return run(op, static, scalars, (self,), facts, depth + 1)
        if not found or self._base is not None or (kind is int and not -FEW <= value <= FEW):
            return many((self, value), depth + 1)
        op, static, facts, plans, given = found
        planned = _NOT_RECORDED
        if self._node is not None and facts[3] and _mode.grad:
            planned = plans.get(1) or _plan(plans, op, static, 1)
        scalars = (value,) if given else ()
        return _issue(self._ref, op, planned, self, spec, static, scalars, facts, depth + 1)

    return quick


def _learn_value(memo: dict[Any, Any], function: Function, self: Tensor, value: Any) -> None:
    """Note what a call with a value means: (op, static, facts, plans, if it is sent).

    Without plans the last is what is sent, and `run` issues it. False: it goes the general way.
    _BY_VALUE: other values mean another static.
    """
    spec, kind = self._spec, type(value)
    found: Any = False
    key: tuple[Any, ...] = (spec, kind)
    choice = function.choose((self, value), {}) if function.form == FUNCTIONAL else None
    if type(choice) is Choice and choice.op.body is None and not choice.op.schema.return_names:
        op = choice.op
        args = (self, value) if choice.packed is None else (self, (value,))
        tensors, static, scalars = op.bind(*args)
        given = bool(scalars)
        plain = len(tensors) == 1 and not op.by_value and op.args[0].kind == "T"
        if plain and given and op.args[1].kind == "S" and op.args[1].default is MISSING:
            plain = scalars == (value,)
        elif plain and not given and kind is int and op.args[1].kind in ("i", "i?", "i[]", "i[]?"):
            key = (spec, value)
        else:
            plain = False
        if plain:
            facts = _facts(op, static, (spec,), scalars)
            found = facts and (op, static, facts, {}, given)
        if not found and not given and len(tensors) == 1 and kind is int:
            known = _dispatch.known(op, static, (spec,), scalars)
            key = (spec, value)
            found = known.direct and (op, static, known, None, scalars)
    if len(memo) >= limits.MEMO_ENTRIES_MAX:
        memo.clear()
    if memo.get((spec, kind)) is _BY_VALUE:
        key = (spec, value)
    if key[1] is not kind:
        memo[spec, kind] = _BY_VALUE
    memo[key] = found


def _issue(
    input: Ref,
    op: Op,
    planned: Any,
    tensor: Any,
    of: Spec,
    static: Any,
    scalars: tuple[Any, ...],
    facts: Any,
    depth: int,
) -> Any:
    """Issue an op of one tensor with one small result and return that. `binary` spells it out."""
    frame = _getframe(depth)
    code = frame.f_code
    site = (code, frame.f_lasti) if code.co_filename in theirs else site_from(frame)
    spec, nbytes, work, _ = facts
    lane = input.lane
    id_ = next(lane.ids)
    number = next(lane.numbers)
    plan, bits, keeps = planned
    lane.add((op.opcode, bits, (input.id, id_), static, scalars, number, site))
    lane.work += work
    if lane.work >= lane.due:
        lane.session.look(lane)
    ref = _new(Ref)
    ref.id, ref.lane = id_, lane
    lane.held[id_] = nbytes
    result = _new(Tensor)
    result._ref, result._spec, result._node, result._base = ref, spec, None, None
    if plan is not None:
        edges = ((tensor._node, tensor._index),)
        node = _record(op, plan, keeps, edges, (tensor,), (of,), result, static, scalars)
        node.number, node.site = number, site
    return result


def several(function: Function) -> Callable[[tuple[Any, ...], int], Any]:
    """Return the way of calls with any positional arguments, by their specs and their values."""
    if function.is_composite:
        return composite(function)
    memo: dict[Any, Any] = {}
    memos.append(memo)

    def quick(args: tuple[Any, ...], depth: int) -> Any:
        if not is_usual:
            return function.call(args, {})
        key: list[Any] = []
        tensors = []
        for x in args:
            kind = type(x)
            if kind in plain_types:
                key.append(x._spec)
                tensors.append(x)
            elif x is None or kind is int or kind is bool or kind is str:
                key += (kind, x)
            elif (kind is tuple or kind is list) and {int}.issuperset(map(type, x)):
                key += (kind, tuple(x))
            else:
                return function.call(args, {})
        whole = tuple(key)
        found = memo.get(whole)
        if found is None:
            found = _learn_call(memo, whole, function, args, tensors)
        if not found:
            return function.call(args, {})
        op, static, scalars, facts = found
        result = run(op, static, scalars, tensors, facts, depth + 1)
        if result is NotImplemented:
            return function.call(args, {})
        return named(op, result) if op.schema.return_names else result

    return quick


def composite(function: Function) -> Callable[[tuple[Any, ...], int], Any]:
    """Return the way of calls of a function of other ops: its body, by the arguments' types."""
    bodies: dict[Any, Any] = {}

    def quick(args: tuple[Any, ...], depth: int) -> Any:
        kinds = tuple(map(type, args))
        body = bodies.get(kinds) if is_usual else None
        if body is not None:
            return body(*args)
        choice = function.choose(args, {})
        simple = (
            type(choice) is Choice
            and choice.packed is None
            and not (list in kinds or tuple in kinds or choice.op.schema.return_names)
        )  # of lists the types inside count too
        if simple and len(bodies) < limits.MEMO_ENTRIES_MAX:
            bodies[kinds] = choice.op.body  # type: ignore[union-attr]
        return function.call(args, {})

    return quick


def _learn_call(memo: dict[Any, Any], key: Any, function: Function, args: Any, given: Any) -> Any:
    """Note and return what a call means: (op, static, scalars, facts); False: more than an op."""
    found: Any = False
    choice = function.choose(args, {}) if function.form == FUNCTIONAL and given else None
    if type(choice) is Choice and choice.op.body is None:
        op, at = choice.op, choice.packed
        tensors, static, scalars = op.bind(*args if at is None else (*args[:at], args[at:]))
        if len(tensors) == len(given) and all(a is b for a, b in zip(tensors, given, strict=True)):
            facts = _dispatch.known(op, static, [t._spec for t in tensors], scalars)
            found = facts.direct and (op, static, scalars, facts)
    if len(memo) >= limits.MEMO_ENTRIES_MAX:
        memo.clear()
    memo[key] = found
    return found


def run(op: Op, static: Any, scalars: Any, tensors: Any, facts: Any, depth: int) -> Any:
    """Issue an op whose `facts` are `direct`; return its result, or a tuple of them.

    NotImplemented: the tensors are not all on one device of one session.
    """
    lane = tensors[0]._ref.lane
    ids, mask, bit = [], 0, 1
    for x in tensors:
        ref = x._ref
        if ref.lane is not lane:
            return NotImplemented
        ids.append(ref.id)
        base = x._base
        if base is not None and x._generation != base._generation:
            tape.edge_of(x)
        if x._node is not None:
            mask |= bit
        bit += bit
    plan, bits, keeps = _NOT_RECORDED
    if mask and facts.differentiable and _mode.grad:
        plan, bits, keeps = facts.plans.get(mask) or _plan(facts.plans, op, static, mask)
    if len(facts.outs) > 1:
        return _run_many(op, static, scalars, tensors, facts, ids, (plan, bits), depth + 1)
    spec, views = facts.outs[0], facts.views
    # Places are checked before anything is issued: a worker takes a view beyond its storage for
    # a broken client, and ends the session.
    at = _dispatch.place(tensors[0], op, *views[0]) if views else 0
    frame = _getframe(depth)
    code = frame.f_code
    site = (code, frame.f_lasti) if code.co_filename in theirs else site_from(frame)
    id_ = next(lane.ids)
    ids.append(id_)
    if lane.free_now:
        lane.free()
    number = next(lane.numbers)
    lane.add((op.opcode, bits, tuple(ids), static, scalars, number, site))
    lane.work += facts.work
    if lane.work >= lane.due:
        lane.session.look(lane)
    nbytes = facts.nbytes
    ref = _new(LargeRef if nbytes >= limits.FREE_BYTES else Ref)
    ref.id, ref.lane = id_, lane
    lane.held[id_] = nbytes
    if views:
        result = _dispatch.view_of(tensors[0], op, ref, spec, at)
    else:
        result = _new(Tensor)
        result._ref, result._spec, result._node, result._base = ref, spec, None, None
    if plan is not None:
        if len(tensors) == 1:
            (x,) = tensors
            edges: Any = ((x._node, x._index),)
            of: Any = (x._spec,)
        else:
            edges, of = tape.edges_of(tensors, plan.mask), tuple([x._spec for x in tensors])
        node = _record(op, plan, keeps, edges, tensors, of, result, static, scalars)
        node.number, node.site = number, site
    return result


def _run_many(
    op: Op, static: Any, scalars: Any, tensors: Any, facts: Any, ids: Any, planned: Any, depth: int
) -> tuple[Any, ...]:
    """Issue an op with several results, as `run` does one with one; return them."""
    lane = tensors[0]._ref.lane
    plan, bits = planned
    views = facts.views
    places = [_dispatch.place(tensors[0], op, spec, offset) for spec, offset in views]
    site = site_from(_getframe(depth))
    made = [next(lane.ids) for _ in facts.outs]
    if lane.free_now:
        lane.free()
    number = next(lane.numbers)
    lane.add((op.opcode, bits, (*ids, *made), static, scalars, number, site))
    lane.work += facts.work
    if lane.work >= lane.due:
        lane.session.look(lane)
    results = []
    for k, id_ in enumerate(made):
        spec = facts.outs[k]
        ref = Ref(lane.session, lane.device, id_, 0 if views else spec.nbytes)
        if views:
            result = _dispatch.view_of(tensors[0], op, ref, spec, places[k])
        else:
            result = Tensor._new(ref, spec)
        results.append(result)
    if plan is not None:
        edges = tape.edges_of(tensors, plan.mask)
        node = tape.record(op, plan, tensors, results, static, scalars, edges)
        node.number, node.site = number, site
    return tuple(results)


def _record(
    op: Op,
    plan: Any,
    keeps: Any,
    edges: tuple[Any, ...],
    tensors: tuple[Any, ...],
    specs: tuple[Spec, ...],
    result: Any,
    static: Any,
    scalars: tuple[Any, ...],
) -> tape.Node:
    """Give a fresh result its node, as `tape.record` does; what is kept is known beforehand."""
    if keeps is None:
        return tape.record(op, plan, tensors, (result,), static, scalars, edges)
    out = result._spec
    if out.dtype.category < 2:
        return tape.record(op, plan, tensors, (result,), static, scalars, edges)
    node = tape.Node(op, edges)
    node.plan, node.static, node.scalars = plan, static, scalars
    node.specs, node.outs = specs, (out,)
    if keeps:
        saved, versions = node.saved, []
        for name, i in keeps:
            x = tensors[i] if i >= 0 else result
            saved[name] = x._save()
            storage = x._storage
            versions.append((storage, storage.version))
        node.versions = tuple(versions)
    result._node, result._index = node, 0
    return node


def _plan(plans: dict[int, Any], op: Op, static: Any, mask: int) -> Any:
    """Note and return (plan, mode bits, what is kept) for the inputs in `mask`.

    What is kept is the name and the place of each tensor, -1 for the result; None: ask the tape.
    """
    plan = op.vjp_plan(static, mask)
    found: Any = _NOT_RECORDED
    if plan is not None:
        slots = op.recipe(static).slots
        kept = [(op.args[at].name, slots.get(at)) for at in plan.saved_args]
        kept = [(name, slot) for name, slot in kept if slot is not None]
        kept += [(name, -1) for name in plan.saved_outs]
        simple = all(type(i) is int for _, i in kept) and plan.saved_outs in ((), ("out",))
        found = (plan, plan.mask << 2, tuple(kept) if simple else None)
    plans[mask] = found
    return found


def binary(op: Op, static: Any, general: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    """Return an operator that issues `op` for two tensors, and calls `general` for all else.

    The line of its caller is noted as that which issued the command.
    """
    opcode = op.opcode
    memo: dict[Any, Any] = {}  # by the spec that both have, or by both
    plans: dict[int, Any] = {}
    memos.append(memo)

    def quick(self: Any, other: Any, depth: int = 1) -> Any:
        if not (type(other) is Tensor is type(self) and is_usual):
            return general(self, other, depth + 1)
        key = self._spec
        if key is not other._spec:
            key = (key, other._spec)
        facts = memo.get(key)
        if facts is None:
            facts = _learn(memo, key, op, static, (self._spec, other._spec))
        have, also = self._ref, other._ref
        lane = have.lane
        if not facts or also.lane is not lane or self._base is not None or other._base is not None:
            return general(self, other, depth + 1)
        spec, nbytes, work, differentiable = facts
        planned = _NOT_RECORDED
        if not (self._node is None is other._node) and differentiable and _mode.grad:
            mask = (self._node is not None) + 2 * (other._node is not None)
            planned = plans.get(mask) or _plan(plans, op, static, mask)
        # From here on as in `Session.issue`: the line, the command, and a look if it is due.
        frame = _getframe(depth)
        code = frame.f_code
        site = (code, frame.f_lasti) if code.co_filename in theirs else site_from(frame)
        id_ = next(lane.ids)
        number = next(lane.numbers)
        lane.add((opcode, planned[1], (have.id, also.id, id_), static, (), number, site))
        lane.work += work
        if lane.work >= lane.due:
            lane.session.look(lane)
        ref = _new(Ref)
        ref.id, ref.lane = id_, lane
        lane.held[id_] = nbytes
        result = _new(Tensor)
        result._ref, result._spec, result._node, result._base = ref, spec, None, None
        if planned[0] is not None:
            record(planned, number, site, result, self, other)
        return result

    def record(planned: Any, number: int, site: Any, result: Any, x: Any, y: Any) -> None:
        plan, _, keeps = planned
        mask = plan.mask
        edges = ((x._node, x._index) if mask & 1 else None,
                 (y._node, y._index) if mask & 2 else None)  # fmt: skip
        specs = (x._spec, y._spec)
        node = _record(op, plan, keeps, edges, (x, y), specs, result, static, ())
        node.number, node.site = number, site

    return fast.Quick(memo, opcode, static, quick, 2, plans, record) if fast else quick


if fast:
    fast.prepare(Tensor, Ref, Lane, theirs, site_from, _mode)
set_quickening(ways, plain_types)
_dispatch.set_runner(run, Tensor)
