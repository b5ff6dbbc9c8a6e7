"""What the gateway knows of its tenants: tokens, quotas, what each has, the audit log.

One object for `gateway.py` and `service.py`, on their loop. The rules stand in `auth.py`,
`quotas.py`, `door.py` and `pool.py`; here files are watched and things are counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from farspan.core.errors import AuthError, CapacityError, FarspanError

from farspan_server import pool as pools
from farspan_server import quotas, token_file
from farspan_server.audit import Audit
from farspan_server.auth import Caller, Tokens
from farspan_server.config import GatewayConfig
from farspan_server.disk import Disk
from farspan_server.door import Door, Refusal, address_of
from farspan_server.floor import Floor
from farspan_server.quota_disk import QuotaDisk
from farspan_server.quotas import Bucket, Quota, Quotas
from farspan_server.watched import Watched

if TYPE_CHECKING:
    from farspan_server.live import Live
    from farspan_server.sleep import Sleeper

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0  # how late a changed file is noticed
NOTE_S: Final = 10.0  # between records that one quota of one tenant was hit
_COUNTERS_MAX: Final = 10_000  # tenants whose rate is remembered


class Tenancy:
    """The tenants of a gateway. OSError or FarspanError if a file of its config says nonsense."""

    def __init__(
        self, config: GatewayConfig, disk: Disk, tell_pool: Callable[[pools.Input], None]
    ) -> None:
        """disk: of journals. tell_pool: is told what tenants may have when that has changed."""
        self._config = config
        self._tell_pool = tell_pool
        self.audit = Audit(config.audit)
        self.door = Door()
        self.floor = Floor()
        files = config.token_files
        self._token_files = Watched(files, lambda: token_file.reread(files))
        self.tokens = Tokens(config.tokens, self._token_files.value)
        tenants = config.tenants
        self._quotas_file = Watched(
            () if tenants is None else (tenants,),
            lambda: Quotas() if tenants is None else quotas.read(tenants),
        )
        self._sessions: dict[str, set[str]] = {}  # ids, by tenant
        #: For journals: what is written there is charged to tenants.
        self.disk = QuotaDisk(disk, lambda tenant: self.quota(tenant).journal_bytes)
        self._buckets: dict[str, Bucket] = {}
        self._noted: dict[tuple[str, str], float] = {}
        self.hits: Counter[tuple[str, str]] = Counter()  # of quotas, by tenant and quota
        self.slowed_s: dict[str, float] = {}  # that a tenant waited, for its rate's sake
        self._streams: dict[object, tuple[Caller, Callable[[], None]]] = {}
        self._looking: asyncio.Task[None] | None = None

    # --- files -----------------------------------------------------------------------------------
    def start(self) -> None:
        """Watch the files until `stop`."""
        self._looking = asyncio.create_task(self._watch())

    def stop(self) -> None:
        """Look no more, and close the audit log."""
        if self._looking is not None:
            self._looking.cancel()
        self.audit.close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self, *, again: bool = False) -> None:
        """Take what has changed in the files; what says nonsense changes nothing."""
        if self._changed("tokens", self._token_files, again):
            with self._reporting("tokens"):
                self.tokens.put(self._token_files.value)
        if self._changed("tenants", self._quotas_file, again):
            for tenant in self._sessions:
                self._tell_pool(self._allowed(tenant))
            self._reloaded("tenants")
        if self._config.end_revoked:  # at each look, since time ends tokens too
            for caller, end in [s for s in self._streams.values() if not self.tokens.knows(s[0])]:
                self.audit.note("stream ended", tenant=caller.tenant, token=caller.token)
                end()

    def _changed(self, what: str, file: Watched[Any], again: bool) -> bool:
        try:
            return file.look(again=again)
        except (FarspanError, OSError) as error:
            self._reloaded(what, error)
            return False

    @contextlib.contextmanager
    def _reporting(self, what: str) -> Iterator[None]:
        try:
            yield
        except FarspanError as error:
            self._reloaded(what, error)
        else:
            self._reloaded(what)

    def _reloaded(self, what: str, error: Exception | None = None) -> None:
        reason = ""
        if error is not None:  # the text of an OSError holds a path
            reason = str(error) if isinstance(error, FarspanError) else type(error).__name__
            log.error("the %s were not reloaded, the old ones stay: %s", what, reason)
        else:
            log.info("the %s were reloaded", what)
        self.audit.note("config reloaded" if not reason else "config refused", file=what)

    def certificates(self, error: str) -> None:
        """Take that the certificates have changed; on any thread."""
        self.audit.note("config refused" if error else "config reloaded", file="certificates")

    # --- calls -----------------------------------------------------------------------------------
    @contextlib.contextmanager
    def call(self, context: Any) -> Iterator[Caller]:
        """Return who calls, counted until the end. AuthError, CapacityError."""
        caller = self.tokens.caller(context.invocation_metadata())
        if caller is None:  # since it came in
            raise AuthError("the token is not good any more")
        quota = self.quota(caller.tenant)
        if quota.certificates and not quota.certificates & _certificate_names(context):
            self.audit.note(
                "certificate refused", tenant=caller.tenant, token=caller.token,
                peer=address_of(context.peer()),
            )  # fmt: skip
            raise AuthError("this tenant's clients must show a certificate with one of its names")
        try:
            self.door.enter(caller.tenant, quota.calls)
        except CapacityError:
            self.quota_hit(caller.tenant, "calls")
            raise
        _CALL.set((address_of(context.peer()), caller.token))  # each call has a task of its own
        try:
            yield caller
        finally:
            self.door.leave(caller.tenant)

    @contextlib.contextmanager
    def stream(self, caller: Caller, end: Callable[[], None]) -> Iterator[None]:
        """Call `end` when the caller's token is not good any more, if the operator wants that."""
        key = object()
        self._streams[key] = caller, end
        try:
            yield
        finally:
            del self._streams[key]

    async def refuse(self, peer: str) -> None:
        """Return when the refusal of a wrong token may be sent."""
        address = address_of(peer)
        refusal: Refusal = self.door.refuse(address, time.monotonic())
        if refusal.noted:
            self.audit.note("token refused", peer=address, count=refusal.count)
        try:
            if refusal.delay_s:
                await asyncio.sleep(refusal.delay_s)
        finally:
            self.door.refused(refusal)

    # --- quotas ----------------------------------------------------------------------------------
    def quota(self, tenant: str) -> Quota:
        """Return what a tenant may have."""
        return self._quotas_file.value.of(tenant)

    def sessions(self, tenant: str) -> int:
        """Return how many sessions a tenant has."""
        return len(self._sessions.get(tenant, ()))

    def admit(self, tenant: str, kinds: tuple[str, ...]) -> None:
        """Raise CapacityError unless the tenant may open a session with these devices.

        Devices that others of its sessions have now are waited for; those it can never have are
        refused here.
        """
        quota, memory = self.quota(tenant), self.device_memory(tenant) * len(kinds)
        for what, requested, used, limit in (
            ("sessions", 1, self.sessions(tenant), quota.sessions),
            ("devices", len(kinds), 0, quota.devices),
            ("bytes of memory", memory, 0, quota.memory_bytes),
            ("bytes of journals", 1, self.disk.used(tenant), quota.journal_bytes),
        ):
            if limit is not None and used + requested > limit:
                self.quota_hit(tenant, what)
                raise CapacityError(pools.over_quota(what, requested, used, limit))

    def check_room(self, tenant: str, count: int) -> None:
        """Raise CapacityError unless a tenant may write so many bytes more to its journals."""
        limit, used = self.quota(tenant).journal_bytes, self.disk.used(tenant)
        if limit is not None and used + count > limit:
            self.quota_hit(tenant, "bytes of journals")
            raise CapacityError(pools.over_quota("bytes of journals", count, used, limit))

    @contextlib.contextmanager
    def opening(self, live: Live, client: str) -> Iterator[None]:
        """Count a session that is made within."""
        self._count(live)
        try:
            yield
        except BaseException:
            self._forget(live)
            raise
        log.info("session %s: opened by tenant %s, %s", live.id, live.tenant, client)
        kinds = ",".join(live.machine.kinds)
        self._note("session opened", tenant=live.tenant, session=live.id, devices=kinds)

    def found(self, session: str, tenant: str, directory: Path) -> None:
        """Count a session of an earlier gateway, beyond its tenant's quota too. OSError."""
        self.disk.own(session, tenant, directory)
        self._sessions.setdefault(tenant, set()).add(session)
        self.audit.note("session found", tenant=tenant, session=session)

    @property
    def tenants(self) -> Collection[str]:
        """The tenants that have sessions."""
        return self._sessions

    def names(self, tenant: str) -> Set[str]:
        """Return the ids of a tenant's sessions, those that sleep too."""
        return self._sessions.get(tenant, frozenset())

    def failed(self, live: Live) -> None:
        """Write down that a session's journal failed; what lies on disk is its tenant's still."""
        self.audit.note("session failed", tenant=live.tenant, session=live.id)

    def came(self, live: Live, how: str) -> None:
        """Write down that a client goes on with a session, or that another takes it over."""
        log.info("session %s: %s", live.id, how)
        self._note(f"session {how}", tenant=live.tenant, session=live.id)

    def moved(self, live: Live, source: str, target: str) -> None:
        """Write down that a session went to other workers, because somebody asked for it."""
        self._note("session moved", tenant=live.tenant, session=live.id, source=source, to=target)

    def refused(self, error: FarspanError) -> None:
        """Write down that a session was not opened; the text of an error may be the client's."""
        self._note("session refused", kind=type(error).__name__)

    def ended(self, live: Live | Sleeper, kind: str = "") -> None:
        """Forget a session."""
        if self._forget(live):
            self.audit.note("session closed", tenant=live.tenant, session=live.id, kind=kind)

    def limit(self, live: Live) -> None:
        """Say what memory a session's devices may take, if nobody has said it before.

        It is so for its life, also at another gateway: a replay has to run out of memory where the
        session did.
        """
        known = live.about.setdefault("memory_bytes", self.device_memory(live.tenant))
        live.memory_bytes = int(known)

    def _count(self, live: Live) -> None:
        self.limit(live)
        self.disk.own(live.id, live.tenant)
        self._sessions.setdefault(live.tenant, set()).add(live.id)

    def _forget(self, live: Live | Sleeper) -> bool:
        mine = self._sessions.get(live.tenant, set())
        if live.id not in mine:
            return False
        mine.remove(live.id)
        if not mine:
            del self._sessions[live.tenant]
        self.disk.forget(live.id)
        return True

    def device_memory(self, tenant: str) -> int:
        """Return the bytes that one device of a session may take."""
        return self.quota(tenant).device_memory(self._config.memory_bytes_max)

    def claim(self, live: Live, deadline: float) -> Iterator[pools.Input]:
        """Yield what the pool is to hear when a session wants its workers."""
        yield self._allowed(live.tenant)
        claim = pools.Claimed(
            live.id, live.tenant, live.worker_kinds, deadline, live.memory_bytes, live.numerics
        )  # fmt: skip
        moved = live.moving
        if moved is None:
            yield claim
        else:  # should its destination be gone by now, it waits like others
            yield replace(moved, claim=replace(moved.claim, deadline=deadline))

    def command_s(self, tenant: str) -> float:
        """Return the seconds that a command may take; 0: as many as it wants."""
        own = self.quota(tenant).command_s
        return self._config.command_s_max if own is None else own

    def _allowed(self, tenant: str) -> pools.Allowed:
        quota = self.quota(tenant)
        return pools.Allowed(tenant, quota.devices, quota.memory_bytes, quota.weight)

    def wait_s(self, tenant: str, commands: int) -> float:
        """Return the seconds until so many commands may go on: a tenant's rate is kept so."""
        per_s = self.quota(tenant).commands_per_s
        if per_s is None:
            return 0.0
        bucket = self._buckets.get(tenant)
        if bucket is None:
            if len(self._buckets) >= _COUNTERS_MAX:
                self._buckets.clear()
            bucket = self._buckets[tenant] = Bucket()
        found = bucket.take(max(1, commands), per_s, time.monotonic())
        if found:
            self.slowed_s[tenant] = self.slowed_s.get(tenant, 0.0) + found
            self.quota_hit(tenant, "commands_per_s")
        return found

    async def turn(self, tenant: str, commands: int, since_s: float) -> float:
        """Wait until a tenant's rate allows so many commands more; let others have their turn.

        since_s: see `Floor.turn`; so is what is returned.
        """
        wait_s = self.wait_s(tenant, commands)
        if not wait_s:
            return await self.floor.turn(tenant, since_s)
        await asyncio.sleep(wait_s)
        return await self.floor.turn(tenant)

    def held(self, live: Live, message: str) -> None:
        """Take that a session waits for its tenant's quota."""
        what = message.partition(":")[0].removeprefix("the tenant's quota of ")
        self.quota_hit(live.tenant, what, live.id)

    def _note(self, what: str, **about: str) -> None:
        """Write down what a call did, and whose it is."""
        peer, token = _CALL.get()
        self.audit.note(what, **about, peer=peer, token=token)

    def quota_hit(self, tenant: str, what: str, session: str = "") -> None:
        """Count that a quota was hit, and write it down, not too often."""
        self.hits[tenant, what] += 1
        now_s = time.monotonic()
        if now_s - self._noted.get((tenant, what), -NOTE_S) < NOTE_S:
            return
        if len(self._noted) >= _COUNTERS_MAX:
            self._noted.clear()
        self._noted[tenant, what] = now_s
        log.info("tenant %s: its quota of %s is used up", tenant, what)
        self.audit.note("quota hit", tenant=tenant, quota=what, session=session)


#: Of the call that is served: where it comes from, and the id of its token.
_CALL: contextvars.ContextVar[tuple[str, str]] = contextvars.ContextVar("_CALL", default=("", ""))


def _certificate_names(context: Any) -> frozenset[str]:
    shown = context.auth_context().get("x509_common_name", ())
    return frozenset(name.decode("utf-8", "replace") for name in shown)
