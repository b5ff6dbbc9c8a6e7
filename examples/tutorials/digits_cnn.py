"""A convolutional classifier of handwritten digits, with Adam, dropout and accuracy by class."""

import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout2d(0.2)
        self.fc1 = nn.Linear(16 * 2 * 2, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.dropout(self.pool(F.relu(self.conv2(x))))
        x = torch.flatten(x, 1)
        return F.log_softmax(self.fc2(F.relu(self.fc1(x))), dim=1)


def accuracy_by_class(model, images, labels):
    model.eval()
    with torch.no_grad():
        right = model(images).argmax(dim=1).eq(labels)
    counts = torch.zeros(10, dtype=torch.int64).scatter_add_(0, labels, torch.ones_like(labels))
    hits = torch.zeros(10, dtype=torch.int64).index_add_(0, labels, right.long())
    return hits / counts


def train(steps=50, dtype=torch.float32, seed=0, report=False):
    """Return the loss of each step."""
    torch.manual_seed(seed)
    digits = load_digits()
    images = torch.from_numpy(digits.images).unsqueeze(1).to(dtype) / 16
    labels = torch.from_numpy(digits.target)
    loader = DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True)
    model = Net().to(dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    while len(losses) < steps:
        for x, y in loader:
            optimizer.zero_grad(set_to_none=True)
            loss = F.nll_loss(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == steps:
                break
    if report:
        print(accuracy_by_class(model, images, labels))
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150)
    for step, loss in enumerate(train(parser.parse_args().steps, report=True)):
        print(f"step {step:3}  loss {loss:.6f}")
