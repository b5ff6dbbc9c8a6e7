"""The table of operators, by theme. Importing this package declares them all, in this order.

The order gives the opcodes, so two ends of a wire must have one table: they compare its hash.
"""

from . import arithmetic, compare, functions, complexes, activation, reduce, shape, create, linalg  # noqa: F401, I001
from . import aliases  # noqa: F401, I001
