"""Layers that change spatial sizes, and instance normalization, equal torch's."""

from __future__ import annotations

from typing import Any

import farspan as ft
import pytest
import torch
from parity import assert_same, error_of, randn, seeded, to_ft

LAYERS: dict[str, Any] = {
    "nearest": (lambda t: t.nn.Upsample(scale_factor=2), (2, 3, 4, 5)),
    "nearest 1d": (lambda t: t.nn.Upsample(scale_factor=1.7), (2, 3, 7)),
    "nearest down": (lambda t: t.nn.Upsample((3, 7)), (2, 3, 5, 5)),
    "nearest exact": (lambda t: t.nn.Upsample((7, 3), mode="nearest-exact"), (2, 3, 5, 5)),
    "linear": (lambda t: t.nn.Upsample(9, mode="linear"), (2, 3, 5)),
    "bilinear": (lambda t: t.nn.Upsample(scale_factor=(2, 1.5), mode="bilinear"), (2, 3, 4, 5)),
    "bilinear aligned": (
        lambda t: t.nn.Upsample((7, 2), mode="bilinear", align_corners=True),
        (2, 3, 4, 5),
    ),
    "bilinear recomputed": (
        lambda t: t.nn.Upsample(scale_factor=1.3, mode="bilinear", recompute_scale_factor=True),
        (2, 3, 4, 5),
    ),
    "area": (lambda t: t.nn.Upsample((2, 3), mode="area"), (2, 3, 5, 5)),
    "pixel shuffle": (lambda t: t.nn.PixelShuffle(2), (2, 12, 3, 4)),
    "pixel shuffle unbatched": (lambda t: t.nn.PixelShuffle(3), (9, 3, 4)),
    "pixel unshuffle": (lambda t: t.nn.PixelUnshuffle(2), (2, 3, 4, 6)),
    "unfold": (lambda t: t.nn.Unfold(2, stride=2), (2, 3, 4, 6)),
    "zero pad": (lambda t: t.nn.ZeroPad2d((1, 2, 0, 1)), (2, 3, 4, 4)),
    "constant pad": (lambda t: t.nn.ConstantPad1d(2, 1.5), (2, 3, 4)),
    "reflection pad": (lambda t: t.nn.ReflectionPad2d(2), (2, 3, 4, 4)),
    "replication pad": (lambda t: t.nn.ReplicationPad1d((3, 1)), (2, 3, 4)),
    "circular pad": (lambda t: t.nn.CircularPad2d((3, 1, 0, 2)), (2, 3, 4, 4)),
    "instance norm": (lambda t: t.nn.InstanceNorm2d(3), (2, 3, 4, 4)),
    "instance norm affine": (
        lambda t: t.nn.InstanceNorm1d(3, affine=True, track_running_stats=True),
        (2, 3, 5),
    ),
    "instance norm unbatched": (lambda t: t.nn.InstanceNorm2d(3, affine=True), (3, 4, 4)),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_torch(name: str, training: bool) -> None:
    build, shape = LAYERS[name]
    mine, theirs = seeded(build)
    assert repr(mine) == repr(theirs)
    results = []
    for module, x in ((mine, to_ft(randn(*shape))), (theirs, randn(*shape))):
        out = module.train(training)(x.requires_grad_())
        (out * out * out).sum().backward()
        results.append([out, x.grad, module.state_dict()])
    assert_same(results[0], results[1], rtol=1e-4, atol=1e-5)


WRONG: dict[str, Any] = {
    "both": lambda t: t.nn.functional.interpolate(t.zeros(1, 1, 2), 3, 2),
    "neither": lambda t: t.nn.functional.interpolate(t.zeros(1, 1, 2)),
    "corners": lambda t: t.nn.functional.interpolate(t.zeros(1, 1, 2), 3, align_corners=True),
    "shuffle": lambda t: t.nn.functional.pixel_shuffle(t.zeros(1, 3, 2, 2), 2),
    "instance": lambda t: t.nn.InstanceNorm2d(3)(t.zeros(1, 3, 1, 1)),
    "instance dim": lambda t: t.nn.InstanceNorm2d(3)(t.zeros(1, 3)),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_call_is_refused_as_in_torch(name: str) -> None:
    mine, theirs = error_of(lambda: WRONG[name](ft)), error_of(lambda: WRONG[name](torch))
    assert isinstance(mine, type(theirs))
    assert str(theirs)[:60] in str(mine)
