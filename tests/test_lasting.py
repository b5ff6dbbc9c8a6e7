"""Sessions that outlive their clients: what has a name is found again, the rest is freed."""

from __future__ import annotations

import math
import random
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

import farspan as torch
import numpy as np
import pytest
from fake_gateway import TOKEN, FakeGateway, Proxy
from farspan import nn
from farspan.core.errors import BadValueError, ProtocolError, SessionClosedError
from farspan.core.random import Generator
from restarting import Service
from test_recovery import train


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    made = FakeGateway()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("service"), workers=2)
    yield made
    made.close()


def opened(gateway: FakeGateway) -> Any:
    return torch.connect(gateway.address, token=TOKEN, timeout=20)


def attached(gateway: FakeGateway, session: str) -> Any:
    return torch.attach(session, gateway.address, token=TOKEN, timeout=20)


class Training:
    """A net, its optimizer and where it stands; can be kept and found."""

    def __init__(self) -> None:
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.01)
        self.data = torch.arange(64.0).reshape(8, 8).sin()

    def steps(self, count: int) -> list[float]:
        losses = []
        for _ in range(count):
            self.optimizer.zero_grad()
            loss = (self.net(self.data) + torch.rand(2)).square().mean()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return losses

    def keep(self, session: Any) -> None:
        session.keep("training", {"net": self.net, "optimizer": self.optimizer, "data": self.data})
        session.keep("random", torch.get_rng_state())

    @classmethod
    def found(cls, session: Any) -> Training:
        made = object.__new__(cls)
        kept = session.kept["training"]
        made.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
        made.net.load_state_dict(kept["net"], assign=True)
        made.optimizer = torch.optim.Adam(made.net.parameters(), lr=0.01)
        made.optimizer.load_state_dict(kept["optimizer"])
        made.data = kept["data"]
        return made


def test_training_goes_on_in_another_client_with_the_same_bits(gateway: FakeGateway) -> None:
    with torch.connect("local:"):
        torch.manual_seed(3)
        training = Training()
        training.steps(3)
        expected = training.steps(4)

    session = opened(gateway)
    torch.manual_seed(3)
    training = Training()
    training.steps(3)
    training.keep(session)
    left = session.detach()
    assert gateway.detached and gateway.machine.state != "ended"
    with attached(gateway, left) as session:
        training = Training.found(session)
        torch.set_rng_state(session.kept["random"])
        assert training.steps(4) == expected


def test_what_nobody_kept_is_freed_and_what_is_kept_stays(gateway: FakeGateway) -> None:
    session = opened(gateway)
    kept, dropped = torch.ones(3), torch.ones(4)
    also = torch.ones(5)
    session.keep("kept", kept)
    session.keep("also", [also])
    del also, kept  # the names hold them
    torch.zeros(2).sum().item()
    left = session.detach()
    assert dropped.shape == (4,)
    with attached(gateway, left) as session:
        session.synchronize()
        assert gateway.engine.stats()["tensors"] == 2
        assert session.kept["also"][0].tolist() == [1.0] * 5
        session.keep("also", None)
        session.synchronize()
        assert gateway.engine.stats()["tensors"] == 1 and list(session.kept) == ["kept"]


def test_a_name_holds_its_tensors_though_a_ctrl_c_came_before_the_answer(
    gateway: FakeGateway,
) -> None:
    session = opened(gateway)
    session.keep("x", torch.ones(2))
    keep = session.transport.keep

    def interrupted(name: str, body: str) -> None:
        keep(name, body)
        raise KeyboardInterrupt

    session.transport.keep = interrupted
    with pytest.raises(KeyboardInterrupt):
        session.keep("x", torch.full((3,), 7.0))
    session.transport.keep = keep
    session.synchronize()  # frees what nobody holds
    with attached(gateway, session.detach()) as session:
        assert session.kept["x"].tolist() == [7.0] * 3


def test_what_is_kept_comes_back_as_it_was(gateway: FakeGateway) -> None:
    session = opened(gateway)
    x = torch.arange(12.0).reshape(3, 4)
    weight = nn.Parameter(torch.ones(2))
    computed = (weight * 2).sum()
    session.keep(
        "all",
        {
            "x": x, "row": x[1], "turned": x.t(), "weight": weight, "computed": computed,
            "frozen": nn.Parameter(torch.ones(1), requires_grad=False), "half": x.half(),
            "plain": (1, 2.5, None, True, "a", math.inf, [], {}, {3: -0.0}), 7: [weight, weight],
        },
    )  # fmt: skip
    with pytest.raises(BadValueError, match="set"):
        session.keep("no", {1, 2})
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(BadValueError, match="deeper"):
        session.keep("no", loop)
    with pytest.raises(BadValueError, match="1 to 256"):
        session.keep("", x)
    left = session.detach()
    with attached(gateway, left) as session:
        found = session.kept["all"]
        assert list(session.kept) == ["all"]
        assert found["plain"] == (1, 2.5, None, True, "a", math.inf, [], {}, {3: -0.0})
        found["row"].fill_(9)
        assert found["x"][1].tolist() == [9.0] * 4 and found["turned"][:, 1].tolist() == [9.0] * 4
        assert found["turned"].stride() == (1, 4) and found["row"].storage_offset() == 4
        assert type(found["weight"]) is nn.Parameter and found["weight"].requires_grad
        assert found["weight"] is found[7][0] is found[7][1]
        assert type(found["frozen"]) is nn.Parameter and not found["frozen"].requires_grad
        assert found["half"].dtype == torch.float16 and type(found["x"]) is torch.Tensor
        assert found["computed"].is_leaf and found["computed"].item() == 4
        (found["weight"] ** 2).sum().backward()
        assert found["weight"].grad.tolist() == [2.0, 2.0]


