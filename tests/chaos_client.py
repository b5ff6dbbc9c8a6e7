"""A client in a process of its own, to be killed or frozen: `python chaos_client.py WHAT ...`.

It says on stdout, a line each, what it does, and the digest that its program comes to.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import farspan as torch
from chaos_programs import Chain, train


def say(*words: object) -> None:
    """Tell the test, at once."""
    print(*words, flush=True)


def hold(nbytes: str, *_: str) -> None:
    """Hold live tensors of so many bytes until it is killed; some of them with a tape."""
    count = int(nbytes) // 4 // 8
    kept = [torch.rand(count) for _ in range(6)]
    weight = torch.rand(count, requires_grad=True)
    kept.append((weight * kept[0]).sum())
    say("holds", kept[-1].item())
    time.sleep(3600)


def training(name: str, mode: str, steps: str, *_: str) -> None:
    """Train, and tell each step as it begins and the digest at the end."""
    step = 0

    def at(phase: str) -> None:
        nonlocal step
        if phase == "upload":
            step += 1
            say("step", step)

    say("digest", train(name, mode, int(steps), at))


def freezing(session: Any, name: str, steps: str, phase: str, seed: str, *_: str) -> None:
    """Train, stop as if frozen in a phase of it, and tell the digest that it comes to."""
    from chaos import Fault

    def freeze() -> None:
        say("freezes")
        os.kill(os.getpid(), signal.SIGSTOP)

    after = random.Random(int(seed)).randrange(40)
    with Fault(session, after, freeze, (phase,), bare=True) as fault:
        say("digest", train(name, "eager", int(steps), fault.at))


def flood(*_: str) -> None:
    """Give its worker and the gateway all that they take."""
    say("floods")
    x = torch.rand(64, 64)
    wide = torch.rand(12_000)
    while True:
        for _ in range(200):
            x = (x @ x).tanh()
        wide.numpy()


def chained(session: Any, steps: str, *_: str) -> None:
    """Go through a chain's steps and tell now and then how far it has seen them go."""
    chain = Chain()
    session.keep("chain", chain.named)
    for number in range(int(steps)):
        chain.step(number)
        if number % 7 == 0:
            chain.x.sum().item()
            say("seen", number + 1)
            time.sleep(0.002)


def main() -> None:
    of_session = {"chain": chained, "freeze": freezing}
    what, address, token_file, tenant, *arguments = sys.argv[1:]
    token = Path(token_file).read_text().split()[int(tenant)].rpartition(":")[2]
    eager = {"eager", "bequeath", "freeze"} & {what, *arguments}
    with torch.connect(address, token=token, timeout=60, replay=not eager) as made:
        made.transport.devices  # noqa: B018 - waits for a worker
        say("session", made.id)
        if what == "bequeath":
            from chaos_heirs import bequeath

            bequeath(made, *arguments)
        elif what in of_session:
            of_session[what](made, *arguments)
        else:
            {"hold": hold, "train": training, "flood": flood}[what](*arguments)


class Client:
    """A client process of a test; `with` ends it."""

    def __init__(self, service: Any, what: str, *arguments: object, tenant: int = 0) -> None:
        self._command = [sys.executable, __file__, what, service.address,
                         str(service.directory / "token"), str(tenant),
                         *map(str, arguments)]  # fmt: skip

    def __enter__(self) -> Client:
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(20)

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    def hear(self, word: str) -> str:
        """Return what follows a word, once it is said; AssertionError if the client ends first."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            first, _, rest = line.strip().partition(" ")
            if first == word:
                return rest
        raise AssertionError(f"the client ended with status {self.process.wait()}")

    def kill(self) -> None:
        """End it without a word to anybody."""
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait(20)


if __name__ == "__main__":
    main()
