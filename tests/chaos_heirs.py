"""A client dies in any phase of a training, and another goes on with what had a name.

What the other one finds must be what some prefix of the dead one's commands had made, no shorter
than what the dead one had seen. `trail` tells all of them.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import farspan as torch
from chaos import FROZEN_S, Chaos, Fault, Service, wait_until
from chaos_client import Client
from chaos_programs import Training

SETTLING = 2  # steps until all state exists, the optimizer's too; then it gets its name
NAME = "training"


def described(training: Training) -> dict[str, Any]:
    """Return what is kept of a training."""
    return {"net": training.net, "optimizer": training.optimizer, "probe": training.probe}


def tensors_of(kept: dict[str, Any]) -> list[Any]:
    """Return the tensors of what was kept, in an order that is always the same."""
    found = [*kept["net"].values()]
    for state in kept["optimizer"]["state"].values():
        found += [value for value in state.values() if torch.is_tensor(value)]
    return [*found, kept["probe"]]


def digest(parts: list[bytes]) -> str:
    """Return a digest of tensors' bytes and a generator's state."""
    return hashlib.sha256(b"|".join(parts)).hexdigest()


def found_in(session: Any) -> str:
    """Return the digest of what a session has under its name, and of its generator."""
    tensors = [*tensors_of(session.kept[NAME]), torch.get_rng_state()]
    return digest([each.detach().numpy().tobytes() for each in tensors])


def trail(model: str, steps: int) -> list[str]:
    """Return the digest before each command behind the settling steps, and after the last.

    By an engine of this process that is asked after each command, so the client under test issues
    what it always does.
    """
    with torch.connect("local:", replay=False) as session:
        training = Training(model, "eager")
        for _ in range(SETTLING):
            training.step()
        named = described(training)
        named |= {"net": training.net.state_dict(), "optimizer": training.optimizer.state_dict()}
        session.synchronize()
        ids = [each._ref.id for each in tensors_of(named)]
        engine: Any = session.transport.engines[0]
        handle = engine.handle

        def look() -> str:
            held = [engine.tensors[i].array.tobytes() for i in ids]
            return digest([*held, bytes(engine.generator(0).get_state())])

        seen = [look()]

        def watched(frame: Any, transfers: Any = None) -> list[Any]:
            events: list[Any] = []
            while len(frame):
                one, frame = frame.split(1)
                events += handle(one, transfers)
                seen.append(look())
            return events

        engine.handle = watched
        for _ in range(steps):
            training.step()
        session.synchronize()
    return seen


def bequeath(session: Any, model: str, steps: str, phase: str, seed: str, *_: str) -> None:
    """Train under a name, tell each step that was seen, and die in a phase of one of them."""
    at = "ops"

    def hear(begins: str) -> None:
        nonlocal at
        at = begins
        fault.at(begins)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    fault = Fault(session, 2**62, die, (phase,), bare=True)
    training = Training(model, "eager", hear)
    for _ in range(SETTLING):
        training.step()
    session.keep(NAME, described(training))
    print("seen", found_in(session), flush=True)
    began = session.commands
    training.step()
    each = session.commands - began
    print("seen", found_in(session), flush=True)
    last = session.commands + random.Random(int(seed)).randrange(each * (int(steps) - 2))
    with fault.after(last):
        for _ in range(int(steps) - 1):
            training.step()
    print("survived", flush=True)


def inherited(service: Service, model: str, phase: str, seed: int, steps: int = 6) -> str:
    """Let a client die in a phase, and return what is wrong with what another finds; "" if nothing.

    steps: of the training behind its settling, of which the last is never reached.
    """
    expected = trail(model, steps)
    with Client(service, "bequeath", model, steps, phase, seed) as client:
        name = client.hear("session")
        client.hear("seen")
        seen = client.hear("seen")
        assert client.process.stdout is not None
        if "survived" in client.process.stdout.read():
            return "no fault struck"
    with torch.attach(name, service.address, token=service.token, timeout=60) as session:
        found = found_in(session)
        if found not in expected:
            return "a state that no prefix of the commands makes"
        if expected.index(found) < expected.index(seen):
            return "what the first client had seen is gone"
        training = Training(model, "eager")  # and it can go on
        training.net.load_state_dict(session.kept[NAME]["net"], assign=True)
        training.optimizer.load_state_dict(session.kept[NAME]["optimizer"])
        training.step()
    return ""


def frozen_client(chaos: Chaos, model: str, phase: str, seed: int) -> str:
    """Freeze a client in a phase for `FROZEN_S`; return what is wrong with what it comes to."""
    expected = chaos.expected(model, "eager")[0]
    with Client(chaos.service, "freeze", model, chaos.steps, phase, seed) as client:
        client.hear("freezes")
        wait_until(lambda: stopped(client.pid), what="its stop")
        time.sleep(FROZEN_S)
        os.kill(client.pid, signal.SIGCONT)
        return "" if client.hear("digest") == expected else "another digest"


def stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
