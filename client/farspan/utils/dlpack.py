"""torch.utils.dlpack: memory shared with other libraries, on `local:` sessions."""

from .._buffers import from_dlpack, to_dlpack

__all__ = ["from_dlpack", "to_dlpack"]
