"""The running server: its parts, put together, started and shut down in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from lieaudit_api.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    dataset_pb2,
    dataset_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    spec_pb2,
)

from lieaudit.errors import LieauditError
from lieaudit_server import __version__
from lieaudit_server.admission import MAX_MESSAGE, Admission
from lieaudit_server.background import Background
from lieaudit_server.config import Config, factories
from lieaudit_server.connections import Connections
from lieaudit_server.conversions import into
from lieaudit_server.errors import ConfigError, DamagedFolderError, ServiceError
from lieaudit_server.identity import Authority
from lieaudit_server.interceptor import Interceptor
from lieaudit_server.maintenance import Maintenance
from lieaudit_server.metrics import Metrics
from lieaudit_server.runtime import Lag, tune
from lieaudit_server.scheduling.confinement import Confinement
from lieaudit_server.scheduling.forkserver import ForkServer
from lieaudit_server.scheduling.journal import Journal
from lieaudit_server.scheduling.probes import Probes
from lieaudit_server.scheduling.room import Room
from lieaudit_server.scheduling.scheduler import Scheduler
from lieaudit_server.services.audits import AuditService
from lieaudit_server.services.context import Context
from lieaudit_server.services.datasets import DatasetService
from lieaudit_server.services.models import ModelService
from lieaudit_server.store.database import Database
from lieaudit_server.store.folder import Folder
from lieaudit_server.store.opening import prepare
from lieaudit_server.tls import credentials
from lieaudit_server.tracing import Tracer

_log = logging.getLogger(__name__)

SERVICES = tuple(
    descriptor.services_by_name[name].full_name
    for descriptor, name in (
        (model_pb2.DESCRIPTOR, "ModelService"),
        (dataset_pb2.DESCRIPTOR, "DatasetService"),
        (audit_pb2.DESCRIPTOR, "AuditService"),
    )
)
_STRAYS_SAID = 20
_OWN_DESCRIPTORS = 512
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_concurrent_streams", 512),  # of one connection
    ("grpc.compression_enabled_algorithms_bitset", 1),  # none: gRPC unpacks before anybody can say how much
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a second server beside the first
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
# On a unix socket are this machine's own clients, whose pings come in bunches when it is busy. Else a connection with
# too many pings is closed ("too_many_pings").
_ANY_PINGS = (("grpc.http2.max_ping_strikes", 0),)


class Server:
    """One server on one data folder."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._folder = Folder(config.data_dir)
        self.metrics = Metrics()
        self.port = 0
        self.stopping = asyncio.Event()
        self.damage: sqlite3.Error | None = None

    async def start(self) -> None:
        """Take the data folder, resume what was interrupted, and serve.

        Raises `ConfigError` where the folder, the address or a file named in the settings cannot be used.
        """
        tune()
        config = self._config
        authority = Authority(config.tokens_file, client_certificates=config.tls_client_ca is not None)
        server_credentials = credentials(config)
        self._tracer = Tracer(enabled=config.otel, version=__version__)
        self._folder.open()
        unknown = await asyncio.to_thread(prepare, self._folder)
        for path in unknown[:_STRAYS_SAID]:
            _log.warning("%s is not in the state; it is left alone", self._folder.relative(path))
        if unknown:
            _log.warning("%d files are not in the state; `lieaudit-server doctor` says more", len(unknown))
        loop = asyncio.get_running_loop()

        def damaged(problem: sqlite3.Error) -> None:
            loop.call_soon_threadsafe(self._state_is_damaged, problem)

        self._database = Database(self._folder.state, damaged)
        self._journal = Journal()
        self._fork_server = ForkServer(self._folder.scratch)
        confinement = Confinement(config, self._folder)
        self._room = Room(config, self._folder)
        self._scheduler = Scheduler(
            config,
            self._folder,
            self._database,
            self._journal,
            self.metrics,
            self._fork_server,
            confinement,
            self._room,
        )
        self._maintenance = Maintenance(config, self._folder, self._database, self.metrics)
        probes = Probes(config, self._folder, self._fork_server, confinement, self._room)
        providers: asyncio.Future[tuple[str, ...]] = asyncio.get_running_loop().create_future()
        self._background = Background()
        context = Context(
            config=config,
            folder=self._folder,
            database=self._database,
            journal=self._journal,
            scheduler=self._scheduler,
            probes=probes,
            metrics=self.metrics,
            background=self._background,
            providers=providers,
        )
        await self._maintenance.start()
        self._provider_task = asyncio.create_task(_ask_providers(probes, providers))
        try:
            await self._check_workers(confinement, probes)
            context.generators.update(await self._own_generators(probes))
            self._serve_calls(authority, context, server_credentials)
        except ConfigError:
            await self._fork_server.stop()
            raise
        await self._grpc.start()
        await self._scheduler.start()
        self._lag = Lag(self.metrics)
        self._connections = Connections(self.port, config.max_connections_per_peer)
        self._connections.start()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        _log.info("serving lieaudit.v1 %s on %s", __version__, self.target)

    async def _check_workers(self, confinement: Confinement, probes: Probes) -> None:
        """Raise `ConfigError` where workers cannot do what the settings say; they are asked only where they say it."""
        if self._config.require_sandbox:
            await self._provider_task
            if confinement.missing:
                raise ConfigError(f"require_sandbox: this machine lacks {'; '.join(confinement.missing)}")
        if self._config.measures:
            try:
                answer = await probes.run("check_measures", {"measures": list(self._config.measures)})
            except (LieauditError, ServiceError) as problem:
                raise ConfigError(f"measures: they cannot be loaded: {problem}") from problem
            if answer["problems"]:
                raise ConfigError(f"measures: {'; '.join(answer['problems'])}")
        if self._config.torch_factories:
            try:
                answer = await probes.run(
                    "check_factories", {"torch_factories": factories(self._config.torch_factories)}
                )
            except (LieauditError, ServiceError) as problem:
                raise ConfigError(f"torch_factories: they cannot be imported: {problem}") from problem
            if answer["problems"]:
                raise ConfigError(f"torch_factories: {'; '.join(answer['problems'])}")

    async def _own_generators(self, probes: Probes) -> dict[str, spec_pb2.Tensor]:
        """Load the fields that the settings list, in a worker. Raises `ConfigError`."""
        if not self._config.generators:
            return {}
        try:
            answer = await probes.run("load_generators", {"generators": list(self._config.generators)})
        except (LieauditError, ServiceError) as problem:
            raise ConfigError(f"generators: they cannot be loaded: {problem}") from problem
        if answer["problems"]:
            raise ConfigError(f"generators: {'; '.join(answer['problems'])}")
        return {name: into(spec_pb2.Tensor(), field) for name, field in answer["fields"].items()}

    def _serve_calls(self, authority: Authority, context: Context, server_credentials: object) -> None:
        """Make the gRPC server and take the address. Raises `ConfigError`."""
        config = self._config
        interceptor = Interceptor(authority, Admission(config), self.metrics, self._tracer, self._folder.root)
        connections = ("grpc.max_allowed_incoming_connections", min(config.max_connections, _raise_descriptors()))
        pings = _ANY_PINGS if config.listen.startswith("unix:") else ()
        self._grpc = grpc.aio.server(interceptors=[interceptor], options=(*_OPTIONS, connections, *pings))
        model_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(context), self._grpc)
        dataset_pb2_grpc.add_DatasetServiceServicer_to_server(DatasetService(context), self._grpc)
        audit_pb2_grpc.add_AuditServiceServicer_to_server(AuditService(context), self._grpc)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        if not config.no_reflection:
            names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._grpc)
        self.port = self._bind(server_credentials)
        if config.metrics_listen:
            self.metrics.serve(config.metrics_listen)

    @property
    def target(self) -> str:
        """The gRPC target that clients on this machine use."""
        listen = self._config.listen
        return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{self.port}"

    async def stop(self) -> None:
        """Drain: say NOT_SERVING, accept nothing new, let calls and audits go on for a while, then interrupt them.

        An interrupted audit goes back into the queue and resumes from its finished shards at the next start.
        """
        _log.info("draining for up to %g seconds", self._config.drain_seconds)
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._scheduler.drain()
        try:
            async with asyncio.timeout(self._config.drain_seconds if self.damage is None else 0.0):
                await self._scheduler.wait_idle()
        except TimeoutError:
            _log.info("%d audits are interrupted; they resume at the next start", self._scheduler.running)
        await self._scheduler.stop()
        self._journal.close()
        self._provider_task.cancel()
        self._room.stop()
        self._lag.stop()
        self._connections.stop()
        await self._grpc.stop(grace=2.0)
        await self._background.wait()
        await self._fork_server.stop()
        with contextlib.suppress(sqlite3.Error):  # a full disk or a damaged state: it stops all the same
            await self._maintenance.stop()
        self._database.close()
        self._folder.close()
        self._tracer.close()
        _log.info("stopped")

    def _state_is_damaged(self, problem: sqlite3.Error) -> None:
        if self.damage is None:
            _log.critical("the state is damaged: %s", problem)
            self.damage = problem
            self.stopping.set()

    def _bind(self, server_credentials: object) -> int:
        listen = self._config.listen
        try:
            if server_credentials is not None:
                port = int(self._grpc.add_secure_port(listen, server_credentials))
            else:
                port = int(self._grpc.add_insecure_port(listen))
        except RuntimeError as problem:
            raise ConfigError(f"listen: {listen} cannot be used (is another program listening there?)") from problem
        if port == 0:
            raise ConfigError(f"listen: {listen} cannot be used")
        return port

    async def _set_health(self, status: int) -> None:
        for name in ("", *SERVICES):
            await self._health.set(name, status)


def _raise_descriptors() -> int:
    """Take as many descriptors as this process may have; give how many of them connections may take."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(hard - _OWN_DESCRIPTORS, hard // 2)


async def _ask_providers(probes: Probes, providers: asyncio.Future[tuple[str, ...]]) -> None:
    try:
        providers.set_result(await probes.establish())
    except (LieauditError, ServiceError, OSError):
        _log.exception("onnxruntime cannot be used")
        providers.set_result(())


def _stop_on_closed_input(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    def wait() -> None:
        while os.read(0, 1024):
            pass
        loop.call_soon_threadsafe(stop)

    threading.Thread(target=wait, name="parent", daemon=True).start()


async def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT; the first line on standard output is ``ready TARGET``.

    Raises `ConfigError`, and `DamagedFolderError` where the state is damaged or deleted while it serves.
    """
    server = Server(config)
    await server.start()
    stopping = server.stopping
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    if config.exit_with_parent:
        _stop_on_closed_input(loop, stopping.set)
    sys.stdout.write(f"ready {server.target}\n")
    sys.stdout.flush()
    await stopping.wait()
    await server.stop()
    if server.damage is not None:
        raise DamagedFolderError(f"data_dir: the state is damaged ({server.damage}); run `lieaudit-server doctor`")
