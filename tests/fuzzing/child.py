"""The process that runs hostile sessions: it may crash or hang, and `run.py` sees that it did.

    python -m fuzzing.child SEED FIRST_SESSION INPUTS PROGRESS_FILE [--one]

A finding is a line of JSON on standard output; the last line is the summary. Where it is stands in
the progress file: session, input of that session, inputs done, whether the input is in the engine.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import gc
import json
import mmap
import random
import re
import resource
import struct
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from farspan import wire
from farspan.core import command as cmd
from farspan.core import limits
from farspan.core.command import ErrorInfo, Failed, Frame, Send, Value
from farspan.core.errors import BY_NAME, ProtocolError
from farspan.core.op import op_at
from farspan_worker.engine import Engine

from fuzzing.corpus import corpus
from fuzzing.mutations import encode_anyhow, mutate, mutate_bytes
from fuzzing.sessions import Session

MEMORY_BYTES = 1 << 20  # of a session: what takes over a second on so little is a fault of ours
INPUTS_PER_SESSION = 24
HANG_S = 1.0  # of processor time, for one input, where WORK takes WORK_S
WORK_S = 0.02  # on a quiet machine of 2025 it takes 0.012
MEMO_ENTRIES = 16_384  # memos are full early in a run: what the process grows by later is a leak
GROWTH_BYTES = 64 << 20  # of the process, by one input
# "(0x16777220)" is the size of a matrix
_LEAK = re.compile(
    r"(?<![\w(])0x[0-9a-fA-F]{5,}|(?<![\w.])/(?:[\w.-]+/)+[\w.-]+|site-packages|\.py\b"
)
PROGRESS = struct.Struct("<QQQQ")


class Findings:
    """What was wrong, told as it comes; and counts."""

    def __init__(self, progress: mmap.mmap) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.slowest: list[tuple[float, str]] = []
        self._progress = progress
        self.at = (0, 0)
        self.done = 0  # inputs, in all

    def begin(self, session: int, number: int) -> None:
        self.at = session, number
        self._progress[: PROGRESS.size] = PROGRESS.pack(session, number, self.done, 1)

    def tally(self) -> None:
        """Tell what has been counted since the last time."""
        print(json.dumps({"tally": self.counts}), flush=True)
        self.counts.clear()

    def tell(self, kind: str, detail: str) -> None:
        line = {"finding": kind, "session": self.at[0], "input": self.at[1], "detail": detail}
        print(json.dumps(line), flush=True)


def subject(rng: random.Random, session: Session) -> tuple[bytes, list[str]]:
    """Return the bytes of a hostile frame, and what is wrong with it."""
    frame = session.next_frame(rng.randrange(1, 5))
    if not len(frame) or rng.random() < 0.02:
        return encode_anyhow(frame), ["nothing"]
    if rng.random() < 0.15:
        return mutate_bytes(rng, encode_anyhow(frame)), ["bytes"]
    names = mutate(rng, frame, session)
    return encode_anyhow(frame), names


def transfers_of(frame: Frame, session: Session) -> dict[int, Any] | None:
    """Return the bytes that a frame's Puts read; None if one would be waited for, for ever."""
    found = {}
    for t in frame.transfers():
        if t not in session.transfers:
            if t % 3:
                return None
            session.transfers[t] = b"12345678"
        data = session.transfers[t]
        # An odd one has failed on its way.
        bad = ErrorInfo("OutOfMemoryError", "refused", -1)
        found[t] = bad if t % 7 == 5 else np.frombuffer(data, np.uint8).copy().data
    return found


def run_session(seed: str, k: int, findings: Findings, inputs: int, verbose: bool = False) -> None:
    """Run one session with up to so many hostile frames."""
    rng = random.Random(f"{seed}:{k}")
    session = Session(rng)
    engine = _opened(session, rng)
    counts = findings.counts
    for number in range(min(inputs, INPUTS_PER_SESSION)):
        data, wrong = subject(rng, session)
        findings.begin(k, number)
        counts["inputs"] += 1
        findings.done += 1
        if verbose:
            print(f"input {number}: {wrong}, {len(data)} bytes", file=sys.stderr, flush=True)
        frame = _decoded(data, findings)
        if frame is None:
            session.resync(engine)  # nothing of it has happened
            continue
        counts["decoded"] += 1
        if verbose:
            print(frame, file=sys.stderr, flush=True)
        if not _handled(engine, frame, session, findings):
            engine.close()
            engine = _opened(session, rng)
        session.resync(engine)
    engine.close()
    del engine


def _opened(session: Session, rng: random.Random) -> Engine:
    """Return an engine in which a session has begun as sessions do."""
    engine = Engine(memory_bytes_max=MEMORY_BYTES)
    engine.steady = rng.random() < 0.3
    session.resync(engine)
    frame = session.next_frame(rng.randrange(4, 10))
    found = {t: np.frombuffer(session.transfers[t], np.uint8).copy().data
             for t in frame.transfers()}  # fmt: skip
    engine.handle(wire.decode_frame(wire.encode_frame(frame)), found)
    session.resync(engine)
    return engine


def work_s() -> float:
    """Return the processor time that work of a known size takes now.

    A busy machine makes processor time longer too: caches and cores are shared.
    """
    begun = time.thread_time()
    total = 0
    for i in range(150_000):
        total += i & 7
    numbers = np.arange(200_000.0)
    for _ in range(4):
        numbers = np.sqrt(numbers[::-1] + 1.0).copy()
    assert total and numbers.size
    np.sort(np.sin(numbers * 1e6))
    return time.thread_time() - begun


