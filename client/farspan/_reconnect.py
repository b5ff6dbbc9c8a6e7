"""The half of a transport that outlasts its streams: what breaks is dialled again and resumed.

A thread of its own dials, with growing pauses, until the gateway welcomes the session back or the
time for it is over; whoever waits for a value meanwhile waits a little longer. What is sent again
and what is known already is decided by `_ledger.py`.
"""

from __future__ import annotations

import functools
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import grpc

from farspan import wire
from farspan._bulk import Bulk
from farspan._ledger import Ledger
from farspan._stream import Stream
from farspan.core import limits
from farspan.core.command import Lost
from farspan.core.errors import BY_NAME, ProtocolError

log = logging.getLogger("farspan")

#: Of a call that a fault between client and gateway may have ended; others say what is wrong.
_BROKEN: Final = frozenset(
    (
        grpc.StatusCode.OK,  # the stream ended without a word
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNKNOWN,
    )
)
#: What a gateway may say to a resume and take back a moment later.
_PASSING: Final = frozenset(("CapacityError", "ConnectError", "ServiceError"))

_T = TypeVar("_T")


class Reconnecting(Bulk):
    """The lasting half of `_transport.GrpcTransport`, which owns the session's state."""

    _welcome: wire.Welcome | None
    _devices: tuple[wire.Device, ...]
    _closing: bool
    _lost: Lost | None
    _taking: threading.Lock

    def __init__(self, reconnect_s: float | None) -> None:
        super().__init__()
        self._ledger = Ledger()
        self._hello = wire.Hello("")
        self._control: grpc.Channel | None = None
        self._stream: Stream | None = None
        self._attempt = 0  # streams of this client, the last one's number; 0 is the first
        self._secret = b""  # proves that a stream is this client's; empty: none may follow
        self._asked_s = reconnect_s
        self._patience_s = 0.0  # how long a gateway may be away
        self._dialling = False  # there is a thread that does
        self._failed = -1  # the last attempt that came to nothing
        self._why = ""  # the last stream ended
        self._refusal = ""  # the kind of error that a gateway refused it with; "": it broke
        self._tries = 0  # since the session last got anywhere
        self._until = 0.0  # the end of patience; 0: it has not been asked for
        self._welcomed_at = 0.0
        self._applied_then = 0  # the last ack when the stream broke before
        self._reserved = False  # workers were asked for
        self._confirmed = 0  # the last ack before which all was taken
        self._confirmed_said = 0
        self._events_unsaid = self._bytes_unsaid = 0  # event lists since then
        self._owes = threading.Event()  # something is to be confirmed
        self._confirms_itself = False  # there is a thread that does it if nothing else is sent

    if TYPE_CHECKING:

        def _take(self, number: int, message: bytes) -> None: ...
        def _lose(self, lost: Lost) -> None: ...
        def _wait_until(self, ready: Callable[[], bool], timeout: float) -> bool: ...

    # --- streams ---------------------------------------------------------------------------------
    def _dial(self, hello: wire.Hello) -> None:
        """Open a stream on a connection of its own, and say who it is."""
        number = self._attempt
        before, self._control = self._control, self._make_channel()
        if before is not None:
            before.close()
        stream = Stream(
            self._control.stream_stream(f"/{wire.SERVICE}/Session"),
            self._metadata,
            functools.partial(self._take, number),
            functools.partial(self._ended, number),
            self._confirms,
        )
        self._stream = stream  # before the hello: its answer may lead to what is put there
        stream.put(wire.Up(hello=hello))

    def _drop_stream(self) -> None:
        """End the stream. The caller does not have `_changed`, which its last words take."""
        assert self._stream is not None and self._control is not None
        self._stream.cancel()
        self._control.close()

    def _ended(self, number: int, call: Any) -> None:
        """Note that a stream is over; runs on gRPC's own thread."""
        lost = Lost("ConnectError", f"{self.address}: the gateway closed the stream")
        if call.code() != grpc.StatusCode.OK:
            explained = self._explain(call)
            lost = Lost(type(explained).__name__, str(explained))
        with self._changed:
            if number != self._attempt:
                return  # another has taken its place
            refused = not self._ledger.connected and _kind_of(call) in _PASSING
            if self._may_return() and refused:
                kind, _, why = str(call.details()).partition(": ")
                self._broke(why, kind)
                return
            if self._may_return() and _is_break(call):
                if self._failed != number:  # else it has said why before it closed the stream
                    self._broke(call.details() or "the gateway closed the stream")
                return
        self._lose(lost)

    def _may_return(self) -> bool:
        return bool(self._patience_s) and not self._closing and self._lost is None

    def _broke(self, why: str, refusal: str = "") -> None:
        """Go on without a stream, until another one is welcomed. The caller has `_changed`.

        refusal: the kind of error with which the gateway refused one, for now.
        """
        now = time.monotonic()
        if self._ledger.connected:
            self._ledger.broken()
            lived = now - self._welcomed_at > min(limits.CONNECT_S, self._patience_s)
            if not self._until or self._ledger.applied > self._applied_then or lived:
                self._tries, self._until = 0, now + self._patience_s
            self._applied_then = self._ledger.applied
            log.warning(
                "the connection to %s broke (%s); the session goes on if it answers within %.0f s",
                self.address, why, self._until - now,
            )  # fmt: skip
        self._why, self._refusal, self._failed = why, refusal, self._attempt
        if not self._dialling:
            self._dialling = True
            threading.Thread(target=self._dial_again, name="farspan-dial", daemon=True).start()
        self._changed.notify_all()

    def _dial_again(self) -> None:
        """Dial until a stream is welcomed, or the session is over."""
        while True:
            with self._changed:
                if self._ledger.connected or not self._may_return():
                    self._dialling = False
                    return
                if time.monotonic() > self._until:
                    break
                delay = min(0.05 * 2.0 ** min(self._tries, 16), limits.RECONNECT_DELAY_S_MAX)
                if self._tries:  # the first time at once
                    self._wait_until(self._needs_no_dial, delay * random.uniform(0.5, 1))
                self._tries += 1
            try:
                self._dial_once()
            except Exception:  # a defect of ours: the session must not hang
                log.exception("farspan: a stream could not be opened")
                break
        self._lose(self._parting())

    def _parting(self) -> Lost:
        """Return how the session is lost to a client whose patience is over."""
        attach = f'farspan.attach("{self.session_id}")'
        if self._refusal == "CapacityError":  # it is there, and has no room for the session
            why = f"{self.address}: the session could not go on for {self._patience_s:g} s"
            if attach in self._why:  # its journal cannot be written
                return Lost("JournalError", f"{why}: {self._why}")
            later = f"{attach} finds what was kept of it, when there is"
            return Lost("CapacityError", f"{why}: {self._why}; {later}")
        return Lost(
            "ConnectError",
            f"{self.address}: the gateway has not come back for {self._patience_s:g} s "
            f"({self._why}); the session with all its tensors is lost to this client. If the "
            f"gateway keeps it, {attach} finds what was kept",
        )

    def hurry(self) -> None:
        """Wait for a gateway that is away no longer than HURRY_S: the session ends anyway."""
        with self._changed:
            self._patience_s = min(self._patience_s, limits.HURRY_S)
            if self._until:
                self._until = min(self._until, time.monotonic() + self._patience_s)

    @property
    def _shares_uploads(self) -> bool:
        return self._welcome is not None and wire.SHARED_UPLOADS in self._welcome.features

    @property
    def session_id(self) -> str:
        assert self._welcome is not None
        return self._welcome.session

    def _needs_no_dial(self) -> bool:
        """Return whether the session is over, or the stream before was welcomed late."""
        return self._ledger.connected or not self._may_return()

    def _dial_once(self) -> None:
        with self._taking, self._changed:  # nothing of an older stream is delivered from here on
            if self._needs_no_dial():
                return
            self._attempt += 1
            attempt = self._attempt
            known = (attempt, self._ledger.confirmed, self._ledger.applied)
            resume = wire.Resume(self.session_id, self._secret, *known)
        self._dial(replace(self._hello, resume=resume, devices="", attach=""))
        if not self._may_return():  # whoever ended the session has not seen this stream
            self._drop_stream()
            return
        with self._changed:
            begun = time.monotonic()

            def over() -> bool:
                return self._failed == attempt or self._needs_no_dial() or late()

            def late() -> bool:  # `hurry` may have brought the end of patience nearer
                return time.monotonic() > max(self._until, begun + 1.0)

            self._wait_until(over, limits.CONNECT_S)
            if self._failed != attempt and not self._needs_no_dial():
                if self._refusal:  # what it said last is worth more to who hears it in the end
                    self._broke(self._why, self._refusal)
                else:
                    self._broke(f"no answer within {time.monotonic() - begun:.0f} s")

    def _welcomed(self, welcome: wire.Welcome) -> None:
        """Take the gateway's first word on a stream. ProtocolError. The caller has `_changed`."""
        first = self._welcome is None
        if not first and (welcome.session != self.session_id or self._ledger.connected):
            raise ProtocolError("a welcome to another session, or a second one")
        if first:
            self._ledger.open(welcome)
            self._confirmed = self._confirmed_said = self._ledger.applied
        else:
            self._ledger.resume(welcome.received)
        self._welcome = welcome
        self._welcomed_at = time.monotonic()
        self._secret = welcome.secret or self._secret
        if self._secret:
            default_s = welcome.lease_ms / 1000 + limits.RESTART_S
            self._patience_s = default_s if self._asked_s is None else self._asked_s
        if not first:
            log.info("session %s: resumed by stream %d", welcome.session, self._attempt)
            self._confirmed_said = 0  # the gateway may be another process, that knows less
            if self._reserved and not self._devices:
                self._put(wire.Up(reserve=True))
            self._send_waiting()

    def _put(self, item: Any) -> None:
        stream = self._stream
        if stream is not None and self._ledger.connected:
            stream.put(item)

    def _send_waiting(self) -> None:
        """Send what waits for a stream, as far as credits go. The caller has `_changed`."""
        assert self._welcome is not None
        while (data := self._ledger.next_unsent()) is not None:
            self._put(wire.restamp(data, self._welcome.epoch))

    def _refused(self, lost: Lost) -> bool:
        """Take that the gateway said no, if this was to a resume; return whether it was."""
        with self._changed:
            if not self._may_return() or self._ledger.connected:
                return False
            if lost.kind in _PASSING:
                self._broke(lost.message, lost.kind)
                return True
        if lost.kind == "AuthError":  # the token is good, the secret is not
            self._lose(Lost("SessionClosedError", "another client has taken the session over"))
            return True
        return False

    # --- confirmations ---------------------------------------------------------------------------
    def _confirms(self) -> int:
        """Return what the gateway is to be told with the next frame; 0: nothing new."""
        confirmed = self._confirmed
        if confirmed <= self._confirmed_said:
            return 0
        self._said(confirmed)
        return confirmed

    def _said(self, confirmed: int) -> None:
        self._confirmed_said = confirmed
        self._events_unsaid = self._bytes_unsaid = 0

    def _note_confirmed(self) -> None:
        """Look what may be confirmed; tell it alone if there is much. The caller has `_changed`."""
        if not self._secret:
            return
        self._confirmed = confirmed = self._ledger.confirmed
        if confirmed <= self._confirmed_said:
            return
        if (
            confirmed - self._confirmed_said > limits.CONFIRM_FRAMES
            or self._events_unsaid > limits.CONFIRM_EVENTS
            or self._bytes_unsaid > limits.CONFIRM_BYTES
        ):
            self._confirm_alone()
        elif not self._owes.is_set():
            self._owes.set()
            if not self._confirms_itself:
                self._confirms_itself = True
                name = "farspan-confirm"
                threading.Thread(target=self._confirm_late, name=name, daemon=True).start()

    def _confirm_alone(self) -> None:
        if self._ledger.connected:
            self._said(self._confirmed)
            self._put(wire.Up(confirmed=self._confirmed))

    def _confirm_late(self) -> None:
        """Confirm what has waited CONFIRM_S for a frame to ride with; ends with the session."""
        while not self._closing and self._lost is None:
            self._owes.wait()
            time.sleep(limits.CONFIRM_S)
            with self._changed:
                self._owes.clear()
                if self._confirmed > self._confirmed_said:
                    self._confirm_alone()

    def _taken(self, request: int) -> None:
        """Note that a long value is here, or will not be: what came with it may be confirmed."""
        with self._changed:
            self._ledger.release(request)
            self._note_confirmed()

    # --- calls beside the stream -----------------------------------------------------------------
    @property
    def _credentials(self) -> Any:
        """Metadata of a call: the token, and the proof that this client has the session."""
        if not self._secret:
            return self._metadata
        return (*self._metadata, (wire.SECRET_METADATA, self._secret))

    def _persist(self, operation: Callable[[], _T]) -> _T:
        """Return what a call returns that may be made twice; it is made again while it breaks.

        Bounded as the stream is. Raises what the session was lost to, or what the call ended with.
        """
        until = 0.0
        for tries in range(limits.CALL_TRIES_MAX):
            begun = time.monotonic()
            try:
                return operation()
            except grpc.RpcError as error:
                now = time.monotonic()
                # An upload of an hour may break more than once: each time it begins anew.
                if not until or now - begun > 2 * limits.CONNECT_S:
                    until = now + self._patience_s
                explained = self._explain(error)
                if not self._may_return() or not _is_break(error) or now > until:
                    raise explained from None
            with self._changed:
                delay = min(0.05 * 2.0 ** min(tries, 16), limits.RECONNECT_DELAY_S_MAX)
                self._wait_until(lambda: not self._may_return(), delay * random.uniform(0.5, 1))
                left = until - time.monotonic()
                self._wait_until(lambda: self._ledger.connected or not self._may_return(), left)
            self._check()
        raise explained


def _is_break(error: Any) -> bool:
    """Return whether a call was ended by a fault on the way, and not by what was asked."""
    code = error.code()
    if code not in _BROKEN:
        return False
    return _kind_of(error) not in BY_NAME or code == grpc.StatusCode.UNAVAILABLE


def _kind_of(error: Any) -> str:
    """Return what a gateway has put before the details of a call's end: the name of an error."""
    return str(error.details() or "").partition(": ")[0]
