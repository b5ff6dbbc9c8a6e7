"""Skip-gram with negative sampling on words of the standard library's documentation."""

import argparse
import collections
import inspect
import re
import textwrap
import types

import torch
import torch.nn as nn
import torch.nn.functional as F


def corpus(vocabulary=150):
    text = inspect.getsource(textwrap) + inspect.getsource(collections) + inspect.getsource(types)
    words = re.findall(r"[a-z]+", text.lower())
    common = [w for w, _ in collections.Counter(words).most_common(vocabulary)]
    index = {w: i for i, w in enumerate(common)}
    return [index[w] for w in words if w in index], common


class SkipGram(nn.Module):
    def __init__(self, vocabulary, width=16):
        super().__init__()
        self.inner = nn.Embedding(vocabulary, width)
        self.outer = nn.Embedding(vocabulary, width)
        nn.init.uniform_(self.inner.weight, -0.5 / width, 0.5 / width)
        nn.init.normal_(self.outer.weight, std=0.01)

    def forward(self, centre, context, negative):
        v = self.inner(centre)
        positive = (v * self.outer(context)).sum(-1)
        negatives = torch.einsum("bd,bkd->bk", v, self.outer(negative))
        return -(F.logsigmoid(positive) + F.logsigmoid(-negatives).sum(-1)).mean()


def nearest(model, word, common, count=4):
    vectors = F.normalize(model.inner.weight.detach(), dim=1)
    _, found = torch.topk(vectors @ vectors[common.index(word)], count + 1)
    return [common[i] for i in found[1:].tolist()]


def train(steps=50, dtype=torch.float32, seed=0, report=False):
    """Return the loss of each step."""
    torch.manual_seed(seed)
    words, common = corpus()
    counts = torch.bincount(torch.tensor(words), minlength=len(common)).to(dtype)
    noise = counts**0.75
    pairs = torch.tensor(
        [(words[i], words[j]) for i in range(len(words)) for j in (i - 2, i - 1, i + 1, i + 2)
         if 0 <= j < len(words)]
    )  # fmt: skip
    model = SkipGram(len(common)).to(dtype)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.05)
    losses = []
    for _ in range(steps):
        chosen = pairs[torch.randint(len(pairs), (128,))]
        negative = torch.multinomial(noise, 128 * 4, replacement=True).view(128, 4)
        loss = model(chosen[:, 0], chosen[:, 1], negative)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if report:
        print({word: nearest(model, word, common) for word in ("self", "text", "return")})
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    for step, loss in enumerate(train(parser.parse_args().steps, report=True)):
        print(f"step {step:3}  loss {loss:.6f}")
