"""Loop, Scan and DeformConv: unrolled or exact where that is possible, else differenced and named."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from lieaudit import audit, inspect
from lieaudit.graph.forward import measure_shapes, rewrite
from lieaudit.spec import AuditSpec

_RANDOM = np.random.default_rng(12)
_W = (_RANDOM.standard_normal((6, 3, 3, 3)) / 3).astype(np.float32)
_G = _RANDOM.standard_normal((6, 5)).astype(np.float32)
_X = _RANDOM.standard_normal((2, 3, 8, 8)).astype(np.float32)
_ROWS = _RANDOM.standard_normal((3, *_X.shape)).astype(np.float32)


def _info(name, dtype=TensorProto.FLOAT, shape=None):
    return helper.make_tensor_value_info(name, dtype, shape)


def _network(middle, constants=(), opset=17):
    """Conv to h (N, 6, 8, 8), the nodes to m, mean over space, Gemm to z (N, 5)."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="stem", pads=[1, 1, 1, 1]),
        *middle,
        helper.make_node("GlobalAveragePool", ["m"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "g"], ["z"], name="head"),
    ]
    arrays = {"w": _W, "g": _G, **dict(constants)}
    graph = helper.make_graph(
        nodes,
        "controlled",
        [_info("x", shape=["N", 3, 8, 8])],
        [_info("z", shape=["N", 5])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _loop(condition):
    """h ← tanh(h) · 1.3 for at most four rounds, while the condition (nodes from `after` and `t` to `go`) holds."""
    body = helper.make_graph(
        [
            helper.make_node("Tanh", ["before"], ["squashed"]),
            helper.make_node("Mul", ["squashed", "gain"], ["after"]),
            *condition,
        ],
        "body",
        [_info("t", TensorProto.INT64, []), _info("going", TensorProto.BOOL, []), _info("before")],
        [_info("go", TensorProto.BOOL, []), _info("after")],
    )
    node = helper.make_node("Loop", ["rounds", "yes", "h"], ["m"], name="loop", body=body)
    constants = {"rounds": np.array(4), "yes": np.array(True), "gain": np.array(1.3, np.float32)}
    return [node], {**constants, "limit": np.array(1e-3, np.float32)}


_COUNTED = [helper.make_node("Identity", ["going"], ["go"])]
_MEASURED = [
    helper.make_node("ReduceMax", ["after"], ["top"], keepdims=0),
    helper.make_node("Greater", ["top", "limit"], ["go"]),
]


def _scan(backward=False):
    """A running sum along the rows of each map: h (N, 6, 8, 8) scanned along axis 2."""
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["state", "decay"], ["kept"]),
            helper.make_node("Add", ["kept", "row"], ["next"]),
            helper.make_node("Sigmoid", ["next"], ["out"]),
        ],
        "body",
        [_info("state"), _info("row")],
        [_info("next"), _info("out")],
    )
    directions = {"scan_input_directions": [1], "scan_output_directions": [1]} if backward else {}
    node = helper.make_node(
        "Scan", ["start", "h"], ["final", "m"], name="scan", body=body, num_scan_inputs=1,
        scan_input_axes=[2], scan_output_axes=[2], **directions,
    )  # fmt: skip
    first = helper.make_node("Slice", ["h", "zero", "one", "two"], ["s"])
    return [first, helper.make_node("Squeeze", ["s", "two"], ["start"]), node], {
        "zero": np.array([0]),
        "one": np.array([1]),
        "two": np.array([2]),
        "decay": np.array(0.7, np.float32),
    }


def _running_sum(w, backward):
    """The same in torch: the onnx reference knows scans along axis 0 only."""
    import torch

    def z(x):
        h = torch.nn.functional.conv2d(x, torch.tensor(w).double(), padding=1)
        state, rows = h[:, :, 0], []
        for t in reversed(range(8)) if backward else range(8):
            state = 0.7 * state + h[:, :, t]
            rows.append(torch.sigmoid(state))
        return torch.stack(rows, 2).mean((2, 3)) @ torch.tensor(_G).double()

    return np.stack(
        [torch.func.jvp(z, (torch.tensor(_X).double(),), (torch.tensor(v).double(),))[1].numpy() for v in _ROWS]
    )


def _tangent(proto, run_rewritten, unroll=None):
    rewritten = rewrite(ir.from_proto(proto), unroll=unroll)
    return rewritten, run_rewritten(rewritten, {"x": _X, "x.tangent": _ROWS})[1]


