"""What onnxruntime runs is taken, and measured as the same function: numbers from float64 torch, whatever the file.

Every case changes how a graph is written down, or what it is fed, and never what it computes; `function` computes it.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit import AuditSpec
from lieaudit.data import Dataset
from lieaudit.errors import LieauditError
from lieaudit.graph.load import load_model
from lieaudit.symmetries import tangents
from lieaudit.torch.files import TorchFiles

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(20)
KERNEL = (RNG.standard_normal((4, 3, 3, 3)) / 3).astype(np.float32)
HEAD = RNG.standard_normal((4, 5)).astype(np.float32)
IMAGES = RNG.standard_normal((4, 3, 8, 10)).astype(np.float32)
GENERATORS = ("translation_x", "rotation")
FLOAT32 = 2e-5
"""Relative: some hundred sums of float32 numbers of size 1 behind one another, each rounded to 6e-8."""


def features(x, kernel=KERNEL):
    return torch.tanh(torch.nn.functional.conv2d(x, torch.tensor(kernel, dtype=torch.float64), padding=1))


def function(x):
    """Logits of images (n, 3, H, W), float64."""
    return features(x).mean((2, 3)) @ torch.tensor(HEAD, dtype=torch.float64)


def softmax_of(f):
    return lambda x: torch.softmax(f(x), -1)


def reference(f, images=IMAGES, generators=GENERATORS, convention="central"):
    """‖DF[X x]‖²/K per image of F in float64; ``f(x, i)`` may depend on the image's number."""
    found = {}
    for g in generators:
        rows = []
        for i, image in enumerate(images):
            x = torch.tensor(image[None], dtype=torch.float64)
            v = tangents(
                image.astype(np.float64), (g,), interpolation="bilinear", padding="reflect", convention=convention
            )
            _, dz = torch.func.jvp(lambda y, i=i: f(y, i), (x,), (torch.tensor(v),))
            rows.append(float((dz**2).mean()))
        found[g] = np.array(rows)
    return found


def info(name, kind, shape):
    return helper.make_tensor_value_info(name, {"f": TensorProto.FLOAT, "d": TensorProto.DOUBLE}.get(kind, kind), shape)


def model(nodes, inputs, outputs, weights=(), opset=17, domains=()):
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(*domain) for domain in domains)]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights]
    graph = helper.make_graph([helper.make_node(*n[:3], **n[3]) for n in nodes], "net", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


CONV = ("Conv", ["image", "kernel"], ["c"], {"pads": [1, 1, 1, 1], "name": "conv"})
BODY = [
    CONV,
    ("Tanh", ["c"], ["t"], {"name": "tanh"}),
    ("ReduceMean", ["t"], ["p"], {"axes": [2, 3], "keepdims": 0, "name": "mean"}),
    ("MatMul", ["p", "head"], ["logits"], {"name": "head"}),
]
WEIGHTS = [("kernel", KERNEL), ("head", HEAD)]


def clean():
    return model(BODY, [info("image", "f", ["N", 3, 8, 10])], [info("logits", "f", ["N", 5])], WEIGHTS)


def audit(proto, images=IMAGES, **spec):
    spec.setdefault("generators", GENERATORS)
    return lieaudit.audit(proto, images, AuditSpec(**{"head": "softmax", "bootstrap": 200, **spec}))


def assert_right(report, expected, rtol=FLOAT32):
    for g, rows in expected.items():
        found = np.array(report.results[g].per_image)
        assert np.abs(found - rows).max() <= rtol * rows.max() + 1e-12, (g, found, rows)


RIGHT = reference(lambda x, _: softmax_of(function)(x))


# How the same graph may be written down


def unsorted(proto):
    nodes = [copy.deepcopy(node) for node in reversed(proto.graph.node)]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def nameless(proto):
    proto.graph.name = ""


def without_output_shape(proto):
    proto.graph.output[0].type.tensor_type.ClearField("shape")


def without_output_type(proto):
    proto.graph.output[0].ClearField("type")


def without_input_shape(proto):
    proto.graph.input[0].type.tensor_type.ClearField("shape")


def wrong_output_shape(proto):
    proto.graph.output[0].CopyFrom(info("logits", "f", [7, 9]))


def in_float64(proto):
    """Cast to double at the end."""
    proto.graph.node[-1].output[0] = "single"
    proto.graph.node.append(helper.make_node("Cast", ["single"], ["logits"], to=TensorProto.DOUBLE))
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def double_sums(proto):
    """The last layer in float64, as a careful author would."""
    in_float64(proto)
    proto.graph.node[-1].CopyFrom(helper.make_node("MatMul", ["wide", "wide_head"], ["logits"]))
    proto.graph.node[-2].CopyFrom(helper.make_node("Cast", ["p"], ["wide"], to=TensorProto.DOUBLE))
    proto.graph.initializer.append(numpy_helper.from_array(HEAD.astype(np.float64), "wide_head"))


def in_double(proto):
    """Everything in float64, the image too; onnxruntime has no float64 convolution, the audit rounds to float32."""
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE


def import_spelt_out(proto):
    proto.opset_import[0].domain = "ai.onnx"


def nodes_spelt_out(proto):
    for node in proto.graph.node:
        node.domain = "ai.onnx"


def imported_twice(proto):
    """Of two versions the last counts: opset 17 it is."""
    proto.opset_import.insert(0, helper.make_opsetid("ai.onnx", 12))


def renamed(names):
    def change(proto):
        for node in proto.graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
            node.name = names.get(node.name, node.name)
        for thing in (*proto.graph.initializer, *proto.graph.input, *proto.graph.output):
            thing.name = names.get(thing.name, thing.name)

    return change


def unused_input(proto):
    proto.graph.input.append(info("unused", "f", [1]))


def unused_input_first(proto):
    proto.graph.input.insert(0, info("unused", "f", ["N", 3, 8, 10]))


def unused_without_shape(proto):
    proto.graph.input.append(info("unused", TensorProto.INT64, None))


def weights_as_inputs(proto):
    proto.graph.input.extend(info(name, "f", array.shape) for name, array in WEIGHTS)


def old_ir(proto):
    proto.ir_version = 3


def contrib_without_import(proto):
    """A node of onnxruntime's own domain; every exporter that fuses forgets the import some time."""
    proto.graph.node[-1].CopyFrom(
        helper.make_node("FusedMatMul", ["p", "head"], ["logits"], domain="com.microsoft", alpha=1.0)
    )


def sizes(*dims):
    def change(proto):
        proto.graph.input[0].CopyFrom(info("image", "f", list(dims)))

    return change


def nested(proto):
    """The last node in an If whose branches are out of order."""
    del proto.graph.node[-1]
    nodes = [helper.make_node("Identity", ["out"], ["made"]), helper.make_node("MatMul", ["p", "head"], ["out"])]
    branch = helper.make_graph(nodes, "branch", [], [info("made", "f", ["N", 5])])
    proto.graph.node.append(helper.make_node("If", ["yes"], ["logits"], then_branch=branch, else_branch=branch))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))


