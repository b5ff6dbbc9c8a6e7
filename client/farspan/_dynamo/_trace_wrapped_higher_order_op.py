"""A name of torch._dynamo that code traced by compilers enters; nothing is traced here."""

from __future__ import annotations

import contextlib

__all__ = ["TransformGetItemToIndex"]


class TransformGetItemToIndex(contextlib.nullcontext[None]):
    """A context in which indexing is as outside of it."""
