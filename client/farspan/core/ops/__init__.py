"""The table of operators, by theme. Importing this package declares them all, in this order."""

from . import pointwise  # noqa: F401  isort: skip
