"""The layers and losses as modules; import them from ``farspan.nn``."""
