"""What a session keeps under a name, as JSON: tensors by their ids, and plain values around them.

`pack` writes what `unpack` reads, in this client or in one that takes the session over. No tensor's
values are in it: they stay where they are. Nothing in it executes. `_lasting.py` says when.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, WeakValueDictionary

from .core import limits
from .core.dtype import DTYPES
from .core.errors import BadValueError, ProtocolError
from .core.spec import Spec

if TYPE_CHECKING:
    from ._dispatch import Storage
    from ._gather import Ref
    from ._session import Session
    from ._tensor import Tensor

#: What holds tensors: by id, the claim on it and the client's view of its memory.
Claims = dict[int, tuple["Ref", "Storage"]]

_FORMAT: Final = 1
_TENSOR, _PARAMETER, _BUFFER, _PASSING_BUFFER = range(4)


class Memories:
    """Numbers for memories, the same in all that a session keeps: what lies there are aliases."""

    def __init__(self) -> None:
        self._number_of: WeakKeyDictionary[Storage, int] = WeakKeyDictionary()
        self._memory_at: WeakValueDictionary[int, Storage] = WeakValueDictionary()
        self._last = 0

    def number(self, memory: Storage) -> int:
        """Return the number of a memory; a new one if it has none."""
        if memory not in self._number_of:
            self.know(self._last + 1, memory)
        return self._number_of[memory]

    def at(self, number: int) -> Storage | None:
        """Return the memory of a number, if this client has it."""
        return self._memory_at.get(number)

    def know(self, number: int, memory: Storage) -> None:
        """Take a number that the client before has given."""
        self._last = max(self._last, number)
        self._number_of[memory] = number
        self._memory_at[number] = memory


def pack(session: Session, value: Any) -> tuple[str, Claims]:
    """Return a value as JSON, and the claims on what it names.

    Modules and optimizers stand for their state dicts. BadValueError: it cannot be kept.
    """
    packing = _Packing(session)
    packed = packing.pack(value, 0)
    memories = [[m.nbytes, m.version, session.memories.number(m)] for m in packing.memories]
    whole = {"format": _FORMAT, "value": packed, "tensors": packing.rows, "memories": memories}
    body = json.dumps(whole, separators=(",", ":"))
    if len(body) > limits.KEPT_BODY_BYTES_MAX:
        raise BadValueError(
            f"keep: what describes the value takes {len(body)} bytes, at most "
            f"{limits.KEPT_BODY_BYTES_MAX} ({len(packing.rows)} tensors); keep it in several parts"
        )
    return body, packing.claims


class _Packing:
    """The tensors of one value, each once, and the memories they lie in."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.rows: list[Any] = []
        self.claims: Claims = {}
        self.memories: list[Storage] = []
        self._row_of: dict[int, int] = {}  # by id(): aliases by name stay one object
        self._alive: list[Any] = []  # so that no id() is used twice

    def pack(self, value: Any, depth: int) -> Any:
        from ._tensor import Tensor

        if depth > limits.KEPT_DEPTH_MAX:
            raise BadValueError(f"keep: nested deeper than {limits.KEPT_DEPTH_MAX}")
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, Tensor):
            return {"x": self._row(value)}
        if isinstance(value, Mapping):
            return {"d": [[_key(k), self.pack(v, depth + 1)] for k, v in value.items()]}
        if isinstance(value, list | tuple):
            items = [self.pack(item, depth + 1) for item in value]
            return {"l" if isinstance(value, list) else "t": items}
        state = _state_of(value)
        if state is None:
            raise BadValueError(
                f"keep: a {type(value).__name__} cannot be kept; keep tensors, modules, optimizers,"
                " and dicts, lists and tuples of these and of plain numbers and strings"
            )
        return self.pack(state, depth)

    def _row(self, t: Tensor) -> int:
        found = self._row_of.get(id(t))
        if found is not None:
            return found
        if t._levels or t._ref.session is not self.session:
            raise BadValueError("keep: a tensor of another session, or one inside of vmap")
        alive = t if t.is_leaf else t.detach()  # type: ignore[attr-defined]  # without its history
        self._alive += (t, alive)
        storage = alive._storage
        memory = next((k for k, m in enumerate(self.memories) if m is storage.memory), None)
        if memory is None:
            memory = len(self.memories)
            self.memories.append(storage.memory)
        ref, spec = alive._ref, alive._spec
        self.claims[ref.id] = (ref, storage)
        self._row_of[id(t)] = len(self.rows)
        stride = None if spec.contiguous else spec.stride
        where = (ref.id, ref.device, spec.dtype.code, spec.shape, stride, alive._offset)
        self.rows.append([*where, memory, t.requires_grad, _kind(t)])
        return len(self.rows) - 1


