"""torch._dynamo.eval_frame: the class of compiled modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._compile import Compiled
from ..nn.module import Module

__all__ = ["OptimizedModule", "is_dynamo_supported"]


class OptimizedModule(Module):
    """A module whose calls are compiled; all else is the module's own, which is `_orig_mod`."""

    _orig_mod: Any
    _compiled: Compiled

    def __init__(self, mod: Module, dynamo_ctx: Any = None) -> None:
        super().__init__()
        self.__dict__["_compiled"] = Compiled(mod)
        self._modules["_orig_mod"] = mod
        self.__dict__.pop("training")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._compiled(*args, **kwargs)

    @property
    def forward(self) -> Callable[..., Any]:  # type: ignore[override]
        return self._compiled

    @property
    def training(self) -> bool:  # type: ignore[override]
        return bool(self._orig_mod.training)

    def explain(self, show: bool = True) -> str:
        """Print, and return, what became of the module's calls."""
        return self._compiled.explain(show)

    def ready(self, timeout_s: float = 60.0) -> bool:
        """Return whether nothing is compiled for it any more; see `Compiled.ready`."""
        return self._compiled.ready(timeout_s)

    def __getattr__(self, name: str) -> Any:
        if name == "_orig_mod":
            return self._modules["_orig_mod"]
        return getattr(self._modules["_orig_mod"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._modules["_orig_mod"], name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._modules["_orig_mod"], name)

    def train(self, mode: bool = True) -> Any:
        self._modules["_orig_mod"].train(mode)  # type: ignore[union-attr]
        return self


def is_dynamo_supported() -> bool:
    """Return False."""
    return False