def _error(made, expected):
    return np.linalg.norm(made - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("unroll", [None, 3])
@pytest.mark.parametrize("opset", [11, 17])
def test_loops_that_count_are_unrolled(run_rewritten, reference_derivative, opset, unroll):
    middle, constants = _loop(_COUNTED)
    proto = _network(middle, constants, opset)
    rewritten, made = _tangent(proto, run_rewritten, unroll)
    assert all(a.exact for a in rewritten.applied)
    assert sum(a.op == "Tanh" for a in rewritten.applied) == 4
    assert _error(made, reference_derivative(proto, {"x": _X}, {"x": _ROWS})) < 2e-6


def test_a_loop_that_looks_at_the_image_is_differenced_and_named(run_rewritten, reference_derivative):
    middle, constants = _loop(_MEASURED)
    proto = _network(middle, constants)
    rewritten, made = _tangent(proto, run_rewritten)
    assert [(a.op, a.node, a.rule) for a in rewritten.applied if not a.exact] == [("Loop", "loop", "generic")]
    # four smooth rounds at a relative step of 2^-9
    assert _error(made, reference_derivative(proto, {"x": _X}, {"x": _ROWS})) < 2e-4


@pytest.mark.torch
@pytest.mark.parametrize("backward", [False, True])
def test_scans_are_unrolled(run_rewritten, backward):
    pytest.importorskip("torch")
    middle, constants = _scan(backward)
    rewritten, made = _tangent(_network(middle, constants), run_rewritten)
    assert all(a.exact for a in rewritten.applied)
    assert "Scan" not in {a.op for a in rewritten.applied}
    assert _error(made, _running_sum(_W, backward)) < 2e-6


def test_deformable_convolution_is_exact_unless_its_offsets_move(
    make_case, check_exact, run_rewritten, reference_derivative
):
    """On ramps, where bilinear sampling has no kinks, so that a difference can be right."""
    rows, columns = np.mgrid[:6, :6]
    x = np.stack([rows - 0.5 * columns, 0.3 * columns])[None].astype(np.float32)
    offset = _RANDOM.uniform(0.1, 0.4, (1, 8, 5, 5)).astype(np.float32)
    w = _RANDOM.standard_normal((3, 2, 2, 2)).astype(np.float32)
    case = make_case("DeformConv", {"x": x, "o": offset}, {"w": w}, order=["x", "w", "o"], opset=19)
    fixed = make_case("DeformConv", {"x": x}, {"w": w, "o": offset}, opset=19)
    check_exact(fixed)
    proto = case.model()
    model = ir.from_proto(proto)
    measure_shapes(model, feeds=case.moving)
    rewritten = rewrite(model)
    assert [(a.op, a.rule) for a in rewritten.applied] == [("DeformConv", "generic")]
    rows = {name: _RANDOM.standard_normal((2, *array.shape)).astype(np.float32) for name, array in case.moving.items()}
    made = run_rewritten(rewritten, {**case.moving, **{f"{name}.tangent": v for name, v in rows.items()}})[1]
    # the reference samples in float32, hence its wide step; between kinks the op is quadratic, where no step errs
    assert _error(made, reference_derivative(proto, case.moving, rows, step=3e-3)) < 1e-3


def test_the_report_and_the_inspection_name_what_was_differenced():
    middle, constants = _loop(_MEASURED)
    proto = _network(middle, constants)
    report = audit(proto, _X, AuditSpec(threads=1, generators=("rotation",), bootstrap=100, head="identity"))
    assert report.results["rotation"].method == "forward"
    (skipped,) = [s for s in report.skipped if s.what == "op.Loop"]
    assert "central difference" in skipped.why
    assert "loop" in skipped.why
    covered = {row.op: row for row in inspect(proto, AuditSpec()).ops}
    assert not covered["Loop"].exact
    assert covered["Conv"].exact


@pytest.mark.parametrize("asked", [1, 2])
def test_branch_that_asks_for_a_size_is_taken(asked):
    """As torch's exporter writes ``x.squeeze(1)``; the batch stays open."""
    info = helper.make_tensor_value_info
    squeeze = helper.make_graph(
        [helper.make_node("Squeeze", ["x", "at"], ["s"])], "then", [], [info("s", TensorProto.FLOAT, None)]
    )
    keep = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["k"])], "else", [], [info("k", TensorProto.FLOAT, None)]
    )
    graph = helper.make_graph(
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Gather", ["shape", "axis"], ["size"]),
            helper.make_node("Equal", ["size", "one"], ["single"]),
            helper.make_node("If", ["single"], ["y"], then_branch=squeeze, else_branch=keep),
            helper.make_node("Mul", ["y", "y"], ["z"]),
        ],
        "squeezed",
        [info("x", TensorProto.FLOAT, ["N", 1, 4])],
        [info("z", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.array([1]), "at"),
            numpy_helper.from_array(np.array(1), "axis"),
            numpy_helper.from_array(np.array(asked), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    applied = rewrite(ir.from_proto(model)).applied
    assert {a.op for a in applied} == ({"Squeeze", "Mul"} if asked == 1 else {"Identity", "Mul"})
    assert all(a.exact for a in applied)
