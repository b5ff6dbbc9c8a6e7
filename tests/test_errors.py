"""Errors: which call raises, which wait, with which line; what a failed command leaves alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import farspan as torch
import pytest
from farspan.core import errors

TOO_MANY = 2**44  # float32 elements: 64 TiB


def poison(*shape: int) -> Any:
    """Return a tensor whose command fails: it is computed from more than any worker has."""
    return torch.zeros(TOO_MANY)[0] + torch.zeros(shape)


def forget_error(session: Any) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        session.synchronize()


# --- poison --------------------------------------------------------------------------------------
def test_64_terabytes_fail_alone(session: Any) -> None:
    before = torch.ones(2)
    torch.zeros(TOO_MANY)
    with pytest.raises(torch.OutOfMemoryError, match="70368744177664 bytes"):
        session.synchronize()
    after = before + 1
    assert after.tolist() == [2, 2]
    assert isinstance(errors.OutOfMemoryError(), RuntimeError)


def test_an_error_is_raised_once_by_a_wait_and_by_every_read_of_what_depends_on_it(
    session: Any,
) -> None:
    bad = torch.zeros(TOO_MANY)
    worse = (bad * 2)[:3]
    good = torch.ones(2)
    with pytest.raises(torch.OutOfMemoryError):
        good.tolist()
    assert good.tolist() == [1, 1]
    for read in (worse.tolist, worse.numpy, worse[0].item, lambda: str(worse)):
        with pytest.raises(torch.OutOfMemoryError):
            read()
    session.synchronize()


def test_reading_the_poisoned_value_is_the_one_raise(session: Any) -> None:
    bad = torch.zeros(TOO_MANY)
    with pytest.raises(torch.OutOfMemoryError):
        bad[0].item()
    session.synchronize()


def test_an_error_names_the_op_what_it_got_and_the_users_line(session: Any) -> None:
    bad = torch.ones(1).expand(TOO_MANY) * 2  # the line of the user
    with pytest.raises(torch.OutOfMemoryError) as caught:
        session.synchronize()
    text = str(caught.value)
    assert text.startswith("mul: ") and "float32[17592186044416]" in text
    assert "test_errors.py:" in text and "in test_an_error_names" in text
    assert "bad = torch.ones(1).expand(TOO_MANY) * 2  # the line of the user" in text
    assert caught.value.site is not None and "test_errors.py" in caught.value.site
    assert f"of session {session.id}" in text
    del bad


def test_several_errors_ride_on_the_first(session: Any) -> None:
    kept = [torch.zeros(TOO_MANY), torch.ones(TOO_MANY)]
    with pytest.raises(torch.OutOfMemoryError, match="zeros") as caught:
        session.synchronize()
    assert any("ones: " in note for note in caught.value.__notes__)
    session.synchronize()
    del kept


def test_an_error_in_backward_names_the_op_and_the_line_of_backward(session: Any) -> None:
    w = torch.ones(1, requires_grad=True)
    y = w.expand(TOO_MANY)  # a view: only its gradient needs memory
    z = torch.ones(3, requires_grad=True)
    (y * y.detach()).detach()
    forget_error(session)
    loss = y[0] + z.sum()
    loss.backward()  # here
    with pytest.raises(torch.OutOfMemoryError) as caught:
        session.synchronize()
    assert " in backward: " in str(caught.value) and "loss.backward()  # here" in str(caught.value)
    with pytest.raises(torch.OutOfMemoryError):
        w.grad.tolist()


def test_a_store_with_a_poisoned_input_is_not_applied(session: Any) -> None:
    x, y = torch.ones(3), torch.ones(2, 3)
    bad = poison(3)
    x.add_(bad)
    x.copy_(bad)
    x[1:] = bad[1:]
    y[0] = bad
    y *= 3
    forget_error(session)
    assert x.tolist() == [1, 1, 1]
    assert y.tolist() == [[3, 3, 3]] * 2
    x += 1
    assert x.tolist() == [2, 2, 2]


def test_a_store_that_fails_by_itself_leaves_its_target(session: Any) -> None:
    x = torch.ones(3)
    x.add_(torch.zeros(TOO_MANY)[:3])
    forget_error(session)
    assert x.tolist() == [1, 1, 1]


def test_fills_and_copies_heal(session: Any) -> None:
    for heal in (
        lambda t: t.zero_(),
        lambda t: t.fill_(0),
        lambda t: t.copy_(torch.zeros(2, 3)),
        lambda t: t.data.zero_(),
        lambda t: t.detach().zero_(),
    ):
        bad = poison(2, 3)
        row, turned = bad[0], bad.T
        forget_error(session)
        heal(bad)
        assert bad.tolist() == [[0] * 3] * 2
        bad += 1
        assert row.tolist() == [1] * 3, "its views see the same memory again"
        assert turned.tolist() == [[1] * 2] * 3


def test_a_fill_of_a_part_does_not_heal(session: Any) -> None:
    bad = poison(2, 3)
    bad[0].zero_()
    forget_error(session)
    with pytest.raises(torch.OutOfMemoryError):
        bad.tolist()


def test_a_poisoned_gradient_heals(session: Any) -> None:
    w = torch.ones(3, requires_grad=True)
    (w * poison(3)).sum().backward()
    forget_error(session)
    with pytest.raises(torch.OutOfMemoryError):
        w.grad.tolist()
    w.grad.zero_()
    assert w.grad.tolist() == [0, 0, 0]
    (w * 2).sum().backward()
    assert w.grad.tolist() == [2, 2, 2]


def test_gradients_through_a_skipped_store_are_the_errors_not_numbers(session: Any) -> None:
    w = torch.ones(3, requires_grad=True)
    x = torch.ones(3)
    x.add_(w * poison(3))
    x.sum().backward()
    forget_error(session)
    with pytest.raises(torch.OutOfMemoryError):
        w.grad.tolist()


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_a_step_with_one_poisoned_gradient_is_skipped_whole(session: Any, kind: str) -> None:
    from farspan import optim

    options = {"momentum": 0.9} if kind == "SGD" else {}
    a, b = (torch.ones(3, requires_grad=True) for _ in range(2))
    optimizer = getattr(optim, kind)([a, b], lr=0.1, weight_decay=0.01, **options)

    def step(*gradients: Any) -> None:
        a.grad, b.grad = gradients
        optimizer.step()

    def state() -> Any:
        kept = [v for s in optimizer.state.values() for v in s.values()]
        return [t.tolist() for t in (a.detach(), b.detach(), *kept)]

    step(torch.ones(3), torch.ones(3))
    before = state()
    step(torch.ones(3), poison(3))
    forget_error(session)
    assert state() == before
    step(torch.ones(3), torch.ones(3))
    assert all(x != y for x, y in zip(before, state(), strict=True) if x != [0, 0, 0])


# --- what the call itself raises -----------------------------------------------------------------
CALLS: list[tuple[str, Any, type[Exception], type[Exception]]] = [
    ("shape", lambda: torch.ones(2, 3) + torch.ones(4), errors.ShapeError, RuntimeError),
    ("mm", lambda: torch.ones(2, 3).mm(torch.ones(2, 3)), errors.ShapeError, RuntimeError),
    ("index", lambda: torch.ones(3)[7], errors.ValueRangeError, IndexError),
    ("dim", lambda: torch.ones(3).sum(4), errors.ValueRangeError, IndexError),
    ("argument", lambda: torch.ones(3).sum("x"), errors.ArgumentError, TypeError),
    ("unknown device", lambda: torch.ones(3, device="cpu:7"), errors.DeviceError, RuntimeError),
    (
        "two devices",
        lambda: torch.ones(3) + torch.ones(3, device="cpu:1"),
        errors.DeviceError,
        RuntimeError,
    ),
    (
        "cast",
        lambda: torch.ones(3, dtype=torch.int64).add_(1.5),
        errors.DTypeError,
        RuntimeError,
    ),
    (
        "leaf",
        lambda: torch.ones(3, requires_grad=True).add_(1),
        errors.AutogradError,
        RuntimeError,
    ),
]


@pytest.mark.parametrize(("name", "call", "ours", "theirs"), CALLS, ids=[c[0] for c in CALLS])
def test_what_metadata_tells_is_raised_by_the_call(
    session: Any, name: str, call: Any, ours: type[Exception], theirs: type[Exception]
) -> None:
    with pytest.raises(ours) as caught:
        call()
    assert isinstance(caught.value, theirs) and isinstance(caught.value, torch.ProgramError)
    assert session.stats()["sync_points"] == 0


def test_tensors_of_two_sessions_are_an_error_naming_both(session: Any) -> None:
    x = torch.ones(3)
    with torch.connect("local:") as other:
        y = torch.ones(3)
        with pytest.raises(torch.ProgramError) as caught:
            x + y
        for each in (session, other):
            assert f"session {each.id} at {each.address}" in str(caught.value)
        with pytest.raises(torch.ProgramError):
            x.add_(y)


def test_one_operation_on_too_many_tensors_is_refused_by_the_call(session: Any) -> None:
    x = torch.ones(1)
    with pytest.raises(ValueError, match="20000 tensors"):
        torch.cat([x] * 20_000)
    assert torch.cat([x] * 100).sum().item() == 100


# --- the service ---------------------------------------------------------------------------------
def test_no_gateway_wrong_token_no_token_other_version(service: Any, monkeypatch: Any) -> None:
    address, token = service
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"grpc://127.0.0.1:{free.getsockname()[1]}"
    begun = time.monotonic()
    with pytest.raises(errors.ConnectError, match="no gateway answers"):
        torch.connect(nobody, token=token, timeout=5)
    assert time.monotonic() - begun < 6
    with pytest.raises(errors.AuthError, match="not known"):
        torch.connect(address, token="wrong")
    with pytest.raises(errors.AuthError, match="FARSPAN_TOKEN"):
        torch.connect(address)
    monkeypatch.setattr("farspan.core.op.table_hash", lambda: "another")
    with pytest.raises(errors.VersionError, match="op table"):
        torch.connect(address, token=token)
    with pytest.raises(errors.BadValueError, match="grpc://host:port"):
        torch.connect("http://x")


def test_a_killed_worker_is_an_error_within_seconds_and_for_good(service: Any) -> None:
    address, token = service
    with torch.connect(address, token=token, timeout=20) as session:
        x = torch.ones(3)
        x.sum().item()
        (device,) = session.describe()["devices"]
        os.kill(device["pid"], signal.SIGKILL)
        begun = time.monotonic()
        with pytest.raises(torch.WorkerLostError, match=str(device["pid"])):
            while time.monotonic() - begun < 20:
                (x + 1).tolist()
        assert time.monotonic() - begun < 5
        for again in (lambda: x + 1, x.tolist, session.synchronize, lambda: torch.ones(2)):
            with pytest.raises(torch.WorkerLostError):
                again()
        assert isinstance(errors.WorkerLostError(), RuntimeError)
    with torch.connect(address, token=token, timeout=20):
        assert torch.ones(3).sum().item() == 3, "a new session works"


def test_a_closed_session_says_so(session: Any) -> None:
    x = torch.ones(3)
    session.close()
    session.close()
    for use in (lambda: x + 1, x.tolist, session.synchronize, session.flush):
        with pytest.raises(errors.SessionClosedError, match="closed"):
            use()


# --- errors that nobody reads --------------------------------------------------------------------
def test_close_prints_what_nobody_read(session: Any, capsys: Any) -> None:
    kept = [torch.zeros(TOO_MANY), torch.ones(TOO_MANY)]
    session.close()
    told = capsys.readouterr().err
    assert told.count("an error that nobody read: OutOfMemoryError: zeros: ") == 1
    assert "kept = [torch.zeros(TOO_MANY)" in told and "ones: " in told
    del kept


def test_close_is_silent_when_all_was_read(session: Any, capsys: Any) -> None:
    torch.zeros(TOO_MANY)
    forget_error(session)
    session.close()
    assert "farspan:" not in capsys.readouterr().err


def test_the_end_of_the_interpreter_prints_what_nobody_read(service: Any, tmp_path: Any) -> None:
    script = tmp_path / "train.py"
    script.write_text("import farspan\nx = farspan.zeros(2**44)  # too much\ny = x + 1\n")
    for address in ("local:", service[0]):
        environment = {**os.environ, "FARSPAN_ADDRESS": address, "FARSPAN_TOKEN": service[1]}
        done = subprocess.run(
            [sys.executable, script], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0
        assert "an error that nobody read: OutOfMemoryError: zeros" in done.stderr
        assert "train.py:2 in <module>(): x = farspan.zeros(2**44)  # too much" in done.stderr


# --- one bad batch -------------------------------------------------------------------------------
def _classifier(optimizer: str) -> Any:
    from farspan import nn, optim

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Embedding(10, 8), nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)
    )
    options = {"SGD": {"momentum": 0.9, "weight_decay": 0.01}}.get(optimizer, {})
    return net, getattr(optim, optimizer)(net.parameters(), lr=0.1, **options)


def _all_numbers(net: Any, optimizer: Any) -> list[Any]:
    kept = [v for s in optimizer.state.values() for v in s.values()]
    return [t.tolist() for t in (*net.state_dict().values(), *kept)]


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_an_index_out_of_range_in_a_training_loop_destroys_nothing(session: Any, kind: str) -> None:
    from farspan import nn

    good = torch.tensor([[1, 2], [3, 4], [5, 6], [7, 8]])
    bad = torch.tensor([[1, 2], [3, 4], [5, 6], [7, 80]])
    labels = torch.tensor([0, 1, 0, 1])

    def run(batches: list[Any]) -> list[Any]:
        net, optimizer = _classifier(kind)
        for batch in batches:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(batch), labels)  # the line of the loss
            loss.backward()
            optimizer.step()
        try:
            session.synchronize()
        except IndexError as error:
            told.append(error)
        return _all_numbers(net, optimizer)

    told: list[IndexError] = []
    undisturbed = run([good, good, good])
    assert not told
    assert run([good, bad, good, bad, good]) == undisturbed
    (error,) = told
    assert isinstance(error, errors.ValueRangeError)
    assert str(error).startswith("embedding: ") and "int64[4, 2]" in str(error)
    assert "run()" in str(error) and "# the line of the loss" in str(error)


def test_a_view_outside_of_its_storage_leaves_the_session_alive() -> None:
    with torch.connect("local:"):
        x = torch.arange(4.0)
        with pytest.raises(RuntimeError, match="out of bounds for storage of size 16"):
            x.as_strided((2, 2), (200, 1))
        assert x.sum().item() == 6
        odd = torch.arange(8, dtype=torch.int32)[1:3]
        with pytest.raises(RuntimeError, match="storage_offset"):
            odd.view(torch.int64)
        assert odd.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("fails", "kind"),
    [
        (lambda: torch.ones(3).norm(1j), errors.DTypeError),
        (lambda: torch.nn.functional.hardtanh(torch.ones(3, dtype=torch.uint8)),
         errors.ParameterError),
    ],
)  # fmt: skip
def test_what_python_refuses_in_a_kernel_is_a_fault_of_the_program(
    session: Any, fails: Any, kind: type[Exception]
) -> None:
    """RuntimeErrors in torch; ServiceErrors would say that trying again may help."""
    with pytest.raises(kind) as caught:
        fails().tolist()
    assert isinstance(caught.value, RuntimeError)
    assert torch.ones(2).tolist() == [1, 1]
