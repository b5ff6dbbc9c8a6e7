"""`farspan run`: PyTorch programs as they are, in processes where `import torch` means farspan."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

HANGS_S = 300  # a program that takes so long does, however busy the machine


def run(tmp_path: Path, program: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a program's text by `python -m farspan run`."""
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(program))
    return subprocess.run(
        [sys.executable, "-m", "farspan", "run", str(script), *args],
        capture_output=True, text=True, timeout=HANGS_S, env={**os.environ, **env},
    )  # fmt: skip


def output(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_script_runs_as_it_is(tmp_path: Path) -> None:
    program = """
        import sys
        import importlib.metadata
        import torch, torch.nn as nn, torch.nn.functional as F
        from torch.utils.data import DataLoader, TensorDataset
        from torch import optim
        import torch.backends.cudnn as cudnn

        torch.manual_seed(0)
        cudnn.benchmark = True
        net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
        optimizer = optim.SGD(net.parameters(), lr=0.1)
        x = torch.randn(64, 3)
        data = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=16, shuffle=True)
        for _ in range(20):
            for a, b in data:
                optimizer.zero_grad()
                loss = F.mse_loss(net(a), b)
                loss.backward()
                optimizer.step()
        print(loss.item() < 0.1, sys.argv[1:], __name__, torch.__package__)
        print(torch.__version__ >= (2, 13), torch.__version__, torch.version.cuda)
        print(importlib.metadata.version("torch"), torch.nn.__spec__.name, torch.__name__)
    """
    lines = output(run(tmp_path, program, "--lr", "3"))
    assert lines == [
        "True ['--lr', '3'] __main__ farspan",
        "True 2.13.0+farspan None",
        "2.13.0+farspan farspan.nn torch",
    ]


def test_a_star_brings_every_public_name(tmp_path: Path) -> None:
    program = """
        from torch import *
        print(ones(2).sum().item(), nn.Linear is not None, float32, relu(tensor(-1.0)).item())
    """
    done = run(tmp_path, "from torch import nn\n" + textwrap.dedent(program))
    assert output(done) == ["2.0 True torch.float32 0.0"]


def test_its_children_inherit_the_name(tmp_path: Path) -> None:
    program = """
        import multiprocessing, subprocess, sys
        import torch

        def work(queue):
            queue.put(torch.__package__)

        if __name__ == "__main__":
            context = multiprocessing.get_context("spawn")
            queue = context.SimpleQueue()
            child = context.Process(target=work, args=(queue,))
            child.start()
            print(queue.get())
            child.join()
            code = "import torch; print(torch.__package__, float(torch.ones(2).sum()))"
            print(subprocess.check_output([sys.executable, "-c", code], text=True))
    """
    assert output(run(tmp_path, program))[:2] == ["farspan", "farspan 2.0"]


def test_a_module_of_a_package_runs(tmp_path: Path) -> None:
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "train.py").write_text("import sys, torch\nprint(torch.__package__, sys.argv[1:])")
    done = subprocess.run(
        [sys.executable, "-m", "farspan", "run", "-m", "mine.train", "-x"],
        capture_output=True, text=True, timeout=HANGS_S, cwd=tmp_path,
    )  # fmt: skip
    assert output(done) == ["farspan ['-x']"]


def test_the_program_s_end_is_the_command_s(tmp_path: Path) -> None:
    assert run(tmp_path, "import sys; sys.exit(7)").returncode == 7
    failed = run(tmp_path, "import torch\ntorch.ones(2) @ torch.ones(3)")
    assert failed.returncode == 1 and "ShapeError" in failed.stderr
    missing = run(tmp_path, "import torch.nowhere")
    assert "No module named 'torch.nowhere'" in missing.stderr


