"""Random programs: what a session does in them is recorded as frames and the bytes of transfers."""

from __future__ import annotations

import copy
import random
from typing import Any

import farspan as torch
import numpy as np


class Recording:
    """The frames a local session runs, as they were, and the bytes that its transfers carry."""

    def __init__(self, session: Any) -> None:
        self.frames: list[Any] = []
        self.transfers: dict[int, bytes] = {}
        self.engine = session.transport.engines[0]
        send, upload = session.transport.send, session.transport.upload

        def recording(frame: Any) -> None:
            kept = copy.deepcopy(frame)
            self.frames.append(kept)
            send(frame)
            kept.sequence = frame.sequence

        def keeping(transfer: int, device: int, data: Any) -> None:
            self.transfers[transfer] = bytes(data)
            upload(transfer, device, data)

        session.transport.send, session.transport.upload = recording, keeping

    def transfers_of(self, frame: Any) -> dict[int, Any]:
        return {t: memoryview(self.transfers[t]) for t in frame.transfers()}


UNARY = ["neg", "exp", "sin", "relu", "sigmoid", "abs", "tanh", "clone", "detach", "t", "cos"]
BINARY = ["add", "mul", "div", "sub"]
KINDS = ["unary"] * 3 + ["binary"] * 4 + ["inplace", "random", "reduce"] * 2
KINDS += ["view", "backward", "fail", "drop", "mm", "read", "int"]
INPLACE = ["add_", "mul_", "copy_", "sub_"]


def run(seed: int, steps: int = 120) -> Any:
    """Run a random program on the current session and return the tensors it ends with."""
    choose = random.Random(seed)
    torch.manual_seed(seed)
    values = np.random.default_rng(seed)
    leaves = [torch.tensor(values.standard_normal((4, 4))).requires_grad_() for _ in range(3)]
    pool = [*leaves, torch.tensor(values.standard_normal((100, 100)))[:4, :4]]
    for _ in range(steps):
        kind = choose.choice(KINDS)
        x, y = choose.choice(pool), choose.choice(pool)
        if kind == "unary":
            made = getattr(x, choose.choice(UNARY))()
        elif kind == "binary":
            made = getattr(x, choose.choice(BINARY))(choose.choice([y, 2, 0.5]))
        elif kind == "inplace":
            with torch.no_grad():
                made = x.detach().clone()
                getattr(made[choose.randrange(3) :], choose.choice(INPLACE))(y[0])
        elif kind == "random":
            made = choose.choice([torch.rand, torch.randn])(4, 4, dtype=torch.float64)
        elif kind == "reduce":
            made = x.sum(choose.choice([0, 1]), keepdim=True) + y
        elif kind == "view":
            made = x.T[::2].reshape(8)[:4] * y
        elif kind == "mm":
            made = x.mm(y).tanh()
        elif kind == "int":
            made = x.to(torch.int64).to(torch.float64) * choose.randrange(5)
        elif kind == "read":
            x.sum().detach()
            continue
        elif kind == "backward":
            if x.requires_grad and not x.is_leaf:
                x.sum().backward(retain_graph=True)
            continue
        elif kind == "fail":
            made = torch.zeros(2**44, dtype=torch.float64)[:4] + y
        else:
            if len(pool) > 8:
                del pool[choose.randrange(4, len(pool))]
            continue
        pool.append(made)
    return pool