def with_dictionaries(proto):
    """Probabilities as scikit-learn exports them, beside the tensor."""
    proto.graph.node.append(
        helper.make_node("ZipMap", ["logits"], ["dictionaries"], domain="ai.onnx.ml", classlabels_int64s=range(5))
    )
    dictionary = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    proto.graph.output.append(helper.make_value_info("dictionaries", helper.make_sequence_type_proto(dictionary)))
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))


def frozen_batch(size):
    """A Reshape to a stated batch, as tracing leaves it."""

    def change(proto):
        proto.graph.node[-1].input[0] = "q"
        proto.graph.node.insert(3, helper.make_node("Reshape", ["p", "to"], ["q"]))
        proto.graph.initializer.append(numpy_helper.from_array(np.array([size, 4]), "to"))
        sizes(size, 3, 8, 10)(proto)
        proto.graph.output[0].CopyFrom(info("logits", "f", [size, 5]))

    return change


OWN_NAMES = (
    "images", "directions", "steps", "lieaudit_image", "lieaudit_images", "lieaudit_steps", "lieaudit_rows",
    "lieaudit_output", "lieaudit_batch_size", "lieaudit_row_shape", "lieaudit_move", "tangent/1/Mul:0",
    "tangent/constant_0", "shape/0:0", "shape/1", "action/Mul_1:0", "image.tangent", "lieaudit_image.tangent",
    "c.tangent", "t.action", "kernel.folded", "p.settled", "p.frozen", "c.replaced",
)  # fmt: skip

VARIANTS: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "unsorted": (unsorted, "sorted"),
    "nameless": (nameless, ""),
    "no output shape": (without_output_shape, ""),
    "no output type": (without_output_type, ""),
    "no input shape": (without_input_shape, ""),
    "wrong output shape": (wrong_output_shape, ""),
    "cast to float64": (in_float64, ""),
    "sums in float64": (double_sums, "rounded to float32"),
    "float64": (in_double, "float64"),
    "import ai.onnx": (import_spelt_out, ""),
    "nodes of ai.onnx": (nodes_spelt_out, ""),
    "imported twice": (imported_twice, ""),
    "unused input": (unused_input, "'unused'"),
    "unused image input": (unused_input_first, "'unused'"),
    "unused input without shape": (unused_without_shape, "'unused'"),
    "weights as inputs": (weights_as_inputs, ""),
    "IR 3": (old_ir, ""),
    "contrib without import": (contrib_without_import, ""),
    "open size": (sizes("N", 3, "H", "W"), ""),
    "open channels": (sizes("N", "C", "H", "W"), ""),
    "odd names of axes": (sizes("height", 3, "N", "2N"), ""),
    "one name for all axes": (sizes("N", "N", "N", "N"), ""),
    "sizes of -1": (sizes(-1, 3, -1, -1), ""),
    "sizes of 0": (sizes(0, 3, 0, 0), ""),
    "nested out of order": (nested, "sorted"),
    "dictionaries beside": (with_dictionaries, "left out"),
    "batch of 1": (frozen_batch(1), ""),
    "batch of 3": (frozen_batch(3), "declares a batch of 3"),
    **{f"a tensor named {name}": (renamed({"t": name}), "") for name in OWN_NAMES},
    **{f"a node named {name}": (renamed({"tanh": name}), "") for name in ("lieaudit_to_nhwc", "lieaudit_move")},
    "the output named image.tangent": (renamed({"logits": "image.tangent"}), ""),
    "the image named lieaudit_images": (renamed({"image": "lieaudit_images"}), ""),
    "the kernel named lieaudit_steps": (renamed({"kernel": "lieaudit_steps"}), ""),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_same_graph_written_down_otherwise(name):
    change, said = VARIANTS[name]
    proto = clean()
    change(proto)
    report = audit(proto, layerwise="module")
    assert_right(report, RIGHT)
    assert report.status == "ok", report.reasons
    assert said in " ".join(report.model.notes)
    layers = report.layerwise["rotation"]
    assert layers.completeness < 1e-4


