"""What is sent: formats, deterministic archives, external data, hostile and missing files."""

import hashlib
import io
import os
import tarfile

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from lieaudit_client import InvalidInputError
from lieaudit_client.external_data import external_data_files, external_data_locations
from lieaudit_client.sources import CHUNK_BYTES, FilePart, Source, dataset_source, model_source, tar_parts
from onnx import TensorProto, helper, numpy_helper


def _bytes(source, offset=0):
    return b"".join(source.chunks(offset))


def _tensor(name, location=None):
    tensor = numpy_helper.from_array(np.arange(6, dtype=np.float32), name)
    if location is not None:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.ClearField("raw_data")
        for key, value in (("location", location), ("offset", "0"), ("length", "24")):
            tensor.external_data.add(key=key, value=value)
    return tensor


def _graph(name, nodes=(), initializers=()):
    return helper.make_graph(list(nodes), name, [], [], list(initializers))


@pytest.fixture
def nested_model():
    """External tensors wherever onnx allows tensors: initializers, attributes, subgraphs, functions, sparse tensors."""
    sparse = onnx.SparseTensorProto(values=_tensor("sv", "sparse_values.bin"), indices=_tensor("si", "indices.bin"))
    inner = _graph("inner", initializers=[_tensor("w", "sub/inner.bin")])
    outer = _graph("then", [helper.make_node("Loop", [], [], body=inner)])
    graph = _graph(
        "main",
        [
            helper.make_node("If", ["c"], ["y"], then_branch=outer, else_branch=_graph("else")),
            helper.make_node("Constant", [], ["k"], value=_tensor("k", "constant.bin")),
        ],
        [_tensor("a", "weights.bin"), _tensor("b", "weights.bin"), _tensor("inline")],
    )
    graph.sparse_initializer.append(sparse)
    function = helper.make_function(
        "local", "F", [], ["z"], [helper.make_node("Constant", [], ["z"], value=_tensor("f", "function.bin"))], []
    )
    model = helper.make_model(graph, functions=[function])
    model.metadata_props.add(key="location", value="not_a_file.bin")
    return model


EXPECTED = ("constant.bin", "function.bin", "indices.bin", "sparse_values.bin", "sub/inner.bin", "weights.bin")


def test_every_external_tensor_is_found(tmp_path, nested_model):
    path = tmp_path / "m.onnx"
    path.write_bytes(nested_model.SerializeToString())
    assert external_data_locations(path) == EXPECTED


def test_a_model_with_external_data_is_one_archive(tmp_path, nested_model):
    path = tmp_path / "m.onnx"
    path.write_bytes(nested_model.SerializeToString())
    for number, name in enumerate(EXPECTED):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes([number]) * (number * 300))
    (tmp_path / "secret.txt").write_text("not named by the model")
    source = model_source(path)
    assert (source.name, source.format) == ("m.onnx", "tar")
    with tarfile.open(fileobj=io.BytesIO(_bytes(source))) as archive:
        assert archive.getnames() == sorted(["m.onnx", *EXPECTED])
        for name in archive.getnames():
            assert archive.extractfile(name).read() == (tmp_path / name).read_bytes()


