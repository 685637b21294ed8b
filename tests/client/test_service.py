"""The client against a real server: audits, uploads, lists, watching, cancelling, errors in words."""

import asyncio
import hashlib

import pytest
from lieaudit_api.v1 import gate_pb2, spec_pb2
from lieaudit_client import (
    AsyncClient,
    AuditCancelledError,
    AuditFailedError,
    Client,
    InvalidInputError,
    NotFoundError,
    report_to_json,
)
from lieaudit_client import _requests as requests

from lieaudit.report import Report

SPEC = {"generators": ["rotation", "scale"], "method": "finite_difference", "bootstrap": 100, "threads": 1}
LONG = SPEC | {"bootstrap": 100_000, "generators": []}


@pytest.fixture(scope="module")
def audited(server, tmp_path_factory, make_model, make_images):
    """One audit: paths of model and images, the steps that were shown, the report."""
    folder = tmp_path_factory.mktemp("audited")
    files = folder / "tiny.onnx", folder / "noise.npz"
    files[0].write_bytes(make_model())
    files[1].write_bytes(make_images())
    steps = []
    with Client(server.target) as client:
        return files, steps, client.audit(*files, SPEC, progress=steps.append)


def test_an_audit_end_to_end(client, audited):
    files, steps, report = audited
    assert list(report.spec.generators) == SPEC["generators"]
    assert set(report.results) == set(SPEC["generators"])
    assert report.model.sha256 == hashlib.sha256(files[0].read_bytes()).hexdigest()
    assert (report.model.name, report.data.name, report.data.count) == ("tiny.onnx", "noise.npz", 12)
    stages = list(dict.fromkeys(step.stage for step in steps))
    assert stages[0] == "upload"
    assert stages[-1] == "succeeded"
    assert "audit" in stages
    # the id is known as soon as there is an audit, and the report can be fetched again
    assert {step.audit_id for step in steps if step.stage != "upload"} == {steps[-1].audit_id}
    assert client.report(steps[-1].audit_id) == report
    assert client.wait(steps[-1].audit_id) == report
    # what arrives is what the Python library calls a report
    plain = report_to_json(report)
    assert Report.from_dict(plain).to_dict() == plain


def test_asyncio_gives_the_same_numbers(server, audited):
    files, _, expected = audited

    async def main():
        steps = []
        async with AsyncClient(server.target) as other:
            report = await other.audit(*files, SPEC, progress=steps.append)
            events = [event async for event in other.watch(steps[-1].audit_id)]
            assert await other.healthy()
        return report, steps, events

    report, steps, events = asyncio.run(main())
    assert report.results == expected.results
    assert [event.sequence for event in events] == sorted({event.sequence for event in events})
    # Events that a later one has overtaken may be left out of a second watch, never changed.
    assert events[-1].state == "succeeded"
    assert {(e.stage, e.done, e.total) for e in events if e.state == "running"} <= {
        (step.stage, step.done, step.total) for step in steps
    }


def test_many_calls_at_once_in_asyncio(server, files, make_model):
    """Four audits by one client in one event loop, two of them of the same model, uploaded at the same time."""

    async def main():
        async with AsyncClient(server.target) as client:
            models = [make_model(seed) for seed in (50, 50, 51, 51)]
            return await asyncio.gather(*(client.audit(model, files[1], SPEC) for model in models))

    reports = asyncio.run(main())
    assert len({report.model.sha256 for report in reports}) == 2
    assert reports[0].results == reports[1].results != reports[2].results == reports[3].results


def test_the_same_key_is_the_same_audit(client, files):
    model, data = client.upload_model(files[0]), client.upload_dataset(files[1])
    first = client.create_audit(model.sha256, data.sha256, SPEC, idempotency_key="once")
    assert client.create_audit(model.sha256, data.sha256, SPEC, idempotency_key="once").id == first.id
    assert client.create_audit(model.sha256, data.sha256, SPEC).id != first.id
    with pytest.raises(InvalidInputError) as caught:
        client.create_audit(model.sha256, data.sha256, SPEC | {"seed": 5}, idempotency_key="once")
    assert caught.value.reason == "IDEMPOTENCY_KEY_REUSED"