@pytest.mark.parametrize("method", ["forward", "finite_difference"])
def test_own_names_by_every_method(method):
    proto = clean()
    renamed({"t": "lieaudit_images", "c": "lieaudit_row_shape", "p": "tangent/2/Add:0"})(proto)
    assert_right(audit(proto, method=method), RIGHT, rtol=FLOAT32 if method == "forward" else 2e-3)


@settings(max_examples=25)
@given(st.data())
def test_any_malformed_file_gives_the_same_numbers_or_is_refused(data):
    """Nodes shuffled, names and shapes stripped, tensors renamed, inputs permuted: all at once, as the draw says."""
    proto = clean()
    names = data.draw(
        st.dictionaries(
            st.sampled_from(["image", "c", "t", "p", "logits", "kernel", "head", "tanh", "conv"]),
            st.sampled_from([*OWN_NAMES, "x", "0", "a b", "é", "c", "logits"]),
            max_size=5,
        )
    )
    if len(set(names.values())) == len(names) and not set(names.values()) & {"c", "logits"}:
        renamed(names)(proto)
    for change in data.draw(st.lists(st.sampled_from([v[0] for v in list(VARIANTS.values())[:20]]), max_size=3)):
        change(proto)
    for owner in (proto.graph.node, proto.graph.initializer, proto.graph.input):
        things = [copy.deepcopy(thing) for thing in data.draw(st.permutations(list(owner)))]
        del owner[:]
        owner.extend(things)
    del proto.graph.value_info[:]
    try:
        report = audit(proto, relative_images=0)
    except LieauditError as problem:
        refusal = problem
    else:
        assert_right(report, RIGHT)
        return
    assert refusal.reason.isupper()
    assert refusal.message


# Where the images are in the output

SEQUENCE = [
    CONV,
    ("Tanh", ["c"], ["t"], {}),
    ("ReduceMean", ["t"], ["rows"], {"axes": [2], "keepdims": 0}),  # (N, 4, W)
    ("Transpose", ["rows"], ["time_first"], {"perm": [2, 0, 1]}),
    ("MatMul", ["time_first", "head"], ["logits"], {}),  # (T, N, K)
]


def sequence(x, _):
    return features(x).mean(2).permute(0, 2, 1) @ torch.tensor(HEAD, dtype=torch.float64)


@pytest.mark.parametrize(
    ("tail", "batch", "shape"),
    [
        ([], "N", (10, 5)),
        ([], 1, (10, 5)),
        ([("Reshape", ["logits", "flat"], ["out"], {})], "N", None),
        ([("Transpose", ["logits"], ["out"], {"perm": [0, 2, 1]})], "N", (10, 5)),
        ([("Squeeze", ["logits", "one"], ["out"], {})], 1, (10, 5)),
    ],
    ids=["time first", "time first, one image", "time and batch flattened", "batch last", "batch squeezed"],
)
def test_images_along_another_axis_of_the_output(tail, batch, shape):
    nodes = [*SEQUENCE, *tail]
    weights = [*WEIGHTS, ("flat", np.array([-1, 5])), ("one", np.array([1]))]
    proto = model(nodes, [info("image", "f", [batch, 3, 8, 10])], [info(nodes[-1][2][0], "f", None)], weights)
    expected = reference(sequence)
    if shape is None:
        # (T · N, K) is time-major: where one image's rows are depends on how many there are, so images run one by one
        loaded = load_model(proto, AuditSpec(head="identity"))
        assert not loaded.batchable
    report = audit(proto, head="identity")
    assert_right(report, expected)


