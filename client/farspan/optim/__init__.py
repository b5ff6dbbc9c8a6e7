"""farspan.optim: optimizers, whose steps run in the workers, and learning-rate schedulers."""

from farspan.optim import lr_scheduler, swa_utils
from farspan.optim._adafactor import Adafactor
from farspan.optim._muon import Muon
from farspan.optim._stateless import swap_in_optimizer_params_and_state
from farspan.optim.adadelta import Adadelta
from farspan.optim.adagrad import Adagrad
from farspan.optim.adam import Adam
from farspan.optim.adamax import Adamax
from farspan.optim.adamw import AdamW
from farspan.optim.asgd import ASGD
from farspan.optim.lbfgs import LBFGS
from farspan.optim.nadam import NAdam
from farspan.optim.optimizer import Optimizer
from farspan.optim.radam import RAdam
from farspan.optim.rmsprop import RMSprop
from farspan.optim.rprop import Rprop
from farspan.optim.sgd import SGD
from farspan.optim.sparse_adam import SparseAdam

__all__ = [
    "ASGD",
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Muon",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SparseAdam",
    "lr_scheduler",
    "swa_utils",
    "swap_in_optimizer_params_and_state",
]
