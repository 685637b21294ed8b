"""A graph exported in training mode, or with random ops, is refused by what stands in it, not by two runs of it."""

from __future__ import annotations

import io

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit import AuditSpec
from lieaudit.errors import ModelError
from lieaudit.feeds import Feed
from lieaudit.ops import OPS
from lieaudit.ops.op import every_form

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(3)
IMAGES = RNG.standard_normal((4, 3, 8, 8)).astype(np.float32)
KERNEL = (RNG.standard_normal((4, 3, 3, 3)) / 3).astype(np.float32)
SPEC = AuditSpec(generators=("translation_x",), head="identity")
NUMBERS = (("w", KERNEL), ("half", np.float32(0.5)), ("one", np.array(True)), ("off", np.array(False)))
ONES, ZEROS = ("ones", np.ones(4, np.float32)), ("zeros", np.zeros(4, np.float32))


def graph(nodes, opset=17, more=(), inputs=()):
    """Conv to ``c``, the given nodes from ``c`` to ``r``, pooled to logits."""
    nodes = [
        ("Conv", ["image", "w"], ["c"], {"pads": [1] * 4}),
        *nodes,
        ("GlobalAveragePool", ["r"], ["p"], {}),
        ("Flatten", ["p"], ["logits"], {}),
    ]
    info = helper.make_tensor_value_info
    made = helper.make_graph(
        [helper.make_node(*n[:3], name=_named(i, n[0], nodes), **n[3]) for i, n in enumerate(nodes)],
        "net",
        [info("image", TensorProto.FLOAT, ["N", 3, 8, 8]), *inputs],
        [info("logits", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (*NUMBERS, *more)],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _named(place, op, nodes):
    return f"block/{op}" if op not in [node[0] for node in nodes[:place]] else f"block/{op}_{place}"


def body(name, nodes, output):
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)])


def added(op, inputs=("c",), **attributes):
    return [(op, list(inputs), ["drawn"], attributes), ("Add", ["c", "drawn"], ["r"], {})]