def test_boxes_of_all_images_in_one_axis():
    """(N · A, 4), image after image."""
    nodes = [
        *SEQUENCE[:3],
        ("Transpose", ["rows"], ["by_image"], {"perm": [0, 2, 1]}),
        ("MatMul", ["by_image", "head"], ["logits"], {}),
        ("Reshape", ["logits", "flat"], ["out"], {}),
    ]
    weights = [*WEIGHTS, ("flat", np.array([-1, 5]))]
    proto = model(nodes, [info("image", "f", ["N", 3, 8, 10])], [info("out", "f", None)], weights)
    loaded = load_model(proto, AuditSpec(head="identity"))
    assert loaded.batchable
    assert loaded.output_shape == (10, 5)
    assert_right(audit(proto, head="identity"), reference(sequence))


def test_a_frozen_batch_on_the_second_axis():
    """What tracing makes of `view(T, 1, K)`."""
    nodes = [*SEQUENCE, ("Reshape", ["logits", "to"], ["out"], {})]
    weights = [*WEIGHTS, ("to", np.array([10, 1, 5]))]
    proto = model(nodes, [info("image", "f", [1, 3, 8, 10])], [info("out", "f", [10, 1, 5])], weights)
    assert load_model(proto, AuditSpec(head="identity")).batchable
    assert_right(audit(proto, head="identity"), reference(sequence))


def test_a_batch_that_the_graph_needs_is_refused_with_it():
    """A mean over the batch of 3 in every row: no function of one image."""
    nodes = [*BODY, ("ReduceMean", ["logits"], ["m"], {"axes": [0]}), ("Add", ["logits", "m"], ["out"], {})]
    proto = model(nodes, [info("image", "f", [3, 3, 8, 10])], [info("out", "f", [3, 5])], WEIGHTS)
    problem = refused(lambda: audit(proto))
    assert problem.reason == "FIXED_BATCH"
    assert "'image'" in str(problem)
    assert "3" in problem.message


# Images

INTEGERS = {
    "uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 900), "int16": (-500, 500), "uint32": (0, 900),
    "int32": (-500, 500), "uint64": (0, 900), "int64": (-500, 500),
}  # fmt: skip


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
def test_integer_images_of_any_width(kind, last):
    low, high = INTEGERS[kind]
    raw = np.random.default_rng(2).integers(low, high, (3, 3, 8, 10)).astype(np.float32)
    to_float = [("Cast", ["pixels"], ["f"], {"to": TensorProto.FLOAT}), ("Div", ["f", "scale"], ["image"], {})]
    if last:
        to_float[1:] = [
            ("Transpose", ["f"], ["g"], {"perm": [0, 3, 1, 2]}),
            ("Div", ["g", "scale"], ["image"], {}),
        ]
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    shape = ["N", 8, 10, 3] if last else ["N", 3, 8, 10]
    weights = [*WEIGHTS, ("scale", np.array(300, np.float32))]
    proto = model([*to_float, *BODY], [info("pixels", dtype, shape)], [info("logits", "f", ["N", 5])], weights)
    expected = reference(lambda x, _: softmax_of(function)(x / 300), raw)
    report = audit(proto, raw)
    assert_right(report, expected)
    assert any("real numbers" in note for note in report.model.notes)


def test_raw_pixels_for_a_model_of_int8():
    to_float = [("Cast", ["pixels"], ["f"], {"to": TensorProto.FLOAT}), ("Div", ["f", "scale"], ["image"], {})]
    weights = [*WEIGHTS, ("scale", np.array(300, np.float32))]
    inputs = [info("pixels", TensorProto.INT8, ["N", 3, 8, 10])]
    proto = model([*to_float, *BODY], inputs, [info("logits", "f", ["N", 5])], weights)
    raw = np.random.default_rng(2).integers(0, 256, (3, 8, 10, 3)).astype(np.uint8)
    none = lieaudit.data.parse_preprocessing("none")
    problem = refused(lambda: audit(proto, raw, preprocessing=none))
    assert problem.reason == "NOT_WHOLE"
    assert "scale=1,mean=128" in problem.hint
    moved = lieaudit.data.parse_preprocessing("scale=1,mean=128")
    pixels = raw.transpose(0, 3, 1, 2).astype(np.float32) - 128
    expected = reference(lambda x, _: softmax_of(function)(x / 300), pixels)
    assert_right(audit(proto, raw, preprocessing=moved), expected)


@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
def test_more_channels_than_pictures_have(last):
    kernel = (RNG.standard_normal((4, 12, 3, 3)) / 6).astype(np.float32)
    images = RNG.standard_normal((3, 12, 8, 10)).astype(np.float32)
    nodes = [("Transpose", ["spectra"], ["image"], {"perm": [0, 3, 1, 2]}), *BODY] if last else BODY
    name, shape = ("spectra", ["N", 8, 10, 12]) if last else ("image", ["N", 12, 8, 10])
    proto = model(nodes, [info(name, "f", shape)], [info("logits", "f", ["N", 5])], [("kernel", kernel), WEIGHTS[1]])

    def right(x, _):
        return torch.softmax(features(x, kernel).mean((2, 3)) @ torch.tensor(HEAD, dtype=torch.float64), -1)

    generators = (*GENERATORS, "brightness")
    report = audit(proto, images, generators=generators)
    expected = reference(right, images)
    brightness = []
    for image in images:
        x = torch.tensor(image[None], dtype=torch.float64)
        brightness.append(float((torch.func.jvp(lambda y: right(y, 0), (x,), (x,))[1] ** 2).mean()))
    assert_right(report, expected | {"brightness": np.array(brightness)})
    assert any("12 channels" in note for note in report.model.notes)
    # raw arrays take the preprocessing as given
    raw = RNG.integers(0, 256, (2, 8, 10, 12)).astype(np.uint8)
    unit = lieaudit.data.parse_preprocessing("unit")
    expected = reference(right, (raw.transpose(0, 3, 1, 2) / 255).astype(np.float32))
    assert_right(audit(proto, raw, preprocessing=unit), expected)


