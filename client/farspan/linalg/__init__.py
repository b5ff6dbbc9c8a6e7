"""farspan.linalg: linear algebra under torch.linalg's names.

Every function is a row of the table (`core/ops/linalg.py`, `contract.py`, `decompose.py`,
`solve.py`, `spectrum.py`, `norms.py`); here each gets its public name. Nothing waits: a singular
or indefinite matrix is reported at the next wait, as LinAlgError, with the line that passed it.
"""

from __future__ import annotations

from typing import Any

from ..core.call import fn
from ..core.errors import LinalgError as LinAlgError

_NAMES = (
    "cholesky", "cholesky_ex", "cond", "cross", "det", "diagonal", "eig", "eigh", "eigvals",
    "eigvalsh", "householder_product", "inv", "inv_ex", "ldl_factor",
    "ldl_factor_ex", "ldl_solve", "lstsq", "lu", "lu_factor", "lu_factor_ex", "lu_solve", "matmul",
    "matrix_exp", "matrix_norm", "matrix_power", "matrix_rank", "multi_dot", "norm", "pinv", "qr",
    "slogdet", "solve", "solve_ex", "solve_triangular", "svd", "svdvals", "tensorinv",
    "tensorsolve", "vander", "vecdot", "vector_norm",
)  # fmt: skip

__all__ = ["LinAlgError", *_NAMES]


def __getattr__(name: str) -> Any:
    """Return the table's `linalg_<name>`."""
    if name not in _NAMES:
        raise AttributeError(f"module 'farspan.linalg' has no attribute {name!r}")
    found = globals()[name] = getattr(fn, f"linalg_{name}")
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