def test_a_second_upload_sends_nothing(server, proxy, tmp_path, make_model):
    between = proxy(server.target)
    path = tmp_path / "big.onnx"
    path.write_bytes(make_model(1, pad=3_000_000))
    with Client(between.target) as client:
        first = client.upload_model(path)
        sent = between.sent
        assert sent > 3_000_000
        steps = []
        assert client.upload_model(path, progress=steps.append).sha256 == first.sha256
        assert between.sent - sent < 10_000
        assert [(step.done, step.total) for step in steps] == [(path.stat().st_size,) * 2]


def test_upload_progress_is_told_byte_by_byte(client, tmp_path, make_images):
    path = tmp_path / "big.npz"
    path.write_bytes(make_images(3, pad=3_000_000))
    steps = []
    client.upload_dataset(path, progress=steps.append)
    done = [step.done for step in steps]
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] == path.stat().st_size
    assert len(done) >= 4


def test_watching_from_the_middle_and_after_the_end(client, audited):
    audit = client.get_audit(audited[1][-1].audit_id)
    events = list(client.watch(audit.id))
    assert events[-1].state == "succeeded"
    middle = events[len(events) // 2].sequence
    rest = [event.sequence for event in client.watch(audit.id, middle)]
    assert rest == sorted(set(rest))
    assert set(rest) <= {event.sequence for event in events if event.sequence > middle}
    assert rest[-1] == events[-1].sequence
    assert list(client.watch(audit.id, events[-1].sequence)) == []


def test_a_watcher_who_leaves_ends_nothing(client, files):
    model, data = client.upload_model(files[0]), client.upload_dataset(files[1])
    audit = client.create_audit(model.sha256, data.sha256, SPEC)
    watching = client.watch(audit.id)
    next(watching)
    watching.close()
    assert client.wait(audit.id).status in {"ok", "inconclusive"}


def test_cancelling(client, tmp_path, make_model, make_images):
    slow = tmp_path / "slow.onnx"
    slow.write_bytes(make_model(2, size=32, repeat=40))
    many = tmp_path / "many.npz"
    many.write_bytes(make_images(2, size=32, count=300))
    ids = []

    def cancel(step):
        if step.stage == "audit" and not ids:
            ids.append(step.audit_id)
            client.cancel(step.audit_id)

    with pytest.raises(AuditCancelledError) as caught:
        client.audit(slow, many, {"method": "finite_difference", "threads": 1}, progress=cancel)
    assert caught.value.subject == ids[0]
    assert client.get_audit(ids[0]).state == "cancelled"
    with pytest.raises(AuditCancelledError):
        client.wait(ids[0])


def test_the_wall_clock_limit_reaches_the_worker(client, tmp_path, make_model, make_images):
    slow = tmp_path / "slow.onnx"
    slow.write_bytes(make_model(2, size=32, repeat=40))
    many = tmp_path / "many.npz"
    many.write_bytes(make_images(2, size=32, count=300))
    with pytest.raises(AuditFailedError) as caught:
        client.audit(slow, many, {"method": "finite_difference", "threads": 1}, deadline=2.0)
    assert caught.value.reason == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "EMPTY_FILE"), (b"not a model", "NOT_ONNX"), ("half", "MODEL_TRUNCATED")]
)
def test_a_bad_model_is_the_caller_s_fault(client, make_model, content, reason):
    content = make_model()[:200] if content == "half" else content
    with pytest.raises(InvalidInputError) as caught:
        client.upload_model(content)
    assert caught.value.reason in {reason, "NOT_ONNX"}
    assert caught.value.request_id or not content


@pytest.mark.parametrize(
    ("spec", "subject"),
    [({"seed": -1}, "seed"), ({"generators": ["spin"]}, "generators"), ({"budget_mib": 1}, "budget_mib")],
)
def test_a_bad_specification_names_its_field(client, files, spec, subject):
    with pytest.raises(InvalidInputError) as caught:
        client.audit(*files, spec)
    assert (caught.value.reason, caught.value.subject) == ("INVALID_SPEC", subject)


