"""A GAN on a ring of Gaussians: two optimizers in turn, spectral freedom tamed by label smoothing."""

import argparse
import math

import torch
from torch import nn


def ring(count, dtype):
    """Return points around eight centres on a circle."""
    angle = torch.randint(0, 8, (count,)).to(dtype) * (2 * math.pi / 8)
    centres = torch.stack([angle.cos(), angle.sin()], dim=1)
    return centres + 0.05 * torch.randn(count, 2, dtype=dtype)


def weights_init(m):
    if isinstance(m, nn.Linear):
        nn.init.xavier_normal_(m.weight, gain=nn.init.calculate_gain("leaky_relu", 0.2))
        nn.init.zeros_(m.bias)


def train(steps=50, dtype=torch.float32, seed=0):
    """Return the losses of discriminator and generator, in turn."""
    torch.manual_seed(seed)
    generator = nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2)).to(
        dtype
    )
    discriminator = nn.Sequential(
        nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1)
    ).to(dtype)
    generator.apply(weights_init)
    discriminator.apply(weights_init)
    criterion = nn.BCEWithLogitsLoss()
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.999))
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.999))
    real_label = torch.full((64, 1), 0.9, dtype=dtype)
    fake_label = torch.zeros(64, 1, dtype=dtype)
    losses = []
    for _ in range(steps // 2):
        real = ring(64, dtype)
        fake = generator(torch.randn(64, 4, dtype=dtype))
        discriminator.zero_grad()
        d_loss = criterion(discriminator(real), real_label)
        d_loss = d_loss + criterion(discriminator(fake.detach()), fake_label)
        d_loss.backward()
        d_optimizer.step()

        generator.zero_grad()
        for p in discriminator.parameters():
            p.requires_grad_(False)
        g_loss = criterion(discriminator(fake), torch.ones_like(real_label))
        g_loss.backward()
        g_optimizer.step()
        for p in discriminator.parameters():
            p.requires_grad_(True)
        losses += [d_loss.item(), g_loss.item()]
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    losses = train(parser.parse_args().steps)
    for step, (d, g) in enumerate(zip(losses[::2], losses[1::2])):
        print(f"step {step:3}  discriminator {d:.6f}  generator {g:.6f}")