def test_the_command_line_is_checked(tmp_path: Path) -> None:
    for args in ([], ["nothing.py"], ["--connect"]):
        done = subprocess.run(
            [sys.executable, "-m", "farspan", "run", *args],
            capture_output=True, text=True, timeout=HANGS_S, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 2 and "usage: farspan run" in done.stderr


def test_the_real_torch_and_farspan_never_share_a_process() -> None:
    import torch  # noqa: F401
    from farspan import _as_torch

    with pytest.raises(ImportError, match="real torch is loaded"):
        _as_torch.install()
    assert not any(isinstance(f, _as_torch._Finder) for f in sys.meta_path)


def test_a_notebook_says_load_ext(tmp_path: Path) -> None:
    code = """
        import farspan

        class Shell: ...
        farspan.load_ipython_extension(Shell())
        import torch.nn.functional
        print(torch.nn.functional is farspan.nn.functional)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=HANGS_S,
    )  # fmt: skip
    assert output(done) == ["True"]


def test_a_program_runs_on_a_service(tmp_path: Path, service: tuple[str, str]) -> None:
    address, token = service
    program = """
        import torch
        x = torch.ones(3)
        a = x.numpy()
        a += 1      # a private copy here; a warning says so once
        x.numpy()
        import farspan
        print(farspan.current_session().address[:7], a.sum(), x.sum().item())
    """
    done = run(tmp_path, program, FARSPAN_ADDRESS=address, FARSPAN_TOKEN=token)
    assert output(done) == ["grpc:// 6.0 3.0"]
    assert done.stderr.count("is a copy") == 1


LIBRARIES: dict[str, Any] = {
    "einops": """
        import torch
        from einops import rearrange, reduce, repeat
        from einops.layers.torch import Rearrange
        x = torch.arange(24.0).reshape(2, 3, 4)
        print(rearrange(x, "a b c -> b (a c)").shape, reduce(x, "a b c -> b", "mean").tolist())
        print(repeat(x[0, 0], "c -> c k", k=2).sum().item(), Rearrange("a b c -> (a b) c")(x).shape)
    """,
    "torchdiffeq": """
        import torch
        from torchdiffeq import odeint, odeint_adjoint
        class F(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.w = torch.nn.Parameter(torch.tensor([[-0.1, 2.0], [-2.0, -0.1]]).double())
            def forward(self, t, y):
                return (y**3) @ self.w
        f, y0, t = F(), torch.tensor([[2.0, 0.0]]).double(), torch.linspace(0, 0.5, 5).double()
        near = {"rtol": 1e-5, "atol": 1e-7}
        plain = odeint(f, y0, t, **near)
        adjoint = odeint_adjoint(f, y0, t, method="dopri5", **near)
        adjoint[-1].sum().backward()
        grad = f.w.grad.clone(); f.w.grad = None
        plain[-1].sum().backward()
        print(torch.allclose(plain, adjoint), torch.allclose(grad, f.w.grad, 1e-3))
    """,
    "ignite": """
        import torch
        from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
        from ignite.metrics import Accuracy, Loss
        torch.manual_seed(0)
        x = torch.randn(128, 4); y = (x.sum(1) > 0).long()
        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=32)
        net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
        loss = torch.nn.CrossEntropyLoss()
        trainer = create_supervised_trainer(net, torch.optim.Adam(net.parameters(), 0.01), loss)
        evaluator = create_supervised_evaluator(net, {"accuracy": Accuracy(), "loss": Loss(loss)})
        trainer.run(data, max_epochs=20)
        evaluator.run(data)
        print(evaluator.state.metrics["accuracy"] > 0.95)
    """,
    "torchmetrics": """
        import torch, torchmetrics
        torch.manual_seed(0)
        p, t = torch.randn(100, 3).softmax(-1), torch.randint(3, (100,))
        kinds = dict(task="multiclass", num_classes=3)
        metrics = torchmetrics.MetricCollection([
            torchmetrics.Accuracy(**kinds), torchmetrics.AUROC(**kinds),
            torchmetrics.F1Score(**kinds, average="macro"), torchmetrics.CohenKappa(**kinds)])
        for i in range(0, 100, 25):
            metrics.update(p[i : i + 25], t[i : i + 25])
        print({k: round(v.item(), 4) for k, v in metrics.compute().items()})
        x = torch.randn(50, 2); y = x + 0.1 * torch.randn(50, 2)
        print(torchmetrics.R2Score()(x, y), torchmetrics.SpearmanCorrCoef(num_outputs=2)(x, y))
        print(torchmetrics.image.PeakSignalNoiseRatio(data_range=1.0)(
            torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)))
    """,
    "gpytorch": """
        import gpytorch, torch
        torch.manual_seed(0)
        x = torch.linspace(0, 1, 30)
        y = torch.sin(6 * x) + 0.2 * torch.randn(30)
        class GP(gpytorch.models.ExactGP):
            def __init__(self, x, y, likelihood):
                super().__init__(x, y, likelihood)
                self.mean = gpytorch.means.ConstantMean()
                self.kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
            def forward(self, x):
                return gpytorch.distributions.MultivariateNormal(self.mean(x), self.kernel(x))
        likelihood = gpytorch.likelihoods.GaussianLikelihood()
        gp = GP(x, y, likelihood).train()
        optimizer = torch.optim.Adam(gp.parameters(), lr=0.1)
        evidence = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, gp)
        for _ in range(10):
            optimizer.zero_grad(); loss = -evidence(gp(x), y); loss.backward(); optimizer.step()
        gp.eval(), likelihood.eval()
        with torch.no_grad():
            seen = likelihood(gp(torch.tensor([0.3, 0.7])))
        print(f"{loss.item():.3f}", [f"{v:.3f}" for v in (*seen.mean.tolist(), *seen.variance)])
    """,
    "skorch": """
        import numpy as np, torch
        from sklearn.datasets import make_classification
        from sklearn.model_selection import cross_val_score
        from skorch import NeuralNetClassifier
        x, y = make_classification(200, 10, n_informative=5, random_state=0)
        x, y = x.astype(np.float32), y.astype(np.int64)
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(10, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2),
                                  torch.nn.Softmax(-1))
        model = NeuralNetClassifier(net, max_epochs=3, lr=0.1, iterator_train__shuffle=True,
                                    verbose=0)
        model.fit(x, y)
        print([f"{h:.4f}" for h in model.history[:, "train_loss"]], model.predict(x[:8]))
        print(cross_val_score(model.set_params(train_split=None), x, y, cv=3))
    """,
}


# Installed with the tests; under `farspan run` they find farspan where they import torch.
# The numbers are those of the same programs on torch, with the same seeds.
ANSWERS = {
    "einops": ["torch.Size([3, 8]) [7.5, 11.5, 15.5]", "12.0 torch.Size([6, 4])"],
    "torchdiffeq": ["True True"],
    "ignite": ["True"],
    "torchmetrics": [
        "{'MulticlassAccuracy': 0.27, 'MulticlassAUROC': 0.4889, 'MulticlassF1Score': 0.2686, "
        "'MulticlassCohenKappa': -0.0943}",
        "tensor(0.9898) tensor([0.9897, 0.9926])",
        "tensor(8.0068)",
    ],
    "gpytorch": ["0.706 ['0.856', '-0.825', '0.344', '0.344']"],
    "skorch": [
        "['0.7183', '0.6890', '0.6648'] [0 1 0 0 1 1 1 1]",
        "[0.73134328 0.70149254 0.63636364]",
    ],
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_libraries_written_on_torch_run(name: str, tmp_path: Path) -> None:
    done = run(tmp_path, LIBRARIES[name] + "\n        assert torch.__package__ == 'farspan'")
    assert output(done) == ANSWERS[name]


def test_an_adaptive_adjoint_runs_over_grpc(tmp_path: Path, service: tuple[str, str]) -> None:
    address, token = service
    program = LIBRARIES["torchdiffeq"]
    done = run(tmp_path, program, FARSPAN_ADDRESS=address, FARSPAN_TOKEN=token)
    assert output(done) == ANSWERS["torchdiffeq"]


def test_modules_that_are_not_there_can_be_asked_for_and_reloaded_ones_stay(tmp_path: Path) -> None:
    program = """
        import copy, importlib, importlib.util, pickle
        import torch
        linear = torch.nn.Linear
        importlib.reload(torch.nn)
        print(importlib.util.find_spec("torch.nowhere"), torch.nn.Linear is linear)
        print(pickle.loads(pickle.dumps(torch.add)) is torch.add is copy.deepcopy(torch.add))
        torch.set_num_threads(2)
    """
    assert output(run(tmp_path, program, OMP_NUM_THREADS="4,2")) == ["None True", "True"]


def test_the_program_stays_main_while_its_threads_go_on(tmp_path: Path) -> None:
    program = """
        import pickle, threading, time

        class Mine: ...

        def later():
            time.sleep(0.3)
            print(type(pickle.loads(pickle.dumps(Mine()))).__name__)

        threading.Thread(target=later).start()
    """
    assert output(run(tmp_path, program)) == ["Mine"]


def test_an_interpreter_without_farspan_gets_its_own_torch(tmp_path: Path) -> None:
    from farspan._as_torch import SHIM

    (tmp_path / "torch.py").write_text("name = 'its own'")
    code = (
        f"import sys; sys.path[:0] = [{SHIM!r}, {str(tmp_path)!r}]\nimport torch; print(torch.name)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=HANGS_S
    )
    assert output(done) == ["its own"]


SPAWNED = """
import sys, time
import torch, torch.multiprocessing as mp

def work(i, queue):
    if i == 0:
        queue.put((torch.arange(3.0), torch.nn.Parameter(torch.tensor(2.0))))
        time.sleep(30)
    if queue.empty():
        time.sleep(0.5)
    raise KeyError("of the second") if i == 1 else SystemExit(3)

if __name__ == "__main__":
    queue = mp.get_context("spawn").SimpleQueue()
    started = mp.spawn(work, (queue,), nprocs=2, join=False)
    print(*queue.get(), len(started.pids()))
    try:
        while not started.join():
            pass
    except mp.ProcessRaisedException as error:
        print(error.error_index, "of the second" in str(error), started.processes[0].exitcode)
    try:
        mp.start_processes(sys.exit, nprocs=2, start_method="fork")
    except mp.ProcessExitedException as error:
        print(error.error_index, error.exit_code)
    assert mp.spawn(print, nprocs=1) is None
"""


def test_tensors_cross_queues_and_one_failure_ends_all_processes(tmp_path: Path) -> None:
    lines = output(run(tmp_path, SPAWNED))
    assert lines == [
        "tensor([0., 1., 2.]) Parameter containing:", "tensor(2., requires_grad=True) 2",
        "1 True -15", "1 1", "0",
    ]  # fmt: skip
