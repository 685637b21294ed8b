"""The torch path through a real server: from the command line, the synchronous and the asyncio client."""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lieaudit_server", reason="needs lieaudit-server")
pytest.importorskip("lieaudit_client", reason="needs lieaudit-client")

from lieaudit_client import Client
from lieaudit_client.aio import AsyncClient
from lieaudit_client.exceptions import ClientError
from lieaudit_server.embedded import EmbeddedServer
from safetensors.torch import save_file

from lieaudit.torch import export

SPEC = {"generators": ["rotation"], "method": "torch", "bootstrap": 100, "relative_images": 2}

FACTORY = """
import torch


def make():
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.GELU(), torch.nn.Conv2d(8, 8, 3, stride=2),
        torch.nn.Flatten(), torch.nn.Linear(288, 5),
    )
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An ONNX model, its .pt2 and safetensors, another model's, images, and the factory's module."""
    folder = tmp_path_factory.mktemp("torch-service")
    (folder / "factory_of_a_test.py").write_text(FACTORY)
    made: dict = {}
    exec(FACTORY, made)  # noqa: S102 - the same text that the server imports
    images = np.random.default_rng(0).normal(size=(12, 3, 14, 14)).astype(np.float32)
    np.savez(folder / "images.npz", x=images)
    for name, seed in (("model", 0), ("other", 1)):
        torch.manual_seed(seed)
        module = made["make"]()
        export(module, images[:2], path=folder / f"{name}.onnx", with_source=folder / f"{name}.pt2")
        save_file(module.state_dict(), folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def target(files):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(files))
        with EmbeddedServer(torch_factories="small=factory_of_a_test:make") as target:
            yield target


def check(report):
    """Both methods' numbers are there and agree, and the source was proven."""
    results = report["results"]
    assert set(results) == {"rotation"}
    for result in results.values():
        assert result["method"] == "torch"
        agreement = result["agreement"]
        assert agreement["method"] in {"forward", "finite_difference"}
        # which images float32 spoils differs between processors: not every generator can be checked on all of them
        assert agreement["verdict"] in {"agrees", "could_not_check"}
        assert agreement["agrees"] is (agreement["verdict"] == "agrees")
        assert agreement["lee"] > 0
        assert agreement["images"] > 0
    assert report["model"]["precision"] == "float64"
    (note,) = (note for note in report["model"]["notes"] if "largest deviation" in note)
    assert note.endswith("the ONNX graph's, in float32")
    assert report["environment"]["torch"].startswith(torch.__version__.split("+")[0])
    return [results[name]["lee"] for name in sorted(results)]


def command(*arguments):
    script = Path(sys.executable).with_name("lieaudit")
    return subprocess.run([script, *map(str, arguments)], check=False, capture_output=True, text=True, timeout=300)


def test_the_command_takes_both_routes(target, files):
    values = []
    for route in (
        ["--torch-source", files / "model.pt2"],
        ["--torch-factory", "small", "--weights", files / "model.safetensors"],
    ):
        done = command(
            "audit", files / "model.onnx", "--data", files / "images.npz", "--server", target, "--method", "torch",
            "--generators", "rotation", "--head", "softmax", *route, "--json", "-",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        values.append(check(json.loads(done.stdout)))
    # the same weights in float64: the two routes differ by the order of no operation
    assert values[0] == pytest.approx(values[1], rel=1e-10)


def as_dict(report):
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(report, preserving_proto_field_name=True)


def test_the_clients_take_both_routes(target, files):
    model, images = files / "model.onnx", files / "images.npz"
    with Client(target) as client:
        source = client.upload_model(files / "model.pt2").sha256
        weights = client.upload_model(files / "model.safetensors").sha256
        routes = [SPEC | {"torch_source": source}, SPEC | {"torch_factory": "small", "torch_weights": weights}]
        reports = [client.audit(model, images, spec) for spec in routes]

    async def main():
        async with AsyncClient(target) as client:
            return [await client.audit(model, images, spec) for spec in routes]

    first, *others = [as_dict(report) for report in (*reports, *asyncio.run(main()))]
    for other in others:
        assert check(first) == pytest.approx(check(other), rel=1e-10)
    # the report says which files were used by their content, not by a path of the server
    assert first["spec"]["torch_source"] == source


def test_another_models_source_is_refused(target, files):
    with Client(target) as client:
        spec = {"torch_source": client.upload_model(files / "other.pt2").sha256}
        with pytest.raises(ClientError) as raised:
            client.audit(files / "model.onnx", files / "images.npz", SPEC | spec)
    assert raised.value.reason == "SOURCE_MISMATCH"
    assert "source mean" in str(raised.value)
    assert "ONNX mean" in str(raised.value)


class Planted:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(("kind", "form"), [("pt2", "torch.save"), ("pt2", "planted"), ("safetensors", "pickle")])
def test_malicious_containers_are_refused_and_run_nothing(target, files, tmp_path, kind, form):
    mark, path = tmp_path / "mark", tmp_path / f"bad.{kind}"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Planted(mark)))
    elif form == "torch.save":
        torch.save(Planted(mark), path)
    else:
        data = (files / f"model.{kind}").read_bytes()
        path.write_bytes(planted_in_zip(data, mark) if kind == "pt2" else data + pickle.dumps(Planted(mark)))
    with Client(target) as client, pytest.raises(ClientError) as raised:
        client.upload_model(path)
    assert raised.value.reason in {"UNSAFE_PICKLE", "UNSAFE_ARCHIVE", "NOT_PT2", "NOT_SAFETENSORS"}
    assert not mark.exists()


def planted_in_zip(data, mark):
    import io
    import zipfile

    buffer, harm = io.BytesIO(), io.BytesIO()
    torch.save(Planted(mark), harm)
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as result:
        for name in source.namelist():
            result.writestr(name, harm.getvalue() if name.endswith("sample_inputs/model.pt") else source.read(name))
    return buffer.getvalue()


def test_an_unknown_factory_and_a_missing_source_are_named(target, files):
    with Client(target) as client:
        for spec in ({"torch_factory": "os:system"}, {}):
            with pytest.raises(ClientError) as raised:
                client.audit(files / "model.onnx", files / "images.npz", SPEC | spec)
            assert raised.value.reason in {"UNKNOWN_FACTORY", "INVALID_SPEC"}
