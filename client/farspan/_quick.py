"""The quick way of common operations: what a small op pays, spelled out.

An op whose metadata is known and whose one result is small needs no more than an id, a command, a
claim and a proxy. These functions do just that, in one frame of Python and without a call that can
be spared; for all else they hand over to `_dispatch.apply`, which says what an op means.
"""

from __future__ import annotations

from sys import _getframe
from typing import TYPE_CHECKING, Any, Final

from . import _dispatch
from ._gather import Ref
from ._sites import site_from, theirs
from ._tensor import Tensor
from .core import limits, tape

if TYPE_CHECKING:
    from collections.abc import Callable

    from .core.op import Op
    from .core.spec import Spec

_new: Final = object.__new__
_mode: Final = _dispatch.mode
#: Nobody stands between an op and its dispatch: no vmap, hook, profiler or cast.
_usual = True
_memos: list[dict[Any, Any]] = []


def set_usual(usual: bool) -> None:
    """Say whether ops may take the quick way."""
    global _usual
    _usual = usual


def forget() -> None:
    """Forget the metadata of all ops: the default dtype, a part of it, is another now."""
    for memo in _memos:
        memo.clear()


def _learn(memo: dict[Any, Any], key: Any, op: Op, static: Any, specs: tuple[Spec, ...]) -> Any:
    """Note and return what is known of an op's result: (spec, work, can be recorded), or False."""
    facts = _dispatch.known(op, static, specs, ())
    found: Any = False
    quick = not facts.moved and facts.plain and not (op.random or op.writes or op.body)
    if quick and facts.nbytes < limits.FREE_BYTES:
        work = max(1, facts.nbytes // limits.WORK_BYTES)
        found = (facts.outs[0], facts.nbytes, work, facts.differentiable)
    if len(memo) >= limits.MEMO_ENTRIES_MAX:
        memo.clear()
    memo[key] = found
    return found


def binary(op: Op, static: Any, general: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return an operator that issues `op` for two tensors, and calls `general` for all else.

    The line of its caller is noted as that which issued the command.
    """
    opcode = op.opcode
    memo: dict[tuple[Spec, Spec], Any] = {}
    _memos.append(memo)
    of_mask = op.vjp_plan

    def quick(self: Any, other: Any) -> Any:
        if not (type(other) is Tensor is type(self) and _usual):
            return general(self, other)
        specs = (self._spec, other._spec)
        facts = memo.get(specs)
        if facts is None:
            facts = _learn(memo, specs, op, static, specs)
        have, also = self._ref, other._ref
        lane = have.lane
        if not facts or also.lane is not lane or self._base is not None or other._base is not None:
            return general(self, other)
        spec, nbytes, work, differentiable = facts
        plan = None
        if not (self._node is None is other._node) and differentiable and _mode.grad:
            plan = of_mask(static, (self._node is not None) + 2 * (other._node is not None))
        # From here on as in `Session.issue`: the line, the command, and a look if it is due.
        frame = _getframe(1)
        code = frame.f_code
        site = (code, frame.f_lasti) if code.co_filename in theirs else site_from(frame)
        session = lane.session
        id_ = next(session._ids)
        number = next(session._numbers)
        bits = 0 if plan is None else plan.mask << 2
        lane.add((opcode, bits, (have.id, also.id, id_), static, (), number, site))
        lane.work += work
        if lane.work >= lane.due:
            session.look(lane)
        ref = _new(Ref)
        ref.id, ref.lane = id_, lane
        lane.held[id_] = nbytes
        result = _new(Tensor)
        result._ref, result._spec, result._node, result._base = ref, spec, None, None
        if plan is not None:
            node = tape.record(op, plan, (self, other), (result,), static, ())
            node.number, node.site = number, site
        return result

    return quick
