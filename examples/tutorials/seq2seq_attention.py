"""Sequence to sequence: GRUs with additive attention learn to reverse; lengths differ, padding counts
for nothing."""

import argparse
import random

import torch
import torch.nn as nn
import torch.nn.functional as F

PAD, START, SYMBOLS = 0, 1, 12


class Encoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, width, padding_idx=PAD)
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, x):
        return self.gru(self.embedding(x))


class Attention(nn.Module):
    """Additive attention (Bahdanau, Cho and Bengio, 2015)."""

    def __init__(self, width):
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, query, keys, mask):
        scores = self.score(torch.tanh(self.query(query).unsqueeze(1) + self.key(keys))).squeeze(2)
        weights = F.softmax(scores.masked_fill(mask, float("-inf")), dim=-1)
        return torch.bmm(weights.unsqueeze(1), keys).squeeze(1)


class Decoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, width, padding_idx=PAD)
        self.attention = Attention(width)
        self.cell = nn.GRUCell(2 * width, width)
        self.out = nn.Linear(width, SYMBOLS)

    def forward(self, keys, state, mask, target, force):
        word = torch.full((keys.size(0),), START, dtype=torch.long)
        outputs = []
        for t in range(target.size(1)):
            context = self.attention(state, keys, mask)
            state = self.cell(torch.cat([self.embedding(word), context], dim=1), state)
            logits = self.out(state)
            outputs.append(logits)
            word = target[:, t] if force else logits.argmax(1)
        return torch.stack(outputs, dim=1)


def batch_of(draw, count=16, longest=7):
    rows = [
        [draw.randrange(2, SYMBOLS) for _ in range(draw.randint(3, longest))] for _ in range(count)
    ]
    x = nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True)
    y = nn.utils.rnn.pad_sequence([torch.tensor(r[::-1]) for r in rows], batch_first=True)
    return x, y


def train(steps=50, dtype=torch.float32, seed=0):
    """Return the loss of each step."""
    torch.manual_seed(seed)
    draw = random.Random(seed)
    encoder, decoder = Encoder(24).to(dtype), Decoder(24).to(dtype)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=5e-3)
    criterion = nn.CrossEntropyLoss(ignore_index=PAD)
    losses = []
    for _ in range(steps):
        x, y = batch_of(draw)
        keys, state = encoder(x)
        logits = decoder(keys, state[0], x == PAD, y, force=draw.random() < 0.7)
        loss = criterion(logits.flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(parameters, 0.5)
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    for step, loss in enumerate(train(parser.parse_args().steps)):
        print(f"step {step:3}  loss {loss:.6f}")
