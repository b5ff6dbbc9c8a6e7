"""Recommendations by matrix factorisation: embeddings and biases, batches from a Dataset class."""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Ratings(Dataset):
    """Ratings generated from hidden tastes, with noise; a tenth of all pairs is known."""

    def __init__(self, users, items, dtype):
        tastes, traits = torch.randn(users, 3, dtype=dtype), torch.randn(items, 3, dtype=dtype)
        full = tastes @ traits.t() + 0.1 * torch.randn(users, items, dtype=dtype)
        known = torch.rand(users, items) < 0.1
        self.pairs = known.nonzero()
        self.values = full[known]

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, i):
        return self.pairs[i], self.values[i]


class Factorisation(nn.Module):
    def __init__(self, users, items, width=4):
        super().__init__()
        self.users, self.items = nn.Embedding(users, width), nn.Embedding(items, width)
        self.user_bias, self.item_bias = nn.Embedding(users, 1), nn.Embedding(items, 1)
        self.mean = nn.Parameter(torch.zeros(()))
        for embedding in (self.user_bias, self.item_bias):
            nn.init.zeros_(embedding.weight)

    def forward(self, pairs):
        user, item = pairs.unbind(1)
        interaction = (self.users(user) * self.items(item)).sum(1)
        return interaction + self.user_bias(user)[:, 0] + self.item_bias(item)[:, 0] + self.mean


def train(steps=50, dtype=torch.float32, seed=0):
    """Return the loss of each step."""
    torch.manual_seed(seed)
    data = Ratings(60, 40, dtype)
    loader = DataLoader(data, batch_size=64, shuffle=True)
    model = Factorisation(60, 40).to(dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    losses = []
    while len(losses) < steps:
        total = 0.0
        for pairs, values in loader:
            loss = (model(pairs) - values).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            total += losses[-1]
            if len(losses) == steps:
                break
        schedule.step(total)
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    for step, loss in enumerate(train(parser.parse_args().steps)):
        print(f"step {step:3}  loss {loss:.6f}")
