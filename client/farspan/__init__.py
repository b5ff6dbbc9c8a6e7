"""farspan: a distributed tensor service with the API of PyTorch."""
