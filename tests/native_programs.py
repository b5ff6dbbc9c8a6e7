"""Random programs of small operations, and the frames that leave for them, for test_native.py.

Run as a script, in a process of its own: `native_programs.py SEED COUNT REPLAY [MODULE]`. MODULE is
a built `_fast` to be used. Prints JSON: which way was taken, a digest of all that left for each
program, and what was raised.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import json
import random
import sys
import warnings
import weakref
from typing import Any

warnings.filterwarnings("ignore", "The use of `x.T`")  # programs take it of any number of dims


def load(path: str) -> None:
    """Let farspan use the module that was built there."""
    spec = importlib.util.spec_from_file_location("farspan._fast", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["farspan._fast"] = module
    spec.loader.exec_module(module)


class Recording:
    """A transport that notes frames with their lines, and forgets them."""

    session_id = "recorded"
    kinds = ("cpu", "cpu")
    devices = ()
    idle = watched = False
    ready = True

    def __init__(self) -> None:
        self.noted: list[Any] = []
        self.session: Any = None

    def set_sink(self, sink: Any) -> None:
        self.sink = sink

    def send(self, frame: Any) -> None:
        from farspan._program import CallSite
        from farspan._signals import Uninterrupted
        from farspan._sites import describe_site
        from farspan.core.command import Acked
        from farspan.wire import encode_frame

        sites = self.session._in_flight[-1][2]
        lines = [type(s).__name__ if type(s) is CallSite else describe_site(s) for s in sites]
        frame.sequence = self.session._sequence + 1
        try:
            data = encode_frame(frame).hex()
        finally:
            frame.sequence = 0
        with Uninterrupted():  # it is taken, or it is not
            self.noted.append((data, lines))
            frame.sequence = self.session._sequence + 1
        self.sink(Acked(frame.sequence, frame.sequence))

    def stats(self) -> dict[str, int]:
        return {}

    def hurry(self) -> None:
        pass

    def close(self) -> None:
        pass


class Mine:
    """Holds a tensor and computes with it when it goes: an operation inside of another."""

    def __init__(self, x: Any, log: list[Any]) -> None:
        self.x, self.log, self.me = x, log, self

    def __del__(self) -> None:
        self.log.append(tuple((self.x + self.x).shape))


def steps(torch: Any, draw: random.Random, log: list[Any]) -> list[Any]:
    """Return what a program may do to its list of tensors."""

    watched: list[Any] = []

    def of(xs: list[Any]) -> Any:
        return draw.choice(xs)

    def keep(xs: list[Any], x: Any) -> None:
        xs[draw.randrange(len(xs))] = x

    def loop(xs: list[Any]) -> None:
        a, b = of(xs), of(xs)
        for _ in range(draw.choice((3, 400))):
            c = a + b
        keep(xs, c.detach())

    def gone(xs: list[Any]) -> None:
        watched.append(weakref.ref(xs[0], lambda _: log.append("gone")))
        watched.append(weakref.ref(xs[0]._ref, lambda _: log.append("claim gone")))
        keep(xs, xs[0] * 1.5)

    def cycle(xs: list[Any]) -> None:
        Mine(of(xs), log)
        if draw.random() < 0.3:
            gc.collect()

    def view(xs: list[Any]) -> None:
        x, odd = of(xs), draw.choice((7, True, 1.5, (2, True), slice(None, None, -1), "text"))
        ways = (
            lambda: x.view(-1), lambda: x.view(3, 2), lambda: x.view((1, -1)), lambda: x.T,
            lambda: x.reshape(-1), lambda: x.reshape([3, -1]), lambda: x.transpose(0, 1),
            lambda: x.permute(1, 0), lambda: x.unsqueeze(draw.randrange(3)), lambda: x.squeeze(),
            lambda: x.expand(4, *x.shape), lambda: x[draw.randrange(-3, 3)], lambda: x[1:],
            lambda: x[draw.randrange(2) :: 2], lambda: x[:], lambda: x[odd], lambda: x.view(odd),
            lambda: x.select(0, 0), lambda: x[0, 1:], lambda: x[None], lambda: x.t().t(),
            lambda: x.view(torch.int32), lambda: x.as_strided((2,), (1,)), lambda: x.detach()[0],
        )  # fmt: skip
        seen = draw.choice(ways)()
        log.append((seen.shape, seen.stride(), seen._offset, seen._generation, seen._in_no_grad))
        log.append((seen._base is x, seen._storage.memory is x._storage.memory))
        if draw.random() < 0.3:
            seen += 1  # refused where it is a view of what needs a gradient
        keep(xs, (seen + seen).sum().expand(2, 3) if draw.random() < 0.5 else x)

    def unrecorded(xs: list[Any]) -> None:
        with draw.choice((torch.no_grad, torch.inference_mode))():
            seen = of(xs)[0:1]
        log.append((seen._in_no_grad, seen._inference, seen._offset))
        log.append((seen.t()._in_no_grad, seen[0]._inference))

    def strange(xs: list[Any]) -> None:
        with torch.no_grad():
            keep(xs, torch.nn.Parameter(of(xs).detach(), requires_grad=draw.random() < 0.5))

    def elsewhere(xs: list[Any]) -> None:
        keep(xs, torch.ones(2, 3, device=draw.choice(("cpu", "cpu:1"))))

    def backward(xs: list[Any]) -> None:
        w = torch.ones(2, 3, requires_grad=True)
        (w * of(xs) + w).sum().backward()
        keep(xs, w.grad + w.grad)

    def wrong(xs: list[Any]) -> None:
        of(xs) + draw.choice((torch.ones(7), "text", None, object()))

    return [
        lambda xs: keep(xs, of(xs) + of(xs)), lambda xs: keep(xs, of(xs) * of(xs)),
        lambda xs: keep(xs, -of(xs)), lambda xs: keep(xs, of(xs).exp()),
        lambda xs: keep(xs, torch.relu(of(xs))), lambda xs: keep(xs, torch.sub(of(xs), of(xs))),
        lambda xs: keep(xs, of(xs).mul(of(xs))), lambda xs: keep(xs, of(xs) * 2.0),
        lambda xs: keep(xs, of(xs) == of(xs)), lambda xs: keep(xs, of(xs).t()),
        lambda xs: keep(xs, of(xs) @ of(xs).t()), lambda xs: keep(xs, of(xs)[0]),
        lambda xs: of(xs).add_(1), lambda xs: keep(xs, of(xs).double()),
        lambda xs: keep(xs, torch.Tensor.__add__(of(xs), of(xs))),
        lambda xs: keep(xs, torch.vmap(lambda x: x + x)(of(xs))),
        lambda xs: keep(xs, torch.ones(64, 1024) + torch.ones(64, 1024)),
        loop, gone, cycle, view, view, view, unrecorded, strange, elsewhere, backward, wrong,
    ]  # fmt: skip


def run(seed: int, replay: bool) -> tuple[str, list[str]]:
    """Run one program; return a digest of what left, and what was raised."""
    import farspan
    from farspan import _state
    from farspan._session import Session

    draw, log, raised = random.Random(seed), [], []
    transport = Recording()
    session = transport.session = Session(transport, "recorded:", replay)  # type: ignore[arg-type]
    _state.push(session)
    try:
        xs = [farspan.ones(2, 3) for _ in range(6)]
        known = steps(farspan, draw, log)
        chosen = [draw.choice(known) for _ in range(40)]
        for step in chosen * 2:
            try:
                step(xs)
            except Exception as error:
                raised.append(f"{type(error).__name__}: {error}")
        del xs
        gc.collect()
        session.flush()
        claims = [sorted(lane.held) for lane in session.lanes]
    finally:
        _state.forget(session)
    noted = json.dumps([transport.noted, claims, [str(x) for x in log]])
    return hashlib.sha256(noted.encode()).hexdigest(), raised


def main() -> None:
    seed, count, replay = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1"
    if len(sys.argv) > 4:
        load(sys.argv[4])
    from farspan import _native

    gc.disable()  # collections come at their places in the program, not by chance
    found = [run(seed + k, replay) for k in range(count)]
    print(json.dumps({"in C": _native.fast is not None, "programs": found}))


if __name__ == "__main__":
    main()
