"""Inputs for attention."""

import numpy as np

from samples import FLOATS, call, samples


@samples("scaled_dot_product_attention", dtypes=FLOATS)
def _attention(make):
    q, k, v = make(2, 3, 4, 5), make(2, 3, 6, 5), make(2, 3, 6, 2)
    mask = make.bools(4, 6)
    mask[1] = False
    mask[2] = True
    return [
        call(q, k, v),
        call(q, k, v, mask),
        call(q, k, v, make(2, 1, 4, 6)),
        call(q, k, v, None, 0.0, True),
        call(q, k, v, scale=0.3),
        call(make(4, 5), make(6, 5), make(6, 5)),
        call(make(1, 4, 3, 2), make(1, 2, 3, 2), make(1, 2, 3, 2), enable_gqa=True),
        call(q, k, v, np.tril(np.ones((4, 6), bool))),
    ]
