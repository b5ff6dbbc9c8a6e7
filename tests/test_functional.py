"""Functions: values, gradients and messages equal torch's."""

from __future__ import annotations

from typing import Any

import farspan as ft
import pytest
import torch
from parity import assert_same, error_of, randn, to_ft

PROBS = randn(4, 5).sigmoid()
LABELS = torch.tensor([1, 0, 3, -100])
SIGNS = torch.tensor([1, -1, 1, -1])
WEIGHT = torch.tensor([0.5, 1.0, 2.0, 0.1, 3.0])

# name: (function, tensors, keyword arguments); floating tensors get gradients.
LOSSES: dict[str, Any] = {
    "mse": ("mse_loss", (randn(4, 5), randn(4, 5, seed=1)), {}),
    "l1": ("l1_loss", (randn(4, 5), randn(4, 5, seed=1)), {}),
    "smooth_l1": ("smooth_l1_loss", (randn(4, 5), randn(4, 5, seed=1)), {"beta": 0.7}),
    "smooth_l1 zero": ("smooth_l1_loss", (randn(4, 5), randn(4, 5, seed=1)), {"beta": 0.0}),
    "huber": ("huber_loss", (randn(4, 5), randn(4, 5, seed=1)), {"delta": 0.7}),
    "nll": ("nll_loss", (randn(4, 5).log_softmax(1), LABELS), {}),
    "nll weight": ("nll_loss", (randn(4, 5).log_softmax(1), LABELS), {"weight": WEIGHT}),
    "nll 2d": ("nll_loss", (randn(2, 5, 3, 3), torch.arange(18).reshape(2, 3, 3) % 5), {}),
    "nll single": ("nll_loss", (randn(5), torch.tensor(2)), {}),
    "ce": ("cross_entropy", (randn(4, 5), LABELS), {}),
    "ce single": ("cross_entropy", (randn(5), torch.tensor(2)), {}),
    "ce smooth": ("cross_entropy", (randn(4, 5), LABELS), {"label_smoothing": 0.1}),
    "ce smooth weight": (
        "cross_entropy",
        (randn(4, 5), LABELS),
        {"label_smoothing": 0.1, "weight": WEIGHT},
    ),
    "ce probs": ("cross_entropy", (randn(4, 5), PROBS), {}),
    "ce probs smooth": (
        "cross_entropy",
        (randn(4, 5), PROBS),
        {"label_smoothing": 0.2, "weight": WEIGHT},
    ),
    "ce 3d": (
        "cross_entropy",
        (randn(2, 5, 3), torch.tensor([[0, 1, 2], [3, 4, 0]])),
        {"label_smoothing": 0.1},
    ),
    "bce": ("binary_cross_entropy", (PROBS, randn(4, 5, seed=1).sigmoid()), {}),
    "bce weight": ("binary_cross_entropy", (PROBS, PROBS.flip(0)), {"weight": WEIGHT}),
    "bce edge": (
        "binary_cross_entropy",
        (torch.tensor([0.0, 1.0, 0.5]), torch.tensor([0.0, 1.0, 1.0])),
        {},
    ),
    "bce logits": ("binary_cross_entropy_with_logits", (randn(4, 5) * 30, PROBS), {}),
    "bce logits weights": (
        "binary_cross_entropy_with_logits",
        (randn(4, 5), PROBS),
        {"weight": WEIGHT, "pos_weight": WEIGHT},
    ),
    "kl": ("kl_div", (randn(4, 5).log_softmax(1), PROBS), {}),
    "kl log": ("kl_div", (randn(4, 5).log_softmax(1), randn(4, 5)), {"log_target": True}),
    "poisson": ("poisson_nll_loss", (randn(4, 5), PROBS * 5), {"full": True}),
    "poisson rates": ("poisson_nll_loss", (PROBS, PROBS * 5), {"log_input": False}),
    "gaussian": ("gaussian_nll_loss", (randn(4, 5), randn(4, 5, seed=1), PROBS), {"full": True}),
    "hinge": ("hinge_embedding_loss", (randn(4), SIGNS), {}),
    "soft margin": ("soft_margin_loss", (randn(4), SIGNS), {}),
    "ranking": ("margin_ranking_loss", (randn(4), randn(4, seed=1), SIGNS), {"margin": 0.3}),
    "cosine": ("cosine_embedding_loss", (randn(4, 5), randn(4, 5, seed=1), SIGNS), {"margin": 0.1}),
    "triplet": (
        "triplet_margin_loss",
        (randn(4, 5), randn(4, 5, seed=1), randn(4, 5, seed=2)),
        {"swap": True},
    ),
}


