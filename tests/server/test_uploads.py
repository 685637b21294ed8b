"""Uploads against a real server: chunks, resume, deduplication, and every way in which a file can be bad."""

from __future__ import annotations

import io
import json
import re
import tarfile
import warnings
import zipfile

import grpc
import numpy as np
import onnx
import pytest
from lieaudit_api.v1 import dataset_pb2, model_pb2, upload_pb2

MIB = 2**20


def status(service, kind, digest):
    stub = service.models if kind == "model" else service.datasets
    return stub.GetUploadStatus(upload_pb2.UploadStatusRequest(sha256=digest))


def refused(kit, call, code, reason):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    info = kit.reason_of(caught.value)
    assert (caught.value.code().name, info.reason) == (code, reason)
    return info


def test_a_model_goes_up_in_chunks_and_is_there(service, kit):
    data = kit.tiny_model(1, pad=5 * MIB // 2)
    assert not status(service, "model", kit.sha256(data)).complete
    model = service.upload_model(data, name="net.onnx")
    assert (model.sha256, model.name, model.format) == (kit.sha256(data), "net.onnx", "onnx")
    assert (model.size_bytes, model.owner) == (len(data), "local")
    assert status(service, "model", model.sha256).complete
    assert service.models.GetModel(model_pb2.GetModelRequest(sha256=model.sha256)) == model
    blob = service.data_dir / "blobs" / model.sha256[:2] / model.sha256
    assert blob.read_bytes() == data
    assert not list((service.data_dir / "partial").iterdir())


def test_a_dataset_is_checked_and_described(service, kit):
    dataset = service.upload_dataset(kit.tiny_dataset(1, count=7), name="images.npz")
    assert (dataset.image_count, dataset.has_labels, dataset.dtype) == (7, True, "float32")
    assert list(dataset.image_shape) == [1, 8, 8]


def test_the_second_upload_of_a_file_needs_only_its_header(service, kit):
    data = kit.tiny_model(2)
    first = service.upload_model(data)
    only_header = iter([next(kit.messages(data, "onnx"))])
    assert service.models.UploadModel(only_header, timeout=kit.SECONDS) == first


def test_an_upload_cut_in_half_goes_on_from_the_committed_byte(service, kit):
    data = kit.tiny_model(3, pad=12 * MIB)
    half = 10 * MIB
    refused(
        kit,
        lambda: service.models.UploadModel(kit.messages(data, "onnx", end=half), timeout=kit.SECONDS),
        "ABORTED",
        "UPLOAD_INCOMPLETE",
    )
    known = status(service, "model", kit.sha256(data))
    assert (known.committed_bytes, known.complete) == (half, False)
    refused(kit, lambda: service.upload_model(data), "OUT_OF_RANGE", "UPLOAD_OFFSET")
    assert service.upload_model(data, offset=half).size_bytes == len(data)


def test_a_broken_stream_keeps_what_arrived(service, kit):
    data = kit.tiny_model(4, pad=4 * MIB)

    def broken():
        yield from kit.messages(data, "onnx", end=3 * MIB)
        kit.wait_for(lambda: any(f.stat().st_size >= MIB for f in (service.data_dir / "partial").iterdir()))
        raise RuntimeError("the client dies here")

    with pytest.raises(grpc.RpcError):
        service.models.UploadModel(broken(), timeout=kit.SECONDS)
    known = kit.wait_for(lambda: status(service, "model", kit.sha256(data)).committed_bytes)
    assert MIB <= known <= 3 * MIB
    kit.wait_for(lambda: "UPLOAD_IN_PROGRESS" not in _try(service, kit, data))
    assert status(service, "model", kit.sha256(data)).complete


def _try(service, kit, data):
    try:
        offset = status(service, "model", kit.sha256(data)).committed_bytes
        service.upload_model(data, offset=offset)
    except grpc.RpcError as error:
        return kit.reason_of(error).reason
    return ""


def test_a_wrong_checksum_keeps_nothing(service, kit):
    data = kit.tiny_model(5)
    other = kit.sha256(b"something else")
    stream = kit.messages(data, "onnx", announced=other)
    refused(kit, lambda: service.models.UploadModel(stream), "INVALID_ARGUMENT", "CHECKSUM_MISMATCH")
    assert status(service, "model", other).committed_bytes == 0


def custom_domain_model():
    node = onnx.helper.make_node("Mystery", ["x"], ["y"], domain="com.example")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, ["N", 1, 8, 8])], [value("y", 1, ["N", 3])])
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.example", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def external_model(location):
    tensor = onnx.numpy_helper.from_array(np.zeros((64, 3), np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    value = onnx.helper.make_tensor_value_info
    nodes = [
        onnx.helper.make_node("Flatten", ["x"], ["f"]),
        onnx.helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [value("x", 1, ["N", 1, 8, 8])], [value("y", 1, ["N", 3])], [tensor])
    opsets = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def tar_of(*members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
    return buffer.getvalue()


def safetensors(header, size):
    text = header if isinstance(header, str) else json.dumps(header)
    return len(text).to_bytes(8, "little") + text.encode() + bytes(size)


def tensor(dtype, shape, start, stop):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def varint(number):
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def crowded(inside):
    """An ONNX file of 40 MB whose graph holds 20 million empty things of two bytes each."""
    return b"\x08\x08" + field(7, inside)


EMPTY = 20_000_000
WEIGHTS = np.zeros((64, 3), np.float32).tobytes()

BAD_MODELS = {
    "text": (b"hello, this is no model", "onnx", "NOT_ONNX"),
    "external data outside": (external_model("../../../etc/passwd"), "onnx", "EXTERNAL_DATA_OUTSIDE"),
    "external data absolute": (external_model("/etc/passwd"), "onnx", "EXTERNAL_DATA_OUTSIDE"),
    "external data missing": (external_model("w.bin"), "onnx", "EXTERNAL_DATA_MISSING"),
    "tar traversal": (tar_of(("../m.onnx", external_model("w.bin"))), "tar", "ARCHIVE_UNSAFE"),
    "tar absolute": (tar_of(("/srv/m.onnx", external_model("w.bin"))), "tar", "ARCHIVE_UNSAFE"),
    "tar link": (tar_of(("m.onnx", external_model("w.bin")), ("w.bin", "/etc/passwd")), "tar", "ARCHIVE_UNSAFE"),
    "tar twice": (tar_of(("m.onnx", b"a"), ("m.onnx", b"b")), "tar", "ARCHIVE_UNSAFE"),
    "tar without a model": (tar_of(("w.bin", WEIGHTS)), "tar", "ARCHIVE_MODEL"),
    "tar with two models": (tar_of(("a.onnx", b"a"), ("b.onnx", b"b")), "tar", "ARCHIVE_MODEL"),
    "no tar": (b"x" * 2000, "tar", "NOT_AN_ARCHIVE"),
    "tar with a long name": (tar_of(("n" * 300 + ".onnx", external_model("w.bin"))), "tar", "ARCHIVE_NAME_TOO_LONG"),
    "tar with a long path": (tar_of(("n/" * 3000 + "m.onnx", external_model("w.bin"))), "tar", "ARCHIVE_NAME_TOO_LONG"),
    "20 million empty nodes": (crowded(b"\x0a\x00" * EMPTY), "onnx", "GRAPH_TOO_LARGE"),
    "20 million empty weights": (crowded(b"\x2a\x00" * EMPTY), "onnx", "GRAPH_TOO_LARGE"),
    "20 million empty attributes": (crowded(field(1, b"\x2a\x00" * EMPTY)), "onnx", "GRAPH_TOO_LARGE"),
    "no safetensors": (b"\xff" * 100, "safetensors", "NOT_SAFETENSORS"),
    "safetensors that overlap": (
        safetensors({"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [2], 4, 12)}, 12),
        "safetensors",
        "NOT_SAFETENSORS",
    ),
    "safetensors with a gap": (
        safetensors({"a": tensor("F32", [1], 0, 4), "b": tensor("F32", [1], 8, 12)}, 12),
        "safetensors",
        "NOT_SAFETENSORS",
    ),
    "safetensors of another length": (
        safetensors({"a": tensor("F32", [1000, 1000], 0, 8)}, 8),
        "safetensors",
        "NOT_SAFETENSORS",
    ),
    "safetensors of negative size": (
        safetensors({"a": tensor("F32", [-1, -2], 0, 8)}, 8),
        "safetensors",
        "NOT_SAFETENSORS",
    ),
    "safetensors of an unknown dtype": (
        safetensors({"a": tensor("Q7", [8], 0, 8)}, 8),
        "safetensors",
        "NOT_SAFETENSORS",
    ),
    "safetensors with a name twice": (
        safetensors('{"a": %s, "a": %s}' % ((json.dumps(tensor("F32", [2], 0, 8)),) * 2), 8),
        "safetensors",
        "NOT_SAFETENSORS",
    ),
    "no pt2": (b"\xff" * 100, "pt2", "NOT_PT2"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_models_are_refused_with_their_reason(service, kit, case):
    data, format_, reason = BAD_MODELS[case]
    refused(kit, lambda: service.upload_model(data, format_), "INVALID_ARGUMENT", reason)
    assert status(service, "model", kit.sha256(data)).committed_bytes == 0


def test_safetensors_are_taken(service):
    entries = {"b": tensor("F16", [], 8, 10), "a": tensor("F32", [1, 2], 0, 8), "none": tensor("I64", [0, 3], 10, 10)}
    data = safetensors({"__metadata__": {"format": "pt"}, **entries}, 10)
    assert service.upload_model(data, "safetensors").format == "safetensors"


def test_a_truncated_model_is_refused(service, kit):
    data = kit.tiny_model(6)[:-40]
    refused(kit, lambda: service.upload_model(data), "INVALID_ARGUMENT", "MODEL_TRUNCATED")


def test_a_tar_with_external_data_is_accepted(service):
    data = tar_of(("net/m.onnx", external_model("w.bin")), ("net/w.bin", WEIGHTS))
    assert service.upload_model(data, "tar").format == "tar"


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def zip_of(*members):
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(buffer, "w") as archive:  # it warns of what is meant
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


IMAGES = npy(np.zeros((2, 1, 8, 8), np.float32))
NO_IMAGE = b"no image at all"

BAD_DATASETS = {
    "x twice": (zip_of(("x.npy", IMAGES), ("x.npy", IMAGES)), "npz", "UNSAFE_ARCHIVE"),
    "y twice": (zip_of(("x.npy", IMAGES), *[("y.npy", npy(np.zeros(2, int)))] * 2), "npz", "UNSAFE_ARCHIVE"),
    "image twice in a zip": (zip_of(("a.png", NO_IMAGE), ("a.png", NO_IMAGE)), "zip", "UNSAFE_ARCHIVE"),
    "image twice in a tar": (tar_of(("a.png", NO_IMAGE), ("a.png", NO_IMAGE)), "tar", "UNSAFE_ARCHIVE"),
    "no image in a zip": (zip_of(("a.png", NO_IMAGE)), "zip", "BAD_IMAGE"),
    "no image in a tar": (tar_of(("a.jpg", NO_IMAGE)), "tar", "BAD_IMAGE"),
    "half a header": (tar_of(("a.png", b"\x89PNG\r\n\x1a\n\0\0")), "tar", "BAD_IMAGE"),
    "pickled objects": (npz(x=np.array([{"a": 1}], dtype=object)), "npz", "PICKLED_OBJECTS"),
    "NaN": (npz(x=np.full((2, 1, 8, 8), np.nan, np.float32)), "npz", "NON_FINITE"),
    "no x": (npz(z=np.zeros(3)), "npz", "MISSING_ARRAY"),
    "no zip": (b"not a zip at all", "npz", "DAMAGED_ARCHIVE"),
    "empty tar": (tar_of(), "tar", "NO_IMAGES"),
}


@pytest.mark.parametrize("case", BAD_DATASETS)
def test_bad_datasets_are_refused_with_their_reason(service, kit, case):
    data, format_, reason = BAD_DATASETS[case]
    with pytest.raises(grpc.RpcError) as caught:
        service.upload_dataset(data, format_)
    assert kit.reason_of(caught.value).reason == reason
    assert caught.value.code().name == "INVALID_ARGUMENT"
    assert not re.search(r"0x[0-9a-f]{4,}|BytesIO|<_io", caught.value.details())  # of no use to whoever reads it


def header(**fields):
    values = {"sha256": "0" * 64, "size_bytes": 10, "name": "n", "format": "onnx", **fields}
    return upload_pb2.UploadRequest(header=upload_pb2.UploadHeader(**values))


BAD_STREAMS = {
    "nothing": ([], "UPLOAD_HEADER_MISSING"),
    "no header": ([upload_pb2.UploadRequest(chunk=b"x")], "UPLOAD_HEADER_MISSING"),
    "empty message": ([upload_pb2.UploadRequest()], "UPLOAD_HEADER_MISSING"),
    "upper-case digest": ([header(sha256="A" * 64)], "INVALID_SHA256"),
    "path for a digest": ([header(sha256="../../../../etc/passwd")], "INVALID_SHA256"),
    "unknown format": ([header(format="exe")], "INVALID_REQUEST"),
    "0 bytes": ([header(size_bytes=0)], "EMPTY_FILE"),
    "too large": ([header(size_bytes=2**50)], "UPLOAD_TOO_LARGE"),
    "long name": ([header(name="n" * 1000)], "INVALID_REQUEST"),
    "two headers": ([header(), header()], "INVALID_REQUEST"),
    "too many bytes": ([header(), upload_pb2.UploadRequest(chunk=b"x" * 11)], "UPLOAD_TOO_LONG"),
    "large chunk": (
        [header(size_bytes=3 * MIB, sha256="1" * 64), upload_pb2.UploadRequest(chunk=bytes(MIB + 1))],
        "CHUNK_TOO_LARGE",
    ),
}


@pytest.mark.parametrize("case", BAD_STREAMS)
def test_bad_streams_are_refused_with_their_reason(service, kit, case):
    stream, reason = BAD_STREAMS[case]
    refused(kit, lambda: service.models.UploadModel(iter(stream)), "INVALID_ARGUMENT", reason)


def test_lists_have_pages_newest_first(service, kit):
    uploaded = [service.upload_dataset(kit.tiny_dataset(100 + i, count=2)).sha256 for i in range(3)]
    token, pages = "", []
    while True:
        request = dataset_pb2.ListDatasetsRequest(page_size=2, page_token=token)
        answer = service.datasets.ListDatasets(request)
        pages.append([d.sha256 for d in answer.datasets])
        if not (token := answer.next_page_token):
            break
    flat = [digest for page in pages for digest in page]
    assert flat[:3] == uploaded[::-1]
    assert len(set(flat)) == len(flat)
    assert max(map(len, pages)) == 2


@pytest.mark.parametrize("token", ["x", "-1", "9" * 40, "١"])
def test_a_foreign_page_token_is_refused(service, kit, token):
    request = model_pb2.ListModelsRequest(page_token=token)
    refused(kit, lambda: service.models.ListModels(request), "INVALID_ARGUMENT", "INVALID_PAGE_TOKEN")


def test_a_deleted_model_is_gone_with_its_blob_and_can_come_back(service, kit):
    data = kit.tiny_model(7)
    digest = service.upload_model(data).sha256
    service.models.DeleteModel(model_pb2.DeleteModelRequest(sha256=digest))
    get = model_pb2.GetModelRequest(sha256=digest)
    refused(kit, lambda: service.models.GetModel(get), "NOT_FOUND", "MODEL_NOT_FOUND")
    assert not (service.data_dir / "blobs" / digest[:2] / digest).exists()
    assert service.upload_model(data).sha256 == digest


def test_two_streams_of_one_file_do_not_mix(service, kit):
    data = kit.tiny_model(8, pad=3 * MIB)
    stream = kit.messages(data, "onnx")
    first_parts = [next(stream), next(stream)]
    go_on = []

    def slow():
        yield from first_parts
        kit.wait_for(lambda: go_on)
        yield from stream

    first = service.models.UploadModel.future(slow(), timeout=kit.SECONDS)
    kit.wait_for(lambda: list((service.data_dir / "partial").iterdir()))
    info = refused(kit, lambda: service.upload_model(data), "ABORTED", "UPLOAD_IN_PROGRESS")
    assert info.metadata["hint"]
    go_on.append(True)
    assert first.result().sha256 == kit.sha256(data)


def test_quota_and_full_disk_refuse_before_the_first_byte(start, kit):
    data = kit.tiny_model(9)
    small = start("quota", quota_bytes_per_owner=str(len(data) + 10))
    small.upload_model(data)
    refused(kit, lambda: small.upload_model(kit.tiny_model(10)), "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
    full = start("full", min_free_bytes=str(2**61))
    with pytest.raises(grpc.RpcError) as caught:
        full.upload_model(data)
    assert kit.reason_of(caught.value).reason == "DISK_FULL"
    assert kit.retry_seconds(caught.value) > 0
