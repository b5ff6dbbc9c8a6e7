"""A Gaussian mixture fitted by gradient: Cholesky factors as parameters, responsibilities in the end."""

import argparse
import math

import torch
from sklearn.datasets import load_iris
from torch import nn


class Mixture(nn.Module):
    def __init__(self, parts, dims):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(parts))
        self.means = nn.Parameter(torch.randn(parts, dims))
        self.factors = nn.Parameter(torch.eye(dims).repeat(parts, 1, 1))

    def component_log_probs(self, x):
        lower = torch.tril(self.factors, diagonal=-1)
        diagonal = torch.nn.functional.softplus(self.factors.diagonal(dim1=-2, dim2=-1)) + 1e-3
        scale = lower + torch.diag_embed(diagonal)
        centred = (x.unsqueeze(1) - self.means).unsqueeze(-1)
        whitened = torch.linalg.solve_triangular(scale, centred, upper=False).squeeze(-1)
        log_det = diagonal.log().sum(-1)
        norm = 0.5 * x.size(1) * math.log(2 * math.pi)
        return -0.5 * whitened.pow(2).sum(-1) - log_det - norm + self.logits.log_softmax(0)

    def forward(self, x):
        return torch.logsumexp(self.component_log_probs(x), dim=1)


def train(steps=50, dtype=torch.float32, seed=0, report=False):
    """Return the negative log-likelihood at each step."""
    torch.manual_seed(seed)
    iris = load_iris()
    x = torch.tensor(iris.data, dtype=dtype)
    x = (x - x.mean(dim=0)) / x.std(dim=0)
    model = Mixture(3, x.size(1)).to(dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(steps):
        loss = -model(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if report:
        with torch.no_grad():
            assigned = model.component_log_probs(x).softmax(1).argmax(1)
        print([torch.bincount(assigned[torch.tensor(iris.target == c)], minlength=3).tolist()
               for c in range(3)])  # fmt: skip
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    for step, loss in enumerate(train(parser.parse_args().steps, report=True)):
        print(f"step {step:3}  loss {loss:.6f}")
