"""When the network or the service breaks: nothing is lost, nothing is done twice, and the error says what is wrong."""

import asyncio
import http.server
import itertools
import threading
import time
import zlib
from concurrent import futures

import grpc
import pytest
from lieaudit_api.v1 import audit_pb2, audit_pb2_grpc
from lieaudit_client import (
    AsyncClient,
    BusyError,
    CallTimeoutError,
    Client,
    ClientError,
    IncompatibleVersionError,
    InvalidInputError,
    Retry,
    UnreachableError,
)

SPEC = {"generators": ["rotation", "scale"], "method": "finite_difference", "bootstrap": 100, "threads": 1}
SIZE = 12_000_000


@pytest.fixture
def big(tmp_path, make_images, request):
    """Images in a large file, another one for every test: the shared server has none of it."""
    path = tmp_path / "big.npz"
    path.write_bytes(make_images(zlib.crc32(request.node.name.encode()), pad=SIZE))
    return path


@pytest.mark.parametrize("aio", [False, True])
def test_an_upload_cut_again_and_again_goes_on_where_it_was(server, proxy, big, aio):
    patient = Retry(first=0.5, longest=1.0)  # the service notices the broken line first
    between = proxy(server.target)
    between.pause = 0.004  # 16 MB/s
    between.cut_after = 5_000_000
    cuts = iter([4_000_000, 4_000_000])
    steps = []

    def progress(step):
        steps.append(step)
        if between.cut_after is None and between.breaks:
            between.cut_after = next(cuts, None)

    if aio:

        async def main():
            async with AsyncClient(between.target, retry=patient) as client:
                return await client.upload_dataset(big, progress=progress)

        found = asyncio.run(main())
    else:
        with Client(between.target, retry=patient) as client:
            found = client.upload_dataset(big, progress=progress)
    assert found.size_bytes == big.stat().st_size
    assert between.breaks == 3
    # Each try starts with two steps of the same number: what was committed, and the header that says so.
    done = [step.done for step in steps]
    starts = [first for first, second in itertools.pairwise(done) if first == second]
    assert starts[0] == 0
    assert starts == sorted(starts)
    assert starts[-1] > 4_000_000
    # From the start each time it would be 25 MB; a cut loses what was on its way.
    assert between.sent < 21_000_000


def test_an_upload_survives_a_killed_server(start, big, quick):
    server = start()
    killed = []

    def progress(step):
        if step.done > SIZE // 2 and not killed:
            killed.append(step)
            server.kill()
            server.start()

    with Client(server.target, retry=quick) as client:
        found = client.upload_dataset(big, progress=progress)
    assert killed
    assert found.size_bytes == big.stat().st_size


@pytest.mark.parametrize("aio", [False, True])
def test_a_watch_survives_a_killed_server(start, tmp_path, make_model, make_images, quick, aio):
    """The server dies in the middle of an audit; the client notices nothing but silence, the report is the same."""
    model, data = tmp_path / "slow.onnx", tmp_path / "x.npz"
    model.write_bytes(make_model(2, size=16, repeat=20))
    data.write_bytes(make_images(2, size=16, count=96))
    server = start()
    steps, killed = [], []

    def progress(step):
        steps.append(step)
        if step.stage == "audit" and step.done and not killed:
            killed.append(step)
            server.kill()
            server.start()

    if aio:

        async def main():
            async with AsyncClient(server.target, retry=quick) as client:
                return await client.audit(model, data, SPEC, progress=progress)

        report = asyncio.run(main())
    else:
        with Client(server.target, retry=quick) as client:
            report = client.audit(model, data, SPEC, progress=progress)
    assert killed
    assert len({step.audit_id for step in steps if step.audit_id}) == 1
    if not aio:
        with Client(server.target) as client:
            undisturbed = client.audit(model, data, SPEC)
        assert report.results == undisturbed.results


def test_a_broken_watch_gives_every_event_once(server, proxy, files, quick):
    between = proxy(server.target)
    with Client(server.target) as direct:
        audit = direct.create_audit(direct.upload_model(files[0]).sha256, direct.upload_dataset(files[1]).sha256, SPEC)
    with Client(between.target, retry=quick) as client:
        events = []
        for event in client.watch(audit.id):
            events.append(event.sequence)
            between.break_connections()
    assert events == sorted(set(events))
    assert between.connections >= 2


