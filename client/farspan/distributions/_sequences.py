"""Transforms of the parts of a tensor along one dim: joined pieces, or stacked slices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import farspan
from farspan._tensor import Tensor

from . import constraints
from ._transform import Transform
from .utils import _sum_rightmost, lazy_property

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class _SequenceTransform(Transform):
    """One transform for each part."""

    def __init__(self, tseq: Sequence[Transform], dim: int, cache_size: int) -> None:
        assert all(isinstance(t, Transform) for t in tseq), (
            "All elements of tseq must be Transform instances"
        )
        if cache_size:
            tseq = [t.with_cache(cache_size) for t in tseq]
        super().__init__(cache_size=cache_size)
        self.transforms = list(tseq)
        self.dim = dim

    @property
    def bijective(self) -> bool:
        return all(t.bijective for t in self.transforms)

    def _parts(self, value: Tensor) -> Iterator[Tensor]:
        """Yield the part of each transform."""
        raise NotImplementedError

    def _joined(self, parts: list[Tensor]) -> Tensor:
        raise NotImplementedError

    def _call(self, x: Tensor) -> Tensor:
        return self._joined([t(v) for v, t in zip(self._parts(x), self.transforms, strict=True)])

    def _inverse(self, y: Tensor) -> Tensor:
        pairs = zip(self._parts(y), self.transforms, strict=True)
        return self._joined([t.inv(v) for v, t in pairs])


class CatTransform(_SequenceTransform):
    """Transforms of pieces of these lengths, joined along `dim`; each maps a length to itself."""

    def __init__(
        self,
        tseq: Sequence[Transform],
        dim: int = 0,
        lengths: Sequence[int] | None = None,
        cache_size: int = 0,
    ) -> None:
        super().__init__(tseq, dim, cache_size)
        self.lengths = [1] * len(self.transforms) if lengths is None else list(lengths)
        assert len(self.lengths) == len(self.transforms), (
            f"lengths has length {len(self.lengths)}, but there are {len(self.transforms)} "
            "transforms"
        )

    @lazy_property
    def event_dim(self) -> int:
        return max(t.event_dim for t in self.transforms)

    @lazy_property
    def length(self) -> int:
        return sum(self.lengths)

    def with_cache(self, cache_size: int = 1) -> Transform:
        if self._cache_size == cache_size:
            return self
        return CatTransform(self.transforms, self.dim, self.lengths, cache_size)

    def _parts(self, value: Tensor) -> Iterator[Tensor]:
        assert -value.dim() <= self.dim < value.dim(), f"dim {self.dim} out of range"
        assert value.size(self.dim) == self.length, (
            f"size {value.size(self.dim)} of dim {self.dim} must be {self.length}"
        )
        start = 0
        for length in self.lengths:
            yield value.narrow(self.dim, start, length)
            start += length

    def _joined(self, parts: list[Tensor]) -> Tensor:
        return farspan.cat(parts, dim=self.dim)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        terms = []
        for t, before, after in zip(self.transforms, self._parts(x), self._parts(y), strict=True):
            term = t.log_abs_det_jacobian(before, after)
            terms.append(_sum_rightmost(term, self.event_dim - t.event_dim))
        dim = self.dim if self.dim < 0 else self.dim - x.dim()
        dim += self.event_dim
        return farspan.cat(terms, dim=dim) if dim < 0 else sum(terms)

    @constraints.dependent_property
    def domain(self) -> Any:
        return constraints.cat([t.domain for t in self.transforms], self.dim, self.lengths)

    @constraints.dependent_property
    def codomain(self) -> Any:
        return constraints.cat([t.codomain for t in self.transforms], self.dim, self.lengths)


class StackTransform(_SequenceTransform):
    """Transforms of the slices along `dim`."""

    def __init__(self, tseq: Sequence[Transform], dim: int = 0, cache_size: int = 0) -> None:
        super().__init__(tseq, dim, cache_size)

    def with_cache(self, cache_size: int = 1) -> Transform:
        if self._cache_size == cache_size:
            return self
        return StackTransform(self.transforms, self.dim, cache_size)

    def _parts(self, value: Tensor) -> Iterator[Tensor]:
        assert -value.dim() <= self.dim < value.dim(), f"dim {self.dim} out of range"
        assert value.size(self.dim) == len(self.transforms), (
            f"size {value.size(self.dim)} of dim {self.dim} must be {len(self.transforms)}"
        )
        yield from value.unbind(self.dim)

    def _joined(self, parts: list[Tensor]) -> Tensor:
        return farspan.stack(parts, dim=self.dim)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        triples = zip(self.transforms, self._parts(x), self._parts(y), strict=True)
        return self._joined([t.log_abs_det_jacobian(a, b) for t, a, b in triples])

    @constraints.dependent_property
    def domain(self) -> Any:
        return constraints.stack([t.domain for t in self.transforms], self.dim)

    @constraints.dependent_property
    def codomain(self) -> Any:
        return constraints.stack([t.codomain for t in self.transforms], self.dim)
