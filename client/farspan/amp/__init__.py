"""farspan.amp: autocast and gradient scaling, for training in half precision."""

from farspan.amp.autocast_mode import (
    _enter_autocast as _enter_autocast,
)
from farspan.amp.autocast_mode import (
    _exit_autocast as _exit_autocast,
)
from farspan.amp.autocast_mode import autocast, custom_bwd, custom_fwd, is_autocast_available
from farspan.amp.grad_scaler import GradScaler

__all__ = ["GradScaler", "autocast", "custom_bwd", "custom_fwd", "is_autocast_available"]