def refused(call) -> LieauditError:
    with pytest.raises(LieauditError) as caught:
        call()
    return caught.value


def open_size():
    proto = clean()
    sizes("N", 3, "H", "W")(proto)
    return proto


def test_an_open_size_is_asked_for():
    problem = refused(lambda: load_model(open_size()))
    assert problem.reason == "UNKNOWN_SIZE"
    assert "--size" in problem.hint
    loaded = load_model(open_size(), AuditSpec(size=(8, 10)))
    assert (loaded.height, loaded.width) == (8, 10)
    assert_right(audit(open_size(), size=(8, 10)), RIGHT)


def test_pictures_of_several_sizes_need_one(tmp_path):
    from PIL import Image

    for i, size in enumerate([(10, 8), (12, 9)]):
        Image.fromarray(np.zeros((*size[::-1], 3), np.uint8)).save(tmp_path / f"{i}.png")
    data = lieaudit.data.open_dataset(tmp_path)
    unit = lieaudit.data.parse_preprocessing("unit")
    problem = refused(lambda: audit(open_size(), data, preprocessing=unit))
    assert problem.reason == "UNKNOWN_SIZE"
    assert "several sizes" in problem.message
    assert "--preprocess" in problem.hint


@pytest.mark.parametrize("proto", [clean, open_size], ids=["fixed by the graph", "fixed by the images"])
def test_a_size_that_contradicts_is_refused_with_both(proto):
    problem = refused(lambda: audit(proto(), size=(16, 20)))
    assert problem.reason == "SIZE_MISMATCH"
    assert "16×20" in problem.message
    assert "8×10" in problem.message


def test_images_of_another_size_than_declared_are_refused_with_both():
    problem = refused(lambda: audit(clean(), IMAGES[:, :, :, :8]))
    assert problem.reason == "WRONG_SIZE"
    assert "8×8" in problem.message
    assert "8×10" in problem.message


# Further inputs


@dataclass(frozen=True)
class Fed:
    """A graph with one further input, and what it computes with a value of it."""

    proto: onnx.ModelProto
    right: Callable[[Any, Any], Any]


def fed(nodes, shape, kind, right, image_batch: Any = "N", tail=()):
    inputs = [info("image", "f", [image_batch, 3, 8, 10]), info("v", kind, shape)]
    every = [*nodes, *(n for n in BODY if not any(n[2] == own[2] for own in nodes)), *tail]
    return Fed(model(every, inputs, [info(every[-1][2][0], "f", None)], WEIGHTS), right)


def scaled(kind, shape, batch: Any = "N"):
    """Logits times the value."""
    cast = ("Cast", ["v"], ["f"], {"to": TensorProto.FLOAT})
    return fed(
        [], shape, kind, lambda x, v: function(x) * float(v), batch, [cast, ("Mul", ["logits", "f"], ["out"], {})]
    )


def masked(kind="f"):
    """The image times a mask of each image."""
    nodes = [
        ("Cast", ["v"], ["m"], {"to": TensorProto.FLOAT}),
        ("Mul", ["image", "m"], ["seen"], {}),
        ("Conv", ["seen", "kernel"], ["c"], {"pads": [1, 1, 1, 1]}),
    ]
    return fed(nodes, ["N", 1, 8, 10], kind, lambda x, v: function(x * torch.tensor(v, dtype=torch.float64)))


def row_of():
    """The row of the features that an index names: a scalar takes its axis away."""
    nodes = [
        CONV,
        ("Tanh", ["c"], ["t"], {}),
        ("Gather", ["t", "v"], ["row"], {"axis": 2}),
        ("ReduceMean", ["row"], ["p"], {"axes": [2], "keepdims": 0}),
    ]

    def right(x, v):
        return features(x)[:, :, v].mean(2) @ torch.tensor(HEAD, dtype=torch.float64)

    return fed(nodes, [], TensorProto.INT64, right)


