"""Two tasks weighted by their uncertainty (Kendall et al., 2018): class and style of wine at once."""

import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_wine


class MultiTask(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.shared = nn.Sequential(
            nn.Linear(inputs, 32), nn.LayerNorm(32), nn.Mish(), nn.Dropout(0.1)
        )
        self.classify = nn.Linear(32, 3)
        self.regress = nn.Linear(32, 1)
        self.log_variances = nn.ParameterDict(
            {"class": nn.Parameter(torch.zeros(1)), "colour": nn.Parameter(torch.zeros(1))}
        )

    def forward(self, x):
        h = self.shared(x)
        return self.classify(h), self.regress(h).squeeze(-1)

    def weighted(self, losses):
        total = 0
        for name, loss in losses.items():
            s = self.log_variances[name]
            total = total + torch.exp(-s) * loss + 0.5 * s
        return total.squeeze()


def train(steps=50, dtype=torch.float32, seed=0):
    """Return the weighted loss of each step."""
    torch.manual_seed(seed)
    wine = load_wine()
    x = torch.tensor(wine.data, dtype=dtype)
    x = (x - x.mean(0, keepdim=True)) / x.std(0, unbiased=False, keepdim=True)
    labels = torch.tensor(wine.target)
    colour, features = x[:, 9], torch.cat([x[:, :9], x[:, 10:]], dim=1)
    model = MultiTask(features.size(1)).to(dtype)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for n, p in model.named_parameters() if "log_var" not in n]},
            {"params": model.log_variances.parameters(), "lr": 0.05, "weight_decay": 0.0},
        ],
        lr=5e-3,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    losses = []
    for _ in range(steps):
        for batch in torch.randperm(len(x)).chunk(4)[:1]:
            logits, predicted = model(features[batch])
            loss = model.weighted(
                {
                    "class": F.cross_entropy(logits, labels[batch]),
                    "colour": F.l1_loss(predicted, colour[batch]),
                }
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    for step, loss in enumerate(train(parser.parse_args().steps)):
        print(f"step {step:3}  loss {loss:.6f}")
