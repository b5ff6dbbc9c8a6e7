"""The table of operators, by theme. Importing this package declares them all, in this order.

The order gives the opcodes, so two ends of a wire must have one table: they compare its hash.
"""

# ruff: noqa: F401, I001
from . import pointwise
from . import reduce
from . import view
from . import reshape
from . import move
from . import arrange
from . import pad
from . import create
from . import linalg
from . import optim
from . import conv
from . import contract
from . import random
from . import pool
