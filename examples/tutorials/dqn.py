"""Deep Q-learning on a small grid: replay memory, a target network, epsilon-greedy play."""

import argparse
import random
from collections import deque, namedtuple

import torch
import torch.nn as nn
import torch.nn.functional as F

Transition = namedtuple("Transition", ("state", "action", "reward", "following", "done"))
SIDE, MOVES = 5, ((0, 1), (1, 0), (0, -1), (-1, 0))


class Grid:
    """A walk from one corner to the other; the middle is a hole."""

    def reset(self):
        self.at, self.age = (0, 0), 0
        return self.at

    def step(self, action):
        (row, column), (down, right) = self.at, MOVES[action]
        self.at = min(max(row + down, 0), SIDE - 1), min(max(column + right, 0), SIDE - 1)
        self.age += 1
        if self.at == (SIDE - 1, SIDE - 1):
            return self.at, 1.0, True
        if self.at == (SIDE // 2, SIDE // 2):
            return self.at, -1.0, True
        return self.at, -0.01, self.age >= 40


class QNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2 * SIDE, 32), nn.ReLU(), nn.Linear(32, len(MOVES)))

    def forward(self, positions):
        return self.net(F.one_hot(positions, SIDE).flatten(1).to(self.net[0].weight.dtype))


def learn(policy, target, optimizer, memory, draw, dtype):
    batch = Transition(*zip(*draw.sample(memory, 32)))
    states, following = torch.tensor(batch.state), torch.tensor(batch.following)
    actions = torch.tensor(batch.action).unsqueeze(1)
    rewards = torch.tensor(batch.reward, dtype=dtype)
    alive = ~torch.tensor(batch.done)
    values = policy(states).gather(1, actions).squeeze(1)
    with torch.no_grad():
        best = torch.where(alive, target(following).max(1).values, torch.zeros((), dtype=dtype))
    loss = F.huber_loss(values, rewards + 0.95 * best)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_value_(policy.parameters(), 100)
    optimizer.step()
    return loss.item()


def train(steps=50, dtype=torch.float32, seed=0):
    """Return the loss of each step."""
    torch.manual_seed(seed)
    draw, env, memory = random.Random(seed), Grid(), deque(maxlen=500)
    policy, target = QNet().to(dtype), QNet().to(dtype)
    target.load_state_dict(policy.state_dict())
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3, amsgrad=True)
    losses, state = [], env.reset()
    while len(losses) < steps:
        if draw.random() < max(0.1, 0.9 - len(losses) / 100):
            action = draw.randrange(len(MOVES))
        else:
            with torch.no_grad():
                action = policy(torch.tensor([state])).argmax(1).item()
        following, reward, done = env.step(action)
        memory.append(Transition(state, action, reward, following, done))
        state = env.reset() if done else following
        if len(memory) >= 64:
            losses.append(learn(policy, target, optimizer, memory, draw, dtype))
            for mine, theirs in zip(target.state_dict().values(), policy.state_dict().values()):
                mine.mul_(0.95).add_(theirs, alpha=0.05)
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    for step, loss in enumerate(train(parser.parse_args().steps)):
        print(f"step {step:3}  loss {loss:.6f}")
