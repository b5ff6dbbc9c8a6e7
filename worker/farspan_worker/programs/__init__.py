"""Programs: stored lists of commands that one Call runs.

`body.py` is what a client defined, checked; `run.py` keeps the programs of a session and runs them:
by a plan where it can, else command by command. Read body.py first, then trace.py.
"""
