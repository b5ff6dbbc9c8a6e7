"""torch._dynamo.exc: what compilation raises in torch; nothing raises it here."""

from __future__ import annotations

__all__ = ["TensorifyScalarRestartAnalysis", "TorchDynamoException", "Unsupported"]


class TorchDynamoException(RuntimeError):
    """The base of the compiler's errors."""


class Unsupported(TorchDynamoException):
    """A program that torch's compiler does not take."""


class TensorifyScalarRestartAnalysis(TorchDynamoException):
    """What torch's compiler raises to begin again."""