def test_views_under_two_names_alias_each_other_in_the_next_clients(gateway: FakeGateway) -> None:
    def check(session: Any) -> None:
        a, b = session.kept["a"], session.kept["b"]
        before = a._version
        b.add_(1)
        assert a.tolist()[1:] == b.tolist() and a._version == b._version == before + 1
        weight = torch.ones(4, requires_grad=True)
        loss = (weight * a).sum()
        b.mul_(2)  # what the derivative needs, by its other name
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()

    session = opened(gateway)
    x = torch.arange(4.0)
    apart = torch.arange(4.0)
    session.keep("a", x)
    session.keep("b", x[1:])
    session.keep("apart", apart)
    check(session)
    session = attached(gateway, session.detach())
    check(session)
    versions = session.kept["apart"]._version, session.kept["a"]._version
    assert versions[0] < versions[1], "another memory"
    session.keep("third", session.kept["a"][2:])
    session.keep("new", torch.arange(3.0))
    session.keep("a", None)
    with attached(gateway, session.detach()) as session:
        b, third = session.kept["b"], session.kept["third"]
        third.fill_(7)
        assert b.tolist()[1:] == [7.0, 7.0] and b._version == third._version
        assert session.kept["new"]._version < b._version
        assert session.kept["new"].tolist() == [0.0, 1.0, 2.0]


def test_taking_a_session_over_ends_its_first_client(gateway: FakeGateway) -> None:
    session = opened(gateway)
    x = torch.ones(2)
    session.keep("x", x)
    with attached(gateway, session.id) as other:
        with pytest.raises(SessionClosedError, match="another client"):
            session.synchronize()
        y = other.kept["x"] + 1
        assert y.tolist() == [2.0, 2.0]
    with pytest.raises(SessionClosedError):
        x.tolist()
    session.close()


def test_a_client_that_was_away_while_another_took_over_is_told(gateway: FakeGateway) -> None:
    session = opened(gateway)
    session.keep("x", torch.ones(2))
    gateway.secret = bytes(32)
    session.transport._stream.cancel()
    with pytest.raises(SessionClosedError, match="another client has taken the session over"):
        session.synchronize()
    session.close()


