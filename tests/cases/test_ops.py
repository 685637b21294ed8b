"""Operands that follow the image, outputs that are read, and a remainder: each once counted as not moving at all."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit import AuditSpec
from lieaudit.symmetries import tangents

RNG = np.random.default_rng(4)
# smooth images, so that the float64 difference crosses no kink
IMAGES = np.cumsum(np.cumsum(RNG.standard_normal((3, 3, 9, 9)), -1), -2).astype(np.float32) / 9
READOUT = RNG.standard_normal((3, 4))
SCALE = RNG.random((3, 9, 9)) + 0.5
GENERATORS = ("rotation", "translation_x", "brightness")


def _node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


def _model(nodes, constants):
    nodes = [
        *nodes,
        _node("GlobalAveragePool", ["m"], ["p"]),
        _node("Flatten", ["p"], ["f"]),
        _node("MatMul", ["f", "readout"], ["z"]),
    ]
    values = {"readout": READOUT.astype(np.float32), **constants}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 9, 9])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def _read(m):
    return m.mean(axis=(-1, -2)) @ READOUT


def clipped_by_the_brightest_pixel():
    nodes = [
        _node("ReduceMax", ["x"], ["top"], keepdims=0),
        _node("Mul", ["top", "half"], ["bound"]),
        _node("Clip", ["x", "", "bound"], ["m"]),
    ]
    # a bound for the batch: one image at a time
    return _model(nodes, {"half": np.float32(0.5)}), lambda x: _read(np.minimum(x, x.max() / 2)), 1


def clipped_by_a_bound_that_alone_moves():
    nodes = [
        _node("ReduceMean", ["x"], ["mean"], keepdims=0),
        _node("Clip", ["ramp", "mean"], ["c"]),
        _node("Mul", ["c", "x"], ["m"]),
    ]
    ramp = np.linspace(-2, 2, 81).reshape(9, 9)
    return _model(nodes, {"ramp": ramp.astype(np.float32)}), lambda x: _read(np.maximum(ramp, x.mean()) * x), 1


def read_mean_of_a_normalisation(output):
    names = ["n", "mean", "spread"]
    nodes = [
        _node("LayerNormalization", ["x", "scale"], names, axis=1),
        _node("Mul", ["n", names[output]], ["m"]),
    ]

    def function(x):
        mean = x.mean(axis=(1, 2, 3), keepdims=True)
        inverse = 1 / np.sqrt(x.var(axis=(1, 2, 3), keepdims=True) + 1e-5)
        return _read((x - mean) * inverse * SCALE * (mean if output == 1 else inverse))

    return _model(nodes, {"scale": SCALE.astype(np.float32)}), function, 3


def remainder_of_floats():
    nodes = [_node("Mul", ["x", "five"], ["a"]), _node("Mod", ["a", "b"], ["r"], fmod=1), _node("Tanh", ["r"], ["m"])]
    constants = {"five": np.float32(5), "b": np.float32(2.3)}
    return _model(nodes, constants), lambda x: _read(np.tanh(np.fmod(5 * x, np.float64(np.float32(2.3))))), 3


def remainder_by_the_image():
    nodes = [
        _node("ReduceMax", ["x"], ["b"], axes=[1, 2, 3]),
        _node("Mul", ["x", "factor"], ["a"]),
        _node("Mod", ["a", "b"], ["m"], fmod=1),
    ]
    return (
        _model(nodes, {"factor": np.float32(4.75)}),
        lambda x: _read(np.fmod(4.75 * x, x.max(axis=(1, 2, 3), keepdims=True))),
        3,
    )


CASES = {
    "clip-bound": clipped_by_the_brightest_pixel,
    "clip-bound-alone": clipped_by_a_bound_that_alone_moves,
    "layer-norm-mean": lambda: read_mean_of_a_normalisation(1),
    "layer-norm-spread": lambda: read_mean_of_a_normalisation(2),
    "mod": remainder_of_floats,
    "mod-both": remainder_by_the_image,
}


@pytest.mark.parametrize("name", CASES)
def test_what_moves_is_counted(name):
    model, function, count = CASES[name]()
    images = IMAGES[:count]
    spec = AuditSpec(generators=GENERATORS, method="forward", head="identity")
    report = lieaudit.audit(model, images, spec)
    v = tangents(images, GENERATORS, interpolation="bilinear", padding="reflect", convention="central")
    x, step = images.astype(np.float64), 1e-6
    for g, generator in enumerate(GENERATORS):
        d = (function(x + step * v[:, g]) - function(x - step * v[:, g])) / (2 * step)
        expected = np.mean(d**2, axis=1)
        assert np.all(expected > 0)
        # float32 arithmetic of a few hundred terms
        assert report.results[generator].per_image == pytest.approx(expected, rel=1e-4)
    assert not [skip for skip in report.skipped if "op." in skip.what]
