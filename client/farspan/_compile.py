"""torch.compile: a function whose commands are known is one command.

The first call of each kind runs as ever and is watched (`_trace.py`); later ones of the kind are
one Call each, as long as all that the function can reach is as it was (`_guards.py`). A function
of which no program can be made runs eagerly; `explain` says why.
"""

from __future__ import annotations

import copy
import functools
import json
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from . import _autocast, _state
from ._dispatch import mode
from ._guards import _PLAIN
from ._tensor import Tensor
from ._trace import Refused, Traced, Unsettled, trace
from ._widen import fits, numbers_of, tagged, widen
from .core import command as cmd
from .core import limits, tape
from .core.call import fn
from .core.dtype import PLACES, Defaults
from .core.errors import ArgumentError, FarspanError
from .core.op import op_at

_ASK_S: Final = 0.01  # between two questions for what is still compiled


#: What torch knows; here one way of compiling stands for all of them.
MODES = ("default", "lite", "reduce-overhead", "max-autotune-no-cudagraphs", "max-autotune")
BACKENDS = ("inductor", "cudagraphs", "eager", "aot_eager", "aot_eager_decomp_partition",
            "onnxrt", "openxla", "tvm")  # fmt: skip


class _Stance:
    """What `torch.compiler.set_stance` and `reset` say to all compiled functions."""

    eager = False
    resets = 0  # how often all was to be forgotten


stance = _Stance()


def compile(
    model: Callable[..., Any] | None = None,
    *,
    fullgraph: bool = False,
    dynamic: bool | None = None,
    backend: str | Callable[..., Any] = "inductor",
    mode: str | None = None,
    options: dict[str, Any] | None = None,
    disable: bool = False,
) -> Any:
    """Return what does the same as the function or module, as one command to the worker.

    Best for a whole training step: forward, backward and ``optimizer.step()`` in one function. A
    function whose result is differentiated after it returns stays eager. What it does in Python
    (printing, appending to lists) is done in traced calls only. A value read in its middle raises
    ControlFlowError, which names the line. ``result.explain()`` tells what became of it. The other
    arguments are torch's and change nothing; ``disable`` returns the model itself. Without
    ``model`` it is a decorator.
    Raises RuntimeError if mode and options are both given, or one is unknown, as torch does, and
    TypeError for no callable.
    """
    if mode is not None and options is not None:
        raise RuntimeError(
            "Either mode or options can be specified, but both can't be specified at the same time."
        )
    if mode is not None and mode not in MODES:
        known = ", ".join(MODES)
        raise RuntimeError(f"Unrecognized mode={mode}, should be one of: {known}")
    if isinstance(backend, str) and backend not in BACKENDS:
        from ._dynamo.exc import InvalidBackend

        raise InvalidBackend(backend)
    if model is None:
        return functools.partial(compile, disable=disable)
    if not callable(model):
        raise ArgumentError(f"compile() takes a function or a module, not {type(model).__name__}")
    if disable or isinstance(model, Compiled):
        return model
    from .nn.module import Module

    if isinstance(model, Module):
        from ._dynamo.eval_frame import OptimizedModule

        return OptimizedModule(model)
    return Compiled(model)


class _Eager(Exception):
    """This call cannot be looked up; the text says why."""


