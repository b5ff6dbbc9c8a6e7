"""farspan.optim: optimizers, whose steps run in the workers, and learning-rate schedulers."""

from farspan.optim import lr_scheduler
from farspan.optim.adam import Adam, AdamW
from farspan.optim.optimizer import Optimizer
from farspan.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "lr_scheduler"]
