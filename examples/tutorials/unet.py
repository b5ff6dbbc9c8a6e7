"""A U-Net that finds discs in noise: skip connections, transposed convolutions, Dice loss."""

import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F


class DoubleConv(nn.Sequential):
    def __init__(self, inputs, outputs):
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(2, outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1), nn.GroupNorm(2, outputs), nn.ReLU(),
        )  # fmt: skip


class UNet(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.down1, self.down2 = DoubleConv(1, width), DoubleConv(width, 2 * width)
        self.bottom = DoubleConv(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, kernel_size=2, stride=2)
        self.merge2 = DoubleConv(4 * width, 2 * width)
        self.up1 = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.merge1 = DoubleConv(3 * width, width)
        self.head = nn.Conv2d(width, 1, kernel_size=1)

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.bottom(F.avg_pool2d(b, 2))
        b = self.merge2(torch.cat([self.up2(c), b], dim=1))
        a = self.merge1(torch.cat([self.up1(b), a], dim=1))
        return self.head(a)


def discs(count, size, dtype):
    """Return noisy images of a disc each, and the discs."""
    grid = torch.arange(size, dtype=dtype)
    rows, columns = torch.meshgrid(grid, grid, indexing="ij")
    centre = torch.rand(count, 2, 1, 1, dtype=dtype) * size
    radius = 2 + 3 * torch.rand(count, 1, 1, dtype=dtype)
    mask = (rows - centre[:, 0]) ** 2 + (columns - centre[:, 1]) ** 2 < radius**2
    mask = mask.to(dtype).unsqueeze(1)
    return mask + 0.5 * torch.randn_like(mask), mask


def dice_loss(logits, mask):
    p = logits.sigmoid()
    overlap = (p * mask).sum(dim=(1, 2, 3))
    return 1 - ((2 * overlap + 1) / (p.sum((1, 2, 3)) + mask.sum((1, 2, 3)) + 1)).mean()


def train(steps=50, dtype=torch.float32, seed=0):
    """Return the loss of each step."""
    torch.manual_seed(seed)
    model = UNet().to(dtype)
    optimizer = torch.optim.NAdam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(steps):
        images, masks = discs(4, 16, dtype)
        logits = model(images)
        loss = F.binary_cross_entropy_with_logits(logits, masks) + dice_loss(logits, masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    for step, loss in enumerate(train(parser.parse_args().steps)):
        print(f"step {step:3}  loss {loss:.6f}")
