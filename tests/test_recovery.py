"""Workers die under a session that is journalled: it goes on, with the same bits."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import farspan as torch
import numpy as np
import pytest
from farspan import nn


@pytest.fixture(scope="module")
def journalled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Path]]:
    """Return address, token and journal directory of a gateway whose sessions survive."""
    journal = tmp_path_factory.mktemp("journal")
    command = ["up", "--no-ray", "--workers", "cpu:2", "--spares", "1", "--threads", "1"]
    up = subprocess.Popen(
        [sys.executable, "-m", "farspan_server", *command, "--journal", str(journal),
         "--snapshot-every", "0.3", "--json"],
        stdout=subprocess.PIPE, text=True,
        env=os.environ | {"FARSPAN_LOOPS": "wait"},  # two runs go over to loops at the same Call
    )  # fmt: skip
    try:
        assert up.stdout is not None
        ready = json.loads(up.stdout.readline())
        yield ready["address"], Path(ready["token_file"]).read_text().strip(), journal
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.wait(20) == 0
    assert not list(journal.iterdir())


def train(steps: int, between: Callable[[int], None] = lambda step: None) -> list[bytes]:
    """Train a net with dropout, batch norm and Adam; return all that it ends with."""
    torch.manual_seed(7)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.25), nn.Tanh(), nn.Linear(16, 3),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    data = np.random.default_rng(0)
    losses = []
    for step in range(steps):
        x = torch.tensor(data.standard_normal((8, 1, 8, 8)).astype("float32"))
        y = torch.tensor(data.integers(0, 3, 8))
        optimizer.zero_grad()
        z = net(x)
        z[:, 0].mul_(1.5)
        loss = nn.functional.cross_entropy(z, y)
        between(step)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    state = list(net.state_dict().values())
    for group in optimizer.state_dict()["state"].values():
        state += [v for v in group.values() if torch.is_tensor(v)]
    arrays = [t.detach().numpy() for t in state]
    return [np.array(losses).tobytes(), torch.rand(4).numpy().tobytes(), *map(bytes, arrays)]


def kill_worker(session: Any) -> None:
    """Kill the process of a device of the session, without a word."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(random.choice(session.transport.devices)["pid"], signal.SIGKILL)


@pytest.mark.parametrize("replay", [True, False])
def test_workers_killed_while_it_trains_change_no_bit(
    journalled: tuple[str, str, Path], replay: bool
) -> None:
    address, token, _ = journalled
    with torch.connect(address, token=token, timeout=30, replay=replay):
        expected = train(30)
    random.seed(1)
    kills = 0
    with torch.connect(address, token=token, timeout=30, replay=replay) as session:

        def between(step: int) -> None:
            nonlocal kills
            if step in (0, 7, 8, 21):
                kill_worker(session)
                kills += 1

        found = train(30, between)
        devices = session.transport.devices
    assert found == expected and kills == 4
    assert devices[0]["epoch"] >= 4


def test_a_worker_killed_at_any_moment_changes_no_bit(journalled: tuple[str, str, Path]) -> None:
    address, token, _ = journalled
    with torch.connect(address, token=token, timeout=30):
        expected = train(150)
    with torch.connect(address, token=token, timeout=30) as session:
        done = threading.Event()
        kills = []

        def kill() -> None:
            rng = random.Random(5)
            while not done.wait(rng.uniform(0.3, 1.5)) and len(kills) < 4:
                kill_worker(session)
                kills.append(time.monotonic())

        thread = threading.Thread(target=kill)
        thread.start()
        try:
            found = train(150, lambda step: time.sleep(0.01))
        finally:
            done.set()
            thread.join()
    assert found == expected
    assert kills, "it was over before a worker was killed"


def test_long_tensors_survive_on_their_way_up_and_down(journalled: tuple[str, str, Path]) -> None:
    address, token, _ = journalled
    values = np.random.default_rng(1).standard_normal(3_000_000)
    with torch.connect(address, token=token, timeout=30) as session:
        kept = [torch.tensor(values)]
        killer = threading.Timer(0.01, kill_worker, [session])
        killer.start()
        for k in range(5):
            kept.append(torch.tensor(values + k))
        killer.join()
        total = sum(kept[1:], kept[0])
        killer = threading.Timer(0.005, kill_worker, [session])
        killer.start()
        found = total.numpy()
        killer.join()
        assert (found == sum((values + k for k in range(5)), values)).all()
        assert (kept[3].numpy() == values + 2).all()


