"""stub"""
from __future__ import annotations
from typing import Any
from ._program import Numbers

class Replay:
    def __init__(self, lane: Any, on: bool) -> None:
        self.on = on
        self.lane = lane
        self.held: list[Any] = []
        self.numbers = Numbers()
    def switch(self, on): self.on = on
    def overdue(self): return True
    def note_region(self): pass
    def lose(self): pass
    def take(self, frame, sites): return ((frame, sites),), []
    def stats(self): return {"hits": 0, "misses": 0, "held": 0, "programs": 0}
