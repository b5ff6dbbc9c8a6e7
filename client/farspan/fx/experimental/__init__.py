"""torch.fx.experimental: what asks whether a trace is made."""
