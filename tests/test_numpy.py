"""numpy and memory: shared on `local:` as in torch; across processes private, and loud about it."""

from __future__ import annotations

import gc
import io
import sys
from typing import Any

import farspan as torch
import ml_dtypes
import numpy as np
import pytest
from farspan.core.command import PUT, ErrorInfo, Failed, Frame
from farspan_worker.engine import Engine


@pytest.fixture
def local() -> Any:
    with torch.connect("local:", devices="cpu:2") as session:
        yield session


@pytest.fixture
def grpc(service: Any) -> Any:
    with torch.connect(service[0], token=service[1], devices="cpu:2", timeout=20) as session:
        yield session


# --- on local: both see one memory ---------------------------------------------------------------
def test_from_numpy_shares_memory_both_ways(local: Any) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    x = torch.from_numpy(array)
    x += 1
    assert array.tolist() == [[1, 2, 3], [4, 5, 6]]
    array[0, 0] = 50
    assert x[0, 0].item() == 50 and x.sum().item() == 70
    x[1].zero_()
    assert array[1].tolist() == [0, 0, 0]
    turned = torch.from_numpy(array.T[::2])
    turned[0, 0] = -1
    assert array[0, 0] == -1 and turned.stride() == (2, 3)


@pytest.mark.parametrize("see", ["numpy", "asarray", "dlpack", "an array's view"])
def test_arrays_of_tensors_share_memory_both_ways(local: Any, see: str) -> None:
    x = torch.zeros(2, 3)
    array = {
        "numpy": x.numpy,
        "asarray": lambda: np.asarray(x),
        "dlpack": lambda: np.from_dlpack(x),
        "an array's view": lambda: x.T.numpy().T[:],
    }[see]()
    x.add_(2)
    assert array.tolist() == [[2] * 3] * 2, "the command has run when its call returns"
    if see != "dlpack" or array.flags.writeable:
        array[1, 2] = 7
        assert x[1, 2].item() == 7 and (x + 0).sum().item() == 17
    view = x[0].numpy()
    x.mul_(10)
    assert view.tolist() == [20] * 3


def test_an_array_outlives_its_tensor(local: Any) -> None:
    x = torch.ones(1_000)
    array = x.numpy()
    del x
    gc.collect()
    torch.zeros(1_000)
    local.synchronize()
    assert array.sum() == 1_000
    assert local.transport.exported == 1
    del array
    gc.collect()
    assert local.transport.exported == 0, "commands gather again"
    x = torch.from_numpy(np.ones(3))[1:]
    assert local.transport.exported == 1
    del x
    assert local.transport.exported == 0


def test_tensor_copies(local: Any) -> None:
    array = np.ones(3, np.float32)
    x = torch.tensor(array)
    array[0] = 5
    assert x.tolist() == [1, 1, 1]
    y = torch.as_tensor(array)
    array[1] = 6
    assert y.tolist() == [5, 6, 1]
    copied = np.array(y)
    copied[:] = 0
    assert y.tolist() == [5, 6, 1]


# --- over a wire: private copies -----------------------------------------------------------------
def test_what_torch_would_alias_is_read_only(grpc: Any) -> None:
    x = torch.ones(2, 3)
    for array in (x.numpy(), np.asarray(x), x.detach().numpy(), x.T.numpy()):
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 2
    array = x.numpy()
    x += 1
    assert array.tolist() == [[1] * 3] * 2


def test_what_torch_copies_is_writable(grpc: Any) -> None:
    x = torch.ones(2, 3)
    for array in (
        x.to("cpu:1").to("cpu").numpy(),
        x.to("cpu:1").cpu().numpy(),
        x.numpy(force=True),
        np.array(x),
        np.asarray(x, dtype=np.float64),
    ):
        array[0, 0] = 2
        assert array[0, 0] == 2
    assert x.tolist() == [[1] * 3] * 2


def test_from_numpy_is_a_copy_and_dlpack_says_it_cannot(grpc: Any) -> None:
    array = np.ones(3, np.float32)
    x = torch.from_numpy(array)
    array[0] = 5
    assert x.tolist() == [1, 1, 1]
    with pytest.raises(torch.ProgramError, match="local:"):
        x.__dlpack__()


# --- on both -------------------------------------------------------------------------------------
def test_numpy_refuses_what_torch_refuses(session: Any) -> None:
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"Use tensor\.detach\(\)\.numpy\(\) instead"):
        x.numpy()
    assert x.numpy(force=True).tolist() == [1, 1]
    with pytest.raises(TypeError, match="unsupported ScalarType BFloat16"):
        torch.ones(2, dtype=torch.bfloat16).numpy()
    with pytest.raises(TypeError):
        torch.from_numpy([1, 2])
    with pytest.raises(TypeError):
        torch.from_numpy(np.array(["a"]))
    with pytest.raises(ValueError, match="negative"):
        torch.from_numpy(np.arange(3)[::-1])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 3), np.float32),
        np.array(2.5),
        np.array(True),
        np.arange(12, dtype=np.int16).reshape(3, 4).T,
        np.arange(24.0).reshape(2, 3, 4)[:, ::2, 1:],
        np.arange(3, dtype=np.complex64) * 1j,
        np.float16([1.5, np.inf, np.nan]),
        np.broadcast_to(np.arange(3), (4, 3)),
        np.arange(64 * 1024, dtype=np.uint8),
        np.arange(64 * 1024 + 1, dtype=np.uint8),
        np.random.default_rng(0).standard_normal((300, 1_000)),
    ],
    ids=lambda a: f"{a.dtype}{list(a.shape)}",
)
def test_values_come_back_bit_for_bit(session: Any, array: Any) -> None:
    for x in (torch.tensor(array), torch.from_numpy(array.copy())):
        back = x.numpy()
        assert back.dtype == array.dtype and back.shape == array.shape
        assert back.tobytes() == array.tobytes()
    if array.ndim == 2:
        assert torch.tensor(array).T.numpy().tobytes() == array.T.tobytes()


def test_bfloat16_bits_survive(session: Any) -> None:
    array = np.arange(100).astype(ml_dtypes.bfloat16) / 7
    assert torch.tensor(array.astype(np.float32)).bfloat16().float().numpy().tobytes() == (
        array.astype(np.float32).tobytes()
    )


def test_64_mib_go_up_and_come_down(session: Any, capsys: Any) -> None:
    array = np.random.default_rng(0).integers(0, 256, 64 << 20, dtype=np.uint8)
    x = torch.tensor(array)
    assert x.numpy().tobytes() == array.tobytes()
    assert session.stats()["live"]["cpu"]["bytes"] == 64 << 20
    assert "to device" not in capsys.readouterr().err, "progress is for terminals"


def test_transfers_show_progress_on_a_terminal_only(monkeypatch: Any) -> None:
    from farspan import _progress

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, shows in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(_progress.limits, "PROGRESS_AFTER_S", 0.0)
        with _progress.Progress("to device 0", 100) as progress:
            progress.add(50)
            progress.add(50)
        assert bool(stream.getvalue()) == shows


def test_a_transfer_that_failed_is_reported_as_the_command_that_wanted_it() -> None:
    frame = Frame(0, 1, opcodes=[PUT], modes=[0], counts=[1], ids=[5])
    frame.statics, frame.scalar_counts, frame.numbers = [(10, (4,), -1, 9)], [0], [77]
    refused = ErrorInfo("OutOfMemoryError", "a transfer of 99 bytes does not fit", 0)
    assert Engine().handle(frame, {9: refused}) == [
        Failed(ErrorInfo("OutOfMemoryError", "a transfer of 99 bytes does not fit", 77))
    ]
