"""The worker: engine, store and kernels."""
