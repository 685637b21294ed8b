"""One call from a module to an auditable ONNX model and its source."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

import lieaudit
from lieaudit.errors import DataError, SourceError
from lieaudit.graph.load import load_model
from lieaudit.runtime.session import Session
from lieaudit.torch import SourceFunction, export, open_source
from lieaudit.torch.exporting import exported


@pytest.mark.parametrize("name", ["vit", "swin", "convnext", "segformer"])
def test_transformers_models_export_with_a_symbolic_batch(transformers_models, noise, name, tmp_path):
    model, size = transformers_models[name]
    path, source = tmp_path / "m.onnx", tmp_path / "m.pt2"
    data = export(model, noise(1, 3, size), path=path, with_source=source)
    assert path.read_bytes() == data
    loaded = load_model(path)
    assert loaded.batchable
    assert (loaded.height, loaded.width) == (size, size)
    x = noise(3, 3, size, seed=5)
    function = SourceFunction(model)
    expected = function(function.tensor(x)).detach().numpy()
    with Session(loaded.model, threads=1) as session:
        z = session.run({loaded.input_name: x})[0]
    scale = np.abs(expected).max()
    assert np.abs(z - expected).max() < 1e-5 * scale  # float32
    again = SourceFunction(open_source(program=source))
    assert np.abs(again(again.tensor(x)).detach().numpy() - expected).max() < 1e-13 * scale


def test_module_names_are_kept(resnet20, cifar):
    graph = onnx.load_from_string(export(resnet20, cifar[:1])).graph
    weights = {initializer.name for initializer in graph.initializer}
    assert "layer2.0.conv1.weight" in weights
    scopes = {entry.value for node in graph.node for entry in node.metadata_props if entry.key.endswith("name_scopes")}
    # the exporter fuses the convolution into the normalisation behind it
    assert any("'layer2.0.bn1'" in scope for scope in scopes)


def test_the_check_reports_the_largest_deviation(resnet20, cifar):
    result = exported(resnet20, cifar[:2], with_source=True)
    assert 0 < result.deviation < 1e-5
    assert result.dynamic_batch


class Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.gain = torch.nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, images, scale, *, flag=False):
        h = self.conv(images) * self.gain * scale
        return {"map": h, "z": h.mean((2, 3)) if flag else h.sum((2, 3))}


def test_chosen_outputs_further_inputs_and_other_precisions(noise):
    module = Two().double().train()
    data = export(module, noise(1, 3, 8), output="z", others={"scale": torch.full((1, 4, 1, 1), 2.0), "flag": True})
    assert module.conv.weight.dtype == torch.float64
    assert module.training
    assert type(module) is Two
    graph = onnx.load_from_string(data).graph
    assert [value.name for value in graph.input] == ["images"]
    assert [value.name for value in graph.output] == ["output"]
    assert "conv.weight" in {i.name for i in graph.initializer} | {n for node in graph.node for n in node.input}


class Branching(torch.nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_what_cannot_be_traced_is_named(noise):
    with pytest.raises(SourceError) as raised:
        export(Branching(), noise(1, 3, 4))
    assert raised.value.reason == "EXPORT_FAILED"
    assert "Branching" in str(raised.value)


class Unfaithful(torch.nn.Module):
    """Differs between the trace and a run: the trace fixes what it saw."""

    def forward(self, x):
        return x.flatten(1) * (1.0 if torch.compiler.is_exporting() else 2.0)


def test_an_export_that_is_another_function_is_refused(noise):
    with pytest.raises(SourceError, match="deviates") as raised:
        export(Unfaithful(), noise(1, 3, 4))
    assert raised.value.reason == "EXPORT_MISMATCH"


def test_a_bad_example_is_refused():
    with pytest.raises(DataError):
        export(torch.nn.Flatten(), np.zeros((3, 4, 4), np.float32))


def test_the_export_is_auditable(resnet20, cifar):
    spec = lieaudit.AuditSpec(generators=("rotation",), bootstrap=100, relative_images=0, threads=1)
    report = lieaudit.audit(export(resnet20, cifar[:1]), cifar[:4], spec)
    assert report.results["rotation"].lee >= 0
    assert report.model.producer.startswith("pytorch")
