"""A character LSTM on the text of a module of the standard library; samples from it at the end."""

import argparse
import inspect
import textwrap

import torch
import torch.nn as nn


def corpus(length=6000):
    text = inspect.getsource(textwrap)[:length]
    symbols = sorted(set(text))
    index = {c: i for i, c in enumerate(symbols)}
    return torch.tensor([index[c] for c in text]), symbols


class CharModel(nn.Module):
    def __init__(self, symbols, width=48):
        super().__init__()
        self.embedding = nn.Embedding(symbols, 16)
        self.lstm = nn.LSTM(16, width, num_layers=2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(width, symbols)

    def forward(self, x, state=None):
        y, state = self.lstm(self.embedding(x), state)
        return self.head(y), state


def sample(model, symbols, count=60):
    model.eval()
    out, state = [0], None
    with torch.no_grad():
        for _ in range(count):
            logits, state = model(torch.tensor([[out[-1]]]), state)
            out.append(torch.multinomial(logits[0, -1].softmax(-1), 1).item())
    return "".join(symbols[i] for i in out)


def train(steps=50, dtype=torch.float32, seed=0, report=False):
    """Return the loss of each step."""
    torch.manual_seed(seed)
    text, symbols = corpus()
    model = CharModel(len(symbols)).to(dtype)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=3e-3)
    criterion = nn.CrossEntropyLoss()
    losses, state, length = [], None, 24
    rows = text[: len(text) // 16 * 16].view(16, -1)
    for step in range(steps):
        at = step * length % (rows.size(1) - length - 1)
        x, y = rows[:, at : at + length], rows[:, at + 1 : at + length + 1]
        if state is not None:
            state = tuple(s.detach() for s in state)
        logits, state = model(x, state)
        loss = criterion(logits.reshape(-1, logits.size(-1)), y.reshape(-1))
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    if report:
        print(repr(sample(model, symbols)))
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    for step, loss in enumerate(train(parser.parse_args().steps, report=True)):
        print(f"step {step:3}  loss {loss:.6f}")
