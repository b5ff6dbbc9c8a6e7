"""Inputs for the incomplete and the multivariate gamma function."""

from samples import FLOATS, call, samples


@samples(
    "igamma",
    dtypes=FLOATS,
    rtol=1e-5,
    atol=1e-7,
    differences=False,
    reason="torch's series stop earlier; and it has no gradient for the first",
)
def _igamma(make):
    return [
        call(make(3, 4, low=0.25, high=9), make(3, 4, low=0, high=9)),
        call(make(4, low=1), make(3, 1, low=1)),
        call(make(low=1), make(low=1)),
        call(make(3), make(3)),
    ]


@samples("mvlgamma", dtypes=("int64", *FLOATS))
def _mvlgamma(make):
    return [call(make(3, 4, low=3, high=9), 3), call(make(low=2, high=9), 1), call(make(0), 2)]