MASKS = RNG.integers(0, 2, (4, 1, 8, 10))
FEEDS: dict[str, tuple[Fed, Any, Any]] = {
    "float scalar": (scaled("f", []), 0.5, [0.5] * 4),
    "int scalar": (scaled(TensorProto.INT64, []), 3, [3] * 4),
    "index": (row_of(), 2, [2] * 4),
    "bool scalar": (scaled(TensorProto.BOOL, []), True, [1] * 4),
    "whole float for an int": (scaled(TensorProto.INT32, []), 2.0, [2] * 4),
    "int for a float": (scaled("f", []), 2, [2] * 4),
    "float64": (scaled("d", []), 0.1, [0.1] * 4),
    "float16": (scaled(TensorProto.FLOAT16, []), 0.1, [float(np.float16(0.1))] * 4),
    "uint8": (scaled(TensorProto.UINT8, []), 7, [7] * 4),
    "number for one axis": (scaled("f", [1]), 0.5, [0.5] * 4),
    "list of one": (scaled("f", [1]), [0.5], [0.5] * 4),
    "same for all": (scaled("f", ["N", 1]), [0.5], [0.5] * 4),
    "same for all, with its axis": (scaled("f", ["N", 1]), [[0.5]], [0.5] * 4),
    "per image": (scaled("f", ["N", 1]), [[0.5], [1.0], [1.5], [0.25]], [0.5, 1.0, 1.5, 0.25]),
    "per image, all alike": (scaled("f", ["N", 1]), [[0.5]] * 4, [0.5] * 4),
    "per image, integers": (scaled(TensorProto.INT64, ["N", 1]), [[1], [2], [3], [4]], [1, 2, 3, 4]),
    "per image, axes without names": (
        scaled("f", [None, 1], None),
        [[0.5], [1.0], [1.5], [0.25]],
        [0.5, 1.0, 1.5, 0.25],
    ),
    "per image, a graph for one": (scaled("f", [1, 1], 1), [[0.5], [1.0], [1.5], [0.25]], [0.5, 1.0, 1.5, 0.25]),
    "mask per image": (masked(), MASKS.astype(np.float32), list(MASKS)),
    "bool mask per image": (masked(TensorProto.BOOL), MASKS.astype(bool), list(MASKS)),
    "one mask": (masked(), MASKS[0].astype(np.float32), [MASKS[0]] * 4),
    "int mask": (masked(TensorProto.INT32), MASKS, list(MASKS)),
}


@pytest.mark.parametrize("name", FEEDS)
@pytest.mark.parametrize("by", ["spec", "data"])
def test_a_fed_value_is_what_the_graph_computes_with(name, by):
    case, value, rows = FEEDS[name]
    expected = reference(lambda x, i: case.right(x, rows[i]).softmax(-1))
    if by == "spec":
        report = audit(case.proto, feeds={"v": value})
    else:
        report = audit(case.proto, Dataset.from_arrays(IMAGES, further={"v": value}))
    assert_right(report, expected)
    assert report.status == "ok", report.reasons
    (said,) = report.data.feeds
    assert (said.name, said.source) == ("v", by)
    assert len(said.sha256) == 64


@pytest.mark.parametrize("method", ["forward", "finite_difference", "secant"])
def test_values_per_image_by_every_method(method):
    """A secant of 1e-3 px is the derivative but for its curvature, some 1e-3 of it."""
    case, value, rows = FEEDS["mask per image"]
    expected = reference(lambda x, i: case.right(x, rows[i]).softmax(-1))
    extra = {"secant_px": 1e-3} if method == "secant" else {}
    report = audit(case.proto, feeds={"v": value}, method=method, **extra)
    if method != "secant":
        assert_right(report, expected, rtol=FLOAT32 if method == "forward" else 5e-3)
    else:
        shares = {g: np.array(report.results[g].per_image) / rows for g, rows in expected.items()}
        assert all(np.isfinite(share).all() for share in shares.values())
        # images of noise are far from band-limited: the resampled image is another one, the mask is the same
        assert np.abs(np.concatenate(list(shares.values())) - 1).max() < 0.5
    # with the masks of other images it is another function
    other = audit(case.proto, feeds={"v": value[::-1]}, method=method, **extra)
    assert other.results["rotation"].per_image != report.results["rotation"].per_image


def test_layers_where_a_value_is_one_for_all_and_where_it_is_not():
    case, value, _ = FEEDS["mask per image"]
    found = audit(case.proto, feeds={"v": value[0]}, layerwise="module").layerwise["rotation"]
    assert found.completeness < 1e-4
    report = audit(case.proto, feeds={"v": value}, layerwise="module")
    assert not report.layerwise
    # one generator does not span the affine directions, which is said too
    assert [skip.what for skip in report.skipped] == ["layerwise", "affine"]
    assert "'v'" in report.skipped[0].why
    assert report.status == "inconclusive"
    assert_right(report, reference(lambda x, i: case.right(x, MASKS[i]).softmax(-1)))


def test_a_fed_value_wins_over_the_data():
    case = scaled("f", [])
    data = Dataset.from_arrays(IMAGES, further={"v": 7.0})
    assert_right(audit(case.proto, data, feeds={"v": 0.5}), reference(lambda x, _: (function(x) / 2).softmax(-1)))