def test_a_snapshot_takes_the_place_of_what_led_to_it(journalled: tuple[str, str, Path]) -> None:
    address, token, journal = journalled
    with torch.connect(address, token=token, timeout=30) as session:
        torch.manual_seed(0)
        x = torch.zeros(1000)
        began = time.monotonic()
        while len(found := [d for d in journal.iterdir() if d.is_dir()]) > 1:
            assert time.monotonic() - began < 10  # a thread removes those of the tests before
            time.sleep(0.01)
        (directory,) = found
        while not list(directory.glob("snapshot-*")) or len(list(directory.iterdir())) > 4:
            x = x + torch.rand(1000)
            x.sum().item()
            assert time.monotonic() - began < 30, sorted(directory.iterdir())
        for _ in range(3):
            x = x + torch.rand(1000)
        expected = x.numpy().tobytes()
        kill_worker(session)
        assert x.numpy().tobytes() == expected
        y = torch.rand(5).numpy().tobytes()
        kill_worker(session)
        assert x.numpy().tobytes() == expected and y != torch.rand(5).numpy().tobytes()
    began = time.monotonic()
    while directory.exists():  # a closed session leaves nothing
        assert time.monotonic() - began < 10
        time.sleep(0.05)


def test_what_is_frozen_is_written_once_and_survives_every_death(
    journalled: tuple[str, str, Path],
) -> None:
    address, token, journal = journalled
    before = set(journal.iterdir())
    with torch.connect(address, token=token, timeout=30) as session:
        torch.manual_seed(0)
        frozen, x = torch.rand(500_000), torch.zeros(50_000)
        expected = frozen.numpy().tobytes()
        (directory,) = [d for d in journal.iterdir() if d.is_dir() and d not in before]
        home: set[str] = set()
        for _ in range(3):
            began, latest = time.monotonic(), 0
            while True:  # until two snapshots more have left it where it is
                x = x + torch.rand(50_000)
                x.sum().item()
                sizes = {}
                for path in directory.glob("snapshot-*"):
                    with contextlib.suppress(FileNotFoundError):
                        sizes[path.name] = path.stat().st_size
                home = home or {name for name, size in sizes.items() if size > 2_000_000}
                numbers = [int(n.split("-")[1]) for n, size in sizes.items() if n not in home]
                latest = latest or max(numbers, default=0)
                if home and max(numbers, default=0) > latest + 1 > 1:
                    break
                assert time.monotonic() - began < 30, sizes
            assert all(size < 1_000_000 for name, size in sizes.items() if name not in home)
            assert home <= sizes.keys() and len(home) == 1
            total = x.numpy().tobytes()
            kill_worker(session)
            assert x.numpy().tobytes() == total and frozen.numpy().tobytes() == expected
        frozen.mul_(2)  # written again from now on
        began = time.monotonic()
        while any((directory / name).exists() for name in home):
            x = x + torch.rand(50_000)
            x.sum().item()
            assert time.monotonic() - began < 30
        kill_worker(session)
        assert frozen.numpy().tobytes() == (np.frombuffer(expected, "<f4") * 2).tobytes()


def across_devices(steps: int, between: Callable[[int], None] = lambda step: None) -> list[bytes]:
    """Train a net whose halves lie on two devices."""
    torch.manual_seed(3)
    first = nn.Linear(6, 8)
    second = nn.Linear(8, 2).to("cpu:1")
    optimizer = torch.optim.SGD([*first.parameters(), *second.parameters()], lr=0.1, momentum=0.9)
    x = torch.randn(5, 6)
    for step in range(steps):
        optimizer.zero_grad()
        hidden = nn.functional.dropout(first(x).relu(), 0.2)
        between(step)
        loss = second(hidden.to("cpu:1")).square().mean()
        loss.backward()
        optimizer.step()
    return [bytes(p.detach().numpy()) for p in [*first.parameters(), *second.parameters()]]