def test_onnx_reads_the_archive_back(tmp_path):
    """A model that onnx itself saved with external data, sent, unpacked and loaded again, is the same model."""
    weights = numpy_helper.from_array(np.arange(1000, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1000])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1000])],
        [weights],
    )
    path = tmp_path / "saved.onnx"
    onnx.save(helper.make_model(graph), path, save_as_external_data=True, location="saved.data", size_threshold=0)
    target = tmp_path / "unpacked"
    target.mkdir()
    with tarfile.open(fileobj=io.BytesIO(_bytes(model_source(path)))) as archive:
        # extractall() knows its filter from Python 3.11.4 on, and asks for one from 3.12 on
        for name in archive.getnames():
            (target / name).write_bytes(archive.extractfile(name).read())
    loaded = onnx.load(target / "saved.onnx")
    assert np.array_equal(numpy_helper.to_array(loaded.graph.initializer[0]), np.arange(1000))


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "/etc/passwd", "a/../../secret.bin", "..\\secret.bin", "C:\\x", "link.bin", "d/x", "", "a\0b"],
)
def test_external_data_outside_the_folder_is_never_sent(tmp_path, location):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"secret")
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "d").symlink_to(tmp_path)
    (tmp_path / "x").write_bytes(b"secret")
    path = folder / "m.onnx"
    path.write_bytes(helper.make_model(_graph("g", initializers=[_tensor("w", location)])).SerializeToString())
    with pytest.raises(InvalidInputError, match="leaves the model's folder") as caught:
        model_source(path)
    assert (caught.value.reason, caught.value.subject) == ("EXTERNAL_DATA_OUTSIDE", location)


def test_missing_external_data_is_named(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(_graph("g", initializers=[_tensor("w", "gone.bin")])).SerializeToString())
    with pytest.raises(InvalidInputError, match=r"gone\.bin") as caught:
        model_source(path)
    assert caught.value.reason == "EXTERNAL_DATA_MISSING"


@given(st.data())
def test_any_bytes_are_read_without_harm(tmp_path_factory, data):
    """Garbage, and damaged copies of a real model: the scan ends, and finds nothing that onnx would not."""
    good = helper.make_model(_graph("g", initializers=[_tensor("w", "w.bin")])).SerializeToString()
    position = data.draw(st.integers(0, len(good) - 1))
    damage = data.draw(st.binary(max_size=4))
    content = data.draw(
        st.sampled_from([good[:position], good[:position] + damage + good[position + len(damage) :], damage * 50])
    )
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(content)
    found = set(external_data_locations(path))
    try:
        model = onnx.load_from_string(content)
    except DecodeError:
        return
    named = {
        entry.value
        for tensor in [*model.graph.initializer, *(a.t for n in model.graph.node for a in n.attribute)]
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert found >= named or not found


def test_deep_nesting_ends(tmp_path):
    """2,000 graphs inside each other: no recursion, no error."""
    content = b""
    for _ in range(2000):
        for field in (6, 5, 1):  # attribute.g, node.attribute, graph.node
            size = len(content)
            length = b""
            while True:
                length += bytes([(size & 0x7F) | (0x80 if size > 0x7F else 0)])
                size >>= 7
                if not size:
                    break
            content = bytes([field << 3 | 2]) + length + content
    path = tmp_path / "deep.onnx"
    path.write_bytes(content)
    assert external_data_locations(path) == ()


@pytest.mark.real
def test_real_models_have_no_external_data(real_dir):
    for path in sorted((real_dir / "models").glob("*.onnx")):
        assert external_data_files(path) == ()
        assert model_source(path).sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    for name in ("cat/1.png", "cat/2.JPG", "dog/ünï cödé " + "long" * 30 + ".jpeg", "top.webp"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode() * 100)
    (root / "notes.txt").write_text("no image")
    (root / "empty").mkdir()
    return root


def test_a_folder_is_a_tar_of_its_images(folder):
    source = dataset_source(folder)
    assert (source.name, source.format) == ("images", "tar")
    data = _bytes(source)
    assert len(data) == source.size
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        empty, *names = archive.getnames()
        assert (empty, archive.getmember(empty).isdir()) == ("empty", True)  # a class without images is a class
        assert names == sorted(n for n in names if not n.endswith("txt"))
        assert len(names) == 4
        for name in names:
            assert archive.extractfile(name).read() == (folder / name).read_bytes()


def test_the_same_images_give_the_same_bytes(folder, tmp_path):
    first = dataset_source(folder).sha256()
    copy = tmp_path / "again" / "images"
    for path in sorted(folder.rglob("*.*"), reverse=True):  # made in another order, at another time, with other modes
        target = copy / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        target.chmod(0o600)
        os.utime(target, (1, 1))
    (copy / "empty").mkdir()
    assert dataset_source(copy).sha256() == first
    (copy / "cat" / "1.png").write_bytes(b"other")
    assert dataset_source(copy).sha256() != first
    (copy / "cat" / "1.png").write_bytes((folder / "cat" / "1.png").read_bytes())
    (copy / "empty").rmdir()  # the folders behind it would be other classes
    assert dataset_source(copy).sha256() != first


@given(st.data())
def test_any_offset_gives_the_rest(data):
    parts = data.draw(st.lists(st.binary(max_size=9), max_size=5))
    source = Source("n", "npz", tuple(parts))
    whole = b"".join(parts)
    offset = data.draw(st.integers(0, len(whole)))
    assert _bytes(source, offset) == whole[offset:]


def test_chunks_are_full_and_resume_in_files(tmp_path):
    content = np.random.default_rng(0).bytes(3 * CHUNK_BYTES + 77)
    (tmp_path / "a").write_bytes(content)
    source = Source("n", "tar", (b"head", FilePart(tmp_path / "a", len(content)), b"tail"))
    whole = b"head" + content + b"tail"
    assert [len(chunk) for chunk in source.chunks()] == [CHUNK_BYTES] * 3 + [85]
    for offset in (0, 1, 4, 5, CHUNK_BYTES + 3, len(whole) - 5, len(whole)):
        assert _bytes(source, offset) == whole[offset:]


def test_a_file_that_shrinks_is_noticed(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"12345")
    source = dataset_source(path)
    path.write_bytes(b"123")
    with pytest.raises(InvalidInputError) as caught:
        source.sha256()
    assert caught.value.reason == "FILE_CHANGED"


def test_empty_members_and_files(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with tarfile.open(
        fileobj=io.BytesIO(b"".join(p if isinstance(p, bytes) else b"" for p in tar_parts([("a", tmp_path / "a")])))
    ) as archive:
        assert archive.getmember("a").size == 0


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [("none", None, "NOT_FOUND"), ("x.csv", b"", "UNKNOWN_FORMAT"), ("folder", "dir", "NO_IMAGES")],
)
def test_unusable_data_is_said_before_anything_is_sent(tmp_path, name, content, reason):
    path = tmp_path / name
    if content == "dir":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInputError) as caught:
        dataset_source(path)
    assert caught.value.reason == reason


