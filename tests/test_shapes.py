"""Views, moves, factories and sorting as users call them: torch's spellings, results and refusals.

The laws call ops by their schema; here it is the Python surface - varargs, keywords, named results.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import farspan
import pytest
import torch
from test_indexing import plain, split

CASES = """
lib.zeros(2,3)  lib.zeros((2,3),dtype=lib.int64,device='cpu',requires_grad=False)
lib.zeros((2,3),dtype=lib.float64,requires_grad=True).requires_grad  lib.arange(5)  lib.arange(5.)
lib.arange(1,5)  lib.arange(1,5,2)  lib.arange(start=1,end=5,step=2)  lib.arange(end=5)
lib.arange(0,1,0.25,dtype=lib.float64)  lib.arange(3.,requires_grad=True).requires_grad
lib.full((2,),1.5)  lib.full((2,),True)  lib.full((),3)  lib.full_like(x,2)
lib.full_like(x,2,dtype=lib.int32)  lib.zeros(2,out=lib.empty(2))  lib.arange(3,out=lib.empty(3))
lib.ones(0)  lib.ones([])  lib.eye(2)  lib.eye(2,3)  lib.linspace(0,1,5)  lib.linspace(0,1,steps=3)
lib.logspace(0,2,3)  lib.tril_indices(3,3)  lib.scalar_tensor(3)  x.new_zeros(2,3)
x.new_zeros((2,3),dtype=lib.int64)  x.new_ones(2)  x.new_full((2,),3)  x.new_empty(2,2).shape
x.split(2,1)  x.split([1,2],dim=1)  x.split(split_size=1)  lib.split(x,2,dim=2)
lib.split(tensor=x,split_size_or_sections=[1,1])  x.chunk(2,-1)  x.tensor_split(2,1)
x.tensor_split([1,2],dim=1)  x.tensor_split((1,2),1)  lib.hsplit(x,3)  x.unflatten(2,(2,2))
x.unflatten(-1,[2,-1])  x.T.shape  x[0].T  x[0,0].T  x.mT.shape  x.size()  x.size(1)  x.size(-1)
x.size(dim=0)  x.stride()  x.stride(0)  x[0,0,0].item()  L([3]).item()  x.nonzero()
lib.nonzero(x>20,as_tuple=True)  x.unique()  (x%3).unique(return_counts=True)
lib.unique(x%3,return_inverse=True,return_counts=True)
lib.unique_consecutive(L([1,1,2,2,1]),return_counts=True)  lib.unique(L([[1,2],[1,2]]),dim=0)
lib.meshgrid(L([1,2]),L([3,4]),indexing='xy')  lib.meshgrid([L([1,2]),L([3,4])])
lib.broadcast_tensors(L([1,2]),L([[3],[4]]))  lib.broadcast_shapes((2,1),(3,))
lib.atleast_2d(L(1.))  lib.atleast_2d(L(1.),L([2.]))  lib.block_diag(L([[1]]),L([2,3]))
lib.cartesian_prod(L([1,2]),L([3]))  lib.where(x>5)  lib.where(x>5,x,0.)  x.where(x>5,lib.zeros(()))
lib.where(x>5,1,0)  x.sort(1,descending=True).values  x.sort(dim=-1).indices
lib.sort(x,stable=True)[0]  x.topk(2)  lib.topk(x,k=2,dim=0,largest=False)  x.kthvalue(2)
x.argsort(-1)  x.argsort(descending=True)  x.argsort(dim=0,stable=True)
x.gather(0,L([[[0,0,0,1]]]))  x.index_select(dim=1,index=L([0,2]))  lib.index_select(x,0,L([1]))
x.scatter(0,L([[[1]]]),5.)  x.scatter_(0,L([[[1]]]),5.)  x.scatter_(0,L([[[1]]]),x[:1]*2)
x.scatter_reduce(0,L([[[1,1]]]),x[:1],'amax')
x.scatter_reduce(0,L([[[1,1]]]),x[:1],reduce='sum',include_self=False)  x.index_fill_(1,L([0]),-1)
x.masked_fill(x>5,0.)  x.masked_select(x>20)  x.masked_scatter_(x>20,lib.ones(24))  x.take(L([0,5]))
x.put_(L([0]),L([9.]))  x.take_along_dim(L([[[0]]]),dim=0)  x.flip(0)  x.flip(0,1)  x.flip([0,1])
x.flip(dims=(0,))  x.roll(1)  x.roll(1,0)  x.roll((1,2),(0,1))  x.rot90()  x.rot90(1,(1,2))
x.repeat(2,1,1).shape  x.repeat([2,1,1]).shape  x.tile(2).shape  x.tile((2,2)).shape
x.repeat_interleave(2).shape  x.repeat_interleave(2,dim=1).shape
x.repeat_interleave(L([1,2]),dim=0).shape  lib.repeat_interleave(L([1,2]))  x.permute(2,0,1).shape
x.permute((2,0,1)).shape  x.permute(dims=(2,0,1)).shape  x.transpose(0,1).shape
x.transpose(dim0=0,dim1=1).shape  x.movedim(0,-1).shape  x.movedim((0,1),(1,0)).shape
x.squeeze().shape  x[:1].squeeze(0).shape  x[:1].squeeze(dim=(0,1)).shape  x.unsqueeze(-1).shape
x.expand(3,2,3,4).shape  x.expand(-1,-1,-1).shape  x.expand_as(x).shape  x.view(-1)
x.view(6,4).shape  x.view(dtype=lib.int32).shape
x.view_as(lib.zeros(24)).shape  x.reshape(4,6).shape  x.reshape((4,6)).shape  x.reshape(-1).shape
x.flatten().shape  x.flatten(1).shape  x.flatten(start_dim=1).shape  lib.flatten(x,end_dim=1).shape
x.ravel().shape  x.narrow(1,0,2).shape  x.select(1,0).shape  x.unfold(2,2,1).shape
x.diagonal().shape  x.diagonal(dim1=1,dim2=2)  lib.diag(L([1,2]))  lib.diag_embed(L([1,2]))
lib.diagflat(L([1,2]))  x[0].tril()  x[0].triu(1)  x[0].tril_()  x.as_strided((2,2),(1,2))
x.as_strided((2,2),(1,2),3)  lib.cat([x,x]).shape  lib.cat((x,x),dim=1).shape
lib.cat([x,x],axis=1).shape  lib.concat([x,x],-1).shape  lib.stack([x,x],dim=-1).shape
lib.hstack((x,x)).shape  lib.vstack([x,x]).shape  lib.dstack([x,x]).shape
lib.column_stack([L([1,2]),L([3,4])])  lib.cat([x,x],out=lib.empty(0)).shape  lib.fliplr(x[0])
lib.bucketize(L([1.,2.]),L([1.5]))  lib.searchsorted(L([1.,2.,3.]),L([1.5]))
lib.searchsorted(L([1.,2.,3.]),2.,right=True)
lib.searchsorted(sorted_sequence=L([1.,2.,3.]),input=L([1.5]))  lib.bincount(L([1,1,2]))
L([1,1,2]).bincount(minlength=5)  lib.isin(x,L([1.]))  lib.isin(x,1.)
lib.nn.functional.one_hot(L([0,2]),num_classes=3)  lib.nn.functional.one_hot(L([0,2]))
lib.nn.functional.pad(x,(1,1))  lib.nn.functional.pad(x,(1,1),mode='reflect')
lib.nn.functional.pad(x,(1,1),'constant',2.)  lib.nn.functional.embedding(L([0,1]),x[0])
lib.nn.functional.pixel_shuffle(lib.zeros(1,4,2,2),2).shape  x.fill_(3)  x.fill_(L(3.))  x.zero_()
x.clone().copy_(L(2.))  x.copy_(lib.zeros(4))  x.contiguous().shape  x[0].t().is_contiguous()
x.swapaxes(0,1).shape  lib.narrow(x,0,0,1).shape  x.unbind()[0].shape  lib.unbind(x,dim=1)[0].shape
len(x.unbind(1))  lib.zeros_like(x,dtype=lib.int32)  lib.empty_like(x).shape  lib.empty(2,3).shape
lib.empty_strided((2,3),(1,2)).stride()  lib.tensor([[1,2],[3,4]]).T  x.adjoint().shape
x.is_contiguous()  lib.atleast_1d([L(1.),L(2.)])  lib.argwhere(x>22)  lib.gather(x,0,L([[[0]]]))
lib.select_scatter(x,x[0],0,1)  lib.slice_scatter(x,x[:1],0,1,2)  lib.msort(L([3,1,2]))
"""

REFUSED = """
x.item()  x.H  x.size(5)  lib.cat([])  lib.stack([])  x.t()  x.sort(5)  x.topk(9)  lib.zeros(2.5)
x.scatter(0,L([[[9]]]),1.)  x.view(5,-1)  x.transpose(0,2).view(24)  x.split(0)  x.split([1,2])
x.chunk(0)  x.narrow(0,1,2)  x.unfold(0,3,1)  x.permute(0,1)  x.expand(3,3,4)
x.movedim((0,0),(1,2))  x.as_strided((2,),(1,),30)  x.squeeze((0,0))  lib.arange(5,0)
lib.arange(0,5,0)  lib.eye(-1)  x.gather(0,L([[0]]))  x.gather(0,L([[[0.]]]))
x.scatter(0,L([[[0]]]),x.double())  x.index_select(0,L([[1]]))  x.take(L([50]))  x.kthvalue(9)
lib.bincount(L([-1]))  lib.bucketize(x,x)  x.repeat(2)  x.roll((1,2),0)  x[0,0].tril()  x.flip(0,0)
lib.meshgrid(x,x)  lib.nn.functional.one_hot(L([5]),3)  lib.nn.functional.embedding(L([9]),x[0])
x.masked_scatter(x>5,lib.ones(2))  x[:,:,1:].view(lib.float64)  x.unflatten(0,(2,2))  x.hsplit(2)
x.tensor_split(0)
"""


@pytest.fixture(autouse=True)
def session() -> Iterator[Any]:
    with farspan.connect("local:") as s:
        yield s


def outcome(lib: Any, code: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = lib.arange(24.0).view(2, 3, 4).clone()
        return plain(eval(code, {"lib": lib, "L": lib.tensor, "x": x}))


@pytest.mark.parametrize("code", split(CASES))
def test_results_are_torchs(code: str) -> None:
    assert outcome(farspan, code) == outcome(torch, code)


@pytest.mark.parametrize("code", split(REFUSED))
def test_refusals_are_torchs(code: str) -> None:
    kinds = (IndexError, TypeError, ValueError, RuntimeError)
    with pytest.raises(kinds) as theirs:
        outcome(torch, code)
    with pytest.raises(next(k for k in kinds if isinstance(theirs.value, k))):
        outcome(farspan, code)


def test_results_have_torchs_names() -> None:
    x = farspan.tensor([3.0, 1.0, 2.0])
    assert x.sort().values.tolist() == [1, 2, 3]
    assert x.topk(2).indices.tolist() == [0, 2]
    assert repr(x.kthvalue(1)) == repr(torch.tensor([3.0, 1.0, 2.0]).kthvalue(1))


def test_as_strided_sees_the_storage_and_gives_gradients_back() -> None:
    for lib in (torch, farspan):
        x = lib.arange(6.0).requires_grad_()
        y = (x * 2)[1:].as_strided((3, 2), (1, 1), 1)
        (g,) = lib.autograd.grad((y * y).sum(), [x])
        assert y.tolist() == [[2, 4], [4, 6], [6, 8]]
        assert g.tolist() == [0, 8, 32, 48, 32, 0]


def test_an_expanded_view_of_a_rewritten_tensor_sums_its_gradient() -> None:
    found = []
    for lib in (torch, farspan):
        x = lib.ones(2, 1).requires_grad_()
        y = x * 3
        wide = y.expand(2, 3)
        y.mul_(2)
        (g,) = lib.autograd.grad((wide * lib.arange(6.0).view(2, 3)).sum(), [x])
        found.append(g.tolist())
    assert found[0] == found[1]


@pytest.mark.parametrize("size, stride, offset", [
    ((3,), (1,), 0), ((3, 2), (1, 0), 0), ((2, 2), (1, 1), 0), ((2,), (1,), 1), ((0,), (1,), 90),
])  # fmt: skip
@pytest.mark.parametrize("of", ["expanded", "windows", "slice"])
def test_as_strided_shares_its_gradient_out_among_elements_of_one_place(
    of: str, size: Any, stride: Any, offset: int
) -> None:
    found = []
    for lib in (torch, farspan):
        x = lib.arange(1.0, 17.0).requires_grad_()
        seen = {
            "expanded": lambda x=x: (x * 2)[:4, None].expand(4, 3),
            "windows": lambda x=x: (x * 2).unfold(0, 4, 2),
            "slice": lambda x=x: (x * 2).view(4, 4)[1:, ::2],
        }[of]()
        y = seen.as_strided(size, stride, offset)
        (g,) = lib.autograd.grad(y, [x], lib.arange(1.0, 1.0 + y.numel()).view(size))
        found.append((y.tolist(), list(y.shape), g.tolist()))
    assert found[0] == found[1]


def test_a_view_beyond_its_storage_is_refused_and_the_session_lives() -> None:
    with farspan.connect("local:"):
        x = farspan.ones(4)
        with pytest.raises(RuntimeError, match="out of bounds for storage"):
            x.as_strided((2, 2), (1, 2), 10)
        odd = farspan.arange(4, dtype=farspan.int32)[1:3]
        with pytest.raises(RuntimeError, match="divisible"):
            odd.view(farspan.int64)
        assert x.sum().item() == 4
