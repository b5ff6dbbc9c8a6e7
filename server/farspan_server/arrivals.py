"""The half of the service that clients come to: open a session, go on with it, take it over, leave.

What a stream means for a session is decided by its machine; `service.py` owns the sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from typing import Final

from farspan import wire
from farspan.core import limits
from farspan.core.errors import (
    BadValueError,
    CapacityError,
    FarspanError,
    JournalError,
    ServiceError,
    SessionClosedError,
    VersionError,
)

from farspan_server import session as sessions
from farspan_server import session_messages as messages
from farspan_server.history import History, keep
from farspan_server.keeper import Keeper
from farspan_server.live import (
    DURABILITIES,
    DURABLE,
    OFF,
    RESUME_MINOR,
    TAKEN,
    Coming,
    Live,
    Stream,
    about_session,
    digest_of,
    parse_devices,
)
from farspan_server.sleep import stays
from farspan_server.whole import Whole

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.005  # between looks whether a frame has come for which a Keep waits
_ROOM_BYTES: Final = 64 * limits.KiB  # of journal, or nobody goes on with a session
#: Optional behaviours that this gateway knows.
FEATURES: Final = frozenset({wire.SHARED_MEMORY, wire.SHARED_UPLOADS})


class Arrivals(Whole):
    """The front of `service.Service`."""

    # --- opening ---------------------------------------------------------------------------------
    def check(self, hello: wire.Hello) -> None:
        """Raise VersionError unless the client is of this release."""
        if hello.major != wire.MAJOR:
            raise VersionError(
                f"the client speaks protocol {hello.major}, the gateway {wire.MAJOR}; "
                "install the same release of farspan on both"
            )
        if hello.table_hash != self.config.table_hash:
            raise VersionError(
                f"the client's op table is {hello.table_hash[:12] or 'missing'}, the gateway's "
                f"{self.config.table_hash[:12]}; install the same release of farspan on both"
            )

    async def open(self, tenant: str, hello: wire.Hello, stream: Stream) -> Live:
        """Return a new session; raise VersionError, BadValueError, CapacityError or JournalError.

        One that is durable is on disk when this returns.
        """
        self.check(hello)
        self._refuse_late()
        if self.draining:
            raise CapacityError("the gateway is about to end and takes no new sessions")
        kinds = parse_devices(hello.devices) if hello.devices else ("cpu",)
        if self.full:
            raise CapacityError(f"the gateway has {self.config.sessions_max} sessions, its most")
        self.tenancy.admit(tenant, kinds)
        wait_s = min(hello.wait_ms / 1000, self.config.wait_s_max)
        about = about_session(
            tenant, kinds, self._durability(hello), wait_s, hello.minor, hello.allow_numerics_change
        )
        journalled = about["durability"] != OFF
        machine = sessions.Session(
            kinds,
            self.config.lease_s,
            journalled,
            syncs=about["durability"] == DURABLE and about["stays"],
            stays=about["stays"],
            resumes=journalled or hello.minor >= RESUME_MINOR,
        )
        live = Live(machine, about)
        live.minor = hello.minor
        secret = secrets.token_bytes(32) if live.confirms else b""
        live.digest = digest_of(secret) if secret else ""
        self._opening += 1
        try:
            with self.tenancy.opening(live, hello.client):
                if journalled:
                    self._keeper(live, await self._create(live))
        finally:
            self._opening -= 1
        live.features = _features(live, hello)
        live.stream = stream
        self._sessions[live.id] = live
        self._channels[live.channel] = live
        live.post(welcome=live.welcome(secret))
        if hello.devices:
            self.give(live, messages.Reserve())
        return live

    async def _create(self, live: Live) -> History:
        """Return the history of a new session; nothing is left of one that is not wanted by then.

        JournalError, ConnectError.
        """
        shelf, loop = self._shelf, asyncio.get_running_loop()
        assert shelf is not None

        def remove(done: asyncio.Future[History]) -> None:
            if done.exception() is None:
                done.result().journal.close()
            loop.run_in_executor(None, shelf.remove, live.id)

        creating = loop.run_in_executor(None, shelf.create, live.id, live.about, live.digest)
        try:
            made = await asyncio.shield(creating)
            self._refuse_late()
        except BaseException:  # its client has gone meanwhile, the gateway stops, the disk is full
            creating.add_done_callback(remove)
            raise
        return made

    def _durability(self, hello: wire.Hello) -> str:
        """Return what a new session survives."""
        wanted = hello.durability or self.config.durability
        if wanted not in DURABILITIES:
            raise BadValueError(f'durability: "{wanted[:32]}"; expected {", ".join(DURABILITIES)}')
        if self._shelf is not None:
            return wanted
        if hello.durability not in ("", OFF):
            raise BadValueError(
                f'durability: "{wanted}", but the gateway keeps no journals (--journal DIRECTORY)'
            )
        return OFF

    def _keeper(self, live: Live, history: History) -> None:
        """Let a session be journalled."""
        shelf = self._shelf
        assert shelf is not None
        live.keeper = Keeper(
            shelf.disk,
            shelf.path(live.id),
            history,
            lambda given: self.give(live, given),
            self.config.snapshot_every_s,
            self._syncing,
            syncs=live.stays and live.durability == DURABLE,
            stays=live.stays,
            aside=lambda error: shelf.set_aside(live.id, error),
            doubt=lambda: shelf.doubt(live.id),
            every_bytes=self.config.snapshot_bytes,
            every_frames=self.config.snapshot_frames,
        )
        live.kept, live.uploads = history.past.kept, history.past.uploads

        def tell_again() -> bool:
            self.give(live, messages.Leave())
            return not live.ended

        live.tell_again = tell_again

    # --- other streams ---------------------------------------------------------------------------
    def resume(self, tenant: str, hello: wire.Hello, stream: Stream) -> Live:
        """Return the session that a client goes on with on a new stream, unless it is refused.

        Then the stream says why and is over. Raises VersionError or SessionClosedError.
        CapacityError: not now.
        """
        self.check(hello)
        asked = hello.resume
        assert asked is not None
        live = self.find(tenant, asked.session)
        if not live.is_secret(asked.secret):
            raise SessionClosedError(TAKEN)
        if live.fencing:  # it may be that its memory is gone from the first of its devices only
            raise CapacityError("another client is about to take the session over")
        if live.shares:
            raise SessionClosedError("the session shares memory with its client, which may be torn")
        self._check_room(live)
        if live.keeper is not None:  # another gateway may have had it before
            live.features = _features(live, hello)
        live.coming = Coming(stream, hello.minor)
        self.give(live, messages.Resumed(asked.attempt, asked.confirmed, asked.applied))
        try:
            return self._come(live, stream)
        except JournalError as error:  # what the client keeps for it is good until the disk works
            raise CapacityError(str(error)) from None

    async def attach(self, tenant: str, hello: wire.Hello, stream: Stream) -> Live:
        """Return a session that another client of its tenant takes over.

        What the client finds survives when this returns. VersionError or SessionClosedError.
        """
        self.check(hello)
        if hello.minor < RESUME_MINOR:
            raise VersionError("the client is too old to take a session over")
        live = self.find(tenant, hello.attach)
        self._check_room(live)
        shared = live.shares
        live.users += 1  # its lease may end while its workers are asked, and it is taken here
        try:
            await self.unshare(live)
        except asyncio.CancelledError:  # the client has gone meanwhile
            if shared:  # who had it cannot go on without its memory, and would not hear why
                with contextlib.suppress(FarspanError):  # it has ended
                    self._take_over(live, hello, stream)
                self.gone(live, stream)
            raise
        finally:
            live.users -= 1
        self._take_over(live, hello, stream)
        if live.keeper is not None:  # nobody could send again what a loss of power took
            try:
                await live.keeper.durable()
            except asyncio.CancelledError:  # the client has gone meanwhile
                self.gone(live, stream)
                raise
            if live.failure:  # before it is welcomed: its secret is in no journal
                raise JournalError(live.failure)
        return live

    def _take_over(self, live: Live, hello: wire.Hello, stream: Stream) -> None:
        """Let another client have a session. SessionClosedError, ConnectError or JournalError."""
        live.check()
        secret = secrets.token_bytes(32)
        live.features = _features(live, hello)
        if live.keeper is None:  # it could not outlast its connection any more
            live.features -= {wire.SHARED_MEMORY}
        live.coming = Coming(stream, hello.minor, secret, digest_of(secret))
        self.give(live, messages.Attached())
        self._come(live, stream)

    def _check_room(self, live: Live) -> None:
        """Raise CapacityError if there is no room on the disk to go on with a session.

        It would end where it noted who comes; so it goes on lying there.
        """
        if live.keeper is None or self._shelf is None:
            return
        self.tenancy.check_room(live.tenant, _ROOM_BYTES)
        if self._shelf.free_bytes < _ROOM_BYTES:
            raise CapacityError(stays(live.id, "the gateway's disk is full"))

    def _come(self, live: Live, stream: Stream) -> Live:
        live.coming = None
        if live.stream is not stream and not stream.over:  # it ended on the way: its disk failed
            live.check()
            raise SessionClosedError("the session has ended")
        return live

    def _welcome(self, live: Live) -> None:
        """Let the stream that comes take the place of the one that was. JournalError."""
        coming, before = live.coming, live.stream
        assert coming is not None
        digest = coming.digest or live.digest
        if live.keeper is not None:
            live.keeper.history.epoch(live.machine.epoch, digest)
        live.digest, live.minor, live.stream = digest, coming.minor, coming.stream
        live.windows_made.clear()  # the epoch is another one
        if before is not None and coming.secret:
            before.end("SessionClosedError", TAKEN)
        elif before is not None:
            before.end()
        self.tenancy.came(live, "taken over" if coming.secret else "resumed")
        welcome = live.welcome(coming.secret)
        live.post(welcome=welcome, devices=live.devices, numerics=live.changes)

    def gone(self, live: Live, stream: Stream) -> None:
        """Take that a stream is at its end; only that of the session's client counts."""
        stream.over = True
        if live.stream is stream:
            live.stream = None
            self.give(live, messages.ClientGone())

    async def detach(self, live: Live, stream: Stream) -> None:
        """Let the client leave, once all that it sent survives; the session stays."""
        if live.keeper is not None:
            await live.keeper.durable()
        if live.stream is stream:
            live.stream = None
            self.give(live, messages.ClientGone())
        stream.end()

    async def keep(self, live: Live, asked: wire.KeepRequest, owner: str | None = None) -> None:
        """Give what a session has a name, once a frame has come and when it survives the gateway.

        owner: who asks, of `Live.prove`. BadValueError, ServiceError: the frame did not come.
        """
        until_s = time.monotonic() + limits.CONNECT_S
        while live.machine.received < asked.sequence and not live.ended and not live.left:
            if time.monotonic() > until_s:
                raise ServiceError(f"keep: frame {asked.sequence} has not come")
            await asyncio.sleep(_LOOK_S)
        live.check(owner)
        if not 0 < len(asked.name.encode()) <= 256:
            raise BadValueError("keep: a name has 1 to 256 bytes")
        if len(asked.body.encode()) > limits.KEPT_BODY_BYTES_MAX:  # escaped, it is a record
            most = limits.KEPT_BODY_BYTES_MAX
            raise BadValueError(f"keep: what a name stands for has at most {most} bytes")
        if asked.body:
            kept = {**live.kept, asked.name: asked.body}
            nbytes = sum(len(k.encode()) + len(v.encode()) + 16 for k, v in kept.items())
            if len(kept) > limits.KEPT_MAX or nbytes > limits.KEPT_BYTES_MAX:
                raise BadValueError(
                    f"keep: a session has at most {limits.KEPT_MAX} names, and "
                    f"{limits.KEPT_BYTES_MAX} bytes of what they stand for"
                )
        if live.keeper is None:
            keep(live.kept, asked.name, asked.body)
            return
        live.keeper.keep(asked.name, asked.body)
        await live.keeper.durable()
        live.check()


def _features(live: Live, hello: wire.Hello) -> frozenset[str]:
    """Return the optional behaviours of a session with a client."""
    known = FEATURES.intersection(hello.features)
    if live.keeper is None:  # uploads need not pass here
        return known - {wire.SHARED_UPLOADS}
    # What went past this gateway could not be in its journal; who does not confirm might be told of
    # a place twice.
    takes = hello.minor >= RESUME_MINOR and FEATURES <= known
    return known if takes else frozenset()
