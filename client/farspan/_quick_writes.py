"""The quick way of common writes: ``x += y``, ``x.mul_(2.0)``, ``x.copy_(y)``.

A write that is recorded by no graph, into memory of the tensor's own, needs a command and a count.
For all else these hand over to `_dispatch.apply`, which says what a write means.
"""

from __future__ import annotations

from sys import _getframe
from typing import TYPE_CHECKING, Any, Final

from . import _dispatch, _quick
from ._sites import site_from, theirs
from ._tensor import Tensor
from .core import limits
from .core.call import Choice, Function
from .core.command import INPLACE
from .core.errors import ProgramError
from .core.schema import MISSING
from .core.spec import check_cast

if TYPE_CHECKING:
    from collections.abc import Callable

_mode: Final = _dispatch.mode
_SENT: Final = (float, int)  # numbers that are sent as they are


def into(function: Function) -> Callable[..., Any]:
    """Return the way of calls of a function that writes, with a tensor and one argument more."""
    memo: dict[Any, Any] = {}
    _quick.memos.append(memo)
    plain_types = _quick.plain_types

    def quick(self: Any, other: Any, depth: int = 1) -> Any:
        kind = type(other)
        tensor = kind in plain_types
        if not (
            _quick.is_usual
            and type(self) in plain_types
            and (tensor or kind is float or kind is int)
        ):
            return function.call((self, other), {})
        key = (self._spec, other._spec if tensor else kind)
        found = memo.get(key)
        if found is None:
            found = memo[key] = _learn(memo, function, self, other)
        if (
            not found
            or ((self._node is not None or (tensor and other._node is not None)) and _mode.grad)
            or self._base is not None
            or self._inference
            or self._in_no_grad
            or (kind is int and not -_quick.FEW <= other <= _quick.FEW)
        ):
            return function.call((self, other), {})
        ref = self._ref
        lane = ref.lane
        storage = self._storage
        if tensor:
            beside = other._ref
            shared = other is not self and other._storage.memory is storage.memory
            if beside.lane is not lane or other._base is not None or shared:
                return function.call((self, other), {})
            ids: Any = (ref.id, beside.id)
            scalars: Any = ()
        else:
            ids, scalars = (ref.id,), (other,)
        opcode, static = found
        frame = _getframe(depth)
        code = frame.f_code
        site = (code, frame.f_lasti) if code.co_filename in theirs else site_from(frame)
        if lane.free_now:
            lane.free()
        lane.add((opcode, INPLACE, ids, static, scalars, next(lane.numbers), site))
        lane.work += 1
        if lane.work >= lane.due:
            lane.session.look(lane)
        storage.version += 1
        return self

    return quick


def _learn(memo: dict[Any, Any], function: Function, self: Tensor, other: Any) -> Any:
    """Return (opcode, static) of such a write; False: it goes the general way."""
    if len(memo) >= limits.MEMO_ENTRIES_MAX:
        memo.clear()
    choice = function.choose((self, other), {})
    if type(choice) is not Choice or choice.packed is not None or choice.op.body is not None:
        return False
    op, spec = choice.op, self._spec
    tensors, static, scalars = op.bind(self, other)
    given = isinstance(other, Tensor)
    if op.by_value or op.random or op.writes or op.dynamic or op.lists or op.family == "view":
        return False
    if given:
        plain = tensors == (self, other) and not scalars
        plain = plain and all(a is b for a, b in zip(tensors, (self, other), strict=True))
    else:
        number = type(other) in _SENT and op.args[1].kind == "S" and op.args[1].default is MISSING
        plain = number and len(tensors) == 1 and scalars == (other,)
    if not plain:
        return False
    try:
        facts = _dispatch.known(op, static, [t._spec for t in tensors], scalars)
        if facts.moved or facts.outs[0].shape != spec.shape:
            return False
        check_cast(facts.outs[0].dtype, spec.dtype)
        _dispatch.check_memory(spec)
    except ProgramError:
        return False
    return op.opcode, static
