"""Indexing: what `x[...]` reads, writes, refuses and sends gradients to is what torch does."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import farspan
import numpy as np
import pytest
import torch

warnings.filterwarnings("ignore", message=".*uint8 is now deprecated.*")

READS = """
x[0]  x[-1]  x[1,2]  x[1,2,3]  x[...]  x[...,...]  x[()]  x[None]  x[...,None]  x[0,...,1]
x[0,None,1:]  x[:]  x[1:]  x[:,1:]  x[:,::2]  x[1:5]  x[2:1]  x[-1:]  x[:,-2:-1]  x[:,:,3::-0+1]
x[slice(0,1)]  x[:,-1]  x[...,-1]  x[:,None,0]  x[L(1)]  x[L(1),None]  x[:,L(2)]  x[L(0):L(1)]
x[0:2:L(1)]  x[np.int64(1)]  x[np.array(1)]  x[0:np.int64(1)]  x[True]  x[False]  x[True,0]
x[None,True]  x[0,True]  x[L(True)]  x[L(False)]  x[L([0,1])]  x[L([-1,-2,0])]  x[L([[0,1],[1,0]])]
x[[0,1]]  x[[]]  x[L([],dtype=lib.long)]  x[[0,1],[0,1]]  x[[[0,1],[0,1]]]  x[(0,1)]
x[[0,1],:,[1,2]]  x[:,[0,1]]  x[:,[0,1],None]  x[None,[0,1]]  x[[0,1],None,[0,1]]  x[0,:,L([0,1])]
x[L([0]),:,0]  x[...,L([0,1]),0]  x[:,1:,L([0])]  x[L([[0,1],[1,0]]),L([0,2])]  x[L([1]),1:,L([2])]
x[range(2)]  x[[0.5]]  x[[slice(0,1),0]]  x[np.array([0,1])]  x[np.array([0.5])]
x[np.array([1],np.int8)]  x[:,np.array([0,2]),...]  x[np.array([True,False])]
x[L([1],dtype=lib.int32)]  x[[True,False]]  x[:,b]  x[0,b]  x[:,b,0]  x[:,b,1:]  x[m]  x[x>20]
x[x>99]  x[x%2==0]  x[:,:,c]  x[...,c]  x[L([1,0],dtype=lib.uint8)]
x[(x>20).nonzero(as_tuple=True)]  x[L([0]),b]  x[:,b][0]  x[1][1][1]  x.transpose(0,2)[L([0,1])]
x.transpose(0,2)[:,[0,2]]  x.transpose(0,2)[1:,0]  x[1:1]  x[1:1,b]  x[0,0,L([3,3])]  s[...]
s[None]  s[()]  s[True]  s[L(True)]  e[0:0]  e[:,1]  e[L([],dtype=lib.long)]  x[b.new_ones(2)]
x[x.new_zeros(0).long()]  len(x)  list(x)  [y.sum() for y in x]  3.0 in x  99.0 in x  L(3.0) in x
tuple(x[:1])  dict(enumerate(x[0,0]))  x[1].unbind()  [*e]  len(e)  max(x[0,0])  x[0,0,0].item()
sorted(x[0,0].tolist())  x[:10**30]  x[10**30:]  x[-10**30:]  x[0,:10**30]  x[-10**30:10**30:2]
"""

REFUSALS = """
x[2]  x[-3]  x[0,0,0,0]  x[0,5]  x[1:2,5]  x[0,...,9]  x[None,9]  x[1.5]  x['a']  x[0][0][0][0]
x[::0]  x[::-1]  x[L([0.5])]  x[L([1],dtype=lib.int8)]  x[b]  x[b,]  x[:,:,b]  x[1:1][b]
x[L([True]),0]  x[object()]  x[{}]  x[L([0,5])]  x[0,L([3])]  x[L([-3])]  x[[0,1],[0,1,2]]
x[[0],[0],[0],[0]]  x['a':2]  x[1.0:2]  s[0]  s[:]  s[0,]  len(s)  iter(s)  'a'in(x)  s[[0]]
"""

WRITES = """
x[0]=1  x[0,0]=L([1.,2.,3.,4.])  x[0]=L([[[1.]]])  x[x>3]=0  x[[0,1]]=1  x[0]=L([1])  x[:,b]=L(2.)
x[:,b]=lib.ones(2,2,4)  x[0,0,0]=lib.ones(1)  x[0,0,0]=lib.ones(1,1)  x[1:1]=3  x[...]=5  x[None]=5
x[True]=7  x[False]=7  x[[0]]=1.5  x[L([1,0])]=L([1.,2.]).view(2,1,1)  x[L([],dtype=lib.long)]=1
x[0]=True  x[:,L([0,1]),0]=L([1.,2.])  s[...]=1  s[()]=4  s[None]=2  x[[0]]=True  x[...,-1]=x[...,0]
x[0][1]=9  x[::2]=0  x[0:1,L([1]),:]=3  x[x>3]=L(1)  x[x>3]=L([1])  x[x>3]=L(1).double()  x[m]=-1
x[m]=lib.arange(3.).view(3,1)  x[L(1)]=0  x[:,None]=1  x[1,2,3]=L(7)  x.transpose(0,2)[0]=5
x.T[1:,[0,2]]=5  x[:,::2][1]=3  x[0:2]=x[0:2]*2  x[b.new_ones(2)]=0  x[0,b,L([1,3])]=9
x[np.array([1,0]),0]=np.float64(3)  x[L(True)]=8  x[[0,1],[2,0]]=L(1.)  x[0]+=1  x[:,1]*=2  x[m]+=10
x[[0,0]]+=1  x[x>5]-=5  x[0,0,0]=x[1,1,1]  i[0]=2.7  i[[0]]=2.7  i[i>1]=0
x[L([1]),:,L([2])]=lib.ones(1,3)  x[:,L([[0],[1]]),L([0,2])]=lib.ones(2,2)  c[0]=1  c[c]=False
e[:]=1
"""

BAD_WRITES = """
x[0]=L([1.,2.])  x[x>3]=L([1.,2.])  x[L([0])]=L([1])  x[b]=1  x[:,b]=lib.ones(3,2,4)
x[0,0,0]=lib.ones(2)  x[5]=1  x[[5]]=1  x[0]='a'  x[0]=[1,2,3,4]  x[0]=np.ones(4)  x[[0]]=np.ones(4)
x[0]=1j  x[0]=None  x[m]=lib.ones(2,5)  x[L([0]),L([0,1])]=L([[1.]*4]*3)  x[::-1]=0  x[1.5]=0
x[0,0,0,0]=0  x[:1].expand(2,3,4)[...]=L([1.,2.,3.,4.])  x[m]=L([1,2,3,4])
"""


@pytest.fixture(autouse=True)
def session() -> Iterator[Any]:
    with farspan.connect("local:") as s:
        yield s


def names(lib: Any) -> dict[str, Any]:
    return {
        "lib": lib, "np": np, "L": lib.tensor, "x": lib.arange(24.0).view(2, 3, 4).clone(),
        "s": lib.tensor(3.0), "e": lib.zeros(0, 3), "i": lib.tensor([1, 2, 3]),
        "b": lib.tensor([True, False, True]), "c": lib.tensor([True, False, False, True]),
        "m": lib.tensor([[True, False, True], [False, False, True]]),
    }  # fmt: skip


def plain(x: Any) -> Any:
    """Return a result in comparable form: dtype, shape and values."""
    if hasattr(x, "tolist") and hasattr(x, "stride"):
        return str(x.dtype), tuple(x.shape), x.tolist()
    if isinstance(x, (list, tuple)):
        return [plain(i) for i in x]
    return {k: plain(v) for k, v in x.items()} if isinstance(x, dict) else x


def outcome(lib: Any, code: str, mode: str) -> Any:
    """Return what evaluating the code gives, or for statements what x is afterwards."""
    space = names(lib)
    if mode == "eval":
        return plain(eval(code, space))
    exec(code, space)
    return {k: plain(space[k]) for k in "xsic"}


def split(cases: str) -> list[str]:
    """Return the cases of a block: two spaces or a new line stand between them."""
    return [c for line in cases.strip().splitlines() for c in line.split("  ")]


@pytest.mark.parametrize("code", split(READS))
def test_reading(code: str) -> None:
    assert outcome(farspan, code, "eval") == outcome(torch, code, "eval")


@pytest.mark.parametrize("code", split(WRITES))
def test_writing(code: str) -> None:
    assert outcome(farspan, code, "exec") == outcome(torch, code, "exec")


@pytest.mark.parametrize(
    ("code", "mode"),
    [(c, "eval") for c in split(REFUSALS)] + [(c, "exec") for c in split(BAD_WRITES)],
)
def test_refusals_have_torchs_class_and_words(code: str, mode: str) -> None:
    with pytest.raises((IndexError, TypeError, ValueError, RuntimeError)) as theirs:
        outcome(torch, code, mode)
    kinds = (IndexError, TypeError, ValueError, RuntimeError)
    kind = next(k for k in kinds if isinstance(theirs.value, k))
    with pytest.raises(kind) as ours:
        outcome(farspan, code, mode)
    words = str(theirs.value).splitlines()[0]
    if code not in OTHER_WORDS:
        assert words in str(ours.value)


#: We name the dim that the index was for, torch the place among index tensors; and dtypes by name.
OTHER_WORDS = {
    "x[0,L([3])]", "x[L([0])]=L([1])", "x[0,0,0]=lib.ones(2)", "x[m]=L([1,2,3,4])",
    "x[m]=lib.ones(2,5)", "x[0,0,0,0]=0",
}  # fmt: skip


GRADIENTS = """
x[0]  x[...,1:]  x[[0,0,1]]  x[:,[0,2],1]  x[m]  x[x>7]  x[None,True]  x[L([0,1]),:,L([1,1])]
x[1][2]  x[:,b]  x.transpose(0,2)[[1,1],0]
"""


@pytest.mark.parametrize("code", split(GRADIENTS))
def test_gradients_flow_through_reading(code: str) -> None:
    found = []
    for lib in (torch, farspan):
        space = names(lib)
        x = space["x"].requires_grad_()
        y = eval(code, space)
        (first,) = lib.autograd.grad((y * y * y).sum(), [x], create_graph=True)
        (second,) = lib.autograd.grad((first * first).sum(), [x])
        found.append((first.tolist(), second.tolist()))
    assert found[0] == found[1]


STORES = """
y[0]=v[0]  y[...,1:]=v[...,1:]  y[[0,1]]=v  y[:,[0,2],1]=v[:,:2,0]  y[m]=v[m]  y[x>7]=v.sum()
y[0][1]=v[1,1]  y[:,b]=v[:,1:]*2  y[m]=0  y[0,1]=3.0  y[x>7]*=v.sum()  y[1:]+=v[0]
y.transpose(0,2)[[1,2],0]=v[0,:2,:2]  y[L([1]),:,L([2])]=v[1:,:,0]
"""


@pytest.mark.parametrize("code", split(STORES))
def test_gradients_flow_through_writing(code: str) -> None:
    found = []
    for lib in (torch, farspan):
        space = names(lib)
        x = space["x"].requires_grad_()
        v = space["v"] = (lib.arange(24.0).view(2, 3, 4) / 7).requires_grad_()
        space["y"] = x * 2
        exec(code, space)
        y = space["y"]
        first = lib.autograd.grad((y * y).sum(), [x, v], allow_unused=True)
        found.append([None if g is None else g.numpy() for g in first])
    for theirs, ours in zip(*found, strict=True):
        if theirs is None or ours is None:  # torch gives None or zeros where nothing flows
            assert not np.any(theirs if ours is None else ours)
        else:
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_views_write_through_and_copies_do_not() -> None:
    for lib in (torch, farspan):
        x = lib.zeros(3, 4)
        x[1][2] = 5
        row = x[0]
        row[:2] = 1
        picked = x[[2]]
        picked[:] = 9
        column = x[:, -1]
        column += 2
        assert x.tolist() == [[1, 1, 0, 2], [0, 0, 5, 2], [0, 0, 0, 2]]


def test_unpacking_and_iteration() -> None:
    x = farspan.arange(6).view(3, 2)
    a, (b, c), d = x
    assert (a.tolist(), b.item(), c.item(), d.tolist()) == ([0, 1], 2, 3, [4, 5])
    with pytest.raises(ValueError, match="not enough values to unpack"):
        a, b, c, d = x
    assert [r.tolist() for r in farspan.zeros(1, 2)] == [[0.0, 0.0]]
    assert list(farspan.zeros(0, 2)) == []


def test_an_index_tensor_out_of_range_is_told_at_the_next_wait() -> None:
    x = farspan.zeros(3, 4)
    y = x[farspan.tensor([5])]
    assert y.shape == (1, 4)
    with pytest.raises(IndexError, match="index 5 is out of bounds for dimension 0 with size 3"):
        y.tolist()
    x[farspan.tensor([7])] = 1
    with pytest.raises(IndexError, match="index 7"):
        x.tolist()
    assert x.tolist() == farspan.zeros(3, 4).tolist()
