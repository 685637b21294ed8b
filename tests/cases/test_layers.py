"""Layers are attributed wherever they can be, and whatever cannot be leaves the finished audit standing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit import AuditSpec
from lieaudit.errors import SpecError

GENERATORS = ("translation_x", "rotation")
METHODS = {"forward": 1e-4, "finite_difference": 0.06}
"""Up to this the contributions add up: float32 rounding; two steps of a difference, one of them too large."""
SHAPE = (3, 8, 12)
SPEC = AuditSpec(generators=GENERATORS, layerwise="op", head="identity", threads=1, relative_images=0, bootstrap=100)


def images(count=3, seed=4):
    return np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32)


# ---- graphs of which some part cannot be cut -------------------------------------------------------------------------


def info(name, shape=None, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def node(*arguments, **attributes):
    return helper.make_node(*arguments, **attributes)


def net(middle, initializers=(), *, tail=True):
    """Convolution, some nodes from "c" to "m", pooling, a linear head."""
    rng = np.random.default_rng(8)
    values = {
        "kernel": rng.standard_normal((4, 3, 3, 3)).astype(np.float32) / 3,
        "head": rng.standard_normal((4, 5)).astype(np.float32),
        "second": rng.standard_normal((4, 4, 3, 3)).astype(np.float32) / 3,
        "zero": np.float32(0),
        **dict(initializers),
    }
    nodes = [node("Conv", ["image", "kernel"], ["c"], name="/conv/Conv", pads=[1] * 4), *middle]
    if tail:
        nodes.append(node("ReduceMean", ["m"], ["p"], name="/pool/ReduceMean", axes=[2, 3], keepdims=0))
        nodes.append(node("MatMul", ["p", "head"], ["logits"], name="/head/MatMul"))
    graphs = [a.g for n in nodes for a in n.attribute if a.HasField("g")]
    read = {name for n in [*nodes, *(n for g in graphs for n in g.node)] for name in n.input}
    tensors = [numpy_helper.from_array(np.asarray(a), name) for name, a in values.items() if name in read]
    graph = helper.make_graph(nodes, "net", [info("image", ["N", *SHAPE])], [info("logits")], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def subgraph(name, nodes, inputs, outputs):
    return helper.make_graph(nodes, name, inputs, outputs)


TANH = node("Tanh", ["u"], ["m"])
PIXELS_DECIDE = [
    node("ReduceMax", ["c"], ["greatest"], axes=[1, 2, 3], keepdims=1),
    node("ReduceMax", ["greatest"], ["any"], keepdims=0),
    node("Greater", ["any", "zero"], ["bright"]),
]
BRANCH = node(
    "If", ["bright"], ["u"], name="choice",
    then_branch=subgraph("then", [node("Tanh", ["c"], ["taken"])], [], [info("taken")]),
    else_branch=subgraph("else", [node("Relu", ["c"], ["other"])], [], [info("other")]),
)  # fmt: skip
BODY = subgraph(
    "body",
    [node("Tanh", ["state"], ["next"]), node("Add", ["next", "c"], ["sum"]), node("Identity", ["going"], ["goes"])],
    [info("round", [], TensorProto.INT64), info("going", [], TensorProto.BOOL), info("state")],
    [info("goes", [], TensorProto.BOOL), info("sum")],
)
STEP = subgraph(
    "step",
    [node("Add", ["state", "row"], ["sum"]), node("Tanh", ["sum"], ["next"]), node("Identity", ["next"], ["out"])],
    [info("state"), info("row")],
    [info("next"), info("out")],
)
GRAPHS = {
    # boolean indexing, as exporters write x[mask] and y[mask] = v
    "a mask's entries moved": (
        [
            node("Greater", ["c", "zero"], ["mask"]),
            node("NonZero", ["mask"], ["places"]),
            node("Transpose", ["places"], ["at"], perm=[1, 0]),
            node("GatherND", ["c", "at"], ["kept"]),
            node("Tanh", ["kept"], ["bent"]),
            node("ScatterND", ["c", "at", "bent"], ["u"]),
            TANH,
        ],
        {},
    ),
    "what is not black": (  # on noise nothing is black: its size looks like a multiple of the batch
        [
            node("NonZero", ["image"], ["places"]),
            node("Shape", ["places"], ["shape"]),
            node("Gather", ["shape", "second_axis"], ["count"]),
            node("Cast", ["count"], ["many"], to=TensorProto.FLOAT),
            node("Div", ["c", "many"], ["shared"]),
            node("Mul", ["shared", "hundred"], ["u"]),
            TANH,
        ],
        {"second_axis": np.array(1), "hundred": np.float32(500)},
    ),
    "Where": (
        [node("Greater", ["c", "zero"], ["g"]), node("Tanh", ["c"], ["t"]), node("Where", ["g", "t", "c"], ["m"])],
        {},
    ),
    "the best channel": (
        [
            node("ArgMax", ["c"], ["best"], axis=1, keepdims=1),
            node("GatherElements", ["c", "best"], ["greatest"], axis=1),
            node("Mul", ["greatest", "c"], ["m"]),
        ],
        {},
    ),
    "a size that follows the image": (
        [
            node("ReduceMax", ["c"], ["greatest"], keepdims=0),
            node("Cast", ["greatest"], ["whole"], to=TensorProto.INT64),
            node("Unsqueeze", ["whole", "first"], ["vector"]),
            node("Add", ["vector", "six"], ["end"]),
            node("Slice", ["c", "first", "end", "last"], ["u"]),
            TANH,
        ],
        {"first": np.array([0]), "six": np.array([6]), "last": np.array([3])},
    ),
    "a branch that follows the pixels": ([*PIXELS_DECIDE, BRANCH, TANH], {}),
    "a loop that follows the pixels": (
        [
            node("ReduceMax", ["c"], ["greatest"], keepdims=0),
            node("Cast", ["greatest"], ["rounds"], to=TensorProto.INT64),
            node("Loop", ["rounds", "yes", "c"], ["u"], body=BODY),
            TANH,
        ],
        {"yes": np.array(True)},
    ),
    "a scan over columns": (
        [
            node("Transpose", ["c"], ["t"], perm=[3, 0, 1, 2]),
            node("ReduceMean", ["t"], ["start"], axes=[0], keepdims=0),
            node("Scan", ["start", "t"], ["end", "rows"], body=STEP, num_scan_inputs=1),
            node("Transpose", ["rows"], ["m"], perm=[1, 2, 3, 0]),
        ],
        {},
    ),
    "a ConvTranspose of onnxruntime's own size": (
        [
            node("ConvTranspose", ["c", "second"], ["u"], strides=[2, 2], output_padding=[1, 1], auto_pad="SAME_UPPER"),
            TANH,
        ],
        {},
    ),
    "a ConvTranspose of a stated size": (
        [node("ConvTranspose", ["c", "second"], ["u"], strides=[2, 2], output_shape=[17, 25]), TANH],
        {},
    ),
    "a mean over the batch": (
        [
            node("ReduceMean", ["c"], ["mean"], axes=[0, 2, 3], keepdims=1),
            node("Mul", ["mean", "zero"], ["nothing"]),
            node("Sub", ["c", "nothing"], ["u"]),
            TANH,
        ],
        {},
    ),
    "batch and rows on one axis, rows first": (
        [
            node("Transpose", ["c"], ["t"], perm=[2, 0, 3, 1]),
            node("Reshape", ["t", "flat"], ["f"]),
            node("Tanh", ["f"], ["bent"]),
            node("Reshape", ["bent", "back"], ["b"]),
            node("Transpose", ["b"], ["m"], perm=[1, 3, 0, 2]),
        ],
        {"flat": np.array([-1, 4]), "back": np.array([8, -1, 12, 4])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("level", ["module", "op"])
@pytest.mark.parametrize("name", GRAPHS)
def test_the_rest_is_attributed(name, level, method):
    """Every graph keeps its layers, and they add up; where they cannot be cut apart, the report names the tensor."""
    model = net(*GRAPHS[name])
    x = images()
    x[:, :, 2:4] = 0  # black rows
    spec = replace(SPEC, method=method, layerwise=level)
    report, plain = lieaudit.audit(model, x, spec), lieaudit.audit(model, x, replace(spec, layerwise="none"))
    assert report.results == plain.results
    assert not any(skip.what == "layerwise" for skip in report.skipped)
    for found in report.layerwise.values():
        if method == "finite_difference" and found.status == "inconclusive":
            assert any("add up to L F only within" in reason for reason in found.reasons)  # a step across a kink, said
            continue
        # forward mode has a difference through the whole branch or loop
        limit = max(METHODS[method], 2e-3 * ("loop" in name or "branch" in name))
        assert found.completeness <= limit
        first = found.segments[0]
        assert "Conv" in first.ops
        assert first.lee > 0
        assert sum(s.share for s in found.segments) == pytest.approx(1, abs=limit)
        assert all(merged.what and merged.why for merged in found.merged)


def test_a_tensor_that_no_session_can_be_cut_at_is_named():
    """Where a piece does not run by itself, the graph is cut without that tensor, and the report says so."""
    model = net(*GRAPHS["a ConvTranspose of onnxruntime's own size"])
    found = lieaudit.audit(model, images(), replace(SPEC, method="forward")).layerwise["rotation"]
    assert any(merged.what == "u" and "cannot be cut here" in merged.why for merged in found.merged)


def test_layers_that_do_not_fit_the_budget_leave_the_audit_standing():
    """Many maps that live until the end: their rows take more than the whole budget, the audit itself does not."""
    names = [f"b{i}" for i in range(24)]
    wide = [node("Conv", ["c", "wide"], ["w"], pads=[1] * 4)]
    branches = [node("Tanh", ["w" if i == 0 else names[i - 1]], [name]) for i, name in enumerate(names)]
    middle = [*wide, *branches, node("Sum", names, ["m"])]
    weights = {
        "wide": np.random.default_rng(0).standard_normal((2048, 4, 3, 3)).astype(np.float32),
        "head": np.random.default_rng(1).standard_normal((2048, 5)).astype(np.float32),
    }
    model = net(middle, weights)
    spec = replace(SPEC, generators=("rotation",), method="forward", layerwise="op", budget_mib=64)
    report = lieaudit.audit(model, images(), spec)
    assert report.results["rotation"].status == "ok"
    assert not report.layerwise
    (why,) = [skip.why for skip in report.skipped if skip.what == "layerwise"]
    assert "raise --budget" in why
    assert report.status == "inconclusive"  # what was asked for is not all there
    assert any("layerwise was not measured" in reason for reason in report.reasons)


def test_a_wrong_layout_is_refused_before_any_work():
    seen = []
    spec = replace(SPEC, layouts={"nothing": "NCHW"})
    with pytest.raises(SpecError, match="nothing"):
        lieaudit.audit(net([node("Tanh", ["c"], ["m"])]), images(), spec, progress=seen.append)
    assert {step.stage for step in seen} == {"load"}


def test_torch_layers_that_cannot_be_told_apart_leave_the_audit_standing():
    torch = pytest.importorskip("torch")
    import lieaudit.torch

    class Fickle(torch.nn.Module):
        """Has a part that some images pass and others do not."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = torch.nn.Conv2d(3, 3, 3, padding=1), torch.nn.Linear(3, 5)
            self.further = torch.nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            h = self.conv(x)
            if float(x[0, 0, 0, 0]) > 0:
                h = self.further(torch.tanh(h))
            return self.fc(torch.tanh(h).mean((2, 3)))

    torch.manual_seed(0)
    x = images(10)
    x[:8, 0, 0, 0], x[8:, 0, 0, 0] = 1, -1
    report = lieaudit.torch.audit(Fickle(), x, replace(SPEC, layerwise="module"))
    assert set(report.results) == set(GENERATORS)
    assert all(result.lee > 0 for result in report.results.values())
    assert not report.layerwise
    assert any(skip.what == "layerwise" and "further" in skip.why for skip in report.skipped)
