"""What runs under `vmap`: tensors with hidden batch dims, and a rule of batching for every op.

`tensor.py` holds the batched tensor and its levels, `apply.py` is how ops reach the rules, the
other files are the rules by family. Nothing here is imported before the first `vmap`.
"""

from __future__ import annotations


def load() -> None:
    """Import the rules, once."""
    if not _loaded:
        from . import loss, matrix, network, place, shape, simple  # noqa: F401

        _loaded.append(True)


_loaded: list[bool] = []