def test_nothing_there(quick):
    with (
        Client("127.0.0.1:1", retry=quick) as client,
        pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1 cannot") as e,
    ):
        client.server_info()
    assert e.value.subject == "127.0.0.1:1"

    async def main():
        async with AsyncClient("127.0.0.1:1", retry=quick) as client:
            await client.server_info()

    with pytest.raises(UnreachableError):
        asyncio.run(main())


def test_a_call_is_tried_as_often_as_said_and_no_more(server, proxy):
    """The line breaks at every byte; the number of tries is the policy's."""
    between = proxy(server.target)
    tries = []

    class Counted(Retry):
        def delay(self, _failures, error):
            tries.append(error.reason)
            return 0.01

    with Client(between.target, retry=Counted(attempts=4)) as client:
        assert client.server_info().slots
        between.close()
        with pytest.raises(UnreachableError):
            client.server_info()
    assert tries == ["UNAVAILABLE"] * 4


def test_silence_ends_with_the_time_limit(server, proxy, quick):
    between = proxy(server.target)
    with Client(between.target, retry=quick, check_version=False) as client:
        client.server_info()
        between.silent = True
        with pytest.raises(CallTimeoutError) as caught:
            client.server_info(timeout=0.3)
        assert caught.value.reason == "DEADLINE_EXCEEDED"

    async def main():
        async with AsyncClient(between.target, retry=quick) as other:
            await other.get_audit("x", timeout=0.3)

    with pytest.raises(ClientError) as caught:
        asyncio.run(main())
    assert isinstance(caught.value, CallTimeoutError | UnreachableError)


def test_a_full_queue_is_waited_for_as_long_as_allowed(start, tmp_path, make_model, make_images, files, quick):
    server = start(cpu_threads="1", max_queued_per_owner="1")
    slow, many = tmp_path / "slow.onnx", tmp_path / "many.npz"
    slow.write_bytes(make_model(2, size=32, repeat=40))
    many.write_bytes(make_images(2, size=32, count=200))
    with Client(server.target, retry=quick) as client:
        slow_model, slow_data = client.upload_model(slow).sha256, client.upload_dataset(many).sha256
        model, data = client.upload_model(files[0]).sha256, client.upload_dataset(files[1]).sha256
        running = client.create_audit(slow_model, slow_data, {"method": "finite_difference", "threads": 1})
        for event in client.watch(running.id):
            if event.state == "running":
                break
        queued = client.create_audit(slow_model, slow_data, {"method": "finite_difference", "threads": 1})
        with pytest.raises(BusyError) as caught:
            client.create_audit(model, data, SPEC, timeout=0.2)
        assert caught.value.reason == "QUEUE_FULL"
        assert caught.value.retry_after > 0
        # Somebody makes room; who was told to come back says that it waits, and is served.
        steps = []

        def progress(step):
            if step.stage == "waiting" and "waiting" not in steps:
                client.cancel(queued.id)
                client.cancel(running.id)
            steps.append(step.stage)

        with Client(server.target, retry=quick) as other:
            assert other.audit(*files, SPEC, progress=progress).results
        assert "waiting" in steps


def test_delays_grow_differ_and_honour_the_service():
    retry = Retry(first=0.2, longest=5.0)
    gone = UnreachableError("gone", reason="UNAVAILABLE")
    for failures, top in ((1, 0.2), (2, 0.4), (5, 3.2), (6, 5.0), (1000, 5.0)):
        drawn = {retry.delay(failures, gone) for _ in range(20)}
        assert len(drawn) > 1
        assert all(top / 2 <= delay <= top for delay in drawn)
    told = BusyError("full", reason="QUEUE_FULL", retry_after=7.0)
    assert all(7.0 <= retry.delay(1, told) <= 8.4 for _ in range(20))


class _OtherVersion(audit_pb2_grpc.AuditServiceServicer):
    """A service of another age, which we cannot start for real: it does not exist yet."""

    def GetServerInfo(self, _request, _context):  # noqa: N802 - gRPC's name
        return audit_pb2.ServerInfo(version="9.0", api_version="lieaudit.v9")