DROPPED = ("Dropout", ["c", "half", "one"], ["r"], {})
STATISTICS = ["c", "ones", "zeros", "zeros", "ones"]
REFUSED = {
    "dropout": (graph([DROPPED]), "Dropout 'block/Dropout' drops at random"),
    "dropout-seed": (graph([(*DROPPED[:3], {"seed": 7})]), "Dropout 'block/Dropout' drops at random"),
    "dropout-computed": (
        graph([("Not", ["off"], ["on"], {}), ("Dropout", ["c", "half", "on"], ["r"], {})]),
        "Dropout 'block/Dropout' drops at random",
    ),
    "dropout-default-ratio": (graph([("Dropout", ["c", "", "one"], ["r"], {})]), "drops at random"),
    "dropout-inside-a-branch": (
        graph(
            [
                ("ReduceMax", ["image"], ["top"], {"keepdims": 0}),
                ("Greater", ["top", "half"], ["bright"], {}),
                (
                    "If",
                    ["bright"],
                    ["r"],
                    {
                        "then_branch": body("t", [helper.make_node("Dropout", ["c", "half", "one"], ["a"], "in")], "a"),
                        "else_branch": body("e", [helper.make_node("Identity", ["c"], ["b"])], "b"),
                    },
                ),
            ]
        ),
        "Dropout 'in' drops at random",
    ),
    "normal": (
        graph(added("RandomNormal", (), shape=[1, 4, 8, 8], seed=3.0)),
        "RandomNormal 'block/RandomNormal' draws random numbers",
    ),
    "uniform": (graph(added("RandomUniform", (), shape=[1, 4, 1, 1])), "RandomUniform 'block/RandomUniform' draws"),
    "normal-like": (graph(added("RandomNormalLike")), "RandomNormalLike 'block/RandomNormalLike' draws"),
    "uniform-like": (graph(added("RandomUniformLike")), "RandomUniformLike 'block/RandomUniformLike' draws"),
    "bernoulli": (
        graph([("Sigmoid", ["c"], ["s"], {}), ("Bernoulli", ["s"], ["m"], {}), ("Mul", ["c", "m"], ["r"], {})]),
        "Bernoulli 'block/Bernoulli' draws",
    ),
    "multinomial": (
        graph(
            [
                ("Flatten", ["c"], ["f"], {}),
                ("Multinomial", ["f"], ["k"], {"sample_size": 1}),
                ("Cast", ["k"], ["kf"], {"to": 1}),
                ("Unsqueeze", ["kf", "axes"], ["ku"], {}),
                ("Add", ["c", "ku"], ["r"], {}),
            ],
            more=[("axes", np.array([2, 3]))],
        ),
        "Multinomial 'block/Multinomial' draws",
    ),
    "batch-normalization": (
        graph([("BatchNormalization", STATISTICS, ["r", "m", "v"], {"training_mode": 1})], more=[ONES, ZEROS]),
        "BatchNormalization 'block/BatchNormalization' normalises by the images of a batch",
    ),
    "batch-normalization-opset-9": (
        graph([("BatchNormalization", STATISTICS, ["r", *"mvst"], {})], opset=9, more=[ONES, ZEROS]),
        "BatchNormalization 'block/BatchNormalization' normalises by the images of a batch",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_by_name(case):
    proto, says = REFUSED[case]
    with pytest.raises(ModelError) as caught:
        lieaudit.audit(proto, IMAGES, SPEC)
    assert caught.value.reason == "NONDETERMINISTIC"
    assert says in caught.value.message
    assert "evaluation mode" in caught.value.hint


def test_a_fed_switch_decides():
    """The user says which mode runs: --feed training=0."""
    switch = [helper.make_tensor_value_info("training", TensorProto.BOOL, [])]
    proto = graph([("Dropout", ["c", "half", "training"], ["r"], {})], inputs=switch)
    off = Feed.of(np.array(False))
    found = lieaudit.audit(
        proto, IMAGES, AuditSpec(generators=("translation_x",), head="identity", feeds={"training": off})
    )
    assert found.results["translation_x"].per_image == KEPT.results["translation_x"].per_image


KEPT = lieaudit.audit(graph([("Identity", ["c"], ["r"], {})]), IMAGES, SPEC)
HARMLESS = {
    "dropout-at-inference": graph([("Dropout", ["c", "half", "off"], ["r"], {})]),
    "dropout-without-mode": graph([("Dropout", ["c", "half"], ["r"], {})]),
    "dropout-of-nothing": graph([("Dropout", ["c", "zero", "one"], ["r"], {})], more=[("zero", np.float32(0))]),
    "nothing-reads-it": graph([("RandomNormalLike", ["c"], ["n"], {}), ("Identity", ["c"], ["r"], {})]),
    "branch-not-taken": graph(
        [
            (
                "If",
                ["off"],
                ["r"],
                {
                    "then_branch": body("t", [helper.make_node("Dropout", ["c", "half", "one"], ["a"])], "a"),
                    "else_branch": body("e", [helper.make_node("Identity", ["c"], ["b"])], "b"),
                },
            )
        ]
    ),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_is_never_drawn_is_measured(case):
    found = lieaudit.audit(HARMLESS[case], IMAGES, SPEC).results["translation_x"]
    assert found.status == "ok"
    np.testing.assert_allclose(found.per_image, KEPT.results["translation_x"].per_image, rtol=1e-6)


@pytest.mark.filterwarnings("ignore")  # torch warns of the training mode too
@pytest.mark.parametrize(
    ("layer", "dynamo"),
    [
        (torch.nn.Dropout(0.5), False),
        (torch.nn.Dropout(0.5), True),
        (torch.nn.Dropout2d(0.2), True),
        (torch.nn.AlphaDropout(0.2), True),
        (torch.nn.BatchNorm2d(4), False),
    ],
    ids=str,
)
def test_torch_exports_in_training_mode_are_refused(layer, dynamo):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), layer, torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)).train()
    file = io.BytesIO()
    x = torch.ones(2, 3, 8, 8)
    if dynamo:
        torch.onnx.export(net, (x,), dynamo=True, verbose=False).save(file)
    else:
        training = torch.onnx.TrainingMode.TRAINING
        torch.onnx.export(net, (x,), file, dynamo=False, training=training, do_constant_folding=False)
    with pytest.raises(ModelError) as caught:
        lieaudit.audit(onnx.load_from_string(file.getvalue()), IMAGES, SPEC)
    assert caught.value.reason == "NONDETERMINISTIC"


def test_the_table_knows_every_random_op_of_the_standard():
    random = {op.name for op in OPS.values() if op.random is not every_form}
    named = {s.name for s in onnx.defs.get_all_schemas() if "Random" in s.name or "seed" in s.attributes}
    assert random == named | {"BatchNormalization"}
    tested = {node.op_type for proto, _ in REFUSED.values() for node in proto.graph.node}
    assert random <= tested
