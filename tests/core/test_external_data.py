"""A model whose weights lie in other files is the same model, audited from whatever folder the process runs in."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace

import numpy as np
import onnx
import pytest
from lieaudit_client.exceptions import InvalidInputError
from lieaudit_client.external_data import external_data_files
from lieaudit_client.sources import model_source
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit import AuditSpec
from lieaudit.errors import LieauditError
from lieaudit.graph.read import read_model
from lieaudit.runtime import serialised

RNG = np.random.default_rng(6)
KERNEL = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32) / 5
SHIFT = RNG.standard_normal((4, 1, 1)).astype(np.float32)
SCALE = RNG.standard_normal((4, 1, 1)).astype(np.float32)
IMAGES = RNG.standard_normal((6, 3, 8, 8)).astype(np.float32)


def net(kernel=KERNEL):
    """Weights as initializer, as a Constant's attribute, in an If's branch and in a function's body."""
    shift = helper.make_node("Constant", [], ["shift"], value=numpy_helper.from_array(SHIFT, "shift"))
    branches = [
        helper.make_graph(
            [helper.make_node("Add", ["c", "by"], [f"moved{i}"])],
            f"branch{i}",
            [],
            [helper.make_tensor_value_info(f"moved{i}", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(SHIFT + i, "by")],
        )
        for i in range(2)
    ]
    scaled = helper.make_function(
        "own",
        "scaled",
        ["t"],
        ["u"],
        [
            helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(SCALE, "s")),
            helper.make_node("Mul", ["t", "s"], ["u"]),
        ],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["c0"]),
        shift,
        helper.make_node("Add", ["c0", "shift"], ["c"]),
        helper.make_node("If", ["yes"], ["moved"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("scaled", ["moved"], ["u"], domain="own"),
        helper.make_node("Tanh", ["u"], ["t"]),
        helper.make_node("GlobalAveragePool", ["t"], ["p"]),
        helper.make_node("Flatten", ["p"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(np.array(True), "yes")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=[scaled])


def move_out(path):
    """Store every tensor of `path` beside it, in two files, wherever in the model it is."""
    model = onnx.load(path)
    tensors = [*model.graph.initializer]
    for node in [*model.graph.node, *(node for function in model.functions for node in function.node)]:
        for attribute in node.attribute:
            tensors += [attribute.t] if attribute.HasField("t") else []
            tensors += attribute.g.initializer if attribute.HasField("g") else []
    for number, tensor in enumerate(tensors):
        file = path.parent / f"weights{number % 2}.bin"
        data = numpy_helper.to_array(tensor).tobytes()
        start = file.stat().st_size if file.exists() else 0
        with file.open("ab") as stream:
            stream.write(data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", file.name), ("offset", start), ("length", len(data))):
            tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(model.SerializeToString())
    return len(tensors)


@pytest.fixture
def saved(tmp_path):
    """Folders with the same model, whole and with its weights outside."""
    for name in ("whole", "apart"):
        (tmp_path / name).mkdir()
        onnx.save(net(), tmp_path / name / "net.onnx")
    assert move_out(tmp_path / "apart" / "net.onnx") == 6
    return tmp_path


@pytest.mark.parametrize("method", ["forward", "finite_difference"])
@pytest.mark.parametrize("inline_bytes", [serialised._INLINE_BYTES, 0])
def test_the_audit_is_that_of_the_whole_file(saved, monkeypatch, method, inline_bytes):
    """Also where weights are too large for a message and onnxruntime reads them from a file."""
    monkeypatch.setattr(serialised, "_INLINE_BYTES", inline_bytes)
    spec = AuditSpec(generators=("rotation", "translation_x"), method=method, layerwise="module")
    whole, apart = (lieaudit.audit(saved / name / "net.onnx", IMAGES, spec) for name in ("whole", "apart"))
    assert apart.results == whole.results
    assert apart.layerwise == whole.layerwise
    assert apart.results["rotation"].lee > 0
    assert replace(apart.model, sha256="") == replace(whole.model, sha256="")


def test_onnx_saved_it(tmp_path):
    onnx.save(net(), tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    spec = AuditSpec(generators=("rotation",))
    found = lieaudit.audit(tmp_path / "net.onnx", IMAGES, spec)
    assert found.results == lieaudit.audit(net().SerializeToString(), IMAGES, spec).results


def test_the_digest_is_of_the_weights_too(tmp_path):
    """Two versions of a model may differ in nothing but the file beside it."""
    digests = set()
    for name, kernel in (("one", KERNEL), ("same", KERNEL), ("other", KERNEL + 1)):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "net.onnx"
        onnx.save(net(kernel), path)
        move_out(path)
        digests.add(read_model(path).sha256)
    assert len({(tmp_path / name / "net.onnx").read_bytes() for name in ("one", "other")}) == 1
    assert len(digests) == 2


def hub_cache(folder, model="one", data="one"):
    """Lay a model out as a hub's cache does: real files by digest in ``blobs``, links to them in a snapshot."""
    snapshot = folder / "models--a--b" / "snapshots" / "3f1c" / "onnx"
    snapshot.mkdir(parents=True)
    blobs = {name: folder / "models--a--b" / "blobs" / name for name in ("one", "two")}
    for blob in blobs.values():
        blob.mkdir(parents=True)
    onnx.save(net(), folder / "net.onnx", save_as_external_data=True, location="net.onnx_data", size_threshold=0)
    (folder / "net.onnx").rename(blobs[model] / "7d2db8f8")
    (folder / "net.onnx_data").rename(blobs[data] / "c28a91b0")
    (snapshot / "net.onnx").symlink_to(f"../../../blobs/{model}/7d2db8f8")
    (snapshot / "net.onnx_data").symlink_to(f"../../../blobs/{data}/c28a91b0")
    return snapshot / "net.onnx"


def test_links_of_a_hub_s_cache_are_followed(tmp_path):
    path = hub_cache(tmp_path)
    spec = AuditSpec(generators=("rotation",))
    found = lieaudit.audit(path, IMAGES, spec)
    assert found.results == lieaudit.audit(net().SerializeToString(), IMAGES, spec).results
    files = external_data_files(path)
    assert [(name, file.resolve().name) for name, file in files] == [("net.onnx_data", "c28a91b0")]
    source = model_source(path)
    assert source.format == "tar"
    with tarfile.open(fileobj=io.BytesIO(b"".join(source.chunks()))) as tar:
        assert [(m.name, m.isreg()) for m in tar] == [("net.onnx", True), ("net.onnx_data", True)]


@pytest.mark.parametrize(
    "case", ["data elsewhere", "only the data is a link", "a folder is a link", "a chain of links"]
)
def test_no_other_link_is_followed(tmp_path, case):
    """A model from elsewhere must not have the server read, or the client send, a file that is not its own."""
    path = hub_cache(tmp_path, data="two" if case == "data elsewhere" else "one")
    data = path.with_name("net.onnx_data")
    secret = tmp_path / "elsewhere" / "secret"
    secret.parent.mkdir()
    secret.write_bytes(data.read_bytes())
    if case == "only the data is a link":
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    elif case == "a folder is a link":
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            next(entry for entry in tensor.external_data if entry.key == "location").value = "inner/secret"
        path.resolve().write_bytes(model.SerializeToString())
        (path.parent / "inner").symlink_to(secret.parent)
    elif case == "a chain of links":
        data.unlink()
        middle = path.resolve().with_name("middle")
        middle.symlink_to(secret)
        data.symlink_to(middle)
    for call in (lambda: read_model(path), lambda: external_data_files(path)):
        with pytest.raises((LieauditError, InvalidInputError)) as caught:
            call()
        assert caught.value.reason == "EXTERNAL_DATA_OUTSIDE"