def test_gpus_of_a_session_hear_the_precision_of_whoever_takes_it_over(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("farspan._settings.tell_precision", lambda session: told.append(session.id))
    monkeypatch.setattr("fake_gateway.KINDS", ("cuda",))
    session = opened(gateway)
    session.keep("x", torch.ones(2))
    assert not told
    with attached(gateway, session.detach()) as session:
        assert told == [session.id] and session.kept["x"].tolist() == [1.0, 1.0]


def test_arguments_that_mean_nothing_are_refused(gateway: FakeGateway) -> None:
    with pytest.raises(BadValueError, match="which session"):
        attached(gateway, "")
    for seconds in (-1, math.nan):
        with pytest.raises(BadValueError, match="reconnect_s"):
            torch.connect(gateway.address, token=TOKEN, reconnect_s=seconds)
    assert not gateway.hellos


def test_a_local_session_cannot_be_left() -> None:
    with torch.connect("local:") as session:
        session.keep("x", torch.ones(2))
        with pytest.raises(BadValueError, match="local"):
            session.detach()
        assert session.kept["x"].tolist() == [1.0, 1.0]
    with pytest.raises(BadValueError, match="local"):
        torch.attach("0" * 32, "local:")


def test_what_no_client_of_ours_wrote_is_a_protocol_error() -> None:
    from farspan._keep import unpack

    with torch.connect("local:") as session:
        for body in (
            "", "[]", "{}", '{"format":2}',
            '{"format":1,"value":{"x":0},"tensors":[],"memories":[]}',
            '{"format":1,"value":null,"tensors":[[1]],"memories":[]}', '{"format":1}',
            '{"format":1,"value":{"d":3},"tensors":[],"memories":[]}',
        ):  # fmt: skip
            with pytest.raises(ProtocolError):
                unpack(session, body, lambda *_: None)


def test_a_process_of_its_own_goes_on_after_the_gateway_was_killed(service: Service) -> None:
    code = """
        import sys, farspan as torch
        with torch.connect(sys.argv[1], token=sys.argv[2], timeout=30) as session:
            w = torch.nn.Parameter(torch.arange(300_000.0))
            (w * w).sum().backward()
            w.data.sub_(w.grad)
            session.keep("w", w)
            torch.rand(3)
            print(session.detach())
    """
    command = [sys.executable, "-c", textwrap.dedent(code), service.address, service.token]
    left = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    service.kill_gateway()
    service.start_gateway()
    with torch.attach(left, service.address, token=service.token, timeout=30) as session:
        w = session.kept["w"]
        assert w.requires_grad
        np.testing.assert_array_equal(w.detach().numpy(), -np.arange(300_000, dtype="float32"))
        (w * 2).sum().backward()
        assert w.grad[0].item() == 2
        with torch.attach(left, service.address, token=service.token, timeout=30) as third:
            with pytest.raises(SessionClosedError, match="another client"):
                session.synchronize()
            assert third.kept["w"][5].item() == -5


def test_the_ids_that_are_left_are_those_of_tensors_and_generators() -> None:
    with torch.connect("local:") as session:
        x = torch.ones(2)
        generator = torch.Generator()
        generator.manual_seed(3)
        torch.rand(2, generator=generator)
        session._take_over()  # what a client does that comes
        session.synchronize()
        (engine,) = session.transport.engines
        assert not engine.tensors and 0 in {0, *engine.generators}
        assert all(isinstance(g, Generator) for g in engine.generators.values())
        assert x.shape == (2,) and set(engine.generators) <= {0}


def test_two_devices_and_programs_are_taken_over_again_and_again(service: Service) -> None:
    where = {"address": service.address, "token": service.token, "timeout": 30}

    def steps(w: Any, v: Any) -> float:
        total = 0.0
        for _ in range(12):  # often enough to be replayed as one Call
            loss = (w * 2).sin().sum() + ((w - 1) ** 2).mean() + v.to(w.device).sum()
            (g,) = torch.autograd.grad(loss, w)
            with torch.no_grad():
                w -= 0.1 * g
            total += loss.item()
        return total

    with torch.connect(devices="cpu:2", **where):
        w, v = torch.ones(8, requires_grad=True), torch.full((3,), 0.5, device="cpu:1")
        expected = [steps(w, v) for _ in range(3)]
    session = torch.connect(devices="cpu:2", **where)
    w, v = torch.ones(8, requires_grad=True), torch.full((3,), 0.5, device="cpu:1")
    found = [steps(w, v)]
    for k in range(2):
        session.keep("both", [w, {"v": v}])
        left = session.detach()
        if k == 1:
            service.kill_gateway()
            service.start_gateway()
        session = torch.attach(left, **where)
        w, kept = session.kept["both"]
        v = kept["v"]
        assert str(v.device) == "cpu:1" and w.is_leaf and w.requires_grad
        found.append(steps(w, v))
    counts = [each["tensors"] for each in session.worker_stats()]
    assert counts[1] == 1 and counts[0] < 20
    session.close()
    assert found == expected


@pytest.mark.parametrize("durability", ["off", "snapshot-only", "durable"])
def test_a_broken_connection_is_a_pause_whatever_a_session_survives(
    service: Service, durability: str
) -> None:
    proxy = Proxy(int(service.address.rpartition(":")[2]))
    with torch.connect("local:"):
        expected = train(6)
    options = {"durability": durability, "shared_memory": False, "timeout": 30}
    try:
        session = torch.connect(proxy.address, token=service.token, **options)
        found = train(6, lambda step: proxy.cut() if step % 2 else None)
        x = torch.tensor(np.arange(300_000.0))
        proxy.cut()
        assert (x * 2).numpy()[-1] == 599_998
        session.keep("x", x)
        left = session.detach()
        with torch.attach(left, service.address, token=service.token, timeout=30) as session:
            assert session.kept["x"][7].item() == 7
    finally:
        proxy.close()
    assert found == expected and proxy.cuts >= 4


@pytest.mark.slow
def test_threads_upload_and_read_through_cuts_and_a_kill(service: Service) -> None:
    proxy = Proxy(int(service.address.rpartition(":")[2]))
    rng = random.Random(5)
    found: dict[int, float] = {}

    def work(k: int) -> None:
        x = torch.zeros(70_000) + k
        for i in range(25):
            x = x + torch.tensor(np.full(70_000, float(i)))
            if i % 5 == 0:
                x.numpy()
        found[k] = float(x[0])

    try:
        with torch.connect(proxy.address, token=service.token, timeout=30):
            proxy.again = lambda: rng.randrange(500_000, 8_000_000)
            proxy.budget = proxy.again()
            threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(0.5)
            service.kill_gateway()
            service.start_gateway()
            for thread in threads:
                thread.join()
            proxy.again = proxy.budget = None
    finally:
        proxy.close()
    assert found == {k: k + 300.0 for k in range(4)} and proxy.cuts >= 3
