"""farspan.nn.utils.rnn: sequences of different lengths in one tensor."""

from farspan.nn.functional.recurrent import pad_sequence

__all__ = ["pad_sequence"]
