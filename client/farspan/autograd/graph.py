"""The graph from outside: nodes and edges, hooks on what is saved, hooks on several gradients."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from .. import _dispatch, _interpose, _walk
from .._dispatch import mode
from .._grad_fn import GradFn
from .._tensor import Tensor
from .._walk import Packed, unpack_saved
from ..core import tape
from ..core.call import fn
from ..core.command import FUNCTIONAL
from ..core.errors import AutogradError, BadValueError, UnsupportedError

__all__ = [
    "GradientEdge", "Node", "allow_mutation_on_saved_tensors", "disable_saved_tensors_hooks",
    "get_gradient_edge", "increment_version", "region_activation_memory_budget",
    "register_multi_grad_hook", "save_on_cpu", "saved_tensors_hooks",
    "set_override_stale_capture_stream", "set_warn_on_accumulate_grad_stream_mismatch",
]  # fmt: skip

#: What `grad_fn` is: ``isinstance(y.grad_fn, Node)``.
Node = GradFn


class GradientEdge(NamedTuple):
    """Where a gradient goes. `backward` and `grad` take it in place of the tensor."""

    node: Any
    output_nr: int
    ownership_token: Any = None  # the tensor; it keeps what the edge needs


def get_gradient_edge(tensor: Tensor) -> GradientEdge:
    """Return the place to which the gradient of a tensor goes."""
    edge = tape.edge_of(tensor)
    if edge is None:
        raise AutogradError(
            "It is not possible to get the gradient edge for a Tensor that does not require "
            "gradients"
        )
    return GradientEdge(GradFn(edge[0]), edge[1], tensor)


def increment_version(tensor: Tensor | Iterable[Tensor]) -> None:
    """Note a write that the library has not seen, so that backward can tell."""
    for t in (tensor,) if isinstance(tensor, Tensor) else tensor:
        if not t.is_inference():
            t._storage.version += 1


# ------------------------------------------------------------------------------- saved tensors --
class _Saved:
    """The innermost hooks of this thread, and why there may be none."""

    def __init__(self) -> None:
        self.stack: list[tuple[Any, Any]] = []
        self.refusal: str | None = None


def _saved() -> _Saved:
    found: _Saved | None = mode.saved
    if found is None:
        found = mode.saved = _Saved()
    return found


class saved_tensors_hooks:
    """What ops inside save for backward goes through `pack_hook`, and comes by `unpack_hook`.

    pack_hook(tensor) returns anything; unpack_hook of that returns a tensor like it. They run here,
    on the client, and so does a pass over what they packed; the worker keeps nothing of it.
    """

    def __init__(self, pack_hook: Callable[[Tensor], Any], unpack_hook: Callable[[Any], Tensor]):
        self.pack_hook, self.unpack_hook = pack_hook, unpack_hook

    def __enter__(self) -> None:
        saved = _saved()
        if saved.refusal is not None:
            raise AutogradError(saved.refusal)
        saved.stack.append((self.pack_hook, self.unpack_hook))
        _interpose.add(_interpose.SAVED, _pack)

    def __exit__(self, *exc: object) -> None:
        _saved().stack.pop()
        _interpose.remove(_interpose.SAVED, _pack)


def _pack(call: Any, op: Any, tensors: Any, static: Any, scalars: Any, form: int) -> Any:
    """Run an op without the worker's tape, record it here, and pack what it saves."""
    saved = _saved()
    if not saved.stack or not mode.grad:
        return call(op, tensors, static, scalars, form)
    plan = _plan(op, tensors, static, scalars, form)
    if plan is None:
        made = call(op, tensors, static, scalars, form)
        node = getattr(made, "_node", None)
        if form != FUNCTIONAL and node is not None:
            _pack_node(node, *saved.stack[-1])
        return made
    mode.grad = False
    try:
        made = call(op, tensors, static, scalars, form)
    finally:
        mode.grad = True
    results = made if isinstance(made, tuple) else (made,)
    node = tape.record(op, plan, tensors, results, static, scalars)
    session = results[0].session
    node.number, node.site = session.last_number, session.last_site
    _pack_node(node, *saved.stack[-1])
    return made


def _plan(op: Any, tensors: Any, static: Any, scalars: Any, form: int) -> Any:
    """Return the plan of a functional op that saves something, else None."""
    if form != FUNCTIONAL or op.family == "view" or op.dynamic or op.writes:
        return None
    mask = sum(1 << i for i, t in enumerate(tensors) if tape.edge_of(t) is not None)
    if not mask:
        return None
    facts = _dispatch.known(op, static, [t._spec for t in tensors], scalars)
    if facts.moved or not facts.differentiable:
        return None
    plan = op.vjp_plan(static, mask)
    return plan if plan is not None and (plan.saved_args or plan.saved_outs) else None