class Compiled:
    """A function with the programs that stand for its calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function, updated=())
        self._function = function
        self._forget()

    def _forget(self) -> None:
        """Begin anew, with no program."""
        self._resets = stance.resets
        self._kinds: dict[Any, list[Traced]] = {}
        self._never: dict[Any, str] = {}  # kinds of calls of which no program can be made
        self._misses: list[str] = []  # why calls were traced or ran eagerly
        self._stopped = ""
        self._tries: dict[Any, int] = {}  # by kind of call: how often it was refused
        self._values: dict[Any, Any] = {}  # by kind of call: what tensors it made of Python values

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        return Compiled(copy.deepcopy(self._function, memo))

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._resets != stance.resets:
            self._forget()
        if stance.eager:
            return self._function(*args, **kwargs)
        arguments: list[Tensor] = []
        others: list[Any] = []
        try:
            key = self._key(args, kwargs, arguments, others)
        except _Eager as why:
            self._note(str(why))
            return self._function(*args, **kwargs)
        kinds = self._kinds.get(key)
        if kinds is not None and not _within_trace(arguments):
            numbers = numbers_of(args, kwargs)
            for traced in kinds:
                ids = traced.holds(arguments, numbers)
                if ids is not None:
                    return traced.call(ids, arguments, numbers)
        if key in self._never or len(self._never) >= limits.TRACES_NEVER_MAX:
            session = arguments[0]._ref.lane.session if arguments else _state.current()
            result = self._function(*args, **kwargs)
            session.note_region()
            return result
        return self._trace(key, args, kwargs, arguments, others)

    def _key(
        self, args: Any, kwargs: Any, arguments: list[Tensor], others: list[Any]
    ) -> tuple[Any, ...]:
        saved = mode.saved
        if mode.transforms or (saved is not None and saved.stack) or mode.forward:
            raise _Eager("a transform or a hook on saved tensors is active")
        parts = tuple([float if type(a) is float else _kind(a, arguments, others) for a in args])
        if kwargs:
            named = [(k, kwargs[k]) for k in sorted(kwargs)]
            parts += tuple(
                [(k, float if type(a) is float else _kind(a, arguments, others)) for k, a in named]
            )
        ids = [t._ref.id for t in arguments]
        same = tuple([ids.index(i) for i in ids]) if len(set(ids)) < len(ids) else ()
        state = _autocast._state
        cast = tuple([(d, state.dtypes[d]) for d in sorted(state.enabled)]) if state.enabled else ()
        where = () if arguments else id(_state.current())  # which a program of it keeps alive
        return (parts, same, mode.grad, mode.inference, Defaults.dtype, cast, PLACES.device, where)

    def _trace(
        self, key: Any, args: Any, kwargs: Any, arguments: list[Tensor], others: list[Any]
    ) -> Any:
        session = arguments[0]._ref.session if arguments else _state.current()
        if session.traced is not None or self._stopped:  # within another compiled function
            return self._function(*args, **kwargs)
        if session.debug or session.tracer_off():
            return self._function(*args, **kwargs)
        if sum(map(len, self._kinds.values())) >= limits.TRACES_MAX:
            self._stop()
            return self._function(*args, **kwargs)
        given, by_name, tags = tagged(args, kwargs)
        result, traced = trace(
            session, lambda: self._function(*given, **by_name), [self._function, *others],
            arguments, self._values.pop(key, None), tags,
        )  # fmt: skip
        try:
            changed = self._key(args, kwargs, [], []) != key
        except _Eager:
            changed = True
        if changed and not isinstance(traced, Refused):
            traced = Refused("it changes its arguments in Python", True)
        if isinstance(traced, Refused):
            self._note(str(traced))
            if isinstance(traced, Unsettled):
                self._values[key] = traced.values
            self._tries[key] = self._tries.get(key, 0) + 1
            if traced.always or self._tries[key] > 2 * limits.TRACES_MAX:
                self._never[key] = str(traced)
                session.note_region()
            elif len(self._tries) > limits.TRACES_NEVER_MAX or (
                len(self._misses) > 2 * limits.TRACES_MAX and not self._kinds
            ):
                self._stop()
        else:
            kinds = self._kinds.setdefault(key, [])
            self._note(f"traced: {_why_again(traced, kinds)}")
            kinds[:] = [old for old in kinds if not widen(traced, old)] + [traced]
        return result

    def _note(self, text: str) -> None:
        if len(self._misses) < limits.ERRORS_UNREAD_MAX:
            self._misses.append(text)

    def _stop(self) -> None:
        self._stopped = self._misses[-1] if self._misses else "too many kinds of calls"
        name = getattr(self._function, "__name__", "this function")
        warnings.warn(
            f"compiled {name}() was traced {limits.TRACES_MAX} times; other kinds of calls stay "
            f"eager from now on (the last time: {self._stopped}); see its explain()",
            stacklevel=4,
        )

    def explain(self, show: bool = True) -> str:
        """Print, and return, what became of the function: its programs, and why it was traced.

        Waits: the worker says how it runs each program.
        """
        name = getattr(self._function, "__name__", repr(self._function))
        lines = [f"{name}(): {sum(map(len, self._kinds.values()))} programs"]
        if self._stopped:
            lines[0] += f"; whatever else comes stays eager: {self._stopped}"
        for traced in [t for kind in self._kinds.values() for t in kind]:
            lines += _described(traced)
        lines += [f"  eager: {why}" for why in self._never.values()]
        for why in dict.fromkeys(self._misses):
            lines.append(f"  {self._misses.count(why)} x {why}")
        text = "\n".join(lines)
        if show:
            print(text)
        return text

    def ready(self, timeout_s: float = 60.0) -> bool:
        """Return whether nothing is compiled for it any more; waits for that at most so long.

        Workers compile loops behind, and run plain kernels until they are there. Asks the worker.
        Only what was called is compiled: the first call of a kind traces, the second one plans.
        """
        end = time.monotonic() + timeout_s
        while self._compiling():
            if time.monotonic() >= end:
                return False
            time.sleep(_ASK_S)
        return True

    def _compiling(self) -> bool:
        facts = [_facts(traced) for kind in self._kinds.values() for traced in kind]
        plans = [plan for each in facts for plan in each.get("plans", ())]
        return any(plan["loops"]["waiting"] for plan in plans)


def cond(
    pred: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], operands: Any = ()
) -> Any:
    """Return what one of two functions gives for the operands, by a truth value.

    Within a compiled function, where a tensor has no value yet, both run and `torch.where` chooses:
    they may not write, and must give the same structure of tensors. Else it waits for the value of
    a tensor, and only one runs.

    >>> import farspan
    >>> x = farspan.ones(2)
    >>> farspan.cond(x.sum() > 1, lambda x: x * 2, lambda x: -x, (x,)).tolist()
    [2.0, 2.0]
    """
    if not (isinstance(pred, Tensor) and _within_trace([pred])):
        return (true_fn if bool(pred) else false_fn)(*operands)
    return _chosen(pred, true_fn(*operands), false_fn(*operands))


def _chosen(pred: Tensor, a: Any, b: Any) -> Any:
    if isinstance(a, (list, tuple)) and type(a) is type(b) and len(a) == len(b):
        return type(a)(_chosen(pred, x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a._spec.shape == b._spec.shape:
        return fn.where(pred, a, b)
    raise ArgumentError("cond(): the two functions must give tensors of the same structure")


def explain(function: Any, show: bool = True) -> str:
    """Print, and return, what became of a compiled function: see `Compiled.explain`."""
    found = getattr(function, "_compiled", function)
    if not isinstance(found, Compiled):
        raise ArgumentError(f"explain() takes what compile() returned, not {type(function)}")
    return found.explain(show)


def _why_again(traced: Traced, kinds: list[Traced]) -> str:
    if not kinds:
        return "a new kind of call"
    numbers = [x for x in traced.given if x is not None]
    told = any(not fits(old.given, numbers) for old in kinds)
    return "a number among the arguments changed" if told else "what it reaches changed"


def _described(traced: Traced) -> list[str]:
    program = traced.program
    form = program.form
    given = ", ".join("any" if x is None else repr(x) for x in traced.given)
    lines = [
        f"  program {program.number}: {len(form.opcodes)} commands, {form.inputs} inputs, "
        f"{len(program.outputs)} outputs of {traced.bytes} bytes, {traced.calls} calls"
    ]
    if given:
        lines.append(f"    for these numbers among the arguments: {given}")
    if traced.values:
        lines.append(f"    with {len(traced.values)} tensors of Python values, the same each time")
    at = 0
    for opcode, count in zip(form.opcodes, form.counts, strict=True):
        name = op_at(opcode).name if opcode >= cmd.FIRST_OPCODE else "backward"
        slots = " ".join(f"%{s}" for s in form.slots[at : at + count][:12])
        lines.append(f"    {name}({slots}{' ...' if count > 12 else ''})")
        at += count
    return lines + _plan(traced)


def _plan(traced: Traced) -> list[str]:
    """Return what the worker says of its plan: steps, fused groups, memory, why not."""
    return [f"    {name}: {value}" for name, value in _facts(traced).items()]


def _facts(traced: Traced) -> dict[str, Any]:
    """Return the worker's answer, {} if it has none: the program is not there yet, or no more."""
    if traced.program.number < 0:
        return {}
    try:
        data = traced.session.ask_program(traced.device, traced.program.number)
        found: dict[str, Any] = json.loads(data)
    except (FarspanError, ValueError):
        return {}
    return found