def test_values_in_the_npz(tmp_path):
    case, value, rows = FEEDS["mask per image"]
    np.savez(tmp_path / "set.npz", x=IMAGES, v=value, notes=np.array(["a", "b"]))
    data = lieaudit.data.open_dataset(tmp_path / "set.npz")
    assert_right(audit(case.proto, data), reference(lambda x, i: case.right(x, rows[i]).softmax(-1)))
    np.savez(tmp_path / "bad.npz", x=IMAGES, v=np.array([{}, None]))
    problem = refused(lambda: audit(case.proto, lieaudit.data.open_dataset(tmp_path / "bad.npz")))
    assert problem.reason == "PICKLED_OBJECTS"
    np.savez(tmp_path / "text.npz", x=IMAGES, v=np.array(["a"] * 4))
    problem = refused(lambda: audit(case.proto, lieaudit.data.open_dataset(tmp_path / "text.npz")))
    assert problem.reason == "FEED_MISMATCH"


def test_fed_values_are_part_of_the_data_s_digest():
    several = [Dataset.from_arrays(IMAGES, further=f).sha256 for f in (None, {"v": 1.0}, {"v": 2.0}, {"w": 1.0})]
    assert len(set(several)) == 4


def test_a_missing_value_is_refused_with_its_input_and_the_option():
    problem = refused(lambda: audit(scaled(TensorProto.INT64, ["N", 2]).proto))
    assert (problem.reason, problem.subject) == ("EXTRA_INPUTS", "v")
    assert "'v' int64 (N, 2)" in problem.message
    assert "--feed v=" in problem.hint


def test_an_output_that_does_not_need_the_value_can_be_chosen():
    proto = scaled("f", []).proto
    proto.graph.output.insert(0, info("logits", "f", None))
    assert "--output" in refused(lambda: audit(proto)).hint
    report = audit(proto, output="logits")
    assert_right(report, RIGHT)
    assert not report.data.feeds