def too_long(took: float, limit: float) -> bool:
    """Return whether so much processor time is more than the limit, as fast as it goes now."""
    return took > limit and took > limit * max(1.0, work_s() / WORK_S)


def _decoded(data: bytes, findings: Findings) -> Frame | None:
    begun = time.thread_time()
    try:
        wire.frame_header(data)
        return wire.decode_frame(data)
    except ProtocolError:
        return None
    except BaseException:
        findings.tell("untyped error of the decoder", traceback.format_exc())
        return None
    finally:
        took = time.thread_time() - begun
        if too_long(took, HANG_S / 4):
            findings.tell("slow decoder", f"{took:.2f} s")


def _handled(engine: Engine, frame: Frame, session: Session, findings: Findings) -> bool:
    """Run a frame; return whether the session goes on."""
    counts = findings.counts
    transfers = transfers_of(frame, session)
    if transfers is None:
        counts["waits for ever"] += 1
        return True
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.thread_time()
    events, goes_on = [], True
    try:
        events = engine.handle(frame, transfers)
    except ProtocolError:
        counts["refused by the engine"] += 1
        goes_on = False
    except BaseException:
        findings.tell("untyped error of the engine", traceback.format_exc())
        goes_on = False
    took = time.thread_time() - begun
    if too_long(took, HANG_S):
        findings.tell("hang", f"{took:.2f} s of processor time: {_told(frame)}")
    if took > 0.2:
        findings.slowest.append((took, f"{findings.at[0]}:{findings.at[1]}"))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    if grown > GROWTH_BYTES:
        findings.tell("memory", f"{grown >> 20} MiB more: {_told(frame)}")
    if engine.budget.used > engine.budget.limit * 2 or engine.budget.used < 0:
        findings.tell("budget", f"{engine.budget.used} of {engine.budget.limit}")
    _look_at(events, findings)
    if goes_on:
        counts["failed" if any(type(e) is Failed for e in events) else "ran"] += 1
    return goes_on


def _told(frame: Frame) -> str:
    """Return the commands of a frame, Puts apart, as a reader can take them in."""
    rows, at, number = [], 0, 0
    for k, opcode in enumerate(frame.opcodes):
        ids = frame.ids[at : at + frame.counts[k]]
        own = frame.scalars[number : number + frame.scalar_counts[k]]
        at, number = at + frame.counts[k], number + frame.scalar_counts[k]
        if opcode >= cmd.FIRST_OPCODE:
            rows.append(f"{op_at(opcode).name}{ids} {frame.modes[k]} {frame.statics[k]} {own}")
        else:
            rows.append(f"#{opcode}{ids} {frame.statics[k]}"[:100])
    return "\n".join(row[:200] for row in rows)


def _look_at(events: list[Any], findings: Findings) -> None:
    """Events must be of the kinds there are, with errors of the kinds there are, and travel."""
    told = []
    for event in events:
        if not isinstance(event, Failed | Value | Send):
            findings.tell("an event that is none", repr(event)[:200])
            continue
        if event.error is not None:
            if event.error.kind not in BY_NAME:
                findings.tell("an error of no kind", repr(event.error)[:200])
            if _LEAK.search(event.error.message):
                findings.tell("an address or a path in an error", event.error.message[:300])
            if event.error.kind == "ServiceError":
                findings.counts["kernel: " + _blame(event.error.message)] += 1
        if not isinstance(event, Send):
            told.append(event)
    try:
        if told:
            wire.decode_events(wire.encode_events(told))
    except BaseException:
        if not any(isinstance(e, Value) and e.data is not None and len(e.data) > 65_536
                   for e in told):  # fmt: skip
            findings.tell("events that cannot be sent", traceback.format_exc())


def _blame(message: str) -> str:
    """Return op and exception of a kernel's failure."""
    words = message.split(":")
    return ":".join(words[:2])[:60]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("seed")
    parser.add_argument("first", type=int)
    parser.add_argument("inputs", type=int)
    parser.add_argument("progress", type=Path)
    parser.add_argument("--one", action="store_true")
    given = parser.parse_args()
    faulthandler.enable()
    warnings.simplefilter("ignore")  # that a kernel casts complex numbers is no news here
    with given.progress.open("r+b") as file:
        progress = mmap.mmap(file.fileno(), PROGRESS.size)
    findings = Findings(progress)
    corpus()
    bound_memory(1 << 33)
    vars(limits)["MEMO_ENTRIES_MAX"] = MEMO_ENTRIES
    k = given.first
    gc.freeze()
    rss: list[tuple[int, int]] = []
    while findings.done < given.inputs:
        left = given.inputs - findings.done
        run_session(given.seed, k, findings, left, given.one)
        k += 1
        if given.one:
            break
        if k % 16 == 0:
            findings.tally()
            rss.append((findings.done, _rss_bytes()))
    findings.tally()
    summary = {
        "next": k, "rss": rss[:: max(1, len(rss) // 32)],
        "slowest": sorted(findings.slowest, reverse=True)[:5], "cpu_s": time.process_time(),
    }  # fmt: skip
    print(json.dumps({"summary": summary}), flush=True)


def bound_memory(nbytes: int) -> None:
    """Let no more address space be taken than this process has now, and so many bytes more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    now = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + nbytes, now + nbytes))


def _rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
