"""The old names of farspan.amp for "cuda"."""

from farspan.cuda.amp.autocast_mode import autocast, custom_bwd, custom_fwd
from farspan.cuda.amp.common import amp_definitely_not_available
from farspan.cuda.amp.grad_scaler import GradScaler

__all__ = ["GradScaler", "amp_definitely_not_available", "autocast", "custom_bwd", "custom_fwd"]
