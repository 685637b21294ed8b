"""Whole models: graphs of other exporters, those of the onnx package, and random-weight networks of every family."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest

from lieaudit.graph.forward.rewrite import rewrite
from lieaudit.graph.load import load_model
from lieaudit.graph.reverse.opset import raised
from lieaudit.graph.reverse.transpose import transpose

HERE = Path(__file__).parent
GAP = 1e-6
"""Both sides in float32; whole networks of the zoo are below 8e-7 over ten draws (docs/reverse.md)."""

GRAPHS = sorted((HERE.parent / "forward" / "graphs").glob("*.onnx"))
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
ZOO = ["vit", "swin", "convnext", "resnet", "mobilenet_v2", "levit", "segformer", "mobilevit"]


def _check(source, adjoint_gap, *, single=True):
    model = load_model(source)
    rewritten = rewrite(raised(model.model), active=[model.input_name], single=single)
    random = np.random.default_rng(0)
    count = 2 if model.batchable else 1
    x = random.random((count, model.channels, model.height, model.width)).astype(np.float32)
    assert adjoint_gap(rewritten, transpose(rewritten), {model.input_name: x}, draws=2) < GAP


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
@pytest.mark.parametrize("single", [True, False], ids=["single", "rows"])
def test_other_exporters(adjoint_gap, path, single):
    _check(path, adjoint_gap, single=single)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["light_squeezenet", "light_shufflenet"])
def test_graphs_of_an_old_opset_are_raised(adjoint_gap, name):
    _check(LIGHT / f"{name}.onnx", adjoint_gap)


@pytest.mark.slow
@pytest.mark.parametrize("exporter", ["script", "dynamo"])
@pytest.mark.parametrize("name", ZOO)
def test_families(adjoint_gap, name, exporter):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    path = HERE.parents[1] / "bench" / "forward_zoo.py"
    spec = importlib.util.spec_from_file_location("forward_zoo", path)
    zoo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(zoo)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, shape = zoo.ZOO[name]()
        source = bytes(zoo.export(module, shape, exporter).SerializeToString())
    _check(source, adjoint_gap)
