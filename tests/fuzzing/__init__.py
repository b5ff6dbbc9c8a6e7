"""Structure-aware fuzzing of whole sessions: valid frames over the whole table, then wrong ones.

`corpus.py` has a few valid calls of every op; `sessions.py` makes sessions of them; `mutations.py`
makes those wrong; `child.py` runs them against the real decoder and engine in a process that may
die of it, and `run.py` watches that process. A finding is named SEED:SESSION and repeats by it.
"""