def _call(api: Any, name: str, tensors: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return the result of a function and the gradients of its floating-point inputs."""
    leaves = [t.clone().requires_grad_(t.is_floating_point()) for t in tensors]
    out = getattr(api.nn.functional, name)(*leaves, **kwargs)
    (out * out).sum().backward()
    return [out, [leaf.grad for leaf in leaves]]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.filterwarnings("ignore:reduction. 'mean'")
def test_loss_equals_torch(name: str, reduction: str) -> None:
    function, tensors, kwargs = LOSSES[name]
    kwargs = {**kwargs, "reduction": reduction}
    if name == "bce edge":  # torch's gradient at the edges is a bound of its own, see _bounded_log
        mine = ft.nn.functional.binary_cross_entropy(*to_ft(tensors), **kwargs)
        assert_same(mine, torch.nn.functional.binary_cross_entropy(*tensors, **kwargs))
        return
    if name == "kl" and reduction == "none":
        kwargs["reduction"] = "batchmean"
    mine = _call(ft, function, to_ft(tensors), to_ft(kwargs))
    theirs = _call(torch, function, tensors, kwargs)
    assert_same(mine, theirs, rtol=1e-4, atol=1e-4)


def test_loss_modules_equal_torch() -> None:
    x, y = randn(4, 5), randn(4, 5, seed=1)
    for build, target in (
        (lambda t: t.nn.MSELoss(), y),
        (lambda t: t.nn.CrossEntropyLoss(label_smoothing=0.1), LABELS),
        (lambda t: t.nn.HuberLoss(delta=2.0), y),
        (lambda t: t.nn.BCEWithLogitsLoss(reduction="sum"), PROBS),
        (lambda t: t.nn.MSELoss(size_average=False), y),
        (lambda t: t.nn.SmoothL1Loss(beta=0.5), y),
        (lambda t: t.nn.L1Loss(), y),
        (lambda t: t.nn.KLDivLoss(reduction="batchmean"), PROBS),
    ):
        mine, theirs = build(ft), build(torch)
        assert repr(mine) == repr(theirs)
        assert_same(mine(to_ft(x), to_ft(target)), theirs(x, target))


def test_binary_cross_entropy_gradient_is_finite_at_the_edges() -> None:
    p = ft.tensor([0.0, 1.0], requires_grad=True)
    ft.nn.functional.binary_cross_entropy(p, ft.tensor([0.0, 1.0])).backward()
    assert all(abs(g) < 10 for g in p.grad.tolist())


FUNCTIONS: dict[str, Any] = {
    "pad": ("pad", (randn(2, 3, 4),), {"pad": (1, 2, 0, 1), "value": 1.5}),
    "pad crop": ("pad", (randn(2, 3, 4),), {"pad": (-1, 2)}),
    "pad reflect": ("pad", (randn(2, 3, 4, 5),), {"pad": (1, 2, 3, 1), "mode": "reflect"}),
    "pad replicate": ("pad", (randn(2, 3, 4),), {"pad": (5, 2), "mode": "replicate"}),
    "pad circular": ("pad", (randn(2, 3, 4),), {"pad": (4, 2), "mode": "circular"}),
    "normalize": ("normalize", (randn(3, 4),), {}),
    "normalize p1": ("normalize", (randn(3, 4),), {"p": 1, "dim": 0}),
    "cosine_similarity": ("cosine_similarity", (randn(3, 4), randn(3, 4, seed=1)), {}),
    "pairwise_distance": ("pairwise_distance", (randn(3, 4), randn(3, 4, seed=1)), {"p": 2}),
    "sdpa": (
        "scaled_dot_product_attention",
        (randn(2, 3, 5, 8), randn(2, 3, 6, 8, seed=1), randn(2, 3, 6, 4, seed=2)),
        {},
    ),
    "sdpa causal": (
        "scaled_dot_product_attention",
        (randn(2, 5, 8), randn(2, 5, 8, seed=1), randn(2, 5, 8, seed=2)),
        {"is_causal": True, "scale": 0.3},
    ),
    "sdpa mask": (
        "scaled_dot_product_attention",
        (randn(2, 5, 8), randn(2, 6, 8, seed=1), randn(2, 6, 8, seed=2)),
        {"attn_mask": torch.arange(30).reshape(5, 6) % 3 > 0},
    ),
    "sdpa bias": (
        "scaled_dot_product_attention",
        (randn(2, 5, 8), randn(2, 6, 8, seed=1), randn(2, 6, 8, seed=2)),
        {"attn_mask": randn(5, 6, seed=3)},
    ),
    "unfold": ("unfold", (randn(2, 3, 6, 7),), {"kernel_size": (2, 3), "padding": 1, "stride": 2}),
    "log_softmax dtype": ("log_softmax", (randn(3, 4),), {"dim": 0, "dtype": "float64"}),
    "rms_norm": ("rms_norm", (randn(3, 4, 5),), {"normalized_shape": (4, 5), "eps": 1e-3}),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_equals_torch(name: str) -> None:
    function, tensors, kwargs = FUNCTIONS[name]
    results = []
    for api, move in ((ft, to_ft), (torch, lambda x: x)):
        options = move(kwargs)
        if "dtype" in options:
            options = {**options, "dtype": getattr(api, options["dtype"])}
        results.append(_call(api, function, move(tensors), options))
    assert_same(results[0], results[1])


def test_one_hot_equals_torch() -> None:
    x = torch.tensor([[0, 2], [1, 1]])
    assert_same(ft.nn.functional.one_hot(to_ft(x)), torch.nn.functional.one_hot(x))
    assert_same(ft.nn.functional.one_hot(to_ft(x), 5), torch.nn.functional.one_hot(x, 5))


def test_pooling_returns_torchs_indices() -> None:
    for name, shape, args in (
        ("max_pool2d", (2, 3, 6, 7), (2,)),
        ("max_pool1d", (2, 3, 7), (3, 2, 1)),
        ("adaptive_max_pool2d", (2, 3, 6, 7), (3,)),
        ("adaptive_max_pool1d", (2, 3, 7), (3,)),
    ):
        x = randn(*shape)
        mine = getattr(ft.nn.functional, name)(to_ft(x), *args, return_indices=True)
        theirs = getattr(torch.nn.functional, name)(x, *args, return_indices=True)
        assert_same(list(mine), list(theirs))


def test_fully_hidden_row_of_attention_is_zero() -> None:
    q = randn(1, 2, 4)
    mask = torch.tensor([[True, True], [False, False]])
    mine = ft.nn.functional.scaled_dot_product_attention(*to_ft([q, q, q]), attn_mask=to_ft(mask))
    theirs = torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=mask)
    assert_same(mine, theirs)


# A call that torch refuses; the class and (up to the first line) the message must be the same.
WRONG: dict[str, Any] = {
    "linear": lambda t: t.nn.functional.linear(t.zeros(2, 3), t.zeros(4, 5)),
    "linear bias": lambda t: t.nn.functional.linear(t.zeros(2, 3), t.zeros(4, 5), t.zeros(4)),
    "linear 3d": lambda t: t.nn.functional.linear(t.zeros(2, 2, 3), t.zeros(4, 5), t.zeros(4)),
    "conv channels": lambda t: t.nn.functional.conv2d(t.zeros(1, 3, 5, 5), t.zeros(2, 4, 3, 3)),
    "conv dims": lambda t: t.nn.functional.conv2d(t.zeros(5, 5), t.zeros(2, 4, 3, 3)),
    "batch norm one value": lambda t: t.nn.BatchNorm1d(3)(t.zeros(1, 3)),
    "batch norm dims": lambda t: t.nn.BatchNorm2d(3)(t.zeros(1, 3)),
    "layer norm shape": lambda t: t.nn.LayerNorm(4)(t.zeros(2, 3)),
    "group norm": lambda t: t.nn.GroupNorm(2, 3),
    "dropout": lambda t: t.nn.functional.dropout(t.zeros(2), p=1.5),
    "ce batch": lambda t: t.nn.functional.cross_entropy(t.zeros(2, 3), t.zeros(3, dtype=t.int64)),
    "ce smoothing": lambda t: t.nn.functional.cross_entropy(
        t.zeros(2, 3), t.zeros(2, dtype=t.int64), label_smoothing=2.0
    ),
    "bce size": lambda t: t.nn.functional.binary_cross_entropy(t.zeros(2), t.zeros(3)),
    "bce logits size": lambda t: t.nn.functional.binary_cross_entropy_with_logits(
        t.zeros(2), t.zeros(3)
    ),
    "huber": lambda t: t.nn.functional.huber_loss(t.zeros(2), t.zeros(2), delta=0.0),
    "hardtanh": lambda t: t.nn.functional.hardtanh(t.zeros(2), 1.0, -1.0),
    "glu": lambda t: t.nn.functional.glu(t.zeros(3)),
    "reduction": lambda t: t.nn.functional.mse_loss(t.zeros(2), t.zeros(2), reduction="other"),
    "padding_idx": lambda t: t.nn.Embedding(3, 2, padding_idx=3),
    "conv groups": lambda t: t.nn.Conv2d(3, 4, 3, groups=2),
    "same strided": lambda t: t.nn.Conv2d(2, 4, 3, padding="same", stride=2),
    "one hot": lambda t: t.nn.functional.one_hot(t.zeros(2)),
    "heads": lambda t: t.nn.MultiheadAttention(5, 2),
    "pad odd": lambda t: t.nn.functional.pad(t.zeros(3), (1,)),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_call_is_refused_as_in_torch(name: str) -> None:
    mine, theirs = error_of(lambda: WRONG[name](ft)), error_of(lambda: WRONG[name](torch))
    assert isinstance(mine, type(theirs))
    assert str(theirs).splitlines()[0] in str(mine)


def test_implicit_softmax_dim_warns() -> None:
    for api in (ft, torch):
        with pytest.warns(UserWarning, match="Implicit dimension choice for softmax"):
            api.nn.Softmax()(api.zeros(2, 3))


def test_broadcasting_loss_warns() -> None:
    with pytest.warns(UserWarning, match="different to the input size"):
        ft.nn.functional.mse_loss(ft.zeros(3, 1), ft.zeros(3))


def test_gumbel_softmax_draws_torchs_sample() -> None:
    x = randn(3, 4)
    ft.manual_seed(0)
    mine = ft.nn.functional.gumbel_softmax(to_ft(x), hard=True)
    torch.manual_seed(0)
    assert_same(mine, torch.nn.functional.gumbel_softmax(x, hard=True))
