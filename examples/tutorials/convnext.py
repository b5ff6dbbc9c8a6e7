"""ConvNeXt in small (Liu et al., 2022): depthwise convolutions, channels-last layer norm, layer scale,
stochastic depth, an exponential moving average of the weights."""

import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class LayerNorm2d(nn.Module):
    """Normalises over channels, in either memory layout."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class Block(nn.Module):
    def __init__(self, width, drop_path):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, kernel_size=5, padding=2, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(1e-2 * torch.ones(width))
        self.drop_path = drop_path

    def forward(self, x):
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = self.contract(F.gelu(self.expand(self.norm(y))))
        y = (self.gamma * y).permute(0, 3, 1, 2)
        if self.training and self.drop_path > 0:
            keep = 1 - self.drop_path
            mask = torch.empty(x.shape[0], 1, 1, 1, dtype=x.dtype).bernoulli_(keep)
            y = y * mask / keep
        return x + y


class ConvNeXt(nn.Module):
    def __init__(self, widths=(8, 16), depth=2):
        super().__init__()
        self.stem = nn.Conv2d(1, widths[0], kernel_size=2, stride=2)
        stages, before = [], widths[0]
        for i, width in enumerate(widths):
            if i:
                stages += [LayerNorm2d(before), nn.Conv2d(before, width, kernel_size=2, stride=2)]
            stages += [Block(width, drop_path=0.1 * (i + j)) for j in range(depth)]
            before = width
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(before, eps=1e-6)
        self.head = nn.Linear(before, 10)

    def forward(self, x):
        x = self.stages(self.stem(x))
        return self.head(self.norm(x.mean([-2, -1])))


def train(steps=50, dtype=torch.float32, seed=0):
    """Return the loss of each step, and that of the averaged weights at the end."""
    torch.manual_seed(seed)
    digits = load_digits()
    images = torch.as_tensor(digits.images, dtype=dtype)[:, None] / 16
    labels = torch.as_tensor(digits.target)
    model = ConvNeXt().to(dtype)
    average = copy.deepcopy(model).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.05)
    losses = []
    for i in range(steps):
        at = i * 32 % 1700
        loss = F.cross_entropy(model(images[at : at + 32]), labels[at : at + 32])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for mine, theirs in zip(average.parameters(), model.parameters()):
                mine.lerp_(theirs, 0.1)
        losses.append(loss.item())
    with torch.no_grad():
        losses.append(F.cross_entropy(average(images[:200]), labels[:200]).item())
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    for step, loss in enumerate(train(parser.parse_args().steps)):
        print(f"step {step:3}  loss {loss:.6f}")
