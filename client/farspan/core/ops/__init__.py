"""The table of operators, by theme. Importing this package declares them all, in this order.

The order gives the opcodes, so two ends of a wire must have one table: they compare its hash.
"""

# ruff: noqa: F401, I001
from . import arithmetic
from . import compare
from . import functions
from . import complexes
from . import activation
from . import reduce
from . import moments
from . import scan
from . import view
from . import reshape
from . import move
from . import arrange
from . import pad
from . import create
from . import index
from . import scatter
from . import mask
from . import sort
from . import linalg
from . import optim
from . import conv
from . import contract
from . import random
from . import sampling
from . import dropout
from . import generator
from . import decompose
from . import solve
from . import spectrum
from . import norms
from . import pool
from . import pool_mean
from . import pool_places
from . import loss
from . import nll
from . import norm
from . import batch_norm
from . import unfold
from . import attention
from . import fourier
from . import distributions
from . import specials
from . import stft
from . import windows
from . import resize
from . import grid
from . import bag
from . import ctc
from . import margin
from . import layers
from . import copies
from . import differences
from . import statistics
from . import segments
from . import reflect
from . import subspace
from . import aliases
from . import clip
from . import steps
from . import matrix_steps
from . import amp
from . import modes