@pytest.mark.parametrize(("name", "reason"), [("none.onnx", "NOT_FOUND"), ("", "NOT_A_FILE")])
def test_unusable_model_path(tmp_path, name, reason):
    with pytest.raises(InvalidInputError) as caught:
        model_source(tmp_path / name)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("name", "kind"),
    [("m.onnx", "onnx"), ("m.pt2", "pt2"), ("m.SafeTensors", "safetensors"), ("m.tar", "tar"), ("m", "onnx")],
)
def test_formats_of_models(tmp_path, name, kind):
    (tmp_path / name).write_bytes(b"anything")
    source = model_source(tmp_path / name)
    assert (source.name, source.format, _bytes(source)) == (name, kind, b"anything")


def test_file_names_that_are_no_utf8(tmp_path):
    folder = tmp_path / os.fsdecode(b"im\xe9ges")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (folder / os.fsdecode(b"\xe9t\xe9.png")).write_bytes(b"picture")
    (folder / "猫.png").write_bytes(b"picture")
    source = dataset_source(folder)
    assert source.name == "im\\udce9ges"
    with tarfile.open(fileobj=io.BytesIO(b"".join(source.chunks()))) as archive:
        assert archive.getnames() == sorted(["猫.png", os.fsdecode(b"\xe9t\xe9.png")])
    model = folder / os.fsdecode(b"\xe9.onnx")
    model.write_bytes(b"")
    assert model_source(model).name == "\\udce9.onnx"


def test_model_bytes():
    source = model_source(b"bytes")
    assert (source.name, source.format, source.size) == ("model.onnx", "onnx", 5)
