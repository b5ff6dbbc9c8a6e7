"""What a service holds: sessions that idle, those of dead or frozen clients, and for how long."""

from __future__ import annotations

import gc
import itertools
import json
import os
import signal
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import farspan as torch
import numpy as np
import pytest
from chaos import Service, status_of, wait_until, worker_of
from chaos_client import Client
from cutting_proxy import CuttingProxy
from farspan import wire

pytestmark = pytest.mark.slow

SESSIONS = 300
KIB = 1024
MIB = 1024 * KIB


def counts_of(session: Any) -> dict[str, Any]:
    """Return what the session's worker counts of all its sessions."""
    asked = wire.DescribeRequest(session.id, worker_status=True)
    answer = wire.decode(wire.DescribeReply, session.transport._call_once("Describe", asked))
    counts: dict[str, Any] = json.loads(answer.worker_status[0])
    return counts


def test_a_gateway_holds_300_idle_sessions_in_100_kib_each() -> None:
    with Service(workers=1, spares=0) as service:
        open_ = [service.connect() for _ in range(20)]  # what comes once has come
        sizes = [status_of(service.gateway)]
        threads = status_of(service.gateway, "Threads")
        for _ in range(3):
            open_ += [service.connect() for _ in range(SESSIONS // 3)]
            sizes.append(status_of(service.gateway))
        each = [(b - a) / (SESSIONS // 3) / KIB for a, b in itertools.pairwise(sizes)]
        print(f"\n{len(open_)} sessions: {statistics.median(each):.1f} KiB each (by hundreds "
              f"{', '.join(f'{e:.1f}' for e in each)})")  # fmt: skip
        assert (sizes[-1] - sizes[0]) / SESSIONS <= 100 * KIB
        assert status_of(service.gateway, "Threads") <= threads + 8, "a thread a session"
        with open_[150] as used:  # and each of them works
            assert torch.ones(3).sum().item() == 3.0
            assert counts_of(used)["sessions"] == 1
        for each_ in open_:
            each_.close()
        with service.connect():
            assert torch.ones(3).sum().item() == 3.0


def test_a_dead_clients_memory_is_back_when_its_lease_ends() -> None:
    lease_s = 4.0
    with Service(workers=1, spares=0, more=("--lease", str(lease_s))) as service:
        with service.connect() as watching:
            torch.ones(10).sum().item()
            worker = worker_of(watching)
            before = status_of(worker)
            with Client(service, "hold", 400 * MIB) as client:
                client.hear("holds")
                assert counts_of(watching)["sessions"] == 2
                assert status_of(worker) > before + 250 * MIB
                client.kill()
            began = time.monotonic()
            wait_until(lambda: counts_of(watching)["sessions"] == 1, lease_s + 5, "its end")
            freed_s = time.monotonic() - began
            counts = counts_of(watching)
            assert not counts["transfer_bytes"] and not counts["unsent_bytes"]
            wait_until(lambda: status_of(worker) < before + 40 * MIB, 15, "its memory")
            print(f"\nfreed {freed_s:.1f} s after the client's death, lease {lease_s:.0f} s; "
                  f"back at the system after {time.monotonic() - began:.1f} s")  # fmt: skip
            assert torch.ones(3).sum().item() == 3.0
    gc.collect()


def stalled_reader(service: Service) -> float:
    """Return the seconds until a client that reads no message any more is cut off."""
    woken = threading.Event()
    with service.connect() as session:
        wide = torch.rand(12_000)  # 47 KiB: such answers ride the control stream
        wide.sum().item()

        def late(event: Any) -> None:
            woken.wait(100)
            session._deliver(event)

        readers = [threading.Thread(target=wide.numpy, daemon=True) for _ in range(40)]
        wide += torch.rand(20_000_000)[:12_000]  # a while, in which all of them ask
        for reader in readers:
            reader.start()
        session.transport.set_sink(late)
        try:
            return wait_until(lambda: "does not read" in service.log(), 60, "the cut")
        finally:
            woken.set()
            session.transport.set_sink(session._deliver)


def test_a_client_that_does_not_read_is_cut_within_30_s() -> None:
    with Service(workers=1, spares=0) as service:
        took = stalled_reader(service)
    print(f"\na stalled reader is cut after {took:.1f} s")
    assert took <= 40  # 30, and what a busy machine adds


def test_a_way_that_is_lost_is_noticed_and_others_do_not_notice() -> None:
    with Service(workers=1, spares=0) as service:
        target = service.address.removeprefix("grpc://")
        with CuttingProxy(target) as proxy, service.connect() as other:
            with service.connect(address=f"grpc://{proxy.address}") as stalled:
                torch.ones(3).sum().item()
                there = streams(service)
                assert len(there) == 2
                proxy.silence(True)
                began = time.monotonic()
                worst = 0.0
                with other:
                    # One may be gone and the client's next one there between two looks.
                    while there <= streams(service):
                        at = time.perf_counter()
                        assert (torch.ones(3) * 2).sum().item() == 6.0
                        worst = max(worst, time.perf_counter() - at)
                        assert time.monotonic() - began < 20, "nobody noticed"
                    noticed = time.monotonic() - began
                print(f"\nhalf-open client noticed after {noticed:.1f} s; "
                      f"others' worst read {worst * 1e3:.0f} ms")  # fmt: skip
                proxy.silence(False)
                del stalled


def streams(service: Service) -> set[str]:
    """Return the TCP connections that the gateway has with clients, by the clients' ends."""
    port = int(service.address.rpartition(":")[2])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{service.gateway}/net/{table}").read_text().splitlines()[1:]:
            local, remote, state = line.split()[1:4]
            if int(local.rpartition(":")[2], 16) == port and state == "01":
                found.add(remote)
    return found


def live_streams(service: Service) -> int:
    """Return how many TCP connections the gateway has with clients."""
    return len(streams(service))


def test_a_frozen_client_is_noticed_and_its_process_changes_nothing() -> None:
    with Service(workers=1, spares=0) as service, Client(service, "hold", 4 * MIB) as client:
        client.hear("holds")
        assert live_streams(service) >= 1
        os.kill(client.pid, signal.SIGSTOP)
        try:
            took = wait_until(lambda: not live_streams(service), 20, "the gateway's notice")
        finally:
            os.kill(client.pid, signal.SIGCONT)
        print(f"\nfrozen client noticed after {took:.1f} s")
        assert took <= 20  # 15, and what a busy machine adds


def test_an_upload_that_comes_before_any_worker_reaches_it() -> None:
    """It was journalled, for a replay that the first workers of a session do not need."""
    with Service(workers=0, spares=0) as service, service.connect():
        data = np.arange(100_000.0)
        found: list[float] = []
        asking = threading.Thread(
            target=lambda: found.append(torch.tensor(data).sum().item()), daemon=True
        )
        asking.start()
        time.sleep(0.5)  # the bytes are under way: nothing tells how far
        service.supervise(1)
        asking.join(30)
        assert found == [data.sum()]
