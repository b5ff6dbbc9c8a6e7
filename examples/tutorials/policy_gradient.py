"""Actor-critic on a pole that must not fall: sampled actions, discounted and normalised returns."""

import argparse
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import Categorical


class Pole:
    """A cart with a pole; the equations of Barto, Sutton and Anderson (1983), Euler steps."""

    def reset(self):
        self.state = (0.0, 0.0, 0.03, 0.0)
        return self.state

    def step(self, action):
        x, speed, angle, spin = self.state
        force = 10.0 if action else -10.0
        sin, cos = math.sin(angle), math.cos(angle)
        shared = (force + 0.05 * spin**2 * sin) / 1.1
        angular = (9.8 * sin - cos * shared) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
        linear = shared - 0.05 * angular * cos / 1.1
        self.state = (x + 0.02 * speed, speed + 0.02 * linear, angle + 0.02 * spin,
                      spin + 0.02 * angular)  # fmt: skip
        return self.state, 1.0, abs(self.state[0]) > 2.4 or abs(self.state[2]) > 0.21


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 32)
        self.actor = nn.Linear(32, 2)
        self.critic = nn.Linear(32, 1)

    def forward(self, x):
        h = F.relu(self.body(x))
        return F.softmax(self.actor(h), dim=-1), self.critic(h)


def episode(env, policy, dtype, longest=25):
    """Play until the end; return log-probabilities, values and rewards."""
    state, log_probs, values, rewards = env.reset(), [], [], []
    for _ in range(longest):
        probs, value = policy(torch.tensor(state, dtype=dtype))
        distribution = Categorical(probs)
        action = distribution.sample()
        state, reward, done = env.step(action.item())
        log_probs.append(distribution.log_prob(action))
        values.append(value)
        rewards.append(reward)
        if done:
            break
    return torch.stack(log_probs), torch.cat(values), rewards


def train(steps=50, dtype=torch.float32, seed=0):
    """Return the loss of each episode."""
    torch.manual_seed(seed)
    env, policy = Pole(), Policy().to(dtype)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        log_probs, values, rewards = episode(env, policy, dtype)
        returns, total = [], 0.0
        for reward in reversed(rewards):
            total = reward + 0.99 * total
            returns.insert(0, total)
        returns = torch.tensor(returns, dtype=dtype)
        returns = (returns - returns.mean()) / (returns.std() + 1e-6)
        advantage = returns - values.detach()
        loss = -(log_probs * advantage).sum() + F.smooth_l1_loss(values, returns, reduction="sum")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    for step, loss in enumerate(train(parser.parse_args().steps)):
        print(f"episode {step:3}  loss {loss:.6f}")