def _serve(*servicers):
    server = grpc.server(futures.ThreadPoolExecutor(1))
    for servicer in servicers:
        audit_pb2_grpc.add_AuditServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("servicers", "said"), [((_OtherVersion(),), "'lieaudit.v9'"), ((), "no lieaudit.v1.AuditService")]
)
def test_another_version_is_said_before_anything_is_sent(files, servicers, said):
    server, target = _serve(*servicers)
    try:
        with Client(target) as client, pytest.raises(IncompatibleVersionError, match=said) as caught:
            client.upload_model(files[0])
        assert caught.value.reason == "INCOMPATIBLE_VERSION"
    finally:
        server.stop(None).wait()


def test_what_is_no_grpc_service_is_said(quick):
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        target = f"127.0.0.1:{server.server_address[1]}"
        with Client(target, retry=quick) as client, pytest.raises(UnreachableError):
            client.server_info(timeout=5.0)
    finally:
        server.shutdown()
        server.server_close()


def test_leaving_an_upload_stops_it(server, big):
    """An exception of the caller's own, in the middle: it comes through, and the call is cancelled."""
    with Client(server.target) as client:
        with pytest.raises(ZeroDivisionError):
            client.upload_dataset(big, progress=lambda step: 1 // (step.done < 2_000_000))
        assert client.upload_dataset(big).size_bytes == big.stat().st_size


def test_cancelling_a_task_stops_an_upload(server, big):
    async def main():
        async with AsyncClient(server.target) as client:
            begun = asyncio.Event()
            task = asyncio.create_task(client.upload_dataset(big, progress=lambda _: begun.set()))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await client.upload_dataset(big)

    assert asyncio.run(main()).size_bytes == big.stat().st_size


def test_a_file_that_changes_while_it_is_sent(server, big):
    """It is noticed; the error is the file's, not the line's."""

    def shrink(step):
        if step.done == 0:
            big.write_bytes(big.read_bytes()[: SIZE // 2])

    with Client(server.target) as client, pytest.raises(ClientError) as caught:
        client.upload_dataset(big, progress=shrink)
    assert caught.value.reason == "FILE_CHANGED"


def test_patience_ends(start, files):
    """A server that does not come back: the watch gives up after its patience, with the reason."""
    server = start()
    retry = Retry(first=0.05, longest=0.1, patience=0.5)
    with Client(server.target, retry=retry) as client:
        audit = client.create_audit(client.upload_model(files[0]).sha256, client.upload_dataset(files[1]).sha256, SPEC)
        watching = client.watch(audit.id)
        next(watching)
        server.kill()
        begun = time.monotonic()
        with pytest.raises(UnreachableError):
            for _ in watching:
                pass
        assert time.monotonic() - begun >= 0.3


def test_limits_are_asked_before_a_large_file_is_read(start, tmp_path):
    """256 GiB of holes: to read them takes minutes, to ask takes a moment."""
    server = start(max_dataset_bytes="1000000")
    # an .onnx is looked through for the names of its data files first: two bytes at a time, here
    for kind, limit in (("npz", 10**6), ("pt2", 2 * 2**30), ("onnx", 2 * 2**30)):
        path = tmp_path / f"huge.{kind}"
        with path.open("wb") as file:
            file.truncate(2**38)
        with (
            Client(server.target) as client,
            pytest.raises(InvalidInputError, match=f" {limit} ") as caught,
        ):
            client.upload_dataset(path) if kind == "npz" else client.upload_model(path)
        assert (caught.value.reason, caught.value.subject) == ("UPLOAD_TOO_LARGE", path.name)


def test_a_refused_upload_says_why_however_early_the_refusal(start, big):
    """The service refuses at the header while chunks are on their way: its reason must win over the broken stream."""
    server = start(max_dataset_bytes="1000000")
    with Client(server.target) as client, pytest.raises(InvalidInputError) as caught:
        client.upload_dataset(big)
    assert caught.value.reason == "UPLOAD_TOO_LARGE"

    async def main():
        async with AsyncClient(server.target) as other:
            await other.upload_dataset(big)

    for _ in range(5):
        with pytest.raises(InvalidInputError) as caught:
            asyncio.run(main())
        assert caught.value.reason == "UPLOAD_TOO_LARGE"
