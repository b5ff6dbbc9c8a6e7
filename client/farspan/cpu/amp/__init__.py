"""The old names of farspan.amp for "cpu"."""

from farspan.cpu.amp.autocast_mode import autocast
from farspan.cpu.amp.grad_scaler import GradScaler

__all__ = ["GradScaler", "autocast"]
