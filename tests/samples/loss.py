"""Inputs for losses."""

import numpy as np
import torch

from samples import FLOATS, Strided, call, samples


def _pairs(make, **bounds):
    """Return (input, target, reduction) triples; the mean of nothing is NaN and has no slope."""
    pairs = [
        (make(3, 4, **bounds), make(3, 4, **bounds)),
        (make(**bounds), make(**bounds)),
        (Strided(make(2, 3, **bounds)), make(2, 3, **bounds)),
    ]
    empty = make(0, 2), make(0, 2)
    return [(a, b, r) for a, b in pairs for r in (0, 1, 2)] + [(*empty, 0), (*empty, 2)]


@samples("mse_loss", dtypes=(*FLOATS, "bfloat16"))
def _mse(make):
    calls = [call(*t) for t in _pairs(make)]
    return [*calls, call(make(3, 4), make(4), 0), call(make(3, 4), make(4), 2)]


@samples("mse_loss_backward", dtypes=FLOATS)
def _mse_backward(make):
    return [call(make(3, 4), make(3, 4), make(3, 4), 0),
            *[call(make(), make(3, 4), make(3, 4), r) for r in (1, 2)]]  # fmt: skip


@samples("l1_loss", "soft_margin_loss", dtypes=FLOATS)
def _two(make):
    return [call(*t) for t in _pairs(make)]


@samples("smooth_l1_loss", "huber_loss", dtypes=FLOATS)
def _smooth(make):
    return [call(*t, 0.75) for t in _pairs(make)]


@samples("binary_cross_entropy", dtypes=FLOATS)
def _bce(make):
    inner = {"low": 0.1, "high": 0.9}
    calls = [call(a, b, None, r) for a, b, r in _pairs(make, **inner)]
    calls.append(call(make(3, **inner), make(3, **inner), make(3), 1))
    if make.dtype == "float32":  # where torch bounds the logarithms
        edges = np.array([0, 1, 0.5, 1], make.dtype)
        calls.append(call(edges, np.array([1, 0, 0.5, 1], make.dtype), None, 0))
    return calls


@samples("binary_cross_entropy_backward", dtypes=FLOATS)
def _bce_backward(make):
    inner = {"low": 0.1, "high": 0.9}
    a, b = make(3, 2, **inner), make(3, 2, **inner)
    return [call(make(), a, b, None, 1), call(make(), a, b, make(3, 2), 2),
            call(make(3, 2), a, b, None, 0)]  # fmt: skip


@samples("binary_cross_entropy_with_logits", dtypes=FLOATS)
def _bce_logits(make):
    calls = [call(a, b, None, None, r) for a, b, r in _pairs(make)]
    calls.append(call(make(3, 4), make(3, 4), make(3, 4), None, 1))
    calls.append(call(make(3, 4), make(3, 4), None, make(4, low=0.5), 1))
    return [*calls, call(make(5, low=-300, high=300), make(5), None, None, 0)]


@samples("kl_div", dtypes=FLOATS)
def _kl_div(make):
    calls = [call(*t) for t in _pairs(make, low=0.1)]
    return [*calls, call(make(3, 4), make(3, 4), 1, log_target=True)]


@samples("poisson_nll_loss", dtypes=FLOATS)
def _poisson(make):
    return [call(make(3, 4), make(3, 4, low=0.5, high=6), True, full, 1e-8, r)
            for full in (False, True) for r in (0, 1)] + [
        call(make(3, low=0.5), make(3, low=0.5), False, False, 1e-8, 2)]  # fmt: skip


def _signs(make, *shape):
    return np.where(make.bools(*shape), 1, -1).astype("int64")


@samples("hinge_embedding_loss", dtypes=FLOATS)
def _hinge(make):
    return [call(make(3, 4), _signs(make, 3, 4), 0.7, r) for r in (0, 1, 2)]


@samples("margin_ranking_loss", dtypes=FLOATS)
def _ranking(make):
    return [call(make(5), make(5), _signs(make, 5), 0.3, r) for r in (0, 1, 2)]


@samples("cosine_embedding_loss", dtypes=FLOATS)
def _cosine(make):
    return [call(make(5, 3), make(5, 3), _signs(make, 5), 0.1, r) for r in (0, 1, 2)]