def _within_trace(arguments: list[Tensor]) -> bool:
    """Return whether another compiled function is traced around this call: it shall see it all."""
    session = arguments[0]._ref.lane.session if arguments else _state.current()
    return session.traced is not None and session.tracer == threading.get_ident()


def _kind(value: Any, arguments: list[Tensor], others: list[Any]) -> Any:
    """Return what of an argument selects the program; tensors are collected."""
    if isinstance(value, Tensor):
        if value._levels:
            raise _Eager("an argument is a tensor of vmap")
        node = value._node
        if node is not None and type(node) is not tape.Leaf and mode.grad:
            raise _Eager("an argument has a history that gradients go through")
        if value._hooks or (node is not None and node.hooks):
            raise _Eager("an argument has hooks")
        if value._base is not None and value._base._node is not None and mode.grad:
            raise _Eager("an argument is a view that gradients go through")
        arguments.append(value)
        return value._spec, node is None, type(value), value._inference
    if isinstance(value, slice):
        return slice, _kind((value.start, value.stop, value.step), arguments, others)
    if isinstance(value, (float, complex)) and not value:
        return type(value), repr(value)  # -0.0 is another number than 0.0
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, (list, tuple)):
        return type(value), tuple([_kind(v, arguments, others) for v in value])
    if isinstance(value, dict):
        return dict, tuple([(k, _kind(v, arguments, others)) for k, v in value.items()])
    if isinstance(value, np.ndarray):
        raise _Eager("an argument is an array, whose values may change; pass a tensor")
    others.append(value)
    return id(value)
