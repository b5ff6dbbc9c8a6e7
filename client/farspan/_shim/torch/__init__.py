"""`torch` in processes that `farspan run` and its children start: farspan under that name."""

from farspan._as_torch import install

install()
