"""What one call costs the client: metadata from a memo, an id, a graph node, one command.

`apply` is the only way a tensor comes into being from an op. It never waits, except where the shape
of the result depends on values (`nonzero` and its kind). Read `_session.py` for where commands go.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from . import _state
from ._gather import Ref
from ._session import Session
from .core import limits, tape
from .core.call import fn
from .core.command import FUNCTIONAL, INPLACE
from .core.dtype import CPU, DTYPES, Defaults, Device
from .core.errors import AutogradError, DeviceError, ProgramError, ShapeError
from .core.family import common_device
from .core.spec import Spec, check_cast, check_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._tensor import Tensor
    from .core.op import Op


class _Mode(threading.local):
    """Whether ops are recorded; each thread has its own, as in torch."""

    grad = True
    inference = False
    transforms: tuple[Any, ...] = ()  # of farspan.func, outermost first: a Level or None each
    saved: Any = None  # hooks on what is saved: see autograd/graph.py
    mutation = False  # whether these hooks are those that allow writes
    forward = 0  # passes that will be differentiated by their seeds: a jvp under way


mode = _Mode()


class Storage:
    """The client's view of memory that tensors share: its size and how often it was written."""

    __slots__ = ("__weakref__", "_bytes", "_whole", "borrowed", "mirror", "version")
    mirror: Any  # bytes here: the place here of a copy whose address was asked for

    def __init__(self, nbytes: int, whole: Storage | None = None, borrowed: bool = False) -> None:
        self._bytes = nbytes
        self.version = 0
        self._whole = whole
        self.borrowed = borrowed  # the memory of somebody's array: it cannot grow

    @property
    def memory(self) -> Storage:
        """What is one object for all tensors on this memory, also for those of `.data`."""
        return self._whole or self

    @property
    def nbytes(self) -> int:
        """How long the memory is."""
        return self.memory._bytes

    def apart(self) -> Storage:
        """Return the same memory with a count of writes of its own."""
        return Storage(self._bytes, self.memory)


class OwnStorage:
    """Makes the storage of a tensor that has memory of its own, at its first use.

    Most tensors are never written to or viewed, and need none. If two threads are the first to ask,
    at one time, each may get one: then neither's writes are seen by what the other saves.
    """

    def __get__(self, t: Tensor | None, owner: type) -> Any:
        if t is None:
            return self
        spec, storage = t._spec, object.__new__(Storage)
        storage._bytes = spec.numel * spec.dtype.itemsize
        storage.version, storage._whole, storage.borrowed = 0, None, False
        t._storage = storage  # not by way of `__dict__`, which would make all of its reads slower
        return storage