@samples("triplet_margin_loss", dtypes=FLOATS)
def _triplet(make):
    return [call(make(5, 3), make(5, 3), make(5, 3), swap=s, reduction=r)
            for s in (False, True) for r in (0, 1, 2)]  # fmt: skip


# ------------------------------------------------------------------------------------- classes --
def _classes(make, *shape):
    """Return (scores, targets) pairs: some targets are ignored."""
    targets = make.ints(shape[0], *shape[2:], high=shape[1])
    some = targets.copy()
    some.reshape(-1)[::2] = -100
    return [(make(*shape), targets), (make(*shape), some)]


@samples("nll_loss_forward", dtypes=(*FLOATS, "bfloat16"))
def _nll_forward(make):
    pairs = [*_classes(make, 5, 3), (make(4), make.ints()), (Strided(make(4, 3)), make.ints(4, high=3))]  # fmt: skip
    calls = [call(x, t, None, r, -100) for x, t in pairs for r in (0, 1, 2)]
    calls += [call(x, t, make(3), r, -100) for x, t in pairs[:2] for r in (0, 1, 2)]
    calls.append(call(make(0, 3), make.ints(0), None, 2, -100))
    return [*calls, call(make(5, 3), make.ints(5, high=3), None, 1, 1),
            call(make(2, 300), make.ints(2, high=255).astype("uint8"), None, 1, -100)]  # fmt: skip


def _total(name, scores, targets, weight):
    """Return the total weight that the forward op gives its backward."""
    given = [None if a is None else torch.from_numpy(a.real) for a in (scores, targets, weight)]
    forward = getattr(torch.ops.aten, f"{name}_forward")
    return forward(*given, 1, -100)[1].numpy()


@samples("nll_loss_backward", dtypes=FLOATS)
def _nll_backward(make):
    calls = []
    for x, t in _classes(make, 5, 3):
        for r in (0, 1, 2):
            g = make(5) if r == 0 else make()
            calls += [
                call(g, x, t, w, r, -100, _total("nll_loss", x, t, w))
                for w in (None, make(3, low=0.5))
            ]
    return calls


@samples("nll_loss2d_forward", dtypes=FLOATS)
def _nll2d_forward(make):
    return [call(x, t, w, r, -100) for x, t in _classes(make, 2, 3, 4, 2)
            for w in (None, make(3)) for r in (0, 1, 2)]  # fmt: skip


@samples("nll_loss2d_backward", dtypes=FLOATS)
def _nll2d_backward(make):
    calls = []
    for x, t in _classes(make, 2, 3, 4, 2):
        for r in (0, 1, 2):
            g = make(2, 4, 2) if r == 0 else make()
            calls += [
                call(g, x, t, w, r, -100, _total("nll_loss2d", x, t, w))
                for w in (None, make(3, low=0.5))
            ]
    return calls


@samples("nll_loss", dtypes=FLOATS)
def _nll(make):
    return [call(x, t) for x, t in _classes(make, 5, 3)] + [call(make(4), make.ints())]


@samples("nll_loss2d", dtypes=FLOATS)
def _nll2d(make):
    return [call(x, t) for x, t in _classes(make, 2, 3, 4, 2)]


@samples("nll_loss_nd", dtypes=FLOATS)
def _nll_nd(make):
    return [call(x, t, None, r) for s in ((5, 3), (2, 3, 4), (2, 3, 4, 2), (2, 3, 2, 2, 2))
            for x, t in _classes(make, *s) for r in (0, 1, 2)]  # fmt: skip


@samples("cross_entropy_loss", dtypes=FLOATS)
def _cross_entropy(make):
    calls = [
        call(x, t, w, r, -100, smooth)
        for s in ((5, 3), (2, 3, 4))
        for x, t in _classes(make, *s)
        for w in (None, make(3, low=0.5))
        for r in (0, 1, 2)
        for smooth in (0.0, 0.1)
    ]
    soft = [
        call(make(5, 3), make(5, 3, low=0), w, r, -100, smooth)
        for w in (None, make(3))
        for r in (0, 1, 2)
        for smooth in (0.0, 0.1)
    ]
    return [*calls, *soft, call(make(4), make.ints()), call(make(4), make(4, low=0))]
