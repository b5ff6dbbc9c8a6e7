"""A generator's state, as commands seed, read and set it: torch's bytes of a Mersenne Twister."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import random as draw
from ..dtype import uint8
from ..errors import ArgumentError, BadValueError, ParameterError
from ..op import declare
from ..spec import Spec
from .random import GENERATOR


def _seed_kernel(xp: Any, gen: Any, seed: int, generator: Any) -> tuple[()]:
    gen.manual_seed(seed)
    return ()


def _check_state(state: Spec, generator: Any) -> tuple[()]:
    if state.dtype is not uint8:
        raise ArgumentError("RNG state must be a torch.ByteTensor")
    if state.shape != (draw.STATE_BYTES,):
        raise ParameterError(
            f"RNG state has {state.numel} bytes, but a CPU generator's has {draw.STATE_BYTES}"
        )
    return ()


def _set_state_kernel(xp: Any, gen: Any, state: Any, generator: Any) -> tuple[()]:
    try:
        gen.set_state(np.ascontiguousarray(state))
    except ValueError as e:
        raise BadValueError(str(e)) from None
    return ()


declare(
    f"farspan::_seed(int seed, *, {GENERATOR}) -> ()",
    "state",
    meta=lambda seed, generator: (),
    kernel=_seed_kernel,
    random=True,
)
declare(
    f"farspan::_get_rng_state(*, {GENERATOR}) -> Tensor",
    "state",
    meta=lambda generator: Spec.make((draw.STATE_BYTES,), uint8),
    kernel=lambda xp, gen, generator: gen.get_state(),
    random=True,
)
declare(
    f"farspan::_set_rng_state(Tensor state, *, {GENERATOR}) -> ()",
    "state",
    meta=_check_state,
    kernel=_set_state_kernel,
    random=True,
)
