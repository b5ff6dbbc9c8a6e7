"""Schedulers: they set ``group["lr"]`` of an optimizer, in torch's order of floating-point steps.

Most multiply the present rate (so that several can act on one optimizer); where torch does that,
so does this file, to the last bit. ``_get_closed_form_lr`` is the rate as a function of the epoch.
"""

from farspan.optim.lr_scheduler.base import LRScheduler, _LRScheduler
from farspan.optim.lr_scheduler.composed import ChainedScheduler, SequentialLR
from farspan.optim.lr_scheduler.cyclic import CyclicLR
from farspan.optim.lr_scheduler.formulas import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)
from farspan.optim.lr_scheduler.one_cycle import OneCycleLR
from farspan.optim.lr_scheduler.plateau import ReduceLROnPlateau

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
    "_LRScheduler",
]
