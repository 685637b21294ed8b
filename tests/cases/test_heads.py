"""Whatever a graph ends in: the right function is audited, its value from float64, or the audit is inconclusive."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit import AuditSpec
from lieaudit.errors import LieauditError
from lieaudit.heads.choice import Facts, choose
from lieaudit.heads.evidence import CLASSES, ClassLabels
from lieaudit.heads.fidelity import CEILING
from lieaudit.inspection import inspect
from lieaudit.symmetries import tangents

torch = pytest.importorskip("torch")

GENERATORS = ("translation_x", "rotation")
SIZE, CLASSES_HERE, IMAGES = 8, 7, 5
RNG = np.random.default_rng(20261125)
WEIGHTS = {
    "w1": 0.4 * RNG.standard_normal((6, 3, 3, 3)),
    "b1": 0.1 * RNG.standard_normal(6),
    "w2": 0.3 * RNG.standard_normal((4, 6, 3, 3)),
    "w3": 0.4 * RNG.standard_normal((64, CLASSES_HERE)),
    "w4": 0.4 * RNG.standard_normal((64, CLASSES_HERE)),
}
WEIGHTS = {name: array.astype(np.float32) for name, array in WEIGHTS.items()}
PIXELS = RNG.standard_normal((IMAGES, 3, SIZE, SIZE)).astype(np.float32)

# Forward mode in float32 on a network of three layers: some 30 roundings of 6e-8, relative to the largest image.
RTOL = 2e-5

FEATURES = [
    ("Conv", ["image", "w1", "b1"], ["c1"], {"pads": [1, 1, 1, 1]}),
    ("Tanh", ["c1"], ["t1"], {}),
    ("Conv", ["t1", "w2"], ["c2"], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
]
LOGITS = [*FEATURES, ("Flatten", ["c2"], ["f"], {}), ("MatMul", ["f", "w3"], ["raw"], {})]


def features(x):
    """The network up to its last feature map, (n, 4, 4, 4), in the precision of x."""
    w = {name: torch.from_numpy(array).to(x.dtype) for name, array in WEIGHTS.items()}
    x = torch.tanh(torch.nn.functional.conv2d(x, w["w1"], w["b1"], padding=1))
    return torch.nn.functional.conv2d(x, w["w2"], padding=1, stride=2)


def logits(x, weight="w3"):
    """Class logits (n, K)."""
    return features(x).flatten(1) @ torch.from_numpy(WEIGHTS[weight]).to(x.dtype)


def graph(nodes, output, shape, *, kind=TensorProto.FLOAT, opset=17, more=(), outputs=(), domains=()):
    """A model of one image input with the network's weights and further constants."""
    info = helper.make_tensor_value_info
    tensors = [*WEIGHTS.items(), *more]
    made = helper.make_graph(
        [helper.make_node(*node[:3], **node[3]) for node in nodes],
        "g",
        [info("image", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [info(output, kind, shape), *outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(made, opset_imports=imports, ir_version=8)


CONVENTIONS = {"interpolation": "bilinear", "padding": "reflect", "convention": "central"}


def reference(function, *, moves=False):
    """Per-image LEE in float64, (n, G): ‖DF[X x] − X' F‖² / K by torch."""
    x = torch.from_numpy(PIXELS.astype(np.float64))
    directions = np.asarray(tangents(PIXELS.astype(np.float64), GENERATORS, **CONVENTIONS), np.float64)
    found = []
    for g in range(len(GENERATORS)):
        value, lie = torch.func.jvp(function, (x,), (torch.from_numpy(directions[:, g]),))
        if moves:
            lie = lie - torch.from_numpy(
                np.asarray(tangents(value.numpy(), GENERATORS, **CONVENTIONS), np.float64)[:, g]
            )
        found.append((lie.flatten(1) ** 2).mean(1).numpy())
    return np.stack(found, axis=1)


def spec(**more):
    """Few resamples: intervals are tested elsewhere."""
    return AuditSpec(**{"generators": GENERATORS, "threads": 1, "bootstrap": 100, **more})


def audited(proto, **more):
    """The report, and its LEE per image and generator."""
    report = lieaudit.audit(proto, PIXELS, spec(**more))
    return report, np.stack([report.results[g].per_image for g in GENERATORS], axis=1)


def assert_right(proto, function, chosen, *, moves=False, rtol=RTOL, **more):
    """The audit is conclusive, its numbers are those of float64, and the graph as given is what was audited."""
    report, found = audited(proto, **more)
    expected = reference(function, moves=moves)
    assert np.allclose(found, expected, rtol=0, atol=rtol * expected.max()), np.abs(found / expected - 1).max()
    assert report.status == "ok", report.reasons
    assert report.checks.head.chosen == report.model.head == chosen
    assert report.checks.fidelity.ok
    assert report.checks.fidelity.images == IMAGES
    return report


# ---- a softmax is never put on top of probabilities -----------------------------------------------------------------

FLAT = [
    ("Shape", ["c2"], ["s"], {}),
    ("Gather", ["s", "zero"], ["n"], {"axis": 0}),
    ("Unsqueeze", ["n"], ["n1"], {"axes": [0]}),
    ("Concat", ["n1", "rest"], ["target"], {"axis": 0}),
    ("Reshape", ["c2", "target"], ["f"], {}),
    ("MatMul", ["f", "w3"], ["raw"], {}),
]
VIEW = (("zero", np.int64(0)), ("rest", np.array([-1], np.int64)))
"""``x.view(x.size(0), -1)``: shape inference does not know the rank of what follows."""

AXIS = (("axis", np.array([1], np.int64)),)
SOFTMAX = ("Softmax", ["raw"], ["p"], {"axis": 1})
EXPONENTIAL = [("Exp", ["raw"], ["e"], {}), ("ReduceSum", ["e", "axis"], ["sum"], {"keepdims": 1})]


@dataclass
class End:
    """How a graph ends, for class probabilities."""

    nodes: list
    output: str = "p"
    opset: int = 17
    more: tuple = ()
    start: list = field(default_factory=lambda: LOGITS)
    shape: tuple = ("N", CLASSES_HERE)
    kind: int = TensorProto.FLOAT
    domains: tuple = ()


ENDS = {
    "view, opset 11": End([SOFTMAX], opset=11, start=[*FEATURES, *FLAT], more=VIEW),
    "view, default axis of opset 9": End(
        [("Softmax", ["raw"], ["p"], {})], opset=9, start=[*FEATURES, *FLAT], more=VIEW
    ),
    "last axis": End([("Softmax", ["raw"], ["p"], {"axis": -1})]),
    "LogSoftmax": End([("LogSoftmax", ["raw"], ["p"], {"axis": 1})]),
    "Log of Softmax": End([SOFTMAX, ("Log", ["p"], ["q"], {})], "q"),
    "Exp of LogSoftmax": End([("LogSoftmax", ["raw"], ["l"], {"axis": 1}), ("Exp", ["l"], ["p"], {})]),
    "Exp, ReduceSum, Div": End([*EXPONENTIAL, ("Div", ["e", "sum"], ["p"], {})], more=AXIS),
    "opset 11, axes as attributes": End(
        [
            ("Exp", ["raw"], ["e"], {}),
            ("ReduceSum", ["e"], ["sum"], {"axes": [1], "keepdims": 1}),
            ("Div", ["e", "sum"], ["p"], {}),
        ],
        opset=11,
    ),
    "the maximum taken off": End(
        [
            ("ReduceMax", ["raw"], ["m"], {"axes": [1], "keepdims": 1}),
            ("Sub", ["raw", "m"], ["d"], {}),
            ("Exp", ["d"], ["e"], {}),
            ("ReduceSum", ["e", "axis"], ["sum"], {"keepdims": 1}),
            ("Div", ["e", "sum"], ["p"], {}),
        ],
        more=AXIS,
    ),
    "Reciprocal": End([*EXPONENTIAL, ("Reciprocal", ["sum"], ["r"], {}), ("Mul", ["r", "e"], ["p"], {})], more=AXIS),
    "ReduceLogSumExp": End(
        [("ReduceLogSumExp", ["raw"], ["l"], {"axes": [1], "keepdims": 1}), ("Sub", ["raw", "l"], ["p"], {})]
    ),
    "Clip": End(
        [SOFTMAX, ("Clip", ["p", "low", "high"], ["q"], {})],
        "q",
        more=(("low", np.float32(1e-7)), ("high", np.float32(1 - 1e-7))),
    ),
    "Clip of opset 9": End([SOFTMAX, ("Clip", ["p"], ["q"], {"min": 1e-7, "max": 1.0})], "q", opset=9),
    "Cast": End([SOFTMAX, ("Cast", ["p"], ["q"], {"to": TensorProto.DOUBLE})], "q", kind=TensorProto.DOUBLE),
    "Identity": End([SOFTMAX, ("Identity", ["p"], ["q"], {})], "q"),
    "Reshape": End([SOFTMAX, ("Reshape", ["p", "to"], ["q"], {})], "q", more=(("to", np.array([0, -1], np.int64)),)),
    "Transpose": End(
        [
            ("Unsqueeze", ["raw", "axis"], ["u"], {}),
            ("Softmax", ["u"], ["p"], {"axis": 2}),
            ("Transpose", ["p"], ["v"], {"perm": [1, 0, 2]}),
            ("Squeeze", ["v", "first"], ["q"], {}),
        ],
        "q",
        more=(*AXIS, ("first", np.array([0], np.int64))),
    ),
    "a map of one pixel, opset 9": End(
        [("Unsqueeze", ["raw"], ["u"], {"axes": [2, 3]}), ("Softmax", ["u"], ["p"], {"axis": 1})],
        opset=9,
        shape=("N", CLASSES_HERE, 1, 1),
    ),
}


@pytest.mark.parametrize("method", ["auto", "finite_difference"])
@pytest.mark.parametrize("name", ENDS)
def test_a_softmax_is_found_at_the_end(name, method):
    end = ENDS[name]
    proto = graph([*end.start, *end.nodes], end.output, end.shape, opset=end.opset, more=end.more, kind=end.kind)
    if method == "finite_difference":  # the same head; what differences are worth is tested elsewhere
        report, _ = audited(proto, method=method)
        assert (report.model.head, report.checks.fidelity.ok) == ("softmax", True)
        return
    report = assert_right(proto, lambda x: torch.softmax(logits(x), 1), "softmax")
    assert "taken off" in report.checks.head.why
    assert inspect(proto).head == "softmax"


def test_probabilities_are_recognised_by_their_values():
    """An ensemble of softmaxes, averaged: no node makes them."""
    nodes = [
        *LOGITS,
        SOFTMAX,
        ("MatMul", ["f", "w4"], ["raw2"], {}),
        ("Softmax", ["raw2"], ["p2"], {"axis": 1}),
        ("Mean", ["p", "p2"], ["q"], {}),
    ]
    proto = graph(nodes, "q", ["N", CLASSES_HERE])

    def ensemble(x):
        return (torch.softmax(logits(x), 1) + torch.softmax(logits(x, "w4"), 1)) / 2

    report = assert_right(proto, ensemble, "identity")
    assert "probabilities already" in report.checks.head.why
    declared = assert_right(proto, ensemble, "identity", head="softmax")
    assert "no softmax is put on top" in declared.checks.head.why
    found = inspect(proto, images=PIXELS)
    assert (found.head, found.head_why) == ("identity", report.checks.head.why)


def test_a_softmax_over_the_last_axis_of_tokens():
    """Rows of four values over 16 places: float64 over the right axis."""
    nodes = [
        *FEATURES,
        ("Reshape", ["c2", "to"], ["r"], {}),
        ("Transpose", ["r"], ["t"], {"perm": [0, 2, 1]}),
        ("Softmax", ["t"], ["p"], {"axis": 2}),
    ]
    proto = graph(nodes, "p", ["N", 16, 4], more=(("to", np.array([0, 4, 16], np.int64)),))

    def tokens(x):
        return torch.softmax(features(x).flatten(2).transpose(1, 2), 2)

    report = assert_right(proto, tokens, "softmax")
    assert "axis 2" in report.checks.head.why
    as_map = assert_right(proto, lambda x: torch.softmax(features(x), 1), "spatial", moves=True, head="spatial")
    assert as_map.results["rotation"].lee != report.results["rotation"].lee


QUANTISED = {
    "QuantizeLinear": (["QuantizeLinear"], TensorProto.UINT8),
    "and back": (["QuantizeLinear", "DequantizeLinear"], TensorProto.FLOAT),
}


@pytest.mark.parametrize(
    ("name", "head"), [("QuantizeLinear", "softmax"), ("and back", "softmax"), ("QuantizeLinear", "logits")]
)
def test_a_final_quantiser_is_taken_off(name, head):
    ops, kind = QUANTISED[name]
    scale, zero = (1 / 256, 0) if head == "softmax" else (0.25, 128)
    nodes, last = [*LOGITS, SOFTMAX], "p" if head == "softmax" else "raw"
    for number, op in enumerate(ops):
        output = "class_scores" if number + 1 == len(ops) else f"q{number}"
        nodes.append((op, [last, "scale", "zero"], [output], {}))
        last = output
    more = (("scale", np.float32(scale)), ("zero", np.uint8(zero)))
    proto = graph(nodes, last, ["N", CLASSES_HERE], kind=kind, more=more)
    report = assert_right(proto, lambda x: torch.softmax(logits(x), 1), "softmax")
    # half a step in 256 of the largest probability, one step is allowed
    assert 1e-4 < report.checks.fidelity.deviation <= report.checks.fidelity.allowed
    assert any("QuantizeLinear was taken off" in note for note in report.model.notes)


def test_floats_that_are_rounded_at_the_end_keep_their_rounding():
    """Of such a graph only secants say something; they are of the graph as it is."""
    nodes = [
        *LOGITS,
        ("QuantizeLinear", ["raw", "scale", "zero"], ["q"], {}),
        ("DequantizeLinear", ["q", "scale", "zero"], ["logits"], {}),
    ]
    more = (("scale", np.float32(0.25)), ("zero", np.uint8(128)))
    report, _ = audited(graph(nodes, "logits", ["N", CLASSES_HERE], more=more))
    assert all("QuantizeLinear" in result.reasons[0] for result in report.results.values())


def test_an_integer_softmax_is_taken_off():
    """QLinearSoftmax of onnxruntime; what stands before it still rounds, so that only its head is looked at."""
    nodes = [
        *LOGITS,
        ("QuantizeLinear", ["raw", "s1", "z1"], ["q"], {}),
        ("QLinearSoftmax", ["q", "s1", "z1", "s2", "z2"], ["p"], {"axis": 1, "opset": 13, "domain": "com.microsoft"}),
    ]
    more = (("s1", np.float32(0.05)), ("z1", np.uint8(128)), ("s2", np.float32(1 / 256)), ("z2", np.uint8(0)))
    proto = graph(nodes, "p", ["N", CLASSES_HERE], kind=TensorProto.UINT8, more=more, domains=("com.microsoft",))
    report, _ = audited(proto)
    assert report.model.head == "softmax"
    assert report.checks.fidelity.ok
    assert all("QuantizeLinear" in result.reasons[0] for result in report.results.values())


# ---- logits need evidence -------------------------------------------------------------------------------------------

ROWS = np.array([[1.0, -2.0, 0.5], [0.2, 3.0, -1.0]])
PROBABILITIES = np.array([[0.2, 0.3, 0.5], [0.1, 0.6, 0.3]])
UNIT = np.array([[0.6, 0.8, 0.0], [0.0, -0.6, 0.8]])
SURE = ClassLabels(16, 16, 0.1)
EVIDENCE = {
    "the end of the graph": (Facts("out", (3,), ending="Softmax", function="softmax", axis=1), "softmax", "ends in"),
    "a Sigmoid": (Facts("out", (3,), ending="Sigmoid", function="sigmoid"), "sigmoid", "ends in"),
    "values": (Facts("logits", (3,), rows=PROBABILITIES), "identity", "adds up to 1"),
    "a reader": (Facts("out", (3,), consumer="ArgMax", rows=ROWS), "softmax", "ArgMax"),
    "a name": (Facts("my_logits", (3,), rows=ROWS), "softmax", "name"),
    "another name": (Facts("class_scores", (3,), rows=ROWS), "softmax", "name"),
    "labels": (Facts("out", (3,), rows=ROWS, labels=SURE), "softmax", "16 of 16"),
    "class folders": (Facts("out", (3,), rows=ROWS, class_names=3), "softmax", "3 classes"),
    **{
        f"{size} components": (Facts("out", (size,), rows=np.tile(ROWS, size)[:, :size]), "softmax", str(size))
        for size in CLASSES
    },
}
NO_EVIDENCE = {
    "an odd size": Facts("output", (3,), rows=ROWS),
    "luck": Facts("output", (3,), rows=ROWS, labels=ClassLabels(3, 4, 0.4)),
    "other classes": Facts("output", (3,), rows=ROWS, class_names=4),
    "values in [0, 1]": Facts("logits", (3,), rows=np.abs(ROWS) / 9),
    "norm 1": Facts("output", (10,), rows=np.pad(UNIT, ((0, 0), (0, 7)))),
    "the name of features": Facts("embedding", (1000,), rows=np.tile(ROWS, 400)[:, :1000]),
    "one number": Facts("output", (1,), rows=ROWS[:, :1]),
    "tokens": Facts("output", (9, 64), layout="cells"),
    "several grids": Facts("output", (85, 84), layout="scattered"),
    "rows without a place": Facts("output", (9, 64), layout="vector"),
    "a place unknown": Facts("output", (9, 6, 6), layout="unknown"),
    "scores of cells": Facts("output", (64, 9), ending="Sigmoid", function="sigmoid", layout="cells"),
    "pairs": Facts("output", (2, 8, 8), layout="map"),
    "a displacement by name": Facts("flow_up", (4, 8, 8), layout="map"),
}


@pytest.mark.parametrize("name", EVIDENCE)
def test_evidence_is_stated(name):
    facts, head, why = EVIDENCE[name]
    found = choose(facts, "auto")
    assert (found.head.function, found.undeclared) == (head, "")
    assert why in found.why


@pytest.mark.parametrize("name", NO_EVIDENCE)
def test_without_evidence_the_choices_are_named(name):
    found = choose(NO_EVIDENCE[name], "auto")
    assert "--head" in found.undeclared
    assert found.head.function in {"identity", "sigmoid"}  # no softmax that nothing asks for
    assert repr(NO_EVIDENCE[name].name) in found.undeclared


def test_labels_convince_by_what_chance_would_give():
    rows = np.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1]]
    assert ClassLabels.of(rows, np.array([0, 1, 2, 0, 1, 2, 0, 1])).convincing
    constant = np.eye(3)[np.zeros(200, int)]
    commonest = np.array([0] * 180 + [1] * 20)
    assert not ClassLabels.of(constant, commonest).convincing  # right on 90 %, and so is any constant
    few = ClassLabels.of(rows[:3], np.array([0, 1, 2]))
    # 3 of 3 at chance 1/3: p = 1/27
    assert few.p_value == pytest.approx(1 / 27)
    assert not few.convincing


@pytest.mark.parametrize("method", ["auto", "forward", "finite_difference"])
def test_an_output_that_nothing_explains_is_inconclusive_until_declared(method):
    proto = graph(LOGITS, "raw", ["N", CLASSES_HERE])
    report, _ = audited(proto, method=method)
    assert report.status == "inconclusive"
    assert report.reasons[0].startswith("HEAD_UNDECLARED: nothing shows what output 'raw' (N, 7) holds")
    assert "--head softmax|identity|sigmoid" in report.reasons[0]
    assert all(result.status == "inconclusive" for result in report.results.values())
    assert inspect(proto, images=PIXELS).head_why.count("HEAD_UNDECLARED") == 1
    if method == "auto":
        said = assert_right(proto, logits, "identity", head="identity")
        assert said.checks.head.why == "declared by --head identity"


def test_an_argmax_over_the_output_is_evidence():
    nodes = [*LOGITS, ("ArgMax", ["raw"], ["label"], {"axis": 1, "keepdims": 0})]
    label = helper.make_tensor_value_info("label", TensorProto.INT64, ["N"])
    proto = graph(nodes, "raw", ["N", CLASSES_HERE], outputs=[label])
    report = assert_right(proto, lambda x: torch.softmax(logits(x), 1), "softmax")
    assert "ArgMax" in report.checks.head.why


def test_labels_are_evidence():
    proto = graph(LOGITS, "raw", ["N", CLASSES_HERE])
    pixels = np.random.default_rng(5).standard_normal((16, 3, SIZE, SIZE)).astype(np.float32)
    labels = logits(torch.from_numpy(pixels)).argmax(1).numpy()
    report = lieaudit.audit(proto, pixels, spec(), labels=labels)
    assert (report.model.head, report.status) == ("softmax", "ok")
    assert "16 of 16 images" in report.checks.head.why
    shuffled = lieaudit.audit(proto, pixels, spec(), labels=np.roll(labels, 1))
    assert shuffled.status == "inconclusive"


def test_boxes_with_scores_are_not_summed_as_if_they_stood_still():
    nodes = [*FEATURES, ("Reshape", ["c2", "to"], ["output0"], {})]
    proto = graph(nodes, "output0", ["N", 4, 16], more=(("to", np.array([0, 4, 16], np.int64)),))
    report, _ = audited(proto)
    assert all(result.status == "inconclusive" for result in report.results.values())
    assert "boxes" in report.reasons[0]
    assert "no --head judges them rightly" in report.reasons[0]


# ---- dense outputs --------------------------------------------------------------------------------------------------

LAST = [*FEATURES, ("Transpose", ["c2"], ["last"], {"perm": [0, 2, 3, 1]})]
BIAS = (("bias", np.array([0.3, -0.2, 0.1, 0.5], np.float32)),)
AXIS_2 = (("one", np.array([1], np.int64)),)


def _with_bias(x):
    return features(x) + torch.from_numpy(BIAS[0][1]).to(x.dtype)[:, None, None]


MAPS = {
    "(N, H, W)": (
        [*FEATURES, ("ReduceMean", ["c2"], ["depth"], {"axes": [1], "keepdims": 0})],
        ("depth", ["N", 4, 4]),
        (),
        lambda x: features(x).mean(1, keepdim=True),
    ),
    "channels last": (LAST, ("last", ["N", 4, 4, 4]), (), features),
    "channels last and a bias": (
        [*LAST, ("Add", ["last", "bias"], ["out"], {})],
        ("out", ["N", 4, 4, 4]),
        BIAS,
        _with_bias,
    ),
    "channels last and a softmax": (
        [*LAST, ("Softmax", ["last"], ["out"], {"axis": 3})],
        ("out", ["N", 4, 4, 4]),
        (),
        lambda x: torch.softmax(features(x), 1),
    ),
    "channels last and a sigmoid": (
        [*LAST, ("Sigmoid", ["last"], ["out"], {})],
        ("out", ["N", 4, 4, 4]),
        (),
        lambda x: torch.sigmoid(features(x)),
    ),
    "channels last and a Tanh": (
        [*LAST, ("Tanh", ["last"], ["out"], {})],
        ("out", ["N", 4, 4, 4]),
        (),
        lambda x: torch.tanh(features(x)),
    ),
    "width first": (
        [*FEATURES, ("Transpose", ["c2"], ["out"], {"perm": [0, 3, 1, 2]})],
        ("out", ["N", 4, 4, 4]),
        (),
        features,
    ),
}


@pytest.mark.parametrize("declared", ["auto", "spatial"])
@pytest.mark.parametrize("name", MAPS)
def test_a_map_moves_along_its_own_axes(name, declared):
    """Height, width and channels are all 4 here: no shape could tell them apart."""
    nodes, (output, shape), more, function = MAPS[name]
    report = assert_right(graph(nodes, output, shape, more=more), function, "spatial", moves=True, head=declared)
    assert report.results["rotation"].lee > 0


def test_a_map_behind_an_op_that_hides_its_axes_asks_for_a_layout():
    """A matrix product over all 16 places: where they are afterwards, nobody knows."""
    nodes = [
        *FEATURES,
        ("Reshape", ["c2", "flat"], ["r"], {}),
        ("MatMul", ["r", "mix"], ["m"], {}),
        ("Reshape", ["m", "back"], ["out"], {}),
    ]
    mix = np.eye(16, dtype=np.float32) + 0.1 * RNG.standard_normal((16, 16)).astype(np.float32)
    more = (("flat", np.array([0, 4, 16], np.int64)), ("back", np.array([0, 4, 4, 4], np.int64)), ("mix", mix))
    proto = graph(nodes, "out", ["N", 4, 4, 4], more=more)
    for head in ("auto", "spatial"):
        report, _ = audited(proto, head=head)
        assert all(result.status == "inconclusive" for result in report.results.values())
        assert "--layout 'out=NCHW'" in report.reasons[0]

    def mixed(x):
        return (features(x).flatten(2) @ torch.from_numpy(mix).to(x.dtype)).reshape(-1, 4, 4, 4)

    assert_right(proto, mixed, "spatial", moves=True, layouts={"out": "NCHW"})
    assert_right(proto, mixed, "spatial", moves=True, layouts={"out": "NCHW"}, head="spatial")


def test_a_vector_is_no_map():
    with pytest.raises(LieauditError) as caught:
        lieaudit.audit(graph(LOGITS, "raw", ["N", CLASSES_HERE]), PIXELS, spec(head="spatial"))
    assert caught.value.reason == "HEAD_MISMATCH"


# ---- steps ----------------------------------------------------------------------------------------------------------

STEP_CONSTANTS = (
    ("zero", np.float32(0)),
    ("half", np.float32(0.05)),
    ("minus", np.float32(-1)),
    ("one", np.float32(1)),
    ("depth", np.int64(CLASSES_HERE)),
    ("ends", np.array([0, 1], np.float32)),
    ("point", np.uint8(128)),
)
STEPS = {
    "Greater": [("Greater", ["raw", "zero"], ["g"], {}), ("Cast", ["g"], ["logits"], {"to": TensorProto.FLOAT})],
    "Cast to int32": [
        ("Div", ["raw", "half"], ["d"], {}),
        ("Cast", ["d"], ["i"], {"to": TensorProto.INT32}),
        ("Cast", ["i"], ["logits"], {"to": TensorProto.FLOAT}),
    ],
    "ArgMax": [
        ("ArgMax", ["raw"], ["a"], {"axis": 1, "keepdims": 0}),
        ("OneHot", ["a", "depth", "ends"], ["logits"], {}),
    ],
    "Less": [("Less", ["raw", "zero"], ["l"], {}), ("Where", ["l", "minus", "one"], ["logits"], {})],
    "Round": [("Div", ["raw", "half"], ["d"], {}), ("Round", ["d"], ["logits"], {})],
    "QuantizeLinear": [
        ("QuantizeLinear", ["raw", "half", "point"], ["q"], {}),
        ("DequantizeLinear", ["q", "half", "point"], ["d"], {}),
        ("Tanh", ["d"], ["logits"], {}),
    ],
}


@pytest.mark.parametrize("method", ["auto", "forward", "finite_difference"])
@pytest.mark.parametrize("name", STEPS)
def test_an_output_that_moves_in_steps_is_inconclusive_per_generator(name, method):
    proto = graph([*LOGITS, *STEPS[name]], "logits", ["N", CLASSES_HERE], more=STEP_CONSTANTS)
    report, _ = audited(proto, method=method, head="identity")
    for generator in GENERATORS:
        result = report.results[generator]
        assert result.status == "inconclusive"
        assert any(name in reason and "--step" in reason for reason in result.reasons), result.reasons


def test_pixels_rounded_at_the_beginning_are_steps_too():
    nodes = [
        ("Cast", ["image"], ["i"], {"to": TensorProto.INT8}),
        ("Cast", ["i"], ["rounded"], {"to": TensorProto.FLOAT}),
        ("Conv", ["rounded", "w1", "b1"], ["c1"], {"pads": [1, 1, 1, 1]}),
        *LOGITS[1:],
        ("Identity", ["raw"], ["logits"], {}),
    ]
    proto = graph(nodes, "logits", ["N", CLASSES_HERE])
    for method in ("auto", "finite_difference"):
        report = lieaudit.audit(proto, 20 * PIXELS, spec(method=method))
        assert all(result.status == "inconclusive" for result in report.results.values())
        assert "Cast to int8" in report.reasons[0]


def test_a_secant_of_stated_size_measures_steps():
    proto = graph([*LOGITS, *STEPS["QuantizeLinear"]], "logits", ["N", CLASSES_HERE], more=STEP_CONSTANTS)
    report, found = audited(proto, method="finite_difference", step=0.05, head="identity")
    assert not any("--step" in reason for result in report.results.values() for reason in result.reasons)
    assert (found > 0).any()


def test_exact_invariance_is_no_step():
    """Averaged over all pixels, a shift is nothing; another image's tangent is."""
    nodes = [
        ("GlobalAveragePool", ["image"], ["p"], {}),
        ("Flatten", ["p"], ["f"], {}),
    ]
    proto = graph(nodes, "f", ["N", 3])
    for more in ({}, {"relative_images": 0}):
        report = lieaudit.audit(
            proto, PIXELS, spec(generators=("translation_x", "scale"), padding="circular", head="identity", **more)
        )
        assert report.results["translation_x"].lee < 1e-12
        assert report.results["translation_x"].status == "ok"


def test_exactly_zero_against_an_answer_elsewhere_is_ok():
    """The mean of x − x mirrored is 0 for every image, and its derivative too, to the last bit; brightness moves it."""
    nodes = [
        ("ReduceMean", ["image"], ["m"], {"axes": [2, 3], "keepdims": 0}),
    ]
    proto = graph(nodes, "m", ["N", 3])
    checkers = np.indices((SIZE, SIZE)).sum(0) % 2
    pixels = np.stack([np.broadcast_to(c + checkers, (3, SIZE, SIZE)) for c in range(4)]).astype(np.float32)
    found = lieaudit.audit(
        proto, pixels, spec(generators=("translation_x", "brightness"), padding="circular", head="identity")
    )
    assert found.results["translation_x"].lee == 0
    assert found.results["brightness"].lee > 0


def test_images_without_a_tangent_say_nothing():
    proto = graph([*LOGITS, SOFTMAX], "p", ["N", CLASSES_HERE])
    blank = np.stack([np.full((3, SIZE, SIZE), level, np.float32) for level in (0.2, 0.4, 0.6)])
    report = lieaudit.audit(proto, blank, spec(generators=("rotation", "brightness")))
    assert report.results["rotation"].status == "inconclusive"
    assert any(reason.startswith("BLANK_IMAGES") for reason in report.results["rotation"].reasons)
    assert report.results["brightness"].status == "ok"


# ---- fidelity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["auto", "finite_difference"])
def test_a_quantiser_that_saturates_is_more_than_its_last_rounding(method):
    """Logits up to 13 behind a quantiser that ends at 6.35: what is audited without it is another function."""
    nodes = [*LOGITS, ("QuantizeLinear", ["raw", "scale", "zero"], ["logits"], {})]
    more = (("scale", np.float32(0.05)), ("zero", np.uint8(128)))
    proto = graph(nodes, "logits", ["N", CLASSES_HERE], kind=TensorProto.UINT8, more=more)
    report, _ = audited(proto, method=method)
    fidelity = report.checks.fidelity
    assert not fidelity.ok
    assert fidelity.deviation > 50 * fidelity.allowed
    for result in report.results.values():
        assert result.status == "inconclusive"
        assert result.reasons[0].startswith("FIDELITY: the audited function has outputs that differ from the model's")


def test_scores_near_zero_are_compared_on_the_scale_of_scores():
    """onnxruntime makes sigmoids of float32 to 1e-7, however small they are: here a thirtieth of the scores."""
    nodes = [*LOGITS, ("Sub", ["raw", "offset"], ["low"], {}), ("Sigmoid", ["low"], ["scores"], {})]
    proto = graph(nodes, "scores", ["N", CLASSES_HERE], more=(("offset", np.float32(22)),))
    fidelity = audited(proto)[0].checks.fidelity
    assert (fidelity.ok, fidelity.allowed) == (True, 1e-4)
    assert fidelity.deviation < 2e-7


def test_what_optimisation_makes_of_rounding_allows_a_hundredth_at_most():
    """Features on an offset of 1e7 that the normalisation takes off: fused, the offset's rounding is gone.

    The quantiser saturates, which that difference must not excuse.
    """
    nodes = [
        ("Conv", ["image", "w1", "offset"], ["c"], {"pads": [1, 1, 1, 1]}),
        ("BatchNormalization", ["c", "ones", "zeros", "offset", "ones"], ["n"], {}),
        ("ReduceMean", ["n"], ["top"], {"axes": [2, 3], "keepdims": 0}),
        ("QuantizeLinear", ["top", "scale", "zero"], ["logits"], {}),
    ]
    more = [(name, np.full(6, value, np.float32)) for name, value in (("ones", 1), ("zeros", 0), ("offset", 1e7))]
    more += [("scale", np.float32(0.001)), ("zero", np.uint8(128))]
    report, _ = audited(graph(nodes, "logits", ["N", 6], kind=TensorProto.UINT8, more=more), head="identity")
    fidelity = report.checks.fidelity
    assert (fidelity.ok, fidelity.allowed) == (False, CEILING)
    assert all(result.reasons[0].startswith("FIDELITY") for result in report.results.values())


@pytest.mark.parametrize("opset", [9, 17])
def test_a_normalisation_in_training_mode_is_refused(opset):
    """onnxruntime overwrites the running statistics of its own session: every run has another answer."""
    training = {"training_mode": 1} if opset > 9 else {}
    outputs = ["n", "mean", "var", *([] if opset > 9 else ["m", "v"])]
    nodes = [
        *FEATURES[:1],
        ("BatchNormalization", ["c1", "ones", "zeros", "zeros", "ones"], outputs, training),
        ("ReduceMean", ["n"], ["logits"], {"axes": [2, 3], "keepdims": 0}),
    ]
    more = tuple((name, np.full(6, value, np.float32)) for name, value in (("ones", 1), ("zeros", 0)))
    with pytest.raises(LieauditError) as caught:
        audited(graph(nodes, "logits", ["N", 6], opset=opset, more=more))
    assert caught.value.reason == "NONDETERMINISTIC"


def test_a_graph_in_float16_is_compared_to_a_hundredth():
    half = np.float16
    nodes = [
        ("Conv", ["image", "w"], ["c"], {}),
        ("Tanh", ["c"], ["t"], {}),
        ("ReduceMax", ["t"], ["logits"], {"axes": [2, 3], "keepdims": 0}),
    ]
    info = helper.make_tensor_value_info
    made = helper.make_graph(
        [helper.make_node(*node[:3], **node[3]) for node in nodes],
        "g",
        [info("image", TensorProto.FLOAT16, ["N", 3, SIZE, SIZE])],
        [info("logits", TensorProto.FLOAT16, ["N", 6])],
        [numpy_helper.from_array(WEIGHTS["w1"].astype(half), "w")],
    )
    report, _ = audited(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    fidelity = report.checks.fidelity
    # half a unit of the last of its 11 bits
    assert 0 < fidelity.deviation < 2.0**-10
    assert (fidelity.ok, fidelity.allowed) == (True, 1e-2)


def test_a_graph_that_answers_differently_twice_is_refused():
    """Its noise is as bright as the image: noise images, dark in the mean, do not show it."""
    nodes = [
        *LOGITS,
        ("ReduceMean", ["image"], ["m"], {"axes": [1, 2, 3], "keepdims": 0}),
        ("Sub", ["m", "fifty"], ["over"], {}),
        ("Relu", ["over"], ["light"], {}),
        ("Unsqueeze", ["light", "last"], ["l"], {}),
        ("RandomNormalLike", ["raw"], ["r"], {}),
        ("Mul", ["l", "r"], ["lr"], {}),
        ("Add", ["raw", "lr"], ["logits"], {}),
    ]
    more = (("fifty", np.float32(50)), ("last", np.array([1], np.int64)))
    proto = graph(nodes, "logits", ["N", CLASSES_HERE], more=more)
    with pytest.raises(LieauditError) as caught:
        lieaudit.audit(proto, np.abs(PIXELS) + 60, spec())
    assert caught.value.reason == "NONDETERMINISTIC"


def test_a_file_is_compared_as_well_as_bytes(tmp_path):
    proto = graph([*LOGITS, SOFTMAX], "p", ["N", CLASSES_HERE])
    onnx.save(proto, tmp_path / "m.onnx")
    for source in (tmp_path / "m.onnx", proto.SerializeToString()):
        assert lieaudit.audit(source, PIXELS, spec()).checks.fidelity.ok


# ---- torch ----------------------------------------------------------------------------------------------------------


def test_a_module_is_settled_alike():
    import lieaudit.torch

    class Classifier(torch.nn.Module):
        def __init__(self, end):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
            self.end = end

        def forward(self, image):
            return self.end(self.conv(image).tanh().mean((2, 3)))

    torch.manual_seed(0)
    plain = lieaudit.torch.audit(Classifier(lambda z: z), PIXELS, spec())
    assert (plain.status, plain.checks.head.chosen) == ("inconclusive", "identity")
    assert plain.reasons[0].startswith("HEAD_UNDECLARED")
    assert any(skip.what == "checks.fidelity" for skip in plain.skipped)
    softmaxed = lieaudit.torch.audit(Classifier(lambda z: z.softmax(1)), PIXELS, spec())
    assert (softmaxed.status, softmaxed.checks.head.chosen) == ("ok", "identity")
    declared = lieaudit.torch.audit(Classifier(lambda z: z), PIXELS, spec(head="identity"))
    assert declared.status == "ok"


STEPWISE = {
    "GridSample 'sampler'": [
        ("Slice", ["raw", "zero", "two", "one"], ["pair"], {}),
        ("Reshape", ["pair", "point"], ["shift"], {}),
        ("Tanh", ["shift"], ["bounded"], {}),
        ("Add", ["bounded", "base"], ["grid"], {}),
        ("GridSample", ["texture", "grid"], ["made"], {"mode": "nearest", "name": "sampler"}),
    ],
    "ArgMax 'best'": [
        ("ArgMax", ["raw"], ["at"], {"axis": 1, "keepdims": 0, "name": "best"}),
        ("Gather", ["texture", "at"], ["rows"], {"axis": 2}),
        ("Transpose", ["rows"], ["made"], {"perm": [2, 1, 0, 3]}),
    ],
    "Cast to int64 'count'": [
        ("ReduceMax", ["raw"], ["top"], {"axes": [1], "keepdims": 1}),
        ("Abs", ["top"], ["size"], {}),
        ("Cast", ["size"], ["k"], {"to": TensorProto.INT64, "name": "count"}),
        ("OneHot", ["k", "depth", "values"], ["hot"], {}),
        ("Reshape", ["hot", "spread"], ["made"], {}),
    ],
}


@pytest.mark.parametrize("method", ["forward", "finite_difference"])
@pytest.mark.parametrize("op", STEPWISE)
def test_an_operand_that_only_moves_in_steps_is_named(op, method):
    nodes = [*LOGITS, *STEPWISE[op], ("ReduceMean", ["made"], ["logits"], {"axes": [2, 3], "keepdims": 0})]
    rng = np.random.default_rng(5)
    more = (
        ("zero", np.array([0])), ("one", np.array([1])), ("two", np.array([2])), ("point", np.array([-1, 1, 1, 2])),
        ("base", rng.uniform(-0.7, 0.7, (1, 6, 6, 2)).astype(np.float32)), ("depth", np.array(30)),
        ("texture", rng.standard_normal((1, 5, 8, 10)).astype(np.float32)), ("values", np.float32([0, 1])),
        ("spread", np.array([1, 30, 1, 1])),
    )  # fmt: skip
    proto = graph(nodes, "logits", ["N", None], more=more)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    report, found = audited(proto, method=method, head="identity")
    assert method == "finite_difference" or not found.any()  # a difference may cross a step
    for result in report.results.values():
        assert result.status == "inconclusive"
        assert result.reasons[0].startswith("PIECEWISE_CONSTANT")
        assert op in result.reasons[0]
