"""Workers as Ray actors in placement groups. The only module of the server that imports ray.

Ray places, assigns GPUs and supervises; frames and tensors never pass through it. Nothing here
waits without a bound, nothing is discovered: the cluster is our own or has an explicit address.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path
from typing import Any

from farspan.core.errors import CapacityError, ServiceError
from farspan_worker.process import level_environment, thread_environment

from farspan_server.fleet import Started
from farspan_server.supervisor import LauncherGoneError

_LOOK_S = 1.0  # between looks at the nodes while an actor does not answer
_OBJECT_STORE_BYTES = 80 * 2**20  # Ray's least, about: no tensor passes through it
#: What a worker of each kind takes of its node.
_TAKES = {"cpu": {"farspan_cpu": 1.0}, "cuda": {"GPU": 1.0}}


def start_local(directory: Path, workers: dict[str, int]) -> None:
    """Start Ray on this machine, in `directory`, for so many workers; it dies with this thread."""
    token = directory / "ray-token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    _environment(token)
    import ray

    ray.init(
        address="local",
        num_cpus=0,
        num_gpus=None if workers.get("cuda") else 0,  # None: as many as Ray finds
        resources={"farspan_cpu": float(workers.get("cpu", 0))},
        namespace="farspan",
        include_dashboard=False,
        log_to_driver=False,
        logging_level="warning",
        object_store_memory=_OBJECT_STORE_BYTES,
        _temp_dir=str(directory / "ray"),
    )
    found, wanted = int(ray.cluster_resources().get("GPU", 0)), workers.get("cuda", 0)
    if found < wanted:  # a placement group would wait for a GPU to be plugged in
        raise CapacityError(f"{wanted} cuda worker(s) asked for; this machine has {found} GPU(s)")


def join(address: str, token: Path | None) -> None:
    """Become a driver of the Ray cluster at `address`, with the token it was started with."""
    if address in ("auto", "local", ""):
        raise ServiceError(f"ray address {address!r}: give host:port, nothing is discovered")
    _environment(token)
    import ray

    ray.init(address=address, namespace="farspan", log_to_driver=False, logging_level="warning")


def _environment(token: Path | None) -> None:
    # Ray guesses both from what it finds in the home directory if they are not said.
    os.environ["RAY_AUTH_MODE"] = "token" if token else "disabled"
    if token:
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"  # Ray's 15 starves a worker on a busy machine
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"


class Cluster:
    """Starts and ends worker actors on the Ray cluster that this process has joined.

    capacity: workers of each kind that get a bundle of the kind's placement group; those beyond
    are spares and unplaced. listen: where a worker listens, "node" for its node's address;
    ``{process}`` is filled in. cpu_level: as `level_environment` has it. make_engine: for tests; a
    function that the actor's process imports. own: the cluster is this machine and goes with us.
    """

    def __init__(
        self,
        capacity: dict[str, int],
        *,
        listen: str = "node",
        threads: int = 1,
        cpu_level: str = "",
        make_engine: Any = None,
        own: bool = False,
    ) -> None:
        self._own = own
        self._capacity = capacity
        self._listen = listen
        self._environment = thread_environment(threads) | level_environment(cpu_level)
        if "FARSPAN_LOOPS" in os.environ:  # as workers that are plain processes have it
            self._environment["FARSPAN_LOOPS"] = os.environ["FARSPAN_LOOPS"]
        self._make_engine = make_engine
        self._groups: dict[str, Any] = {}
        self._actors: dict[int, Any] = {}
        self._placed: dict[int, str] = {}  # kinds of the processes that hold a bundle

    async def start(self, process: int, kind: str, key: bytes) -> Started:
        """Return once the worker listens; raise ServiceError if it cannot. May wait for a node."""
        import ray
        from farspan_worker.actor import WorkerActor

        if not ray.is_initialized():  # or Ray would look for a cluster by itself
            raise ServiceError("this process has joined no Ray cluster")
        options: dict[str, Any] = {
            "runtime_env": {"env_vars": self._environment},
        }
        held = sum(each == kind for each in self._placed.values())
        if held < self._capacity.get(kind, 0):
            self._placed[process] = kind
            options["scheduling_strategy"] = await self._bundle(kind)
            takes = _TAKES[kind]
            if "GPU" in takes:
                options["num_gpus"] = takes["GPU"]
            else:
                options["resources"] = takes
        elif kind != "cpu":
            raise CapacityError(f"a spare {kind} worker would take a GPU")
        listen = self._listen.format(process=process)
        actor = WorkerActor.options(**options).remote(key, listen, self._make_engine, kind)
        self._actors[process] = actor
        try:
            where = await self._answer(actor.where.remote())
        except LauncherGoneError:
            raise
        except Exception as error:  # ray's own tree of errors, and the constructor's
            raise ServiceError(f"ray could not start a worker: {error}") from error
        return Started(process, where["address"], where["host"], where["pid"])

    async def _answer(self, asked: Any) -> Any:
        """Return what an actor answers; LauncherGoneError if a Ray of our own has died meanwhile.

        Somebody else's cluster may get another node; ours has one, and is started anew as a whole.
        """
        answer = asyncio.ensure_future(_value(asked))
        try:
            while True:
                await asyncio.wait({answer}, timeout=_LOOK_S)
                well = answer.done() and answer.exception() is None
                if not well and self._own and not await asyncio.to_thread(_any_node):
                    raise LauncherGoneError("Ray's only node is dead")
                if answer.done():
                    return answer.result()
        finally:
            answer.cancel()

    async def ended(self, process: int) -> str:
        """Wait for the actor to die and return what Ray says of it."""
        import ray

        try:
            await self._actors[process].live.remote()
        except ray.exceptions.RayError as error:
            return _first_line(error)
        return "the worker ended"

    def drain(self, process: int) -> None:
        """Let an actor end when its sessions have left it, in a bounded time."""
        actor = self._actors.get(process)
        if actor is not None:
            actor.drain.remote()

    async def kill(self, process: int) -> None:
        """End an actor for good; its bundle is free for another."""
        import ray

        actor = self._actors.pop(process, None)
        self._placed.pop(process, None)
        if actor is not None:
            await asyncio.to_thread(ray.kill, actor, no_restart=True)

    async def close(self) -> None:
        """End all actors and leave the cluster; one of our own ends with it."""
        import ray
        from ray.util.placement_group import remove_placement_group

        await asyncio.gather(*(self.kill(process) for process in list(self._actors)))
        for group in self._groups.values():
            remove_placement_group(group)
        await asyncio.to_thread(ray.shutdown)

    async def _bundle(self, kind: str) -> Any:
        """Return the strategy that places an actor in the kind's group; waits for the group."""
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group = self._groups.get(kind)
        if group is None:
            bundles = [_TAKES[kind]] * self._capacity[kind]
            # GPUs of one session talk much: together. CPU workers share nothing but their host.
            group = placement_group(bundles, strategy="PACK" if kind == "cuda" else "SPREAD")
            self._groups[kind] = group
        await self._answer(group.ready())
        return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=-1)


async def _value(asked: Any) -> Any:
    return await asked


def _any_node() -> bool:
    import ray

    return any(node["Alive"] for node in ray.nodes())


def _first_line(error: Exception) -> str:
    # Ray's messages run over many lines, with addresses and advice for its own users.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
