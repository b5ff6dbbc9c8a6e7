"""What of a session outlives its client: names for its tensors, leaving it, and taking it over.

The part of `Session` that says what stays. `_keep.py` writes what a name stands for; the gateway
keeps that beside the session's journal. `_session.py` owns the state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ._gather import Ref
from ._keep import Claims, Memories, pack, unpack
from ._program import undefine
from .core import command as cmd
from .core import limits
from .core.errors import BadValueError

if TYPE_CHECKING:
    import threading

    from ._gather import Lane, Sealed
    from ._session import Transport


class Lasting:
    """The lasting half of a session; `_session.Session` owns the state."""

    id: str
    transport: Transport
    lanes: list[Lane]
    _lock: threading.RLock
    _ready: list[Sealed]
    _ended: str  # why nothing can be done any more, once it is over

    def __init__(self) -> None:
        super().__init__()
        #: By name: what it stands for, and the claims that hold it whatever the program drops.
        self._names: dict[str, tuple[str, Claims]] = {}
        self.memories = Memories()  # that names stand for
        #: The same of names that were given while nobody knows whether the gateway has taken them.
        self._unsure: dict[str, Claims] = {}

    if TYPE_CHECKING:

        def flush(self, device: int | None = None) -> None: ...
        def synchronize(self, device: int | None = None) -> None: ...
        def _ask(self, device: int, ids: tuple[int, ...], kind: int, about: int = 0) -> Any: ...
        def _leave(self, why: str) -> None: ...

    def keep(self, name: str, value: Any) -> None:
        """Give tensors of this session a name, under which they outlive this client.

        value: a tensor, a module or an optimizer (their state dicts), or dicts, lists and tuples of
        these and of plain numbers and strings; None takes the name back. The tensors themselves are
        kept, so what is later written into them shows; numbers are as they are now. Gradients and
        the history of computed tensors are not kept. Waits until the name survives whatever the
        session survives; `close` ends that too, so `detach` before. BadValueError.

        >>> import farspan
        >>> with farspan.connect("local:") as session:
        ...     session.keep("answer", {"x": farspan.ones(2), "step": 7})
        ...     session.kept["answer"]
        {'x': tensor([1., 1.]), 'step': 7}
        """
        if not isinstance(name, str) or not 0 < len(name.encode()) <= limits.KEPT_NAME_BYTES_MAX:
            raise BadValueError(f"keep: a name has 1 to {limits.KEPT_NAME_BYTES_MAX} bytes")
        body, claims = ("", {}) if value is None else pack(self, value)  # type: ignore[arg-type]
        self.flush()  # what makes the tensors goes first
        before = self._unsure.get(name, {})
        self._unsure[name] = {**before, **claims}
        try:
            self.transport.keep(name, body)  # a Ctrl-C here, and the name may stand for either
        except BadValueError:
            self._unsure[name] = before
            raise
        if value is None:
            self._names.pop(name, None)  # what nobody else holds is freed now
        else:
            self._names[name] = (body, claims)
        self._unsure.pop(name, None)

    @property
    def kept(self) -> Mapping[str, Any]:
        """What `keep` was given, by name; modules and optimizers as state dicts.

        Looking up a name does not wait. A state dict fits ``load_state_dict(state, assign=True)``,
        after which the module's parameters are the kept ones.
        """
        return _Kept(self)

    def detach(self) -> str:
        """Leave the session, which stays with what has a name, and return its id.

        `farspan.attach(id)` goes on with it, from any process of the same tenant. Waits until all
        commands have run and survive whatever the session survives. Afterwards this client's
        tensors raise SessionClosedError. BadValueError: the gateway keeps no session without its
        client. Raises errors of commands that nobody has read; then nothing has changed.
        """
        self.flush()
        self.synchronize()
        self.transport.detach()
        self._leave(f'this client has left the session; farspan.attach("{self.id}") goes on')
        return self.id

    # --- taking over -----------------------------------------------------------------------------
    def _take_over(self) -> None:
        """Take what the client before has kept and free the rest. Waits."""
        for name, body in self.transport.kept().items():
            self._names[name] = (body, self._unpacked(body)[1])
        kept = {id_ for _, claims in self._names.values() for id_ in claims}
        for lane in self.lanes:
            there = np.frombuffer(self._ask(lane.device, (), cmd.GET_IDS).data, np.int64)
            lane.freed.extend(i for i in there.tolist() if i not in kept)
            with self._lock:
                programs = range(limits.PROGRAMS_MAX)  # what the client before called by number
                self._ready += ((undefine(lane.device, programs), [None]),)
        self.flush()

    def _unpacked(self, body: str) -> tuple[Any, Claims]:
        known = {id_: each for _, claims in self._names.values() for id_, each in claims.items()}

        def claim(id_: int, device: int, nbytes: int) -> Any:
            if id_ not in known:
                known[id_] = (Ref(self, device, id_, nbytes), None)  # type: ignore[arg-type]
            return known[id_]

        return unpack(self, body, claim)  # type: ignore[arg-type]


class _Kept(Mapping[str, Any]):
    """The names of a session."""

    def __init__(self, session: Lasting) -> None:
        self._session = session

    def __getitem__(self, name: str) -> Any:
        return self._session._unpacked(self._session._names[name][0])[0]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._session._names))

    def __len__(self) -> int:
        return len(self._session._names)

    def __repr__(self) -> str:
        return f"<kept by session {self._session.id}: {', '.join(self) or 'nothing'}>"
