"""torch._dynamo.exc: what compilation raises in torch; here only InvalidBackend is raised."""

from __future__ import annotations

__all__ = [
    "InvalidBackend", "TensorifyScalarRestartAnalysis", "TorchDynamoException", "Unsupported",
]  # fmt: skip


class TorchDynamoException(RuntimeError):
    """The base of the compiler's errors."""


class Unsupported(TorchDynamoException):
    """A program that torch's compiler does not take."""


class TensorifyScalarRestartAnalysis(TorchDynamoException):
    """What torch's compiler raises to begin again."""


class InvalidBackend(TorchDynamoException):
    """What `compile` raises for a backend that torch does not know."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"Invalid backend: {name!r}, see `torch._dynamo.list_backends()` for available "
            "backends."
        )
