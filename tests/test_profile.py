"""Profiles of a session: the trace keeps the format's rules and tells what happened."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import farspan
import pytest
from farspan import _perfetto, _profile
from farspan.core import limits
from farspan.core.errors import ProgramError

# What the trace event format asks of each phase of event: "Trace Event Format", Google, 2016.
REQUIRED = {
    "M": {"name", "pid", "args"},
    "X": {"name", "cat", "pid", "tid", "ts", "dur"},
    "b": {"name", "cat", "id", "pid", "tid", "ts"},
    "e": {"name", "cat", "id", "pid", "tid", "ts"},
    "s": {"name", "cat", "id", "pid", "tid", "ts"},
    "t": {"name", "cat", "id", "pid", "tid", "ts"},
    "f": {"name", "cat", "id", "pid", "tid", "ts", "bp"},
}
SLACK_US = 1e-6  # of decimal fractions: times are exact in nanoseconds


def steps(count: int) -> None:
    """Train a little, and read a value now and then."""
    model = farspan.nn.Sequential(
        farspan.nn.Linear(8, 16), farspan.nn.ReLU(), farspan.nn.Linear(16, 3)
    )
    optimizer = farspan.optim.SGD(model.parameters(), lr=0.1)
    x, y = farspan.randn(4, 8), farspan.tensor([0, 1, 2, 0])
    for _ in range(count):
        optimizer.zero_grad()
        loss = farspan.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    float(loss)


def check_rules(events: list[dict[str, Any]]) -> None:
    """Assert the format's rules: fields, order, nesting on each row, pairs, arrows in slices."""
    rows: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    open_ranges: dict[tuple[str, int], str] = {}
    flows: dict[int, list[dict[str, Any]]] = defaultdict(list)
    names = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    processes = {e["pid"] for e in events if e["name"] == "process_name"}
    times = [e["ts"] for e in events if "ts" in e]
    assert times == sorted(times)
    for event in events:
        assert event.keys() >= REQUIRED[event["ph"]], event
        assert type(event["pid"]) is int and event["pid"] in processes
        if event["ph"] == "X":
            assert (event["pid"], event["tid"]) in names, event
            assert event["dur"] >= 0
            rows[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
        elif event["ph"] in "be":
            key = (event["cat"], event["id"])
            assert (open_ranges.pop(key, None) is None) == (event["ph"] == "b"), event
            if event["ph"] == "b":
                open_ranges[key] = event["name"]
        elif event["ph"] in "stf":
            flows[event["id"]].append(event)
    assert not open_ranges
    for row in rows.values():
        row.sort(key=lambda span: (span[0], -span[1]))
        stack: list[float] = []
        for begun, ended in row:
            while stack and stack[-1] <= begun + SLACK_US:
                stack.pop()
            assert not stack or ended <= stack[-1] + SLACK_US, "slices of a row nest"
            stack.append(ended)
    for arrow in flows.values():
        assert arrow[0]["ph"] == "s" and arrow[-1]["ph"] == "f"
        for event in arrow:
            spans = rows[event["pid"], event["tid"]]
            assert any(a - SLACK_US <= event["ts"] <= b + SLACK_US for a, b in spans), event


def test_a_trace_keeps_the_rules_and_shows_every_op_on_client_and_worker(
    session: Any, tmp_path: Path
) -> None:
    steps(1)
    path = tmp_path / "trace.json"
    with session.profile(path) as profile:
        steps(3)
    body = json.loads(path.read_text())
    events = body["traceEvents"]
    assert events == json.loads(json.dumps(profile.events))
    check_rules(events)
    issued = [e for e in events if e.get("cat") == "op" and e["name"] == "linear"]
    ran = [e for e in events if e.get("cat") == "kernel" and e["name"] == "linear"]
    assert len(issued) == len(ran) == 6
    for client, worker in zip(issued, ran, strict=True):
        assert client["args"]["command"] == worker["args"]["command"]
        assert client["args"]["shapes"] == worker["args"]["shapes"]
        assert "test_profile.py" in worker["args"]["line"]
        assert client["ts"] <= worker["ts"]
    assert sum(e.get("cat") == "kernel" and e["name"] == "backward" for e in events) == 3
    assert profile.kernels()["linear"][0] == 6
    assert profile.kernels()["  ReluBackward0"][0] == 3
    processes = {e["args"]["name"]: e["pid"] for e in events if e["name"] == "process_name"}
    assert processes["client"] == os.getpid()
    if session.address != "local:":
        assert {"client", "gateway", "worker of cpu"} <= processes.keys()
        assert len(set(processes.values())) >= 3


def test_a_frames_way_has_all_its_phases_in_order(service: tuple[str, str]) -> None:
    address, token = service
    with farspan.connect(address, token=token) as session:
        steps(1)
        with session.profile() as profile:
            steps(2)
        when = profile.moments()
    names = ["sealed", "sent", "gateway", "forwarded", "received", "begun", "ended", "answered",
             "written", "delivered"]  # fmt: skip
    whole = [of for of in when.values() if len(of) == len(names)]
    assert whole
    for of in whole:
        # A message may be read before the call that sent it has returned: hence two chains.
        calls = [("sealed", "sent"), ("gateway", "forwarded"), ("answered", "written")]
        stations = [n for n in names if n not in ("sent", "forwarded", "written")]
        for begin, end in [*calls, *pairwise(stations)]:
            assert of[begin] <= of[end], (begin, end, of)
    for name, times in profile.phases().items():
        assert times, name
    assert "worker: run" in profile.table()
    assert profile.notes == [] and set(profile.clocks.values()) == {(0, 0)}


def test_nothing_stays_behind_when_a_profile_has_ended(session: Any) -> None:
    transport, sink = session.transport, session._deliver
    with session.profile():
        assert session.transport is not transport
        with pytest.raises(ProgramError, match="one profile at a time"), session.profile():
            pass
        float(farspan.ones(3).sum())
    assert session.transport is transport
    assert session._deliver == sink
    assert float(farspan.ones(3).sum()) == 3.0
    with session.profile() as again:
        farspan.ones(2).exp().tolist()
    assert {"exp"} <= {e["name"] for e in again.events if e.get("cat") == "op"}
    assert not any(e["name"] == "sum" for e in again.events)


def test_an_error_inside_ends_the_profile_and_is_raised(session: Any, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    transport = session.transport
    with pytest.raises(ZeroDivisionError), session.profile(path):
        farspan.ones(3).exp()
        _ = 1 / 0
    assert session.transport is transport
    check_rules(json.loads(path.read_text())["traceEvents"])


def test_too_many_records_are_counted_not_kept(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TRACE_RECORDS_MAX", 5)
    x = farspan.ones(3)
    with session.profile() as profile:
        for _ in range(20):
            x = x + 1
        float(x.sum())
    assert sum(e.get("cat") == "op" for e in profile.events) == 5
    assert any("too many" in note for note in profile.notes)
    check_rules(profile.events)


def test_an_answer_that_came_before_the_call_returned_keeps_the_rules() -> None:
    """The thread that sends may be put aside between handing a frame over and its clock."""
    records = _profile.Records(
        sends=[(7, 1, 1_000, 9_000, 0, 1)], deliveries=[(8, "acked", 6_000, 6_500, 1)],
        threads={7: "MainThread", 8: "gRPC"},
    )  # fmt: skip
    told = {"boot": _perfetto.our_boot(), "pid": os.getpid() + 1, "now_ns": 9_500}
    told |= {"frames": [(1, 2_000, 3_000)], "answers": [(1, 4_000, 5_000)]}
    elsewhere = [_profile.Elsewhere("gateway", told, [])]
    events = _perfetto.events(records, elsewhere, {"gateway": (0, 0)})
    check_rules(events)
    ranges = [(e["name"], e["ph"], e["ts"]) for e in events if e.get("cat") == "wire"]
    assert ranges == [
        ("frame 1 up", "b", 1.0), ("frame 1 up", "e", 1.0),
        ("frame 1 done, down", "b", 4.0), ("frame 1 done, down", "e", 5.0),
    ]  # fmt: skip


def test_a_clock_of_another_machine_is_estimated_from_the_shortest_round_trip() -> None:
    told = {"boot": "another", "pid": 1}
    clocks = [(1_000, 50_000, 9_000), (2_000, 51_500, 3_000), (5_000, 54_000, 8_000)]
    offset, error = _profile.Elsewhere("cpu", told, clocks).offset()
    assert (offset, error) == (2_500 - 51_500, 500)
