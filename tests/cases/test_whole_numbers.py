"""A Cast to an integer and back is a Round under another name: no limit t → 0 of it is meaningful."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit import AuditSpec

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((4, 3, 8, 8)).astype(np.float32)
WEIGHTS = {
    "w": (RNG.standard_normal((4, 3, 3, 3)) / 3).astype(np.float32),
    "four": np.float32(4),
    "zero": np.float32(0),
    "one": np.array(1, np.uint8),
    "two": np.array(2, np.int32),
    "three": np.array(3),
    "codes": RNG.standard_normal(16).astype(np.float32),
    "values": np.float32([0, 1]),
}
SCALED = [
    ("Conv", ["image", "w"], ["c"], {"pads": [1] * 4}),
    ("Sigmoid", ["c"], ["t"], {}),
    ("Mul", ["t", "four"], ["q"], {}),
]
INT, BYTE, FLOAT = TensorProto.INT32, TensorProto.UINT8, TensorProto.FLOAT


def graph(nodes):
    """A skip around the nodes, so that no output is constant: from ``q``, in [0, 4], to ``k``."""
    nodes = [
        *SCALED,
        *nodes,
        ("Add", ["k", "t"], ["r"], {}),
        ("GlobalAveragePool", ["r"], ["p"], {}),
        ("Flatten", ["p"], ["z"], {}),
    ]
    info = helper.make_tensor_value_info
    made = helper.make_graph(
        [helper.make_node(*n[:3], name=f"{n[0]}_{i}", **n[3]) for i, n in enumerate(nodes)],
        "net",
        [info("image", FLOAT, ["N", 3, 8, 8])],
        [info("z", FLOAT, ["N", 4])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in WEIGHTS.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def audited(nodes):
    spec = AuditSpec(generators=("translation_x", "rotation"), head="identity", threads=1)
    return lieaudit.audit(graph(nodes), IMAGES, spec).results


ROUNDED = {
    "there-and-back": [("Cast", ["q"], ["i"], {"to": INT}), ("Cast", ["i"], ["k"], {"to": FLOAT})],
    "arithmetic": [
        ("Cast", ["q"], ["i"], {"to": INT}),
        ("Mul", ["i", "i"], ["j"], {}),
        ("Add", ["j", "two"], ["l"], {}),
        ("Cast", ["l"], ["k"], {"to": FLOAT}),
    ],
    "bits": [
        ("Cast", ["q"], ["i"], {"to": BYTE}),
        ("BitShift", ["i", "one"], ["j"], {"direction": "LEFT"}),
        ("Cast", ["j"], ["k"], {"to": FLOAT}),
    ],
    "moved": [
        ("Cast", ["q"], ["i"], {"to": INT}),
        ("Transpose", ["i"], ["j"], {"perm": [0, 1, 3, 2]}),
        ("Concat", ["j"], ["l"], {"axis": 1}),
        ("Cast", ["l"], ["m"], {"to": TensorProto.INT64}),
        ("Cast", ["m"], ["k"], {"to": FLOAT}),
    ],
    "round": [("Round", ["q"], ["k"], {})],
}


@pytest.mark.parametrize("case", ROUNDED)
def test_numbers_made_whole_are_inconclusive(case):
    for result in audited(ROUNDED[case]).values():
        assert result.status == "inconclusive"
        assert any(r.startswith("PIECEWISE_CONSTANT") and f"'{ROUNDED[case][0][0]}_3'" in r for r in result.reasons)


DECIDING = {
    "mask": [
        ("Greater", ["q", "four"], ["b"], {}),
        ("Cast", ["b"], ["f"], {"to": FLOAT}),
        ("Mul", ["f", "q"], ["k"], {}),
    ],
    "index": [("Cast", ["q"], ["i"], {"to": INT}), ("Gather", ["codes", "i"], ["k"], {})],
    "largest": [
        ("ArgMax", ["q"], ["i"], {"axis": 1, "keepdims": 0}),
        ("OneHot", ["i", "three", "values"], ["h"], {"axis": 1}),
        ("ReduceMax", ["h"], ["k"], {"axes": [1], "keepdims": 1}),
    ],
}


@pytest.mark.parametrize("case", DECIDING)
def test_what_decides_only_is_no_rounding(case):
    for result in audited(DECIDING[case]).values():
        assert not any(reason.startswith("PIECEWISE_CONSTANT") for reason in result.reasons)
