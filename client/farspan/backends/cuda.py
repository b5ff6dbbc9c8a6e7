"""torch.backends.cuda: switches of GPU arithmetic; TF32's goes to the GPUs, the rest is kept."""

from __future__ import annotations

import contextlib
from typing import Any

from .._settings import get_float32_matmul_precision, set_float32_matmul_precision


class _Matmul:
    """Switches of matrix products."""

    @property
    def allow_tf32(self) -> bool:
        """Whether GPUs may compute products of float32 in TF32."""
        return get_float32_matmul_precision() != "highest"

    @allow_tf32.setter
    def allow_tf32(self, allowed: bool) -> None:
        set_float32_matmul_precision("high" if allowed else "highest")

    allow_fp16_reduced_precision_reduction = True
    allow_bf16_reduced_precision_reduction = True
    allow_fp16_accumulation = False


matmul = _Matmul()
_attention = {"flash": True, "mem_efficient": True, "math": True, "cudnn": True}


def is_built() -> bool:
    """Return False: the client has no CUDA; `farspan.cuda.is_available` asks the session."""
    return False


def flash_sdp_enabled() -> bool:
    """Return whether `enable_flash_sdp` is on."""
    return _attention["flash"]


def enable_flash_sdp(enabled: bool) -> None:
    """Allow the fused attention kernel."""
    _attention["flash"] = enabled


def mem_efficient_sdp_enabled() -> bool:
    """Return whether `enable_mem_efficient_sdp` is on."""
    return _attention["mem_efficient"]


def enable_mem_efficient_sdp(enabled: bool) -> None:
    """Allow the memory-saving attention kernel."""
    _attention["mem_efficient"] = enabled


def math_sdp_enabled() -> bool:
    """Return whether `enable_math_sdp` is on."""
    return _attention["math"]


def enable_math_sdp(enabled: bool) -> None:
    """Allow the plain attention kernel."""
    _attention["math"] = enabled


def cudnn_sdp_enabled() -> bool:
    """Return whether `enable_cudnn_sdp` is on."""
    return _attention["cudnn"]


def enable_cudnn_sdp(enabled: bool) -> None:
    """Allow cuDNN's attention kernel."""
    _attention["cudnn"] = enabled


def sdp_kernel(*args: Any, **kwargs: Any) -> Any:
    """Return a context that prefers attention kernels; all give the same values."""
    return contextlib.nullcontext()
