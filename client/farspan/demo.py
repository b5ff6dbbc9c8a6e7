"""`farspan demo`: train a small CNN on handwritten digits, on a worker, over gRPC.

The model and its loop are plain PyTorch code over `lib`, which is farspan or torch. Everything else
here is what a user would do too: start a service or connect to one, watch it, keep the result.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import farspan

BATCH = 64
EPOCHS = 12
SEED = 0


@dataclass
class History:
    """What a run measured."""

    losses: list[float] = field(default_factory=list)  # one a step
    accuracies: list[float] = field(default_factory=list)  # held out, one an epoch
    seconds: float = 0.0


def digits() -> tuple[Any, Any, Any, Any]:
    """Return (train images, test images, train labels, test labels), stratified 80/20."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = (data.images / 16.0)[:, None]
    return train_test_split(
        images, data.target, test_size=0.2, stratify=data.target, random_state=SEED
    )  # type: ignore[no-any-return]


def make_model(lib: Any) -> Any:
    """Return a CNN for 8 by 8 images."""
    nn = lib.nn
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def train(lib: Any, dtype: Any, epochs: int, advance: Any) -> tuple[Any, History]:
    """Train and return the model and its history. `advance(loss)` is called after every step."""
    lib.manual_seed(SEED)
    train_x, test_x, train_y, test_y = digits()
    x, held_x = lib.tensor(train_x, dtype=dtype), lib.tensor(test_x, dtype=dtype)
    y, held_y = lib.tensor(train_y), lib.tensor(test_y)
    model = make_model(lib).to(dtype)
    optimizer = lib.optim.Adam(model.parameters(), lr=1e-3)
    loss_of = lib.nn.CrossEntropyLoss()
    history = History()
    begun = time.perf_counter()
    for _ in range(epochs):
        model.train()
        losses = []
        for chosen in lib.randperm(len(x)).split(BATCH):
            prediction = model(x[chosen])
            loss = loss_of(prediction, y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            advance()
        history.losses += lib.stack(losses).tolist()
        model.eval()
        with lib.no_grad():
            right = (model(held_x).argmax(1) == held_y).double().mean()
        history.accuracies.append(100 * right.item())
    history.seconds = time.perf_counter() - begun
    return model, history


# ----------------------------------------------------------------------------------- surroundings
@contextlib.contextmanager
def service(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Yield the address and token of the service to use; start one if none is given."""
    if options.address:
        token = Path(options.token_file).read_text().strip() if options.token_file else ""
        yield options.address, token
        return
    print("starting gateway, supervisor, Ray and one worker ...", flush=True)
    command = [sys.executable, "-m", "farspan_server", "up", "--workers", "cpu:1", "--json"]
    command += ["--no-journal"]  # nobody could come back to it
    log = options.out / "service.log"
    with log.open("w") as errors:
        up = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert up.stdout is not None
            line = up.stdout.readline()
            if not line:
                raise SystemExit(f"the service did not start; see {log}")
            ready = json.loads(line)
            yield ready["address"], Path(ready["token_file"]).read_text().strip()
        finally:
            up.terminate()
            up.wait(60)


@contextlib.contextmanager
def progress(total: int) -> Iterator[Any]:
    """Yield a function that moves a progress bar one step on."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("training", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=total)
        yield lambda: bar.advance(task)


def plot(history: History, path: Path) -> None:
    """Draw loss by step and held-out accuracy by epoch into a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.semilogy(history.losses, linewidth=0.8)
    left.set(xlabel="step", ylabel="cross-entropy", title="training loss")
    right.plot(range(1, len(history.accuracies) + 1), history.accuracies, marker="o")
    right.set(xlabel="epoch", ylabel="%", title="held-out accuracy")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def save_weights(model: Any, path: Path) -> None:
    """Write the weights in the safetensors layout; from torch's tensors too."""
    weights = {
        name: farspan.from_numpy(value.detach().cpu().numpy().copy())
        for name, value in model.state_dict().items()
    }
    farspan.save(weights, path)


def run(options: argparse.Namespace) -> History:
    """Train with the chosen backend and write what it gave."""
    steps = options.epochs * -(-1437 // BATCH)
    with contextlib.ExitStack() as stack:
        lib: Any = farspan
        session = None
        if options.backend == "torch":
            import torch

            lib = torch
            print(f"training with torch {torch.__version__} in this process")
        elif options.backend == "local":
            session = stack.enter_context(farspan.connect("local:"))
        else:
            address, token = stack.enter_context(service(options))
            opened = farspan.connect(address, token=token, tls=options.ca)
            session = stack.enter_context(opened)
        if session is not None:
            print(f"training at {session.address}")
            print(json.dumps(session.describe()))
        advance = stack.enter_context(progress(steps))
        model, history = train(lib, getattr(lib, options.dtype), options.epochs, advance)
        if session is not None:
            report(session, history)
        with farspan.connect("local:") if session is None else contextlib.nullcontext():
            save_weights(model, options.out / "digits.safetensors")
    plot(history, options.out / "digits.png")
    (options.out / "losses.json").write_text(json.dumps(history.losses))
    return history


def report(session: Any, history: History) -> None:
    """Print what the worker and the client counted, and the time."""
    for device, stats in zip(session.describe()["devices"], session.worker_stats(), strict=True):
        worker = f"the worker of {device['name']} (pid {device['pid']})"
        print(f"{worker} counted {stats['commands']} commands of this session")
    stats = session.stats()
    steps = len(history.losses)
    print(
        f"{stats['commands']} commands in {stats['frames']} frames, "
        f"{stats['bytes_up'] / 1e6:.1f} MB up, {stats['bytes_down'] / 1e6:.2f} MB down, "
        f"{stats['sync_points']} waits"
    )
    print(
        f"{steps} steps in {history.seconds:.1f} s: {1e3 * history.seconds / steps:.2f} ms a step"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="farspan demo", description=__doc__.splitlines()[0])
    parser.add_argument("--address", help="of a running gateway; default: start one for the time")
    parser.add_argument("--token-file", help="a file with that gateway's token")
    parser.add_argument("--ca", help="the authority of that gateway's certificate, if it has one")
    parser.add_argument("--backend", choices=("farspan", "local", "torch"), default="farspan")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=Path("farspan-demo"), help="a folder")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        history = run(options)
    except farspan.ServiceError as error:
        sys.exit(f"farspan demo: {type(error).__name__}: {error}")
    print(f"wrote {options.out / 'digits.png'} and {options.out / 'digits.safetensors'}")
    print(f"held-out accuracy {history.accuracies[-1]:.1f} %")


if __name__ == "__main__":
    main()
