"""Products of matrices and what follows from them."""

from __future__ import annotations

from ..call import fn
from ..errors import DTypeError, ShapeError
from ..family import common_device, structured
from ..spec import Spec


def check_same_dtype(name: str, a: Spec, b: Spec) -> None:
    """Raise unless two matrices have one dtype: products do not promote."""
    if a.dtype is not b.dtype:
        raise DTypeError(
            f"expected m1 and m2 to have the same dtype, but got: {a.dtype.name} != {b.dtype.name}"
        )


def _mm_meta(self: Spec, mat2: Spec) -> Spec:
    if self.ndim != 2 or mat2.ndim != 2:
        which, spec = ("self", self) if self.ndim != 2 else ("mat2", mat2)
        raise ShapeError(f"{which} must be a matrix, got shape {spec.shape}")
    if self.shape[1] != mat2.shape[0]:
        hint = " Did you mean mat2.T?" if self.shape[1] == mat2.shape[1] else ""
        raise ShapeError(
            f"mat1 and mat2 shapes cannot be multiplied ({self.shape[0]}x{self.shape[1]} and "
            f"{mat2.shape[0]}x{mat2.shape[1]}); input.shape[1] must equal mat2.shape[0].{hint}"
        )
    check_same_dtype("mm", self, mat2)
    return Spec.make((self.shape[0], mat2.shape[1]), self.dtype, common_device((self, mat2)))


structured(
    "mm(Tensor self, Tensor mat2) -> Tensor",
    meta=_mm_meta,
    kernel=lambda xp, self, mat2: xp.matmul(self, mat2),
    vjp={
        "self": lambda g, mat2: fn.mm(g, fn.conj(fn.t(mat2))),
        "mat2": lambda g, self: fn.mm(fn.conj(fn.t(self)), g),
    },
    dims="mk,kn->mn",
)