def _pack_node(node: tape.Node, pack: Any, unpack: Any) -> None:
    for name, entry in list(node.saved.items()):
        if type(entry) is Packed or (
            isinstance(entry, list) and any(type(e) is Packed for e in entry)
        ):
            continue
        if isinstance(entry, list):
            node.saved[name] = [
                None if e is None else _packed(unpack_saved(node, name, e), pack, unpack)
                for e in entry
            ]
        else:
            node.saved[name] = _packed(unpack_saved(node, name, entry), pack, unpack)
    node.versions = ()
    if node.hooks is None:
        node.hooks = {}
    node.hooks["saved"] = True  # a pass over this node is walked here


def _packed(x: Tensor, pack: Any, unpack: Any) -> Packed:
    version = x._storage.version
    before, mode.grad = mode.grad, False
    try:
        value = pack(x)
    finally:
        mode.grad = before
    if x._storage.version != version:
        raise AutogradError(
            "A saved tensor pack hook is modifying its input in place. Tensors provided as input to"
            " pack hook can not be modified by in-place operations as this can lead to unexpected "
            "side-effects. Please open an issue if you need to perform in-place operations on the "
            "input to a pack hook."
        )
    return Packed(value, unpack, x._spec)


def pack_saved(x: Tensor) -> Any:
    """Return what a Function keeps of a tensor: packed, if hooks are in."""
    stack = _saved().stack
    return _packed(x, *stack[-1]) if stack else None


class save_on_cpu(saved_tensors_hooks):
    """Keep on the session's first CPU device what ops inside save, until backward needs it."""

    def __init__(self, pin_memory: bool = False, device_type: str = "cuda") -> None:
        def pack(x: Tensor) -> Any:
            return x.device, x.cpu()  # type: ignore[attr-defined]

        def unpack(packed: Any) -> Tensor:
            device, x = packed
            return x.to(device)  # type: ignore[no-any-return]

        super().__init__(pack, unpack)


@contextlib.contextmanager
def disable_saved_tensors_hooks(error_message: str) -> Iterator[None]:
    """Let entering `saved_tensors_hooks` inside be an error with this message."""
    saved = _saved()
    before, saved.refusal = saved.refusal, error_message
    try:
        yield
    finally:
        saved.refusal = before


class _Mutation:
    """What `allow_mutation_on_saved_tensors` yields."""

    def clear(self) -> None:
        """Nothing is kept beside the graph itself."""


@contextlib.contextmanager
def allow_mutation_on_saved_tensors() -> Iterator[_Mutation]:
    """Let tensors that ops inside saved be written to: backward sees what they were.

    torch copies at the first write, this at once: the client does not see who else writes.
    """
    if mode.mutation:
        raise AutogradError("allow_mutation_on_saved_tensors contexts cannot be nested")
    mode.mutation = True
    try:
        with saved_tensors_hooks(lambda x: fn.clone(fn.detach(x)), lambda x: x):
            yield _Mutation()
    finally:
        mode.mutation = False


# ---------------------------------------------------------------------------- several gradients --
class _Handles:
    """Removes several hooks together."""

    def __init__(self, handles: Sequence[Any]) -> None:
        self.handles = tuple(handles)

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()

    def __enter__(self) -> _Handles:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


def register_multi_grad_hook(
    tensors: Sequence[Tensor], fn: Callable[..., None], *, mode: str = "all"
) -> _Handles:
    """Call `fn` once a pass: with all gradients of `tensors`, or ("any") with the first to come.

    Tensors that the pass does not reach are not waited for; their gradient is None.
    """
    if mode not in ("all", "any"):
        raise BadValueError(f"Expects mode to be one of ('all', 'any') but got {mode}")
    count = len(tensors)
    passes: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()

    def arrived(at: int, gradient: Tensor) -> None:
        watch = _walk.current.watch
        begun = watch in passes
        if mode == "any":
            passes.setdefault(watch, [])
            if not begun:
                fn(gradient)
            return
        entry = passes.setdefault(watch, [None] * count)
        entry[at] = gradient
        expected = [i for i, t in enumerate(tensors) if watch.reaches(tape.edge_of(t))]
        if all(entry[i] is not None for i in expected):
            fn(list(entry))

    def hook_of(at: int) -> Callable[[Tensor], None]:
        return lambda gradient: arrived(at, gradient)

    chosen = [(i, t) for i, t in enumerate(tensors) if mode == "all" or t.requires_grad]
    return _Handles([t.register_hook(hook_of(i)) for i, t in chosen])


# ------------------------------------------------------------------------------- not for workers --
def set_warn_on_accumulate_grad_stream_mismatch(enabled: bool) -> None:
    """Nothing to warn of: a device has one stream."""


def set_override_stale_capture_stream(enabled: bool) -> None:
    """Nothing to override: commands are not captured."""


def region_activation_memory_budget(*args: Any, **kwargs: Any) -> Any:
    raise UnsupportedError(
        "region_activation_memory_budget belongs to torch.compile's partitioner, which farspan does"
        " not have; use farspan.utils.checkpoint to trade time for memory"
    )