@pytest.mark.parametrize(
    ("shape", "kind", "value", "reason", "says"),
    [
        (["N", 2], "f", [1.0, 2.0, 3.0], "FEED_MISMATCH", ["(3,)", "(N, 2)", "4 images"]),
        (["N", 2], "f", [[1.0, 2.0]] * 3, "FEED_MISMATCH", ["(3, 2)", "(N, 2)", "4 images"]),
        ([2], "f", 1.0, "FEED_MISMATCH", ["()", "(2)"]),
        ([], TensorProto.INT64, 0.5, "FEED_MISMATCH", ["float64", "int64"]),
        ([], TensorProto.UINT8, 300, "FEED_MISMATCH", ["int64", "uint8"]),
        ([], TensorProto.BOOL, 2, "FEED_MISMATCH", ["int64", "bool"]),
        ([], TensorProto.FLOAT16, 1e9, "FEED_MISMATCH", ["float64", "float16"]),
        ([], TensorProto.STRING, 1, "EXTRA_INPUTS", ["STRING"]),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_both(shape, kind, value, reason, says):
    inputs = [info("image", "f", ["N", 3, 8, 10]), info("v", kind, shape)]
    out = ("Identity", ["v"], ["w"], {})
    proto = model([*BODY, out], inputs, [info("logits", "f", ["N", 5]), info("w", kind, shape)], WEIGHTS)
    problem = refused(lambda: audit(proto, feeds={"v": value}))
    assert problem.reason == reason
    assert "'v'" in problem.message or "feeds.v" in problem.message
    assert all(part in problem.message for part in says), problem.message


def test_a_value_for_no_input_is_refused_with_those_there_are():
    proto = scaled("f", []).proto
    problem = refused(lambda: audit(proto, feeds={"w": 1.0}))
    assert (problem.reason, problem.subject) == ("UNKNOWN_INPUT", "feeds.w")
    assert "'v'" in problem.hint
    assert refused(lambda: audit(proto, feeds={"image": 1.0})).reason == "UNKNOWN_INPUT"


def test_a_fed_image_input_is_no_rival():
    """Two inputs of rank 4: the one with a value is the mask."""
    case, value, _ = FEEDS["mask per image"]
    assert refused(lambda: audit(case.proto)).reason == "AMBIGUOUS_INPUT"
    report = audit(case.proto, feeds={"v": value})
    assert report.model.input.name == "image"
    other = audit(case.proto, Dataset.from_arrays(IMAGES, further={"v": value}))
    assert other.results == report.results


@pytest.mark.parametrize(
    ("feeds", "says"),
    [
        ({"v": np.array(["a"])}, "holds <U1"),
        ({"v": [[1], [2, 3]]}, "different lengths"),
        ({"v": float("nan")}, "NaN"),
        ({"v": np.zeros(2**18)}, "1048576"),
        ({f"v{i}": 1 for i in range(40)}, "40"),
        ({"v": {"dtype": "int8", "shape": [3], "data": "AA=="}}, "1 bytes"),
        ({"v": {"dtype": "object", "shape": [], "data": ""}}, "dtype"),
        ({"v": {"dtype": "int8", "shape": [-1], "data": ""}}, "shape"),
        ({"v": {"dtype": "int8", "shape": [1], "data": "!"}}, "cannot be read"),
    ],
)
def test_unusable_values_are_refused_by_the_specification(feeds, says):
    problem = refused(lambda: AuditSpec(feeds=feeds))
    assert problem.reason == "INVALID_FEED"
    assert says in str(problem)


class Scaled(torch.nn.Module):
    """What `scaled` computes: logits times a value."""

    def forward(self, image, v):
        t = torch.tanh(torch.nn.functional.conv2d(image, torch.tensor(KERNEL).to(image), padding=1))
        return (t.mean((2, 3)) @ torch.tensor(HEAD).to(image)) * v


def test_a_torch_module_takes_the_values_too():
    import lieaudit.torch

    spec = AuditSpec(generators=GENERATORS, head="softmax", bootstrap=200, feeds={"v": 0.5})
    report = lieaudit.torch.audit(Scaled(), IMAGES, spec)
    assert_right(report, reference(lambda x, _: (function(x) / 2).softmax(-1)), rtol=1e-6)  # directions are float32
    problem = refused(
        lambda: lieaudit.torch.audit(Scaled(), IMAGES, AuditSpec(feeds={"v": np.ones((4, 1))}, head="softmax"))
    )
    assert problem.reason == "FEED_MISMATCH"


class Halved(Scaled):
    """The same with its value inside."""

    def forward(self, image):
        return super().forward(image, 0.5)


def made_scaled():
    """A registered factory."""
    return Scaled()


@pytest.mark.parametrize("by", ["spec", "data"])
@pytest.mark.parametrize("kind", ["factory", "program"])
def test_a_torch_source_is_fed_what_the_graph_is(tmp_path, monkeypatch, by, kind):
    """A factory's module takes the value; a program takes images only and has it inside."""
    monkeypatch.setitem(sys.modules, "intake_factories", sys.modules[__name__])
    source = TorchFiles(factories={"scaled": "intake_factories:made_scaled"})
    spec: dict[str, Any] = {"torch_factory": "scaled"}
    if kind == "program":
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(Halved(), (torch.tensor(IMAGES),), dynamic_shapes={"image": {0: batch}})
        torch.export.save(program, tmp_path / "source.pt2")
        source, spec = TorchFiles(tmp_path / "source.pt2"), {}
    data = Dataset.from_arrays(IMAGES, further={} if by == "spec" else {"v": 0.5})
    feeds = {"v": 0.5} if by == "spec" else {}
    full = AuditSpec(generators=GENERATORS, head="softmax", bootstrap=200, method="torch", feeds=feeds, **spec)
    report = lieaudit.audit(scaled("f", []).proto, data, full, source=source)
    assert_right(report, reference(lambda x, _: (function(x) / 2).softmax(-1)), rtol=1e-6)
    assert report.status == "ok", report.reasons
    case, value, _ = FEEDS["per image"]
    per_image = AuditSpec(method="torch", feeds={"v": value}, **spec)
    problem = refused(lambda: lieaudit.audit(case.proto, IMAGES, per_image, source=source))
    assert (problem.reason, problem.subject) == ("FEED_MISMATCH", "feeds.v")


def test_dictionaries_alone_are_refused_by_name():
    proto = clean()
    with_dictionaries(proto)
    del proto.graph.output[0]
    problem = refused(lambda: audit(proto))
    assert problem.reason == "ZIPMAP_OUTPUT"
    assert "ZipMap" in problem.message
    assert "'logits'" in problem.hint


def test_nodes_in_a_circle_are_refused_by_name():
    proto = clean()
    proto.graph.node[0].input[0] = "p"
    problem = refused(lambda: audit(proto))
    assert (problem.reason, problem.subject) == ("GRAPH_CYCLE", "conv")


def test_what_is_no_model_is_said():
    for content, says in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"../../../blobs/7a5b0c", "symbolic link"),
    ):
        problem = refused(lambda content=content: lieaudit.audit(content, IMAGES))
        assert problem.reason == "NOT_ONNX"
        assert says in problem.hint


@pytest.mark.parametrize("name", VARIANTS)
def test_onnxruntime_runs_every_variant(name):
    """The other half of the claim: each of them is a file that onnxruntime takes."""
    proto = clean()
    VARIANTS[name][0](proto)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if name in {"float64", "sizes of 0", "nested out of order"}:
        return  # beyond: it has no such convolution, takes empty images, and sorts no branches
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    count = 3 if name == "batch of 3" else 1
    feeds = {"image": IMAGES[:count]}
    for value in session.get_inputs():
        if value.name == "unused":
            feeds["unused"] = {1: np.zeros(1, np.float32), 4: IMAGES[:1]}.get(len(value.shape), np.zeros((), np.int64))
    feeds = {
        (session.get_inputs()[0].name if k == "image" and "unused" not in name else k): v for k, v in feeds.items()
    }
    out = session.run([session.get_outputs()[0].name], feeds)[0]
    assert np.allclose(out, function(torch.tensor(IMAGES[:count], dtype=torch.float64)).numpy(), atol=1e-5)
