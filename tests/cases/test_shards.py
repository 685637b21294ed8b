"""One folder of shards for many audits: no audit is ever answered from another one's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
import lieaudit.shards as module
from lieaudit.data import Dataset
from lieaudit.graph.load import load_model
from lieaudit.images import Images
from lieaudit.shards import NOT_IN_THE_KEY, DirectoryShards, audit_digest, audit_shards, compute_once
from lieaudit.spec import AuditSpec, Preprocessing

RNG = np.random.default_rng(5)
IMAGES = RNG.standard_normal((5, 3, 8, 10)).astype(np.float32)
SPEC = AuditSpec(generators=("rotation", "translation_x"), layerwise="module", head="softmax", threads=1, bootstrap=200)


def net(seed: int) -> bytes:
    """Convolution, tanh, mean, matrix: two seeds differ in nothing but their weights."""
    rng = np.random.default_rng(seed)
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["c"], ["t"]),
        helper.make_node("ReduceMean", ["t"], ["p"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["p", "head"], ["logits"]),
    ]
    tensors = [
        numpy_helper.from_array(rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "kernel"),
        numpy_helper.from_array(rng.standard_normal((4, 5)).astype(np.float32), "head"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 10])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])
    graph = helper.make_graph(nodes, "net", [image], [logits], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


class Audits:
    """What one audit is made of, in ways that differ from the first in one thing."""

    def __init__(self, **changed: Any) -> None:
        self.model = changed.get("model", net(0))
        self.images = changed.get("images", IMAGES)
        self.spec = replace(SPEC, **changed.get("spec", {}))

    def report(self, shards: DirectoryShards | None) -> lieaudit.Report:
        return lieaudit.audit(self.model, self.images, self.spec, shards=shards)


@pytest.mark.parametrize(
    "changed",
    [
        {"model": net(1)},
        {"images": IMAGES[::-1].copy()},
        {"images": IMAGES[:4]},
        {"spec": {"max_images": 3}},
        {"spec": {"head": "identity"}},
        {"spec": {"padding": "circular"}},
        {"spec": {"method": "finite_difference"}},
        {"spec": {"generators": ("scale", "translation_x")}},
        {"spec": {"layerwise": "op"}},
        {"spec": {"seed": 3}},
    ],
    ids=["model", "images", "fewer", "max_images", "head", "padding", "method", "generators", "layerwise", "seed"],
)
def test_one_folder_for_two_audits_keeps_them_apart(tmp_path, changed):
    first, second = Audits(), Audits(**changed)
    shards = DirectoryShards(tmp_path)
    own = first.report(shards)
    found, alone = second.report(shards), second.report(None)
    assert found.results == alone.results
    assert found.layerwise == alone.layerwise
    again = first.report(shards)
    assert (again.results, again.layerwise) == (own.results, own.layerwise)
    # the second time nothing but the cross-check and the head's evidence runs
    assert again.timing.rows < own.timing.rows


def test_torch_modules_with_equal_weights_are_kept_apart(tmp_path):
    torch = pytest.importorskip("torch")
    import lieaudit.torch

    class Net(torch.nn.Module):
        def __init__(self, squash) -> None:
            super().__init__()
            self.conv, self.fc, self.squash = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 5), squash

        def forward(self, x):
            return self.fc(self.squash(self.conv(x)).mean((2, 3)))

    torch.manual_seed(0)
    first = Net(torch.tanh)
    second = Net(torch.sigmoid)
    second.load_state_dict(first.state_dict())
    spec = replace(SPEC, layerwise="none")
    shards = DirectoryShards(tmp_path)
    own, found = (lieaudit.torch.audit(net, IMAGES, spec, shards=shards) for net in (first, second))
    alone = lieaudit.torch.audit(second, IMAGES, spec)
    assert found.results == alone.results
    assert found.results != own.results
    again = lieaudit.torch.audit(first, IMAGES, spec, shards=shards)
    assert again.results == own.results
    assert again.timing.rows == 0


def test_an_interrupted_torch_audit_gives_the_same_bits(tmp_path):
    torch = pytest.importorskip("torch")
    import lieaudit.torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.LazyLinear(5))
    net(torch.zeros(1, 3, 8, 10))
    images = RNG.standard_normal((70, 3, 8, 10)).astype(np.float32)
    spec = replace(SPEC, layerwise="none")
    whole = lieaudit.torch.audit(net, images, spec, shards=DirectoryShards(tmp_path))
    lost = sorted(tmp_path.glob("audit-torch-00000000-*"))
    assert len(lost) == 1
    lost[0].unlink()
    assert lieaudit.torch.audit(net, images, spec, shards=DirectoryShards(tmp_path)).results == whole.results


def prepared(spec: AuditSpec = SPEC, images: np.ndarray | None = None) -> Images:
    dataset = Dataset.from_arrays(IMAGES if images is None else images)
    return Images(dataset, load_model(net(0), SPEC), spec)


OTHER: Mapping[str, Any] = {
    "generators": ("scale",),
    "method": "forward",
    "head": "identity",
    "convention": "reference",
    "interpolation": "bicubic",
    "padding": "circular",
    "layerwise": "op",
    "depth": 1,
    "layouts": {"c": "NCHW"},
    "input": "image",
    "output": "logits",
    "input_layout": "NCHW",
    "preprocessing": Preprocessing(),
    "classes": ("a", "b", "c", "d", "e"),
    "class_offset": 1,
    "max_images": 4,
    "seed": 1,
    "bootstrap": 500,
    "relative_images": 3,
    "provider": "cpu",
    "allow_fallback": True,
    "threads": 2,
    "budget_mib": 64,
    "step": 0.1,
    "secant_px": 0.5,
    "torch_source": "net.pt2",
    "torch_factory": "net",
    "torch_weights": "net.safetensors",
    "feeds": {"threshold": 0.5},
    "custom": {"turn": [[0, 1, 0], [-1, 0, 0]]},
    "size": (8, 10),
    "parts": ("p=y:invariant",),
    "anchors": {"a.npy": [[1.0, 2.0]]},
}
"""Another value of every field."""

BESIDE: Mapping[str, Any] = {
    "secant_px": {"layerwise": "none"},  # secants have no layers
    "parts": {"head": "auto"},
    "anchors": {"head": "auto", "parts": ("p=y:points,anchors=a.npy",), "anchors": {"a.npy": [[3.0, 4.0]]}},
}
"""What a field's other value needs."""

