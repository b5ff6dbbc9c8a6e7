"""Inputs for contractions: labels that repeat, broadcast, vanish and permute; chains; powers."""

from samples import Strided, call, samples
from samples.linalg import LOOSE, NUMBERS


@samples("_contract", strides=False, **LOOSE)
def _contract(make):
    return [
        call("ab,bc->ac", make(2, 3), make(3, 4)),
        call("abc,adc->dba", make(2, 3, 4), make(2, 5, 4)),
        call("a,b->ba", make(2), make(3)),
        call("ab,ab->", make(2, 3), make(2, 3)),
        call("ab,ba->ab", make(2, 3), make(3, 2)),
        call("ab,bc->ac", make(0, 3), make(3, 4)),
        call("ab,bc->ca", make(2, 0), make(0, 4)),
        call("ab,cb->ac", Strided(make(2, 3)), Strided(make(4, 3))),
    ]


@samples("einsum", **LOOSE)
def _einsum(make):
    one = [
        "ij->", "ij->ji", "ij", "ji", "ij->i", "ij->j",
    ]  # fmt: skip
    two = {
        "ij,jk->ik": ((2, 3), (3, 4)),
        "ij,jk": ((2, 1), (3, 4)),
        "bhqd,bhkd->bhqk": ((2, 3, 4, 5), (2, 3, 2, 5)),
        "bqd , bkd -> bkq": ((2, 4, 5), (2, 3, 5)),
        "i,j->ij": ((2,), (3,)),
        "i,i->": ((3,), (3,)),
        "i,i->i": ((3,), (3,)),
        "...ij,...jk->...ik": ((2, 1, 3, 4), (5, 4, 2)),
        "i...,i...->...": ((3, 2), (3, 2)),
        "ij,kl->": ((2, 3), (4, 5)),
        "Ab,bC": ((2, 3), (3, 4)),
        "ij,ij->ij": ((2, 3), (1, 3)),
        "ij,jk->ki": ((0, 3), (3, 4)),
        ",->": ((), ()),
    }
    calls = [call(e, [make(2, 3)]) for e in one]
    calls += [call(e, [make(*a), make(*b)]) for e, (a, b) in two.items()]
    calls.append(call("ij,jk,kl->il", [make(2, 3), make(3, 4), make(4, 2)]))
    calls.append(call("ij,jk,kl->li", [make(2, 3), make(3, 4), make(4, 2)], path=[1, 2, 0, 1]))
    calls.append(call("bi,oij,bj->bo", [make(2, 3), make(4, 3, 2), make(2, 2)]))
    calls.append(call("ii->i", [make(3, 3)]))
    calls.append(call("ii", [make(3, 3)]))
    calls.append(call("iij,jk->ik", [make(3, 3, 2), make(2, 4)]))
    return calls


@samples("tensordot", **LOOSE)
def _tensordot(make):
    return [
        call(make(2, 3), make(3, 4), [1], [0]),
        call(make(2, 3, 4), make(4, 3, 5), [1, 2], [1, 0]),
        call(make(2, 3), make(4), [], []),
        call(make(2, 3), make(1, 4), [-1], [0]),
    ]


@samples("bilinear", **LOOSE)
def _bilinear(make):
    return [
        call(make(2, 3), make(2, 4), make(5, 3, 4), make(5)),
        call(make(3), make(4), make(5, 3, 4)),
    ]


@samples("kron")
def _kron(make):
    return [
        call(make(2, 3), make(4, 2)),
        call(make(2), make(3, 2, 2)),
        call(make(), make(3)),
        call(make(0, 2), make(3, 2)),
    ]


@samples("linalg_multi_dot", "chain_matmul", **LOOSE)
def _multi_dot(make):
    return [
        call([make(2, 3), make(3, 4), make(4, 2)]),
        call([make(2, 3), make(3, 4)]),
        call([make(3), make(3, 4), make(4)]),
        call([make(2, 5), make(5, 1), make(1, 5), make(5, 3)]),
    ]


@samples(
    "matrix_power",
    "linalg_matrix_power",
    rtol=1e-4,
    atol=1e-3,
    half=(5e-2, 2.0),
    dtypes=NUMBERS,
    reason="torch multiplies in another order; half precision rounds each product",
)
def _matrix_power(make):
    calls = [call(make(3, 3, low=-2, high=2), n) for n in (0, 1, 2, 3, 5)]
    return [*calls, call(make(2, 3, 3, low=-2, high=2), 2), call(make(0, 0), 3)]
