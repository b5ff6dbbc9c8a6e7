"""The table of operators, by theme. Importing this package declares them all, in this order.

The order gives the opcodes, so two ends of a wire must have one table: they compare its hash.
"""

from . import pointwise, reduce, shape, create, linalg, optim  # noqa: F401, I001
