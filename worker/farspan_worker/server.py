"""The shell of a worker: a listener, one thread that runs frames, a heartbeat. It decides nothing.

`inbox.py` says which session runs next, the engines say what happens, `delivery.py` has the bulk
links. Nothing here knows Ray (`actor.py` does) or an operator. Read `farspan.core.link` first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from farspan import wire
from farspan.core import limits, link, words
from farspan.core.command import Event, Frame, Lost, Send, Value
from farspan.core.errors import FarspanError, ProtocolError

from farspan_worker import cuts, process, shared
from farspan_worker.delivery import Delivery
from farspan_worker.inbox import Cut, Engine, Inbox, Session
from farspan_worker.numerics import numerics_key
from farspan_worker.outbox import Writer
from farspan_worker.snapshot import Restorer
from farspan_worker.socket_link import Link, Listener
from farspan_worker.turns import Turns
from farspan_worker.watchdog import Watchdog, overdue

log = logging.getLogger(__name__)

_LAST_WORDS_S = 0.5  # from a session's last words to the end of the process
_EVENTS_BYTES = link.EVENTS_BYTES_MAX - 8  # encoded events of one message, beside `applied`


class Worker(Delivery):
    """A worker in this process. `listen` starts it, `close` ends it.

    key: the epoch's link key. make_engine(device, memory_bytes_max) returns a session's engine.
    kind: "cpu" or "cuda", for the numerics key. end() is called when a command takes too long: only
    the end of the process stops a kernel.
    """

    def __init__(
        self,
        key: bytes,
        make_engine: Callable[[str, int], Engine],
        kind: str = "cpu",
        end: Callable[[], None] | None = None,
    ) -> None:
        self._key = key
        self._kind = kind
        self._end_process = end or self.close
        self._make_engine = make_engine
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._guard = threading.RLock()  # of all below; it costs less than the condition's face
        self._state = threading.Condition(self._guard)
        self._turn = threading.Lock()  # held by the one thread that runs a step
        self._reader = 0  # the thread that reads the control link
        self._lone: Callable[[], None] | None = None  # a step that the reader runs itself
        self._turns = Turns()
        self._doing: tuple[Session, Frame | Cut | words.Switch] | None = None  # what runs now
        self._inbox = Inbox(self._queue)
        self._control: Link | None = None
        self._links: set[Link] = set()
        self._bulk: dict[str, Link] = {}  # by the owner of the control link beside it
        self._writers: dict[tuple[str, str], Writer] = {}
        self._counts = {"frames": 0, "commands": 0, "sessions_opened": 0, "busy_s": 0.0}
        self.draining = False  # told to gateways with every heartbeat: it wants to end
        self._openings = threading.BoundedSemaphore(limits.OPENINGS_MAX)
        self._listener: Listener | None = None
        self.address = ""  # that others dial, once it listens
        self._closed = threading.Event()

    # --- lifecycle -------------------------------------------------------------------------------
    def listen(self, address: str) -> str:
        """Start all threads and return the address that others dial."""
        self._listener = Listener(address)
        for name, target in (
            ("accept", self._accept),
            ("engine", self._execute),
            ("heartbeat", self._beat),
        ):
            threading.Thread(target=target, name=f"farspan-{name}", daemon=True).start()
        self.address = self._listener.address
        return self.address

    def close(self) -> None:
        """Stop accepting, end all sessions and links. Waits for nothing that runs."""
        self._closed.set()
        if self._listener is not None:
            self._listener.close()
        with self._state:
            links, writers = list(self._links), list(self._writers.values())
            for channel in list(self._inbox.sessions):
                self._end(channel)
            self._state.notify_all()
        for writer in writers:
            writer.close()
        for each in links:
            each.close()
        self._work.put(None)

    def counts(self) -> dict[str, Any]:
        """Return the worker's own counts; needs no engine and never waits for one."""
        with self._state:
            sessions = self._inbox.sessions
            return {
                **self._counts,
                "draining": self.draining,
                "time_s": time.time(),
                "pid": os.getpid(),
                "freed_bytes": process.freed_bytes(),
                "host": socket.gethostname(),
                "sessions": len(sessions),
                "transfer_bytes": sum(s.transfer_bytes for s in sessions.values()),
                "unsent_bytes": sum(s.unsent_bytes for s in sessions.values()),
            }

    # --- connections -----------------------------------------------------------------------------
    def _accept(self) -> None:
        assert self._listener is not None
        while not self._closed.is_set():
            try:
                sock = self._listener.wait()
            except OSError:
                if self._closed.is_set():
                    return
                self._closed.wait(0.1)  # out of file descriptors: others will close some
                continue
            if not self._openings.acquire(blocking=False):
                sock.close()
                continue
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        assert self._listener is not None
        try:
            opened = self._listener.open(sock, self._key)
        except (FarspanError, OSError) as error:
            log.warning("a connection was refused: %s", error)
            sock.close()
            return
        finally:
            self._openings.release()
        serve = {
            link.CONTROL: self._serve_control,
            link.BULK: self._serve_bulk,
            link.PEER: self._serve_transfers,
            link.WATCH: self._serve_watch,
        }.get(opened.purpose.purpose)
        with self._state:
            self._links.add(opened)
        try:
            if serve is not None and not self._closed.is_set():
                serve(opened)
        except (EOFError, OSError):
            pass  # the peer left: that is how links end
        except ProtocolError as error:
            log.warning("a %s link was closed: %s", opened.purpose.purpose, error)
        finally:
            with self._state:
                self._links.discard(opened)
            opened.close()

    def _serve_control(self, control: Link) -> None:
        with self._state:
            before, self._control = self._control, control
            self._reader = threading.get_ident()
        if before is not None:  # one gateway at a time: the newer one fences the older
            before.close()
            self._end_all_of(before)
        key = numerics_key(self._kind)
        me = words.Greeting(socket.gethostname(), os.getpid(), key, self._inbox.tenant)
        control.send(words.pack_greeting(me))
        try:
            while True:
                header, payload = control.receive()
                if header.kind == link.FRAME:
                    self._frame(control, header.channel, payload)
                elif header.kind == link.OPEN:
                    self._open(control, header.channel, payload)
                elif header.kind == link.CLOSE:
                    with self._state:
                        self._end(header.channel)
                elif header.kind == link.CUT:
                    self._cut(control, header.channel, payload)
                elif header.kind == link.SWITCH:
                    self._switch(control, header.channel, payload)
                elif header.kind == link.STATUS:
                    self._work.put(partial(self._answer, control))
                else:
                    raise ProtocolError(f"kind {header.kind} does not belong on a control link")
        finally:
            with self._state:
                if self._reader == threading.get_ident():
                    self._reader = 0  # the number may go to a thread that reads something else
            self._end_all_of(control)

    def _serve_bulk(self, bulk: Link) -> None:
        owner = bulk.purpose.owner
        with self._state:
            self._bulk[owner] = bulk
            self._state.notify_all()
        try:
            self._serve_transfers(bulk)
        finally:
            with self._state:
                if self._bulk.get(owner) is bulk:
                    del self._bulk[owner]

    def _serve_transfers(self, bulk: Link) -> None:
        """Take what comes on a bulk link, or from a peer, which shares no memory with a client."""
        kinds = (link.TRANSFER,)
        if bulk.purpose.purpose == link.BULK:
            kinds = (link.TRANSFER, link.PIECE, link.SHARE, link.LOAD)
        while True:
            header, payload = bulk.receive()
            if header.kind not in kinds:
                raise ProtocolError(f"kind {header.kind} does not belong on a bulk link")
            with self._state:
                session = self._session_soon(header.channel)
            if session is None:
                if header.kind == link.SHARE:  # who asks would wait
                    gone = link.Share(refused="the session is not here")
                    bulk.send(link.pack_share(header.channel, gone))
                continue
            if header.kind == link.SHARE:
                answer = shared.answer(session, link.unpack_share(payload), self._state)
                bulk.send(link.pack_share(header.channel, answer))
                continue
            if header.kind == link.LOAD:
                given = session, bulk, words.unpack_load(payload)
                threading.Thread(target=self._load, args=given, daemon=True).start()
                continue
            with self._losing(session):
                if header.kind == link.PIECE:
                    shared.take(self._inbox, session, link.unpack_piece(payload), self._state)
                else:
                    chunk = link.unpack_chunk(payload)
                    if chunk.transfer == link.RESTORE:
                        self._restore(session, chunk)
                        continue
                    with self._state:
                        self._inbox.chunk(session, chunk)

    def _session_soon(self, channel: int) -> Session | None:
        """Return the session of a channel. Its OPEN may be behind its bytes: they come over
        another connection, which waits here, so that nothing is held for strangers."""
        known = self._state.wait_for(
            lambda: self._inbox.knows(channel) or self._closed.is_set(), limits.CONNECT_S
        )
        if not known:
            self._inbox.refuse(channel)
        return self._inbox.sessions.get(channel)

    def _serve_watch(self, watch: Link) -> None:
        while True:
            header, _ = watch.receive()
            if header.kind != link.STATUS:
                raise ProtocolError(f"kind {header.kind} does not belong on a watch link")
            self._work.put(partial(self._answer, watch))

    # --- messages of the control link ------------------------------------------------------------
    def _open(self, control: Link, channel: int, payload: bytes) -> None:
        body = link.unpack_open(payload)
        try:
            with self._state:
                engine = self._make_engine(body.name, body.memory_bytes_max)
                session = self._inbox.open(channel, body, engine, control)
                if body.steady:
                    engine.steady = True
                if body.switches:
                    engine.programs.switches.ask = partial(_ask, session)
                if body.restore:
                    session.restorer = Restorer(engine)
                self._counts["sessions_opened"] += 1
                self._state.notify_all()
        except FarspanError as error:
            log.warning("session %s was refused: %s", body.session, error)
            lost = Lost(type(error).__name__, str(error))
            control.send(link.pack_events(channel, 0, wire.encode_events([lost])))
            if body.steady:  # in a replay its gateway passes nothing on, and would wait for ever
                control.send(link.pack(link.CLOSE, channel))

    def _frame(self, control: Link, channel: int, payload: bytes) -> None:
        with self._guard:
            session = self._inbox.sessions.get(channel)
        if session is None or session.owner is not control:
            return  # a frame that was under way when its session ended
        try:  # as `_losing`, whose making takes longer than all of this
            frame = wire.decode_frame(payload)  # outside of the lock: it may be long
            if session.engine.timeline is not None:
                session.engine.timeline.received(frame.sequence)
            with self._guard:
                self._inbox.frame(session, frame)
        except FarspanError as error:
            self._lose(session, type(error).__name__, str(error))
        self._run_lone()

    def _run_lone(self) -> None:
        """Run what the reader of the control link has queued for itself."""
        lone, self._lone = self._lone, None
        if lone is not None:
            try:
                lone()
            finally:
                self._turn.release()

    def _cut(self, control: Link, channel: int, payload: bytes) -> None:
        """Take a snapshot when the frames before it have run and their bytes have come.

        A gateway cuts the devices of a session where all have run what they were sent: what they
        sent each other by then is in the writers, and a marker behind it says so.
        """
        number, base = link.unpack_cut(payload)
        with self._state:
            session = self._inbox.sessions.get(channel)
        if session is None or session.owner is not control:
            return
        with self._losing(session):
            mine = session.body.device
            for peer in session.body.devices:
                if peer.index != mine:
                    to = self._peer_writer(peer)
                    self._post(session, to, link.marker(number, mine), b"")
            with self._state:
                self._inbox.cut(session, number, base)
        self._run_lone()  # where the markers came before

    def _switch(self, control: Link, channel: int, payload: bytes) -> None:
        """Let a plan run by its loops after the frames before, as the gateway says."""
        switch = words.unpack_switch(payload)
        with self._state:
            session = self._inbox.sessions.get(channel)
            if session is not None and session.owner is control:
                with self._losing(session):
                    self._inbox.switch(session, switch)
        self._run_lone()

    def _take_cut(self, session: Session, cut: Cut) -> bool:
        """Send the session's state; return whether the next frames may run meanwhile."""
        with self._state:
            transfers = self._inbox.transfers(session)
        parcels = cuts.take(session, transfers, cut)
        writer = self._bulk_writer(session.owner)
        for parcel in parcels:
            writer.put(parcel)
        return parcels[-1].cut is None

    def _restore(self, session: Session, chunk: link.Chunk) -> None:
        """Take a piece of the state that a session begins with."""
        restorer = session.restorer
        if restorer is None or session.loading:
            raise ProtocolError("a state for a session that has begun")
        restorer.feed(chunk.data)
        if chunk.last:
            restorer.finish()
            self._restored(session, restorer)

    def _load(self, session: Session, bulk: Link, body: words.Load) -> None:
        """Take the state that a session begins with from files; on a thread of its own."""
        with self._losing(session), contextlib.suppress(OSError):
            restorer, answer = session.restorer, cuts.load(session, body)
            if answer == words.Load() and restorer is not None:
                self._restored(session, restorer)
            if answer is not None:  # else it has ended
                bulk.send(words.pack_load(session.channel, answer))

    def _restored(self, session: Session, restorer: Restorer) -> None:
        with self._state:
            if not session.closed:
                self._inbox.restored(session, restorer)

    def _queue(self, session: Session) -> None:
        """Queue a session's next frame; one that comes alone needs no other thread to run it.

        A change of threads is a tenth of the time in which a value is read back.
        """
        self._turns.add(session)
        alone = threading.get_ident() == self._reader and self._work.empty()
        if len(self._inbox.sessions) > 1 and session.share.command_s > limits.TURN_S:
            alone = False  # others' frames would not be read meanwhile
        if alone and self._lone is None and self._turn.acquire(blocking=False):
            self._lone = self._run
        else:
            self._work.put(self._run)

    @contextlib.contextmanager
    def _losing(self, session: Session) -> Iterator[None]:
        """End the session, not the link, if the body finds bytes that are none of ours."""
        try:
            yield
        except FarspanError as error:
            self._lose(session, type(error).__name__, str(error))

    # --- the end of sessions ---------------------------------------------------------------------
    def _lose(self, session: Session, kind: str, message: str) -> None:
        """End a session and tell its gateway why."""
        log.warning("session %s ends: %s: %s", session.body.session, kind, message)
        with self._state:
            self._end(session.channel, wire.encode_events([Lost(kind, message)]))

    def _end(self, channel: int, last_words: bytes = b"") -> None:
        session = self._inbox.end(channel)
        if session is not None:
            # The engine belongs to the thread that runs frames; it may be at work right now.
            self._work.put(partial(self._bury, session, last_words))
            self._state.notify_all()

    def _bury(self, session: Session, last_words: bytes) -> None:
        """Close the engine and tell the gateway: why, if there is a why, then that it is done."""
        session.engine.close()
        process.give_back_freed_memory()
        with self._state:
            session.engine.outlet = session.segment = None  # unmapped with the last array on it
            peers = [k for k in self._writers if k[0] != link.BULK and not self._inbox.sessions]
            writers = [self._writers.pop(key) for key in peers]
        for writer in writers:
            writer.close()
        with contextlib.suppress(OSError):  # a gateway that is gone needs no telling
            if last_words:
                told = link.pack_events(session.channel, session.applied, last_words)
                session.owner.send(told)
            session.owner.send(link.pack(link.CLOSE, session.channel))

    def _end_all_of(self, owner: Link) -> None:
        with self._state:
            if self._control is owner:
                self._control = None
            for channel, session in list(self._inbox.sessions.items()):
                if session.owner is owner:
                    self._end(channel)
            writer = self._writers.pop((link.BULK, owner.purpose.owner), None)
        if writer is not None:
            writer.close()

    # --- the thread that runs frames -------------------------------------------------------------
    def _execute(self) -> None:
        while (step := self._work.get()) is not None:
            with self._turn:
                step()

    def _run(self) -> None:
        """Give the session whose turn it is its turn."""
        with self._guard:
            session = self._turns.take()
            if session is None:
                return
            most = self._turns.commands(session, len(self._inbox.sessions))
            taken = self._inbox.take(session, most)
        if taken is None:
            return
        goes_on = True
        begun = time.perf_counter()
        self._doing = session, taken.frame
        try:
            if isinstance(taken.frame, Cut):
                goes_on = self._take_cut(session, taken.frame)
            elif isinstance(taken.frame, words.Switch):
                session.engine.programs.switches.take(taken.frame)
            else:
                handle = session.engine.resume if taken.resumes else session.engine.handle
                events = handle(taken.frame, taken.transfers)
                self._doing = None  # what follows may wait for the gateway, and is no command
                applied = taken.frame.sequence if taken.last else session.applied
                self._emit(session, applied, events)
        except FarspanError as error:
            self._lose(session, type(error).__name__, str(error))
            return
        except OSError:
            session.owner.close()  # its reader ends the sessions
            return
        except Exception as error:  # a defect of ours ends this session, never the worker
            log.exception("session %s: after frame %d", session.body.session, session.applied)
            self._lose(session, "ServiceError", f"the engine failed: {error!r}")
            return
        finally:
            self._doing = None
        took = time.perf_counter() - begun
        with self._guard:
            if isinstance(taken.frame, Frame):
                self._counts["frames"] += taken.last
                self._counts["commands"] += len(taken.frame)
                self._turns.took(session, took, len(taken.frame))
            self._counts["busy_s"] += took
            if goes_on:
                self._inbox.ran(session, taken.frame, taken.last)

    def _emit(self, session: Session, acked: int, events: list[Event]) -> None:
        """Send what a turn tells, which ends with the acknowledgement of frame `acked`.

        Bytes too long for the control link go by their own.
        """
        if len(events) == 1 and (short := wire.encode_short_value(events[0])) is not None:
            session.owner.send(link.pack_events(session.channel, acked, short))
            return  # as most that somebody awaits
        small: list[Event] = []
        for event in events:
            if isinstance(event, Send):
                self._send_to_peer(session, event)
            elif isinstance(event, Value) and _is_long(event):
                position = None if session.segment is None else session.segment.lay(event.data)
                if position is None:
                    writer = self._bulk_writer(session.owner)
                    self._post(session, writer, event.request, event.data)
                device = session.body.device
                small.append(replace(event, data=None, position=position, device=device))
            else:
                small.append(event)
        batches = list(wire.encode_event_batches(small, _EVENTS_BYTES)) or [b""]
        for k, batch in enumerate(batches, start=1):
            # The frame is acknowledged with the last of its events, never before.
            applied = acked if k == len(batches) else session.applied
            session.owner.send(link.pack_events(session.channel, applied, batch))

    def _answer(self, asker: Link) -> None:
        # Runs between frames, so that no engine changes while it is asked.
        with self._state:
            sessions = list(self._inbox.sessions.values())
        engines = {s.body.session: s.engine.stats() for s in sessions}
        with contextlib.suppress(OSError):
            asker.send(link.pack_json(link.STATUS, {**self.counts(), "engines": engines}))

    # --- heartbeat -------------------------------------------------------------------------------
    def _beat(self) -> None:
        quiet = frames = 0  # beats since the last frame ran; how many had
        watchdog = Watchdog()
        while not self._closed.wait(limits.HEARTBEAT_S):
            with self._state:
                quiet = quiet + 1 if frames == self._counts["frames"] else 0
                frames = int(self._counts["frames"])
            if quiet == round(limits.IDLE_S / limits.HEARTBEAT_S):
                process.give_back_freed_memory()
            running_s = self._watched(watchdog)
            beat = link.pack_json(link.HEARTBEAT, {**self.counts(), "running_s": running_s})
            with self._state:
                listeners = [
                    each
                    for each in self._links
                    if each is self._control or each.purpose.purpose == link.WATCH
                ]
            for each in listeners:
                with contextlib.suppress(OSError):  # its reader notices too
                    each.send(beat)

    def _watched(self, watchdog: Watchdog) -> float:
        """Return for how long the command that runs has; end a session, and all, if for too long.

        The gateway does not run it again: its session ends there, with an error that names the
        command. All others of this worker lose their worker, as if it had died.
        """
        doing = self._doing
        if doing is None or not isinstance(doing[1], Frame):
            return watchdog.look(None)
        session, frame = doing
        number = getattr(session.engine, "running", 0)
        seconds = watchdog.look((session.channel, frame.sequence, number))
        most = session.body.command_s_max
        if not most or seconds < most:
            return seconds
        lost = overdue(frame, number, seconds, most)
        log.error("session %s ends: command %d: %s", session.body.session, number, lost.message)
        with contextlib.suppress(OSError):
            told = wire.encode_events([lost])
            session.owner.send(link.pack_events(session.channel, session.applied, told))
            fault = words.Fault(lost.kind, f"command {number}: {lost.message}")
            session.owner.send(words.pack_fault(session.channel, fault))
        self._closed.wait(_LAST_WORDS_S)  # or what is unread here would take them along
        self._end_process()
        return seconds


def _ask(session: Session, switch: words.Switch) -> None:
    """Ask a session's gateway from where on a plan may run by its loops."""
    with contextlib.suppress(OSError):  # it is gone: the next worker asks the next one
        session.owner.send(words.pack_switch(session.channel, switch))


def _is_long(value: Value) -> bool:
    return value.data is not None and memoryview(value.data).nbytes > limits.INLINE_BYTES_MAX