def _state_of(value: Any) -> Any:
    """Return the state dict of a module or an optimizer, its Parameters as they are; else None."""
    from .nn import Module
    from .optim import Optimizer

    if isinstance(value, Module):
        return value.state_dict(keep_vars=True)
    return value.state_dict() if isinstance(value, Optimizer) else None


def _kind(t: Tensor) -> int:
    from .nn.parameter import Buffer, Parameter

    if isinstance(t, Buffer):
        return _BUFFER if t.persistent else _PASSING_BUFFER
    return _PARAMETER if isinstance(t, Parameter) else _TENSOR


def _key(key: Any) -> Any:
    if type(key) not in (str, int, float, bool, type(None)):
        raise BadValueError(f"keep: a dict with a key that is a {type(key).__name__}")
    return key


def unpack(
    session: Session, body: str, claim: Callable[[int, int, int], Any]
) -> tuple[Any, Claims]:
    """Return a packed value, its tensors alive in the session, and the claims on them.

    claim(id, device, bytes): the claim that there is, or a new one, and the memory that belongs
    to it, or None. ProtocolError: it is no such JSON.
    """
    try:
        whole = json.loads(body)
        if whole["format"] != _FORMAT:
            raise ProtocolError("kept by another release of farspan, in a format not known here")
        tensors, claims = _tensors(session, whole["tensors"], whole["memories"], claim)
        return _unpacked(whole["value"], tensors), claims
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ProtocolError(f"kept: not as this client would write it: {error!r}") from None


def _tensors(
    session: Session, rows: list[Any], sizes: list[Any], claim: Callable[[int, int, int], Any]
) -> tuple[list[Tensor], Claims]:
    from ._dispatch import Storage
    from ._tensor import Tensor

    made: list[Tensor] = []
    claims: Claims = {}
    memories: dict[int, Storage] = {}
    for id_, device, code, shape, stride, offset, memory, grad, kind in rows:
        where = session.devices[device]
        given = tuple(shape), DTYPES[code], where, None if stride is None else tuple(stride)
        spec = Spec.make(*given)
        nbytes, version, *numbers = sizes[memory]  # one, or none from an older client
        known = memories.get(memory)
        if known is None and numbers:
            known = session.memories.at(numbers[0])
        ref, storage = claim(id_, device, 0 if known is not None else spec.nbytes)
        whole = storage.memory if storage is not None else known
        if whole is None:
            whole = Storage(nbytes)
        whole.version = max(whole.version, version)
        if numbers:
            session.memories.know(numbers[0], whole)
        memories.setdefault(memory, whole)
        claims[id_] = (ref, storage or whole)
        t = Tensor._new(ref, spec, storage or whole)
        t._offset = offset
        made.append(_as_kind(t, kind, bool(grad)))
    return made, claims


def _as_kind(t: Tensor, kind: int, grad: bool) -> Tensor:
    from .nn.parameter import Buffer, Parameter

    if kind != _TENSOR:
        t.__class__ = Parameter if kind == _PARAMETER else Buffer
        if isinstance(t, Buffer):
            t.persistent = kind == _BUFFER
    if grad:
        t.requires_grad_()
    return t


def _unpacked(packed: Any, tensors: list[Tensor]) -> Any:
    if not isinstance(packed, dict):
        return packed
    ((kind, items),) = packed.items()
    if kind == "x":
        return tensors[items]
    if kind == "d":
        return {key: _unpacked(item, tensors) for key, item in items}
    found = [_unpacked(item, tensors) for item in items]
    return found if kind == "l" else tuple(found)
