"""Programs while several threads use a session, and while Ctrl-C comes at any point."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import farspan as torch
import pytest
from farspan import nn, optim
from farspan._dispatch import wrap
from farspan._gather import Ref
from farspan._program import undefine
from farspan.core.op import OPS


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Let threads take turns as often as Python can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Beside:
    """A thread that works on the session until the block ends; its error is raised there."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.error: BaseException | None = None
        self.rounds = 0
        self._over = threading.Event()
        self._work = work
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                self._work()
                self.rounds += 1
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Beside:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join(30)
        if self.error is not None:
            raise self.error


def test_what_another_thread_does_is_no_part_of_a_trace(session: Any, quick_switches: Any) -> None:
    counter, noise = torch.zeros(()), torch.ones(8)

    def others() -> None:
        counter.add_(1)
        assert float((noise * 2).sum()) == 16.0

    wrong = []
    with Beside(others) as beside:
        for k in range(12):
            w = torch.full((4,), float(k))

            @torch.compile
            def f(x: Any, w: Any = w) -> Any:
                y = x
                for _ in range(10):
                    y = y * 1 + w
                return y

            wrong += [f(torch.full((4,), float(i))).tolist() != [i + 10.0 * k] * 4
                      for i in range(6)]  # fmt: skip
    assert not any(wrong)
    assert beside.rounds and counter.item() == beside.rounds


def test_a_stranger_within_a_trace_is_told_and_the_next_call_is_traced() -> None:
    with torch.connect("local:", replay=False) as session:
        total, inside, go = torch.zeros(()), threading.Event(), threading.Event()

        def stranger() -> None:
            inside.wait(10)
            total.add_(1)
            go.set()

        thread = threading.Thread(target=stranger)
        thread.start()

        @torch.compile
        def f(x: Any) -> Any:
            y = x + 1 + total * 0
            inside.set()
            assert go.wait(10)
            return y * 2

        for i in range(4):
            assert f(torch.full((2,), float(i))).tolist() == [2.0 * i + 2] * 2
        thread.join(10)
        assert total.item() == 1
        assert session.stats()["calls"] == 2, "one call met the stranger, one was traced"
        assert "another thread" in f.explain(show=False)


def test_two_threads_compile_and_train_on_one_session(session: Any, quick_switches: Any) -> None:
    def train(seed: int, losses: list[float], wrap: Any) -> None:
        weight = torch.full((3, 4), 0.1 * (seed + 1), requires_grad=True)
        optimizer = optim.SGD([weight], lr=0.05, momentum=0.9)

        def step(x: Any) -> Any:
            optimizer.zero_grad()
            loss = nn.functional.linear(x, weight).square().mean()
            loss.backward()
            optimizer.step()
            return loss

        step = wrap(step)
        for i in range(15):
            losses.append(step(torch.full((2, 4), 1.0 + i % 3)).item())

    expected: list[list[float]] = [[], []]
    for seed in range(2):
        train(seed, expected[seed], lambda f: f)
    for way in (torch.compile, lambda f: f):
        found: list[list[float]] = [[], []]
        threads = [
            threading.Thread(target=train, args=(s, found[s], way), daemon=True) for s in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for mine, theirs in zip(found, expected, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-5)


def test_programs_that_go_leave_other_threads_alone(quick_switches: Any) -> None:
    with torch.connect("local:", replay=False) as session, warnings.catch_warnings():
        warnings.simplefilter("ignore")

        def others() -> None:
            assert torch.empty(2).dtype is torch.float32
            assert (torch.ones(2) / 2).tolist() == [0.5, 0.5]

        with Beside(others):
            for k in range(150):
                f = torch.compile(lambda x, k=k: x * 2 + k)
                for _ in range(3):
                    assert f(torch.ones(2)).tolist() == [2.0 + k] * 2
                del f
        assert session.stats()["calls"] >= 100
    assert undefine(0, (1,)).default_dtype == torch.float32.code


def test_a_result_that_is_claimed_late_is_there(session: Any) -> None:
    """A thread may be stopped between its command and its claim, while another one waits."""
    session.replay, op = True, OPS["neg"]
    x = torch.arange(4.0)
    for _ in range(8):
        y = ((x + 1) * 2 - 3).exp()
        id_ = session.new_id()
        session.issue(0, op.opcode, 0, (y._ref.id, id_), op.bind(y)[1])
        assert float(x.sum()) == 6.0  # ends the run
        late = wrap(Ref(session, 0, id_, 16), x._spec)
        assert torch.equal(late, -y)
        del late
    assert session.stats()["replay"]["hits"] >= 3


# --- Ctrl-C --------------------------------------------------------------------------------------
class Press:
    """Presses Ctrl-C at the n-th of the points where Python looks for one, within the client."""

    OWN = os.path.dirname(torch.__file__) + os.sep

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0

    def __call__(self, frame: Any, event: str, arg: Any) -> None:
        code = frame.f_code
        if event not in ("call", "c_return") or not code.co_filename.startswith(self.OWN):
            return
        if code.co_name != "__del__":  # where Python drops it
            self.count += 1
            if self.count == self.at:
                sys.setprofile(None)
                signal.raise_signal(signal.SIGINT)


def interrupted(at: int, when: int, wrap: Callable[[Any], Any]) -> bool:
    """Run a loop that is interrupted in iteration `when`; return whether it came so far."""
    cells = [torch.zeros((), dtype=torch.int64) for _ in range(5)]

    def count() -> None:
        for cell in cells:
            cell.add_(1)

    count, done, press = wrap(count), [0] * 5, Press(at)
    for i in range(9):
        try:
            sys.setprofile(press if i == when else None)
            count()
            found = (cells[0] * 2 + 1 - 1).item()
            sys.setprofile(None)
            done = [n + 1 for n in done]
            assert found == 2 * done[0]
        except KeyboardInterrupt:
            more = [cell.item() - n for cell, n in zip(cells, done, strict=True)]
            assert set(more) <= {0, 1} and more == sorted(more, reverse=True), "a prefix, once"
            done = [cell.item() for cell in cells]
    sys.setprofile(None)
    assert [cell.item() for cell in cells] == done
    return press.count >= at


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("name", "when"), [("replay", 5), ("compile", 0), ("compile", 4)])
def test_ctrl_c_at_any_point_loses_nothing_and_repeats_nothing(
    session: Any, name: str, when: int
) -> None:
    session.replay = True
    stride = 19 if session.address == "local:" else 53
    at = 1
    while interrupted(at, when, torch.compile if name == "compile" else lambda f: f):
        at += stride
    assert at > 5 * stride
    assert session.stats()["calls"] > at // stride
