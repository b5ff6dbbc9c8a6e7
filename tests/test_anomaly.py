"""Errors and NaN in backward name the forward line, with and without anomaly detection."""

from __future__ import annotations

import warnings
from typing import Any

import farspan
import pytest
from beside_torch import failure, same


@same
def test_nan_in_backward_is_an_error_with_detection_on(t: Any) -> Any:
    x = t.tensor([0.0, -1.0], requires_grad=True)
    found = []
    with t.autograd.detect_anomaly():
        found.append([t.is_anomaly_enabled(), t.is_anomaly_check_nan_enabled()])
        y = (t.sqrt(x) * 0).sum()
        words = ("Function 'SqrtBackward0' returned nan values in its 0th output.",)
        found.append(failure(lambda: y.backward(), *words))
        y = (t.sqrt(x) * 0).sum()
        found.append(failure(lambda: t.autograd.grad(y, x, create_graph=True), *words))
    with t.autograd.set_detect_anomaly(True, check_nan=False):
        (t.sqrt(x) * 0).sum().backward()
        found.append(t.is_anomaly_check_nan_enabled())
    t.autograd.set_detect_anomaly(True)
    found.append(t.is_anomaly_enabled())
    t.autograd.set_detect_anomaly(False)
    return [*found, x.grad.isnan().tolist(), t.is_anomaly_enabled()]


@same
def test_detection_warns_with_the_forward_stack(t: Any) -> Any:
    x = t.tensor([-1.0], requires_grad=True)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with t.autograd.detect_anomaly():
            y = t.sqrt(x).sum()  # the forward line
            failed = failure(lambda: y.backward())
    text = "\n".join(str(w.message) for w in seen)
    return [failed, "Error detected in SqrtBackward0" in text, "# the forward line" in text,
            "Anomaly Detection has been enabled" in text]  # fmt: skip


def _too_large() -> tuple[Any, Any]:
    """Return a leaf and a loss whose gradient is larger than any memory."""
    a = farspan.ones(1, requires_grad=True)
    wide = a.expand(1 << 45)
    few = wide[:3]  # the forward line
    return a, few.sum()


def test_an_error_of_the_workers_pass_names_the_forward_line(session: Any) -> None:
    a, loss = _too_large()
    loss.backward()
    with pytest.raises(farspan.OutOfMemoryError) as caught:
        a.grad.item()
    text = str(caught.value)
    assert "slice in backward" in text
    assert "in the backward of test_anomaly.py" in text
    assert "# the forward line" in text


def test_an_error_of_a_pass_with_hooks_names_the_forward_line(session: Any) -> None:
    a, loss = _too_large()
    loss.register_hook(lambda g: g * 2)
    loss.backward()
    with pytest.raises(farspan.OutOfMemoryError) as caught:
        a.grad.item()
    assert "# the forward line" in str(caught.value)


def test_an_error_in_a_users_backward_notes_the_forward_line() -> None:
    class Breaks(farspan.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            raise ValueError("broken")

    x = farspan.ones(2, requires_grad=True)
    y = Breaks.apply(x)  # the forward line
    with pytest.raises(ValueError, match="broken") as caught:
        y.sum().backward()
    assert "# the forward line" in caught.value.__notes__[0]
