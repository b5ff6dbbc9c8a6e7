"""Namespaces below ``farspan.utils``: ``data`` (datasets, samplers, loaders) and ``hooks``."""

from farspan.utils import data, hooks

__all__ = ["data", "hooks"]
