"""Graphs that other exporters made (tests/forward/graphs), against onnx's reference evaluator in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from lieaudit import audit
from lieaudit.derivatives.forward import ForwardDifferentiator
from lieaudit.graph.load import load_model
from lieaudit.spec import AuditSpec

_GRAPHS = Path(__file__).parent / "graphs"
_PRODUCERS = {"keras": "tf2onnx", "tf2onnx": "tf2onnx", "jax": "jax2onnx", "sklearn": "skl2onnx"}
# One op after the other in float32, 6e-8 each. skl2onnx ends in a softmax that stays in the graph, or in one output
# that is a small difference: there p (dx − Σ p dx) cancels.
_TOLERANCE = {"keras": 2e-6, "tf2onnx": 2e-6, "jax": 2e-6, "sklearn": 2e-5}


def _models():
    return sorted(path.stem for path in _GRAPHS.glob("*.onnx"))


def test_every_exporter_is_there():
    assert {name.split("_")[0] for name in _models()} == set(_PRODUCERS)
    assert sum(path.stat().st_size for path in _GRAPHS.glob("*.onnx")) < 400_000


@pytest.mark.parametrize("name", _models())
def test_graphs_of_other_exporters_are_exact(name, reference_derivative):
    path = _GRAPHS / f"{name}.onnx"
    exporter = name.split("_")[0]
    assert onnx.load(path).producer_name == _PRODUCERS[exporter]
    spec = AuditSpec(threads=1)
    model = load_model(path, spec)
    differentiator = ForwardDifferentiator(model, spec)
    assert not differentiator.skipped
    random = np.random.default_rng(4)
    x = random.uniform(0, 1, (2, model.channels, model.height, model.width)).astype(np.float32)
    v = random.standard_normal((2, 3, *x.shape[1:])).astype(np.float32)
    made = differentiator(x, v)
    proto = ir.to_proto(model.model)
    rows = np.moveaxis(v, 1, 0)
    expected = np.moveaxis(reference_derivative(proto, {model.input_name: x}, {model.input_name: rows}), 0, 1)
    error = np.linalg.norm(made.tangent.reshape(expected.shape) - expected) / np.linalg.norm(expected)
    assert error < _TOLERANCE[exporter]
    # without the optimiser, whose fusion of Pad and MaxPool is wrong
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    z = session.run(None, {model.input_name: x})[0]
    assert np.abs(made.value.reshape(z.shape) - z).max() < 1e-5 * np.abs(z).max()


@pytest.mark.parametrize("name", ["keras_mobile", "sklearn_mlp"])
def test_audits_of_such_graphs_agree_with_finite_differences(name):
    model = load_model(_GRAPHS / f"{name}.onnx")
    x = np.random.default_rng(6).uniform(0, 1, (6, model.channels, model.height, model.width)).astype(np.float32)
    report = audit(_GRAPHS / f"{name}.onnx", x, AuditSpec(threads=1, generators=("rotation",), bootstrap=100))
    result = report.results["rotation"]
    assert result.method == "forward"
    assert result.agreement is not None
    assert result.agreement.agrees


def test_the_probabilities_of_a_classifier_are_audited():
    model = load_model(_GRAPHS / "sklearn_mlp.onnx")
    assert model.info.output.name == "probabilities"
    assert any("only float" in note for note in model.info.notes)