def test_images_that_do_not_fit_the_model(client, files, tmp_path, make_images):
    wrong = tmp_path / "wrong.npz"
    wrong.write_bytes(make_images(4, channels=3))
    with pytest.raises((AuditFailedError, InvalidInputError)) as caught:
        client.audit(files[0], wrong, SPEC)
    assert caught.value.reason == "WRONG_CHANNELS"


def test_what_is_not_there(client):
    for call in (
        lambda: client.get_model("0" * 64),
        lambda: client.get_dataset("0" * 64),
        lambda: client.delete_model("0" * 64),
        lambda: client.get_audit("none"),
        lambda: client.report("none"),
        lambda: list(client.watch("none")),
        lambda: client.cancel("none"),
        lambda: client.inspect("0" * 64),
    ):
        with pytest.raises(NotFoundError) as caught:
            call()
        assert caught.value.reason.endswith("_NOT_FOUND")


def test_lists_go_through_all_pages(client, make_model, monkeypatch):
    monkeypatch.setattr(requests, "_PAGE", 1)
    names = {client.upload_model(make_model(seed)).sha256 for seed in range(100, 102)}
    assert names <= {model.sha256 for model in client.models()}
    assert len(list(client.audits("succeeded"))) <= len(list(client.audits()))

    async def main():
        async with AsyncClient(client.target) as other:
            return [model.sha256 async for model in other.models()]

    assert asyncio.run(main()) == [model.sha256 for model in client.models()]


def test_deleting(client, make_model, tmp_path, make_images):
    model = client.upload_model(make_model(200))
    assert client.get_model(model.sha256).name == "model.onnx"
    client.delete_model(model.sha256)
    with pytest.raises(NotFoundError):
        client.get_model(model.sha256)
    (tmp_path / "d.npz").write_bytes(make_images(200))
    data = client.upload_dataset(tmp_path / "d.npz")
    assert data.sha256 in {item.sha256 for item in client.datasets()}
    client.delete_dataset(data.sha256)
    assert data.sha256 not in {item.sha256 for item in client.datasets()}


def test_inspecting_with_images(client, files):
    model, data = client.upload_model(files[0]), client.upload_dataset(files[1])
    found = client.inspect(model.sha256, data.sha256, layers=True)
    assert (found.input.layout, list(found.input.shape)[1:]) == ("NCHW", ["1", "8", "8"])
    assert found.head == "softmax"
    assert found.image_count == 12
    assert 0 <= found.top1 <= 1
    assert {op.op for op in found.ops} == {"Flatten", "MatMul", "Tanh"}


def test_a_folder_of_images_and_preprocessing(client, tmp_path, make_model):
    image = pytest.importorskip("PIL.Image")
    model = tmp_path / "rgb.onnx"
    model.write_bytes(make_model(5, channels=3))
    for number in range(3):
        target = tmp_path / "images" / f"class{number}" / "a.png"
        target.parent.mkdir(parents=True)
        image.new("RGB", (10 + number, 9), (number * 50, 7, 9)).save(target)
    report = client.audit(model, tmp_path / "images", SPEC | {"preprocessing": "imagenet,resize=8,crop=8"})
    assert report.data.count == 3
    assert report.spec.preprocessing.resize == 8
    with pytest.raises((AuditFailedError, InvalidInputError)) as caught:
        client.audit(model, tmp_path / "images", SPEC)
    assert caught.value.reason == "PREPROCESSING_REQUIRED"


def test_a_message_as_specification(client, files):
    spec = spec_pb2.AuditSpec(generators=["brightness"], method="finite_difference", bootstrap=100)
    assert set(client.audit(*files, spec).results) == {"brightness"}


def test_policies_are_judged_by_the_service(client, audited):
    report = audited[2]
    with pytest.raises(InvalidInputError):
        client.evaluate(
            gate_pb2.EvaluateRequest(candidate=gate_pb2.ReportSource(report=report), policy_yaml="not: a policy")
        )


def test_the_service_describes_itself(client):
    info = client.server_info()
    assert info.api_version == "lieaudit.v1"
    assert info.slots >= 1
    assert client.healthy()
    assert client.healthy("lieaudit.v1.AuditService")
    assert not client.healthy("no.such.Service")
