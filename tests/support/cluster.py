"""A whole system for a test: a Valkey of its own, dispatchers and workers, all real processes."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager
from pathlib import Path

import redis.asyncio

from stepstream import AsyncClient
from stepstream.cli.supervisor import ChildSpec
from stepstream.cli.valkey import EmbeddedValkey
from stepstream.types import Task, TaskEvent
from tests.support.child import START_LIMIT_S, Child, News
from tests.support.journal import JOURNAL_VARIABLE, Journal
from tests.support.redis import wanted_server
from tests.support.tree import ROOT

__all__ = ["Cluster", "Dispatcher", "running_cluster"]

PIPELINES = ROOT / "tests" / "integration" / "pipelines.toml"
DISPATCHER = (sys.executable, "-m", "stepstream_dispatcher")
WORKER = (sys.executable, "-m", "tests.integration.handlers")


class Dispatcher:
    """One dispatcher at one address, through all of its restarts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = "127.0.0.1:0"  # until it has chosen a port, which it then keeps
        self.http_address = "127.0.0.1:0"
        self.process: Child | None = None

    @property
    def child(self) -> Child:
        """Its process, of the latest start."""
        assert self.process is not None
        return self.process


class Cluster:
    """The processes of one test. Nothing runs until it is started.

    Args:
        folder: For data and logs; made if it is missing, stays after the test.
        redis_options: Further words of the server's command line.
    """

    def __init__(self, folder: Path, *, redis_options: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.news = News()
        self.journal = Journal(folder / "journal.jsonl")
        self.dispatchers: dict[str, Dispatcher] = {}
        self.workers: dict[str, Child] = {}
        self.redis_url = ""  # what dispatchers connect to; a test may put a proxy here
        self.redis_process: Child | None = None
        self._redis_options = redis_options
        self._spec: ChildSpec | None = None
        self._children: list[Child] = []
        self._clients: list[AsyncClient] = []
        self._stack = ExitStack()

    # --- processes -------------------------------------------------------------------------------

    async def start_redis(self) -> Child:
        """Starts the server, or starts it again on the same data and socket."""
        if self._spec is None:
            server = EmbeddedValkey(self.folder / "redis", server=wanted_server())
            self._spec = self._stack.enter_context(server.reserved())
            self.redis_url = server.url
        argv = [*self._spec.argv, "--logfile", "", *self._redis_options]
        child = await self._spawn("redis", argv, self._spec.env, self._spec.pass_fds)
        await child.line("eady to accept connections")
        self.redis_process = child
        return child

    async def start_dispatcher(
        self, name: str = "d-0", *, argv: Sequence[str] = DISPATCHER, **settings: str
    ) -> Dispatcher:
        """Starts a dispatcher, or starts it again at the same address with the same id."""
        dispatcher = self.dispatchers.setdefault(name, Dispatcher(name))
        env = {
            "REDIS_URL": self.redis_url,
            "STEPSTREAM_GRPC_ADDRESS": dispatcher.address,
            "STEPSTREAM_HTTP_ADDRESS": dispatcher.http_address,
            "STEPSTREAM_DISPATCHER_ID": name,
            "STEPSTREAM_PIPELINES": str(PIPELINES),
            "STEPSTREAM_DATA_DIR": str(self.folder / name),
            "STEPSTREAM_LOG_FORMAT": "json",
            "ENABLE_METRICS": "false",
            **settings,
        }
        dispatcher.process = await self._spawn(name, argv, env)
        serving = json.loads(await dispatcher.process.line('"event": "serving"'))
        dispatcher.address, dispatcher.http_address = serving["grpc"], serving["http"]
        return dispatcher

    async def start_worker(
        self,
        name: str = "w-0",
        *,
        slots: int = 3,
        at: Sequence[str] = (),
        argv: Sequence[str] = WORKER,
        **settings: str,
    ) -> Child:
        """Starts a worker and waits until it is registered.

        Args:
            at: Names of its dispatchers, in order of preference; empty: all.
        """
        names = at or list(self.dispatchers)
        env = {
            "STEPSTREAM_ADDRESS": ",".join(self.dispatchers[one].address for one in names),
            "STEPSTREAM_WORKER_NAME": name,
            "MAX_CONCURRENT_TASKS": str(slots),
            JOURNAL_VARIABLE: str(self.journal.path),
            **settings,
        }
        child = self.workers[name] = await self._spawn(name, argv, env)
        await child.line("connected")
        return child

    async def start_workers(self, count: int, *, slots: int = 3) -> None:
        """Starts w-0, w-1, ... side by side."""
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(self.start_worker(f"w-{number}", slots=slots))

    async def _spawn(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], pass_fds: Sequence[int] = ()
    ) -> Child:
        child = Child(name, self.folder / f"{name}.log", self.news)
        self._children.append(child)
        return await child.start(argv, env=env, pass_fds=pass_fds)

    async def stop(self) -> None:
        """Ends every process by its pid: those that hold others' data last."""
        for client in self._clients:
            await client.close()
        for child in reversed(self._children):
            await child.kill()
            child.close()
        self._stack.close()

    # --- what a test looks at --------------------------------------------------------------------

    def client(self, dispatcher: str = "d-0") -> AsyncClient:
        """A client of one dispatcher, closed at the end."""
        client = AsyncClient(self.dispatchers[dispatcher].address)
        self._clients.append(client)
        return client

    @asynccontextmanager
    async def redis(self) -> AsyncIterator[redis.asyncio.Redis]:
        """A connection to the server, answering str."""
        connection = redis.asyncio.Redis.from_url(self.redis_url, decode_responses=True)
        try:
            yield connection
        finally:
            await connection.aclose()

    async def begun(
        self, task_id: str, step: str, *, attempt: int = 0, timeout_s: float = 15.0
    ) -> None:
        """Waits until a handler has really started."""

        def started() -> bool:
            runs = self.journal.runs(task=task_id, step=step)
            return any(attempt in {0, run.attempt} for run in runs)

        await self.news.until(started, timeout_s=timeout_s)

    async def reported(self, task_id: str) -> float:
        """Waits for a report of progress, which only a heartbeat brings; returns how far it is."""
        async with asyncio.timeout(START_LIMIT_S):
            async with aclosing(self.client().watch(task_id, progress=True)) as items:
                async for item in items:
                    if isinstance(item, Task | TaskEvent) and item.progress:
                        return item.progress
        raise AssertionError(f"task {task_id} ended without a report of progress")

    async def history(self, task_id: str, dispatcher: str = "d-0") -> list[TaskEvent]:
        """Every event of a task that ends, from the first, by watching it to the end."""
        async with asyncio.timeout(START_LIMIT_S):
            seen = [item async for item in self.client(dispatcher).watch(task_id, after=0)]
        return [item for item in seen if isinstance(item, TaskEvent)]

    async def finished(
        self, task_ids: Sequence[str], dispatcher: str = "d-0", *, timeout_s: float = START_LIMIT_S
    ) -> list[Task]:
        """Waits for the end of tasks."""
        client = self.client(dispatcher)
        async with asyncio.TaskGroup() as group:
            waits = [
                group.create_task(client.wait(one, timeout_s=timeout_s, through_review=True))
                for one in task_ids
            ]
        return [wait.result() for wait in waits]

    async def terminate(self, child: Child) -> int:
        """Asks a process to leave; returns its exit status."""
        child.tell(signal.SIGTERM)
        return await child.ended()


@asynccontextmanager
async def running_cluster(
    folder: Path,
    *,
    dispatchers: int = 1,
    workers: int = 1,
    slots: int = 3,
    redis_options: Sequence[str] = (),
    argv: Sequence[str] = DISPATCHER,
    **settings: str,
) -> AsyncIterator[Cluster]:
    """A cluster with d-0, d-1, ... and w-0, w-1, ..., ready; every worker knows every dispatcher.

    Args:
        argv: What the dispatchers run.
        settings: Environment of the dispatchers.
    """
    cluster = Cluster(folder, redis_options=redis_options)
    try:
        await cluster.start_redis()
        async with asyncio.TaskGroup() as group:
            for number in range(dispatchers):
                group.create_task(cluster.start_dispatcher(f"d-{number}", argv=argv, **settings))
        await cluster.start_workers(workers, slots=slots)
        yield cluster
    finally:
        await cluster.stop()
