"""What a worker does for the snapshots of its sessions: takes its part, and begins with one.

Called by `server.py`, without its lock: `take` on the thread that runs frames, `load` on one of its
own.
"""

from __future__ import annotations

import json
import logging

from farspan.core import limits, link
from farspan.core.command import ErrorInfo
from farspan.core.errors import FarspanError, ProtocolError, ServiceError
from farspan.core.words import Load

from farspan_worker import snapshot, snapshot_files
from farspan_worker.inbox import Cut, Session
from farspan_worker.outbox import Parcel
from farspan_worker.snapshot import Transfers

log = logging.getLogger(__name__)


def take(session: Session, transfers: Transfers, cut: Cut) -> list[Parcel]:
    """Return what a cut sends: which older files it needs, then the state.

    The next frames may run meanwhile, on a copy of it. Where that would go beyond the session's
    memory by more than SNAPSHOT_COPY_SHARE they wait (the last parcel has the cut) until what is
    sent, which is the memory itself, has left.
    """
    most = int(session.body.memory_bytes_max * limits.SNAPSHOT_COPY_SHARE)
    base = session.memos.get(cut.base)
    part = link.PARTS + cut.number
    try:
        taken = snapshot.taken(session.engine, transfers, most, cut.number, base)
    except Exception as error:  # the session needs none to go on
        log.exception("session %s: snapshot %d", session.body.session, cut.number)
        failed = ErrorInfo(type(error).__name__, "the worker could not take it", 0)
        return [Parcel(session, part, failed, counted=False)]
    session.memos = {cut.number: taken.memo} | ({} if base is None else {cut.base: base})
    older = memoryview(json.dumps(taken.older).encode())
    return [
        Parcel(session, link.OLDER + cut.number, older, counted=False),
        Parcel(session, part, taken.pieces, counted=False, cut=cut if taken.own else None),
    ]


def load(session: Session, body: Load) -> Load | None:
    """Read a session's state from files of this host; return the answer. None: it has ended.

    ProtocolError, OutOfMemoryError: what is in them makes no sense, or does not fit.
    """
    restorer = session.restorer
    if restorer is None or session.loading:
        raise ProtocolError("a state for a session that has begun")
    session.loading = True
    try:
        if not snapshot_files.load(restorer, body.files, lambda: session.closed):
            return None
        restorer.finish()
    except snapshot_files.UnreachableError as error:
        session.loading = False
        return Load(refused=str(error))
    except (snapshot_files.DamagedError, OSError) as error:
        name = str(error) if not isinstance(error, OSError) else f"a file (errno {error.errno})"
        return Load(damaged=name)
    except FarspanError:
        raise
    except Exception as error:  # or the gateway would wait for an answer for ever
        log.exception("session %s: its state", session.body.session)
        raise ServiceError(f"the state could not be read ({type(error).__name__})") from error
    return Load()