class _Known:
    """The memoised metadata of one op on inputs of given specs."""

    __slots__ = (
        "device", "differentiable", "direct", "moved", "nbytes", "outs", "plain", "plans", "views",
        "work",
    )  # fmt: skip

    def __init__(self, op: Op, static: Any, specs: Sequence[Spec], scalars: Sequence[Any]) -> None:
        self.device = common_device(specs) if specs else None
        #: flat inputs that live elsewhere: 0-d CPU tensors that go along
        self.moved = [i for i, s in enumerate(specs) if s.device is not self.device]
        self.direct = False
        if self.moved:
            return
        self.outs, self.views = op.infer(op.recipe(static).args(specs, scalars))
        self.differentiable = any(s.dtype.category >= 2 for s in self.outs) or not self.outs
        self.nbytes = 0 if self.views else sum(s.nbytes for s in self.outs)
        #: one result with memory of its own, whose shape is known
        self.plain = len(self.outs) == 1 and not (self.views or op.dynamic or op.lists)
        #: results, or views, that are known to the last stride: `_quick.run` makes them
        odd = op.dynamic or op.lists or op.writes or op.random or op.body is not None
        self.direct = bool(specs and self.outs) and not odd and len(specs) < limits.WORK_IDS
        self.work = max(1, self.nbytes // limits.WORK_BYTES)
        self.plans: dict[int, Any] = {}  # by mask: see `_quick._plan`
        if not specs:
            self.device = self.outs[0].device if self.outs else CPU


_memo: dict[Any, _Known] = {}
#: What casts the inputs of ops while some thread casts automatically.
_casting: Callable[[Op, Any, Any], Any] | None = None


def set_casting(cast: Callable[[Op, Any, Any], Any] | None) -> None:
    """Let `cast(op, tensors, static)` return the inputs that an op runs on; None: as they are."""
    global _casting
    _casting = cast
    _say_usual()


#: Whether somebody stands between ops and their dispatch: see `_interpose.py`.
_interposed = False


def set_interposed(interposed: bool) -> None:
    """Say whether ops pass through somebody's hands before `apply`."""
    global _interposed
    _interposed = interposed
    _say_usual()


def _say_usual() -> None:
    from . import _quick

    _quick.set_usual(not _interposed and _casting is None)


_run: Any = None  # `_quick.run`, which needs what is here


_new: Any = None  # `Tensor._new`
_new_object: Final = object.__new__
type_of_tensors: Any = None  # `Tensor`


def set_runner(run: Callable[..., Any], cls: type[Tensor]) -> None:
    """Let `run(op, static, scalars, tensors, facts, depth)` issue what is `direct`."""
    global _run, _new, type_of_tensors
    _run, _new, type_of_tensors = run, cls._new, cls


def known(op: Op, static: Any, specs: Sequence[Spec], scalars: Sequence[Any]) -> _Known:
    """Return the metadata of an op's results; raises what the op's metadata rule raises."""
    key = (op, static, Defaults.dtype, *specs)
    if op.by_value:
        key += tuple([(type(x), x) for x in scalars])
    found = _memo.get(key)
    if found is None:
        if len(_memo) > limits.MEMO_ENTRIES_MAX:
            _memo.clear()
        try:
            found = _Known(op, static, specs, scalars)
        except ProgramError as e:
            raise type(e)(f"{op.base}(): {e}") from None
        _memo[key] = found
    return found


def apply(
    cls: type[Tensor],
    op: Op,
    tensors: Sequence[Tensor],
    static: Any,
    scalars: tuple[Any, ...],
    form: int,
) -> Any:
    """Issue one op; return its output, or a tuple of them."""
    if form == INPLACE:
        return _apply_inplace(op, tensors, static, scalars)
    if form != FUNCTIONAL:
        return _apply_out(cls, op, tensors, static, scalars)
    if _casting is not None:
        tensors = _casting(op, tensors, static)
    facts = _memo.get((op, static, Defaults.dtype, *[t._spec for t in tensors]))
    if facts is None:
        facts = known(op, static, [t._spec for t in tensors], scalars)
    if facts.moved:
        moved = [t if i not in facts.moved else _move(t, facts.device)
                 for i, t in enumerate(tensors)]  # fmt: skip
        return apply(cls, op, moved, static, scalars, form)
    if facts.direct:
        result = _run(op, static, scalars, tensors, facts, 2)
        if result is not NotImplemented:
            return result
    session, ids, mask = _inputs(tensors)
    device = tensors[0]._ref.device if tensors else session.index_of(facts.device)  # type: ignore[arg-type]
    if op.random and device and facts.device.type == "cpu":  # type: ignore[union-attr]
        return _apply_random(cls, op, tensors, static, scalars, facts)
    plan = None
    if mask and mode.grad and facts.differentiable:
        plan = op.vjp_plan(static, mask)
    bits = plan.mask << 2 if plan is not None else 0
    if facts.plain:  # the common case, spelled out
        spec = facts.outs[0]
        id_ = next(session._ids)
        ids.append(id_)
        number = session.issue(device, op.opcode, bits, ids, static, scalars, facts.nbytes)
        result = cls._new(Ref(session, device, id_, facts.nbytes), spec)
        if plan is not None:
            node = tape.record(op, plan, tensors, (result,), static, scalars)
            node.number, node.site = number, session.last_site
        return result
    # Places are checked before anything is issued: a worker takes a view beyond its storage for
    # a broken client, and ends the session.
    places = [place(tensors[0], op, spec, offset) for spec, offset in facts.views]
    outs = [session.new_id() for _ in facts.outs]
    number = session.issue(device, op.opcode, bits, ids + outs, static, scalars, facts.nbytes)
    if op.writes:
        _bump(op, static, tensors)
        return None
    if op.dynamic:
        results = [_sized(session, device, i, facts.device) for i in outs]  # type: ignore[arg-type]
    elif facts.views:
        results = [
            view_of(tensors[0], op, Ref(session, device, i), spec, place)
            for i, (spec, _), place in zip(outs, facts.views, places, strict=True)
        ]
    else:
        results = [
            wrap(Ref(session, device, i, spec.nbytes), spec)
            for i, spec in zip(outs, facts.outs, strict=True)
        ]
    if plan is not None:
        node = tape.record(op, plan, tensors, results, static, scalars)
        node.number, node.site = number, session.last_site
    if op.lists and op.family == "view":
        for r in results:
            r._made_by = "lists"
    return results[0] if len(results) == 1 and not op.lists else tuple(results)


def _move(t: Tensor, device: Device | None) -> Tensor:
    from ._methods import move

    return t if t._spec.device is device else move(t, device)  # type: ignore[arg-type]


def _inputs(tensors: Sequence[Tensor]) -> tuple[Session, list[int], int]:
    """Return the session, the ids, and the mask of inputs that need a gradient."""
    if not tensors:
        return _state.current(), [], 0
    session = tensors[0]._ref.session
    ids = []
    mask = 0
    for i, t in enumerate(tensors):
        ref = t._ref
        if ref.session is not session:
            raise DeviceError(
                f"tensors of two sessions in one operation: session {session.id} at "
                f"{session.address} and session {ref.session.id} at {ref.session.address}"
            )
        ids.append(ref.id)
        if t._base is not None and t._generation != t._base._generation:
            tape.edge_of(t)
        if t._node is not None:
            mask |= 1 << i
    return session, ids, mask


def wrap(ref: Ref, spec: Spec, offset: int = 0, storage: Storage | None = None) -> Tensor:
    """Return the proxy of a tensor that a session holds."""
    t = _new(ref, spec, storage)
    if offset:
        t._offset = offset
    return t  # type: ignore[no-any-return]


def place(x: Tensor, op: Op, spec: Spec, offset: int) -> int:
    """Return where a view begins in the storage of x. ShapeError: it does not fit into it."""
    offset += x._offset if x._spec.dtype is spec.dtype else _own_offset(x, spec)
    end = (offset + spec.span()) * spec.dtype.itemsize if spec.numel else 0
    if op.anywhere and (offset < 0 or end > x._storage.nbytes):
        raise ShapeError(
            f"setStorage: sizes {list(spec.shape)}, strides {list(spec.stride)}, storage offset "
            f"{offset}, and itemsize {spec.dtype.itemsize} requiring a storage size of "
            f"{end} are out of bounds for storage of size "
            f"{x._storage.nbytes}"
        )
    return offset


def view_of(x: Tensor, op: Op, ref: Ref, spec: Spec, offset: int) -> Tensor:
    out: Any = _new_object(type_of_tensors)
    out._ref, out._spec, out._node = ref, spec, None
    out._storage = x._storage.apart() if op.unversioned else x._storage
    if offset:
        out._offset = offset
    if op.detaches:
        out._base = None
    else:
        out._base = base = x if x._base is None else x._base
        generation = base._generation
        if generation:
            out._generation = generation
        if x._in_no_grad or not mode.grad:
            out._in_no_grad = True
        if x._made_by:
            out._made_by = x._made_by
    if x._inference:
        out._inference = True
    return out


def _own_offset(x: Tensor, spec: Spec) -> int:
    """Return where x begins in its storage, in elements of the view's dtype."""
    have, want = x._spec.dtype, spec.dtype
    if have.itemsize == want.itemsize:
        return x._offset
    if x._offset * have.itemsize % want.itemsize:
        raise ShapeError(
            f"self.storage_offset() must be divisible by {want.itemsize // have.itemsize} to view "
            f"{have.c_name} as {want.c_name} (different element sizes), but "
            f"got {x._offset}"
        )
    return x._offset * have.itemsize // want.itemsize


def _sized(session: Session, device: int, id_: int, place: Device) -> Tensor:
    """Return the proxy of a result whose shape only the worker knows. Waits."""
    ref = Ref(session, device, id_)
    answer = session.spec_of(ref)
    spec = Spec.make(tuple(answer.shape), DTYPES[answer.dtype], place)
    session.lanes[device].held[id_] = spec.nbytes
    return wrap(ref, spec)


def _bump(op: Op, static: Any, tensors: Sequence[Tensor]) -> None:
    slots = op.recipe(static).slots
    for at in op.written:
        slot = slots.get(at, ())
        for i in (slot,) if isinstance(slot, int) else slot:
            if i is not None:
                tensors[i]._storage.version += 1


def _apply_random(
    cls: type[Tensor], op: Op, tensors: Any, static: Any, scalars: Any, facts: _Known
) -> Any:
    """Draw on the session's first CPU device, which keeps the generator, and send the numbers on.

    So a program draws the same numbers however its tensors are spread.
    """
    home = tensors[0]._ref.session.default_device if tensors else None
    if tensors:
        near = [_move(t, home) for t in tensors]
        result = apply(cls, op, near, static, scalars, FUNCTIONAL)
    else:
        at = str(facts.device)
        near_static = tuple(["cpu" if x == at else x for x in static])
        result = apply(cls, op, (), near_static, scalars, FUNCTIONAL)
    if isinstance(result, tuple):
        return tuple(_move(r, facts.device) for r in result)
    return _move(result, facts.device)


# ------------------------------------------------------------------------------------ in place --
_WHY_NOT_WRITTEN: Final = {
    "lists": (
        "This view is the output of a function that returns multiple views. Such functions do not "
        "allow the output views to be modified inplace. You should replace the inplace operation "
        "by an out-of-place one."
    ),
    "function": (
        "This view was created inside a custom Function (or because an input was returned as-is) "
        "and the autograd logic to handle view+inplace would override the custom backward "
        "associated with the custom Function, leading to incorrect gradients. This behavior is "
        "forbidden. You can fix this by cloning the output of the custom Function."
    ),
}


def check_graph(target: Tensor) -> None:
    """Raise what torch raises where writing to `target` would falsify gradients."""
    if target._inference and not mode.inference:
        raise AutogradError(
            "Inplace update to inference tensor outside InferenceMode is not allowed. You can make "
            "a clone to get a normal tensor before doing inplace update. See "
            "https://github.com/pytorch/rfcs/pull/17 for more details."
        )
    if not mode.grad:
        return
    base = target._base
    if target._node is not None:
        if type(target._node) is tape.Leaf:
            raise AutogradError(
                "a leaf Variable that requires grad is being used in an in-place operation."
            )
        if target._made_by:
            name = target.grad_fn.name().rstrip("0123456789").removesuffix("Backward")
            raise AutogradError(
                f"Output {target._index} of {name} is a view and is being modified inplace. "
                + _WHY_NOT_WRITTEN[target._made_by]
            )
    if base is not None and type(base._node) is tape.Leaf:
        if target._in_no_grad == "inference":
            _check_view_of_no_grad(target, 0, True)
        raise AutogradError(
            "a view of a leaf Variable that requires grad is being used in an in-place operation."
        )


def check_memory(spec: Spec) -> None:
    """Raise if two elements of the tensor are one in memory."""
    for n, s in zip(spec.shape, spec.stride, strict=True):
        if s == 0 and n > 1:
            raise ShapeError(
                "unsupported operation: more than one element of the written-to tensor refers to a "
                "single memory location. Please clone() the tensor before performing the operation."
            )


def _check_view_of_no_grad(target: Tensor, mask: int, inference: bool) -> None:
    """Raise where a recorded write would go through a view that no gradient goes through."""
    made, block, now = ("no_grad mode", "no_grad block", "with grad mode enabled")
    if inference:
        made, block, now = ("inference mode", "inference_mode block", "in normal mode")
    if mask or (target._base is not None and tape.edge_of(target._base) is not None):
        raise AutogradError(
            f"A view was created in {made} and is being modified inplace {now}. Given that this "
            "use case is ambiguous and error-prone, it is forbidden. You can clarify your code by "
            f"moving both the view and the inplace either both inside the {block} (if you don't "
            "want the inplace to be tracked) or both outside (if you want the inplace to be "
            "tracked)."
        )


def check_overlap(target: Tensor, inputs: Sequence[Tensor]) -> None:
    """Raise if an input and what is written share some memory but are not the same elements.

    The rule of `get_overlap_status` in ATen/MemoryOverlap.cpp: where one of them has gaps, nobody
    looks closely.
    """
    spec = target._spec
    for x in inputs:
        if x._storage.memory is not target._storage.memory or x is target:
            continue
        have = x._spec
        if not (have.numel and spec.numel and have.dense and spec.dense):
            continue
        begin, at = x._offset * have.dtype.itemsize, target._offset * spec.dtype.itemsize
        if begin + have.nbytes <= at or at + spec.nbytes <= begin:
            continue
        if begin != at or have.nbytes != spec.nbytes or have.stride != spec.stride:
            raise ShapeError(
                "unsupported operation: some elements of the input tensor and the written-to "
                "tensor refer to a single memory location. Please clone() the tensor before "
                "performing the operation."
            )


def _apply_inplace(op: Op, tensors: Sequence[Tensor], static: Any, scalars: Any) -> Tensor:
    """Store an op's result into its first tensor; its graph is rewritten."""
    target = tensors[0]
    check_graph(target)
    facts = known(op, static, [t._spec for t in tensors], scalars)
    if facts.moved:
        tensors = [t if i not in facts.moved else _move(t, facts.device)
                   for i, t in enumerate(tensors)]  # fmt: skip
        return _apply_inplace(op, tensors, static, scalars)
    out = facts.outs[0]
    check_stored(out, target._spec)
    itself = op.base == "copy" and tensors[1] is target
    if not itself and op.base not in ("zero", "fill"):  # which may write an element twice
        check_memory(target._spec)
    if op.family == "pointwise" or op.base == "copy":
        check_overlap(target, tensors[1:])
    session, ids, mask = _inputs(tensors)
    device = session.index_of(target._spec.device)
    if op.random and device and target._spec.device.type == "cpu":
        fn.copy_(target, _apply_random(type(target), op, tensors, static, scalars, facts))
        return target
    if mask and target._made_by and mode.grad:
        raise AutogradError(
            "A view was created in no_grad mode and is being modified inplace with grad mode "
            "enabled. " + _WHY_NOT_WRITTEN[target._made_by]
        )
    if target._in_no_grad and mode.grad:
        _check_view_of_no_grad(target, mask, target._in_no_grad == "inference")
    plan = None
    if mask and mode.grad and target._spec.dtype.category >= 2:
        plan = op.vjp_plan(static, mask)
        if plan is None or 0 in plan.saved_args:
            # The formula needs the old value; or there is none, as of a comparison, and the
            # gradient ends here: compute aside from a clone, then copy over.
            old = fn.clone(target)
            result = apply(type(target), op, (old, *tensors[1:]), static, scalars, FUNCTIONAL)
            fn.copy_(target, result)
            return target
    bits = INPLACE if plan is None else plan.mask << 2 | INPLACE
    number = session.issue(device, op.opcode, bits, ids, static, scalars)
    target._storage.version += 1
    if plan is not None:
        node = tape.record_inplace(op, plan, tensors, static, scalars)
        node.number, node.site = number, session.last_site
    return target


def _apply_out(
    cls: type[Tensor], op: Op, tensors: Sequence[Tensor], static: Any, scalars: Any
) -> Any:
    """Compute aside and write into the `out=` tensors, which take the result's shape."""
    flat = op.recipe(static).flat
    inputs, outs = tensors[:flat], tensors[flat:]
    if mode.grad and any(t.requires_grad for t in tensors):
        raise AutogradError(
            f"{op.base}(): functions with out=... arguments don't support automatic "
            "differentiation, but one of the arguments requires grad."
        )
    if op.family == "pointwise":
        for out in outs:
            check_overlap(out, inputs)
    results = apply(cls, op, inputs, static, scalars, FUNCTIONAL)
    for out, result in zip(outs, results if type(results) is tuple else (results,), strict=True):
        write_out(out, result)
    return outs[0] if len(outs) == 1 else tuple(outs)


def write_out(out: Tensor, result: Tensor) -> None:
    """Put a result into an `out=` tensor: over its elements, or in their place if shapes differ."""
    check_cast(result._spec.dtype, out._spec.dtype)
    if out._spec.shape == result._spec.shape:
        fn.copy_(out, result)
    else:
        out._become(result if result.dtype is out.dtype else fn._cast(result, out.dtype))