def test_a_session_on_two_devices_goes_back_to_one_moment_on_both(
    journalled: tuple[str, str, Path],
) -> None:
    address, token, _ = journalled
    with torch.connect(address, token=token, timeout=30, devices="cpu:2"):
        expected = across_devices(120)
    with torch.connect(address, token=token, timeout=30, devices="cpu:2") as session:
        random.seed(4)

        def between(step: int) -> None:
            time.sleep(0.02)  # long enough for snapshots between the kills
            if step in (20, 90, 110):
                kill_worker(session)

        found = across_devices(120, between)
    assert found == expected


def compiled(steps: int, between: Callable[[int], None] = lambda step: None) -> list[bytes]:
    """Train with a whole step as one program, whose kernels round in their own way."""
    torch.manual_seed(5)
    net = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, 4))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

    @torch.compile
    def step_of(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    losses = []
    for step in range(steps):
        x = torch.randn(16 if step % 5 else 7, 32)
        losses.append(step_of(x, torch.arange(len(x)) % 4))
        between(step)
    return [bytes(p.detach().numpy()) for p in [*losses, *net.parameters()]]


def test_programs_go_on_with_the_same_rounding(journalled: tuple[str, str, Path]) -> None:
    address, token, _ = journalled
    with torch.connect(address, token=token, timeout=60):
        expected = compiled(60)
    with torch.connect(address, token=token, timeout=60) as session:

        def between(step: int) -> None:
            time.sleep(0.05)
            if step in (4, 30, 55):
                kill_worker(session)

        found = compiled(60, between)
    assert found == expected


def _models() -> dict[str, Callable[[], tuple[Any, Callable[[Any], Any]]]]:
    def mlp() -> tuple[Any, Callable[[Any], Any]]:
        net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
        return net, net

    def cnn() -> tuple[Any, Callable[[Any], Any]]:
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10),
        )  # fmt: skip
        return net, lambda x: net(x.view(-1, 1, 8, 8))

    def transformer() -> tuple[Any, Callable[[Any], Any]]:
        block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        head = nn.Linear(16, 10)
        net = nn.ModuleList([block, head])
        return net, lambda x: head(block(x.view(-1, 4, 16)).mean(1))

    return {"mlp": mlp, "cnn": cnn, "transformer": transformer}


def _digits(name: str, steps: int, at: Callable[[str], None]) -> list[bytes]:
    """Train on scikit-learn's digits; `at` hears which phase begins."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    torch.manual_seed(11)
    net, forward = _models()[name]()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    order = np.random.default_rng(2)
    losses = []
    for _ in range(steps):
        chosen = order.integers(0, len(images), 64)
        at("upload")
        x = torch.tensor((images[chosen] / 16).astype("float32"))
        y = torch.tensor(labels[chosen])
        at("forward")
        loss = nn.functional.cross_entropy(forward(x), y)
        at("backward")
        optimizer.zero_grad()
        loss.backward()
        at("step")
        optimizer.step()
        losses.append(loss.item())
    return [np.array(losses).tobytes(), *(bytes(p.detach().numpy()) for p in net.parameters())]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "cnn", "transformer"])
def test_seven_kills_in_every_phase_change_no_bit(
    journalled: tuple[str, str, Path], name: str
) -> None:
    address, token, _ = journalled
    with torch.connect(address, token=token, timeout=30):
        expected = _digits(name, 160, lambda phase: None)
    rng = random.Random(name)
    phases = dict.fromkeys(("upload", "forward", "backward", "step"), 0)
    moments = iter(sorted(rng.sample(range(40, 640), 7)))
    due, count = next(moments), 0
    with torch.connect(address, token=token, timeout=30) as session:

        def at(phase: str) -> None:
            nonlocal due, count
            count += 1
            if count >= due:
                time.sleep(rng.uniform(0, 0.01))  # anywhere in what was sent before
                kill_worker(session)
                phases[phase] += 1
                due = next(moments, 10**9)

        found = _digits(name, 160, at)
    print(f"{name}: kills by phase {phases}")
    assert found == expected and sum(phases.values()) == 7
