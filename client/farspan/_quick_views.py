"""The quick way of common views: ``x.view(3, 4)``, ``x.t()``, ``x[0]``, ``x[1:3]``.

Which view a call means depends on the tensor's metadata and the arguments, ints and tuples of them;
so it is found once, and `_fast_views.c` does the rest. Without that module the methods are those of
everything else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _dispatch, _quick
from ._native import fast
from .core import limits
from .core.call import Choice, fn
from .core.command import FUNCTIONAL
from .core.errors import FarspanError
from .core.ops.view import infer_size
from .core.spec import view_stride

if TYPE_CHECKING:
    from collections.abc import Callable

    from .core.call import Function
    from .core.op import Op

    #: What such a call issues: a function of views, and its arguments. None: more than that.
    _Meant = tuple[Function, tuple[Any, ...]] | None


def is_of_views(function: Function) -> bool:
    """Whether usual calls of a function return one view."""
    if function.__name__ in _BODIES:
        return True
    return function.form == FUNCTIONAL and any(map(_is_usual, function.overloads))


def _is_usual(op: Op) -> bool:
    odd = op.by_value or op.detaches or op.unversioned or op.anywhere or op.schema.return_names
    return op.family == "view" and op.body is None and not odd


def method(function: Function, general: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that does what `general` does for a function of views."""
    body = _BODIES.get(function.__name__)
    return _quick_way(body or (lambda *args: (function, args)), general)


def index(general: Callable[..., Any]) -> Callable[..., Any]:
    """Return a ``__getitem__`` that does what `general` does."""
    return _quick_way(_indexed, general)


def _quick_way(meant_by: Callable[..., _Meant], general: Callable[..., Any]) -> Callable[..., Any]:
    if not fast:
        return general
    memo: dict[Any, Any] = {}
    _quick.memos.append(memo)

    def learn(key: Any, *args: Any) -> None:
        """Note what a call means: (opcode, static, spec, offset); False: the general way."""
        if len(memo) >= limits.MEMO_ENTRIES_MAX:
            memo.clear()
        try:
            meant = meant_by(*args)
            memo[key] = meant is not None and _facts(*meant)
        except (FarspanError, TypeError, ValueError, IndexError):
            memo[key] = False  # the general way says it by the name that was called

    made: Callable[..., Any] = fast.View(memo, learn, general)
    return made


def _facts(function: Function, args: tuple[Any, ...]) -> Any:
    """Return what is known of a call's one view; False: it is none, or an odd one."""
    choice = function.choose(args, {})
    if type(choice) is not Choice or not _is_usual(choice.op):
        return False
    op, at = choice.op, choice.packed
    tensors, static, scalars = op.bind(*args if at is None else (*args[:at], args[at:]))
    if len(tensors) != 1 or tensors[0] is not args[0] or scalars:
        return False
    have = args[0]._spec
    facts = _dispatch.known(op, static, (have,), ())
    if not facts.direct or len(facts.views) != 1 or facts.outs[0].dtype is not have.dtype:
        return False
    return op.opcode, static, facts.outs[0], facts.views[0][1]


def _reshaped(x: Any, *shape: Any) -> _Meant:
    """Return which view ``x.reshape(*shape)`` is, as the body of `reshape` decides it."""
    if len(shape) == 1 and type(shape[0]) is tuple:
        (shape,) = shape
    spec = x._spec
    if not shape or not all(type(n) is int for n in shape):
        return None
    size = infer_size(shape, spec.numel)
    if size == spec.shape and spec.contiguous:
        return fn.alias, (x,)
    return None if view_stride(spec, size) is None else (fn.view, (x, size))


def _transposed(x: Any) -> _Meant:
    """Return which view ``x.T`` is; torch warns unless it is of a matrix."""
    return (fn.permute, (x, (1, 0))) if x._spec.ndim == 2 else None


def _indexed(x: Any, index: Any) -> _Meant:
    """Return which view ``x[index]`` is, as `_indexing.py` says it."""
    shape = x._spec.shape
    if not shape:
        return None
    if type(index) is int:
        return (fn.select, (x, 0, index)) if -shape[0] <= index < shape[0] else None
    if type(index) is not slice:
        return None
    step = 1 if index.step is None else index.step
    if index.start is None and index.stop is None and step == 1:
        return fn.alias, (x,)
    return (fn.slice, (x, 0, index.start, index.stop, step)) if step > 0 else None


#: Functions of other functions, of which a usual call issues one view.
_BODIES: dict[str, Callable[..., _Meant]] = {"reshape": _reshaped, "numpy_T": _transposed}
