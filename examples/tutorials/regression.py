"""Regression on scikit-learn's diabetes data: an MLP, momentum, a learning rate that steps down."""

import argparse

import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split


def train(steps=50, dtype=torch.float32, seed=0):
    """Return the loss of each step."""
    torch.manual_seed(seed)
    x, y = load_diabetes(return_X_y=True)
    x = torch.tensor(x, dtype=dtype)
    y = torch.tensor(y, dtype=dtype).unsqueeze(1)
    x = (x - x.mean(0)) / x.std(0)
    y = (y - y.mean()) / y.std()
    train_set, held_out = random_split(TensorDataset(x, y), [0.8, 0.2])
    loader = DataLoader(train_set, batch_size=32, shuffle=True, drop_last=True)

    model = nn.Sequential(nn.Linear(10, 64), nn.Tanh(), nn.Dropout(0.1), nn.Linear(64, 1)).to(dtype)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    loss_of = nn.SmoothL1Loss()
    losses = []
    while len(losses) < steps:
        model.train()
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = loss_of(model(inputs), targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == steps:
                break
        schedule.step()
    model.eval()
    with torch.no_grad():
        inputs, targets = held_out[:]
        losses.append(nn.functional.mse_loss(model(inputs), targets).item())
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    *losses, held_out = train(parser.parse_args().steps)
    for step, loss in enumerate(losses):
        print(f"step {step:3}  loss {loss:.6f}")
    print(f"held-out squared error {held_out:.4f} of variance 1")
