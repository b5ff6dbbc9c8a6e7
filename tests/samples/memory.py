"""Inputs for the ops that all else stands on: casts, clones, windows."""

from samples import call, samples


@samples("clone")
def _clone(make):
    return [call(make(2, 3)), call(make()), call(make(0, 2)), call(make(2, 3), memory_format=None)]


@samples("contiguous", "alias", "detach", "conj", "conj_physical", "zero", "t")
def _unary(make):
    return [call(make(2, 3)), call(make()), call(make(4))]
