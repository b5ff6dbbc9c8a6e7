"""torch.quasirandom: the class of Sobol sequences, which farspan does not draw."""

from __future__ import annotations

from .core.errors import UnsupportedError

__all__ = ["SobolEngine"]


class SobolEngine:
    """Draws low-discrepancy points, in torch; its direction numbers are not here."""

    MAXBIT = 30
    MAXDIM = 21201

    def __init__(self, dimension: int, scramble: bool = False, seed: int | None = None) -> None:
        raise UnsupportedError(
            "torch.quasirandom.SobolEngine: farspan has no Sobol sequences; draw points with "
            "scipy.stats.qmc.Sobol and pass them to torch.from_numpy"
        )
