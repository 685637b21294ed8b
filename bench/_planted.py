"""Small drawn networks for the rates of the cross-check, and rules that put their derivative 10 % off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from lieaudit.autodiff.context import Context
from lieaudit.autodiff.tangent import Tangent
from lieaudit.crosscheck import crosscheck
from lieaudit.data import Dataset
from lieaudit.graph.load import load_model
from lieaudit.images import Images
from lieaudit.method import choose_method
from lieaudit.ops import OPS, replaced_rule
from lieaudit.report import Agreement
from lieaudit.spec import AuditSpec

SIZE = 12
ACTIVATIONS = ("Relu", "Tanh", "Sigmoid", "LeakyRelu", "Softplus", "Elu", "HardSigmoid", "Softsign")
GENERATORS = ("translation_x", "rotation", "brightness")


def drawn(seed: int) -> tuple[onnx.ModelProto, str]:
    """Return a chain of convolutions with drawn weights and activations, and the op whose rule is to be planted."""
    random = np.random.default_rng(seed)
    nodes, weights, width, name = [], [], 3, "x"
    depth = int(random.integers(2, 5))
    activations = [str(random.choice(ACTIVATIONS)) for _ in range(depth)]
    for i, activation in enumerate(activations):
        wider = int(random.integers(4, 13))
        kernel = random.standard_normal((wider, width, 3, 3)) * (2 / (9 * width)) ** 0.5
        bias = 0.2 * random.standard_normal(wider)
        weights += [numpy_helper.from_array(a.astype(np.float32), f"{k}{i}") for k, a in (("w", kernel), ("b", bias))]
        stride = int(random.integers(1, 3)) if i else 1
        nodes += [
            helper.make_node("Conv", [name, f"w{i}", f"b{i}"], [f"c{i}"], pads=[1] * 4, strides=[stride] * 2),
            helper.make_node(activation, [f"c{i}"], [f"a{i}"]),
        ]
        width, name = wider, f"a{i}"
    dense = random.standard_normal((width, 10)).astype(np.float32)
    weights.append(numpy_helper.from_array(dense, "d"))
    nodes += [
        helper.make_node("GlobalAveragePool", [name], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "d"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "drawn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        weights,
    )
    once = [a for a in activations if activations.count(a) == 1] or ["MatMul"]
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, str(random.choice(once))


def images(seed: int, count: int = 16) -> npt.NDArray[np.float32]:
    """Return smooth random images (count, 3, SIZE, SIZE)."""
    x = np.random.default_rng([seed, 1]).standard_normal((count, 3, SIZE, SIZE))
    for axis in (-1, -2):
        x = (x + np.roll(x, 1, axis)) / 2
    return (2 * x).astype(np.float32)


@contextmanager
def ten_percent_off(op_type: str) -> Iterator[None]:
    """Let one op's rule give 0.9 of its tangent: in a chain that is 0.9 of the whole derivative."""
    rule = OPS["", op_type].tangent
    assert rule is not None
    apply = rule.apply
    assert apply is not None

    def planted(context: Context, node: ir.Node) -> list[Tangent | None]:
        made = apply(context, node)
        tangents = [made] if isinstance(made, Tangent) else list(made or [])
        return [
            None
            if tangent is None
            else context.scaled(tangent, context.number(0.9, node.outputs[0]), ())
            for tangent in tangents
        ]  # fmt: skip

    with replaced_rule(op_type, replace(rule, apply=planted)):
        yield


def checked(seed: int, *, planted: bool) -> dict[str, Agreement]:
    """Cross-check forward mode on one drawn network, with all its rules right or one of them planted."""
    model, op_type = drawn(seed)
    spec = AuditSpec(threads=1, generators=GENERATORS, head="softmax")

    def check() -> dict[str, Agreement]:
        loaded = load_model(model, spec)
        pictured = Images(Dataset.from_arrays(images(seed)), loaded, spec)
        method = choose_method(loaded, pictured, shards=None, progress=None)
        assert method.checker is not None
        return crosscheck(method.derivative, method.checker, pictured, progress=None)

    if not planted:
        return check()
    with ten_percent_off(op_type):
        return check()
