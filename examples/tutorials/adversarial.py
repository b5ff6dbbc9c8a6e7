"""Adversarial examples: FGSM (Goodfellow et al., 2015) and PGD (Madry et al., 2018) against a digit
classifier, which is trained on what they find."""

import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def fgsm(model, x, y, epsilon):
    x = x.clone().detach().requires_grad_(True)
    loss = F.cross_entropy(model(x), y)
    (gradient,) = torch.autograd.grad(loss, x)
    return torch.clamp(x + epsilon * gradient.sign(), 0, 1).detach()


def pgd(model, x, y, epsilon, rounds=3):
    start = x + torch.empty_like(x).uniform_(-epsilon, epsilon)
    found = start.clamp(0, 1)
    for _ in range(rounds):
        found.requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(model(found), y)
        gradient = torch.autograd.grad(loss, [found])[0]
        found = found.detach() + epsilon / 2 * torch.sign(gradient)
        found = torch.min(torch.max(found, x - epsilon), x + epsilon).clamp(0, 1)
    return found.detach()


def train(steps=50, dtype=torch.float32, seed=0, report=False):
    """Return the loss of each step, plain and attacked in turn."""
    torch.manual_seed(seed)
    digits = load_digits()
    x = torch.tensor(digits.data / 16, dtype=dtype)
    y = torch.tensor(digits.target)
    model = nn.Sequential(nn.Linear(64, 48), nn.SiLU(), nn.Linear(48, 10)).to(dtype)
    optimizer = torch.optim.RAdam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps // 2):
        chosen = torch.randint(len(x), (64,))
        plain, labels = x[chosen], y[chosen]
        attacked = pgd(model, plain, labels, 0.1)
        for batch in (plain, attacked):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(batch), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    if report:
        for epsilon in (0.0, 0.05, 0.1, 0.2):
            hits = model(fgsm(model, x, y, epsilon)).argmax(1) == y
            print(f"epsilon {epsilon:.2f}  accuracy {hits.float().mean().item():.1%}")
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    for step, loss in enumerate(train(parser.parse_args().steps, report=True)):
        print(f"step {step:3}  loss {loss:.6f}")