ANOTHER_WAY = {"provider"}
"""Fields of which this machine may have one value only: that they are in the key is seen from its parts."""


@pytest.mark.parametrize("name", [field.name for field in fields(AuditSpec)])
def test_every_field_changes_the_key_or_is_listed(name, monkeypatch):
    assert name in OTHER, f"{name}: give another value of it here"
    spec = replace(SPEC, **BESIDE.get(name, {}))
    here = audit_digest("model", prepared(spec))
    if name in ANOTHER_WAY:
        monkeypatch.setattr(module, "NOT_IN_THE_KEY", {**NOT_IN_THE_KEY, name: "taken out"})
        assert audit_digest("model", prepared()) != here
        return
    there = audit_digest("model", prepared(replace(spec, **{name: OTHER[name]})))
    replaced = name in {"max_images", "threads"}  # by the number of images, and of threads that run
    assert (there == here) == (name in NOT_IN_THE_KEY and not replaced)


def test_listed_fields_exist():
    assert set(NOT_IN_THE_KEY) <= {field.name for field in fields(AuditSpec)}


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("METRIC_VERSION", -1),
        ("device_kind", lambda provider: f"another than {provider}"),
        ("version_of", lambda distribution: f"another {distribution}"),
    ],
)
def test_versions_and_processor_are_in_the_key(what, value, monkeypatch):
    here = audit_digest("model", prepared())
    monkeypatch.setattr(module, what, value)
    assert audit_digest("model", prepared()) != here


@pytest.mark.parametrize("distribution", ["onnxruntime", "onnx", "numpy", "lieaudit"])
def test_versions_of_the_environment_are_in_the_key(distribution, monkeypatch):
    import lieaudit.environment as around

    here, real = audit_digest("model", prepared()), around.version_of
    monkeypatch.setattr(around, "version_of", lambda name: "0" if name == distribution else real(name))
    assert audit_digest("model", prepared()) != here


def test_the_key_knows_the_source_and_not_the_labels():
    here = audit_digest("model", prepared())
    assert audit_digest("another", prepared()) != here
    assert audit_digest("model", prepared(), source="module") != here
    wide = Images(Dataset.from_arrays(IMAGES), replace(load_model(net(0), SPEC), output_shape=(6,)), SPEC)
    assert audit_digest("model", wide) != here


def test_a_damaged_shard_is_computed_again(tmp_path):
    shards = audit_shards(DirectoryShards(tmp_path), "model", prepared())
    made, _ = compute_once(shards, "audit-0", lambda: {"lee": np.arange(3.0)})
    (file,) = tmp_path.iterdir()
    for damaged in (b"", file.read_bytes()[:-30], b"PK\x03\x04" + bytes(40)):
        file.write_bytes(damaged)
        found, computed = compute_once(shards, "audit-0", lambda: {"lee": np.arange(3.0)})
        assert computed
        np.testing.assert_array_equal(found["lee"], made["lee"])
    assert not compute_once(shards, "audit-0", dict)[1]
    assert [path.suffix for path in tmp_path.iterdir()] == [".npz"]
