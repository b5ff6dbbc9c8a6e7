"""A graph convolution (Kipf and Welling, 2017) by gather and scatter, on a graph of two communities
of which few members are labelled."""

import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F


def communities(count, dtype):
    """Return edges (2, E) both ways, features and labels of a stochastic block model."""
    labels = (torch.arange(count) >= count // 2).long()
    alike = labels[:, None] == labels[None, :]
    chance = torch.where(alike, 0.25, 0.03)
    adjacent = torch.triu(torch.rand(count, count) < chance, diagonal=1)
    rows, columns = torch.where(adjacent)
    edges = torch.stack([torch.cat([rows, columns]), torch.cat([columns, rows])])
    return edges, torch.randn(count, 8, dtype=dtype), labels


class GraphConv(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x, edges):
        source, target = edges
        degree = torch.ones(len(x), dtype=x.dtype)
        degree.index_add_(0, target, torch.ones(len(target), dtype=x.dtype))
        scale = degree.rsqrt()
        h = self.linear(x)
        messages = h[source] * (scale[source] * scale[target]).unsqueeze(1)
        index = target.unsqueeze(1).expand_as(messages)
        gathered = torch.zeros_like(h).scatter_add(0, index, messages)
        return gathered + h / degree.unsqueeze(1) + self.bias


class GCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = GraphConv(8, 16), GraphConv(16, 2)

    def forward(self, x, edges):
        x = F.dropout(F.elu(self.first(x, edges)), p=0.3, training=self.training)
        return self.second(x, edges)


def train(steps=50, dtype=torch.float32, seed=0, report=False):
    """Return the loss of each step."""
    torch.manual_seed(seed)
    edges, x, labels = communities(60, dtype)
    known = torch.zeros(60, dtype=torch.bool)
    known[torch.randperm(60)[:12]] = True
    model = GCN().to(dtype)
    optimizer = torch.optim.Adamax(model.parameters(), lr=0.02, weight_decay=5e-4)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(x, edges)[known], labels[known])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if report:
        model.eval()
        right = (model(x, edges).argmax(1) == labels)[~known].double().mean()
        print(f"accuracy on the others {right.item():.1%}")
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    for step, loss in enumerate(train(parser.parse_args().steps, report=True)):
        print(f"step {step:3}  loss {loss:.6f}")
