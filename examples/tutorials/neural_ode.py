"""A neural ODE (Chen et al., 2018) that learns a spiral; gradients by the adjoint method, written as
an autograd.Function that integrates backwards."""

import argparse

import torch
from torch import nn


def rk4(f, y, t0, t1, steps=4):
    """Integrate dy/dt = f(t, y) from t0 to t1; y is a tuple of tensors."""
    h = (t1 - t0) / steps
    for i in range(steps):
        t = t0 + i * h
        k1 = f(t, y)
        k2 = f(t + h / 2, tuple(a + h / 2 * k for a, k in zip(y, k1)))
        k3 = f(t + h / 2, tuple(a + h / 2 * k for a, k in zip(y, k2)))
        k4 = f(t + h, tuple(a + h * k for a, k in zip(y, k3)))
        y = tuple(a + h / 6 * (p + 2 * q + 2 * r + s) for a, p, q, r, s in zip(y, k1, k2, k3, k4))
    return y


class Adjoint(torch.autograd.Function):
    """The state at t1; backward needs no stored trajectory."""

    @staticmethod
    def forward(ctx, func, t0, t1, y0, *parameters):
        with torch.no_grad():
            (y1,) = rk4(lambda t, y: (func(t, y[0]),), (y0,), t0, t1)
        ctx.func, ctx.span = func, (t0, t1)
        ctx.save_for_backward(y1, *parameters)
        return y1

    @staticmethod
    def backward(ctx, grad):
        func, (t0, t1) = ctx.func, ctx.span
        y1, *parameters = ctx.saved_tensors

        def augmented(t, state):
            y, a, *_ = state
            with torch.enable_grad():
                y = y.detach().requires_grad_()
                dy = func(t, y)
                found = torch.autograd.grad(dy, (y, *parameters), -a, allow_unused=True)
            found = [torch.zeros_like(p) if g is None else g
                     for g, p in zip(found, (y, *parameters))]  # fmt: skip
            return (dy.detach(), *found)

        zeros = tuple(torch.zeros_like(p) for p in parameters)
        _, grad_y, *grad_parameters = rk4(augmented, (y1, grad, *zeros), t1, t0)
        return (None, None, None, grad_y, *grad_parameters)


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 2))

    def forward(self, t, y):
        return self.net(y**3)


def train(steps=50, dtype=torch.float32, seed=0):
    """Return the loss of each step."""
    torch.manual_seed(seed)
    true = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=dtype)
    path = [torch.tensor([[2.0, 0.0]], dtype=dtype)]
    for _ in range(30):
        path += rk4(lambda t, y: ((y[0] ** 3) @ true,), (path[-1],), 0.0, 0.05)
    path = torch.cat(path)
    field = Field().to(dtype)
    optimizer = torch.optim.RMSprop(field.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        start = torch.randperm(len(path) - 1)[:8]
        predicted = Adjoint.apply(field, 0.0, 0.05, path[start], *field.parameters())
        loss = (predicted - path[start + 1]).abs().mean()
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
