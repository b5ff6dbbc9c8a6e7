"""Which protobuf runtime encodes here; for who checks an installation."""

from __future__ import annotations

from google.protobuf import __version__ as protobuf_version
from google.protobuf.internal import api_implementation


def protobuf() -> tuple[str, str]:
    """Return the version of protobuf and its implementation: "upb" (fast), "cpp" or "python"."""
    return protobuf_version, api_implementation.Type()
