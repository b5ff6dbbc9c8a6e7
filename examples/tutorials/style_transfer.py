"""Style transfer (Gatys et al., 2016) in small: Gram matrices of a fixed network's features, collected
by forward hooks; the image itself is optimised, with LBFGS."""

import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def gram(features):
    b, c, h, w = features.size()
    flat = features.view(b * c, h * w)
    return torch.mm(flat, flat.t()).div(b * c * h * w)


def network(dtype):
    layers = []
    for inputs, outputs in ((1, 8), (8, 12), (12, 12)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect"), nn.Softplus()]
    net = nn.Sequential(*layers).to(dtype).eval()
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
        p.requires_grad_(False)
    return net


class Features:
    """What the network's activations are at each layer during a call."""

    def __init__(self, net):
        self.net, self.found = net, []
        self.handles = [
            layer.register_forward_hook(self.keep)
            for layer in net
            if isinstance(layer, nn.Softplus)
        ]

    def keep(self, module, inputs, output):
        self.found.append(output)

    def __call__(self, image):
        self.found = []
        self.net(image)
        return list(self.found)


def train(steps=50, dtype=torch.float32, seed=0):
    """Return the loss at each evaluation."""
    torch.manual_seed(seed)
    images = torch.tensor(load_digits().images[:2] / 16, dtype=dtype)[:, None]
    content, style = (F.interpolate(i[None], scale_factor=2, mode="nearest") for i in images)
    features = Features(network(dtype))
    with torch.no_grad():
        wanted_content = features(content)[-1].clone()
        wanted_style = [gram(f) for f in features(style)]
    image = (content + 0.1 * torch.randn_like(content)).requires_grad_(True)
    optimizer = torch.optim.LBFGS([image], lr=0.5, max_iter=5, history_size=10)
    losses = []

    def closure():
        optimizer.zero_grad()
        found = features(image)
        loss = F.mse_loss(found[-1], wanted_content)
        for f, wanted in zip(found, wanted_style):
            loss = loss + 1e3 * F.mse_loss(gram(f), wanted)
        loss = loss + 1e-3 * (image[..., 1:] - image[..., :-1]).abs().mean()
        loss.backward()
        losses.append(loss.item())
        return loss

    while len(losses) < steps:
        optimizer.step(closure)
        with torch.no_grad():
            image.clamp_(0, 1)
    for handle in features.handles:
        handle.remove()
    return losses[:steps]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    for step, loss in enumerate(train(parser.parse_args().steps)):
        print(f"step {step:3}  loss {loss:.6f}")
