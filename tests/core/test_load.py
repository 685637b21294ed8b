"""Whatever an exporter wrote, loading gives one float32 NCHW input and raw outputs, and says what it changed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit import AuditSpec
from lieaudit.data import Dataset
from lieaudit.errors import LieauditError
from lieaudit.graph.load import load_model
from lieaudit.metrics.head import Head
from lieaudit.runtime.session import Session


def model(nodes, inputs, outputs, initializers=(), *, opset=17, ir_version=8, domains=(), functions=()):
    kinds = {"f": TensorProto.FLOAT, "h": TensorProto.FLOAT16, "d": TensorProto.DOUBLE, "i": TensorProto.INT64}
    infos = [
        [helper.make_tensor_value_info(name, kinds[kind], shape) for name, kind, shape in values]
        for values in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in initializers]
    graph = helper.make_graph([helper.make_node(*node[:3], **node[3]) for node in nodes], "g", *infos, tensors)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, functions=list(functions))


RNG = np.random.default_rng(1)
CONV = RNG.standard_normal((5, 3, 3, 3)).astype(np.float32)
TO_LOGITS = [("GlobalAveragePool", ["c"], ["p"], {}), ("Flatten", ["p"], ["logits"], {})]


def conv_net(shape=("N", 3, 8, 8), tail=(), output="logits", output_shape=("N", 5), **kwargs):
    nodes = [("Conv", ["image", "w"], ["c"], {}), *TO_LOGITS, *tail]
    return model(nodes, [("image", "f", shape)], [(output, "f", output_shape)], [("w", CONV)], **kwargs)


def reason(source, spec=None, **kwargs):
    with pytest.raises(LieauditError) as caught:
        load_model(source, spec, **kwargs)
    return caught.value.reason


def evaluate(loaded, images):
    with Session(loaded.model) as session:
        return session.run({loaded.input_name: images})[0]


def original(proto, images):
    with Session(proto.SerializeToString()) as session:
        return session.run({session.input_names[0]: images})[0]


def images(n=2, c=3, size=8):
    return np.random.default_rng(2).standard_normal((n, c, size, size)).astype(np.float32)


def test_a_plain_classifier():
    loaded = load_model(conv_net())
    assert (loaded.channels, loaded.height, loaded.width) == (3, 8, 8)
    assert loaded.output_shape == (5,)
    assert loaded.head == Head("softmax", spatial=False)
    assert loaded.batchable
    assert np.array_equal(evaluate(loaded, images()), original(conv_net(), images()))


def test_nhwc_is_transposed_and_said():
    nodes = [("Transpose", ["image"], ["t"], {"perm": [0, 3, 1, 2]}), ("Conv", ["t", "w"], ["c"], {}), *TO_LOGITS]
    nhwc = model(nodes, [("image", "f", ["N", 8, 8, 3])], [("logits", "f", ["N", 5])], [("w", CONV)])
    loaded = load_model(nhwc)
    assert loaded.info.input.layout == "NHWC"
    assert any("NHWC" in note for note in loaded.info.notes)
    expected = original(nhwc, np.ascontiguousarray(images().transpose(0, 2, 3, 1)))
    assert np.array_equal(evaluate(loaded, images()), expected)


@pytest.mark.parametrize("frozen", [[1, -1], [1, 180], [-1, 180]])
def test_a_batch_axis_frozen_to_one_is_freed(frozen):
    nodes = [("Conv", ["image", "w"], ["c"], {}), ("Reshape", ["c", "s"], ["logits"], {})]
    fixed = model(
        nodes,
        [("image", "f", [1, 3, 8, 8])],
        [("logits", "f", [1, 180])],
        [("w", CONV), ("s", np.array(frozen, np.int64))],
    )
    loaded = load_model(fixed)
    assert loaded.batchable
    batch = evaluate(loaded, images(3))
    singles = np.concatenate([original(fixed, image[None]) for image in images(3)])
    # other blocking of the same sums
    assert np.allclose(batch, singles, rtol=0, atol=1e-6 * np.abs(singles).max())


def test_a_graph_that_mixes_its_batch_runs_one_by_one():
    nodes = [
        ("Conv", ["image", "w"], ["c"], {}),
        *TO_LOGITS[:1],
        ("Flatten", ["p"], ["f"], {}),
        ("ReduceMean", ["f"], ["m"], {"axes": [0]}),
        ("Add", ["f", "m"], ["logits"], {}),
    ]
    mixing = model(nodes, [("image", "f", ["N", 3, 8, 8])], [("logits", "f", ["N", 5])], [("w", CONV)])
    loaded = load_model(mixing)
    assert not loaded.batchable
    assert any("one image at a time" in note for note in loaded.info.notes)


def test_a_larger_frozen_batch_is_refused():
    nodes = [("Conv", ["image", "w"], ["c"], {}), ("Reshape", ["c", "s"], ["logits"], {})]
    fixed = model(
        nodes,
        [("image", "f", [4, 3, 8, 8])],
        [("logits", "f", [2, 360])],
        [("w", CONV), ("s", np.array([2, 360], np.int64))],
    )
    assert reason(fixed) == "FIXED_BATCH"


def test_half_precision_is_upcast_and_said():
    nodes = [("Conv", ["image", "w"], ["c"], {}), *TO_LOGITS]
    half = model(nodes, [("image", "h", ["N", 3, 8, 8])], [("logits", "h", ["N", 5])], [("w", CONV.astype(np.float16))])
    loaded = load_model(half)
    assert loaded.info.precision == "float32 (upcast from float16)"
    rounded = conv_net()
    rounded.graph.initializer[0].CopyFrom(numpy_helper.from_array(CONV.astype(np.float16).astype(np.float32), "w"))
    assert np.array_equal(evaluate(loaded, images()), original(rounded, images()))


def test_double_precision_is_rounded_and_said():
    nodes = [("Conv", ["image", "w"], ["c"], {}), *TO_LOGITS]
    weights = [("w", CONV.astype(np.float64))]
    double = model(nodes, [("image", "d", ["N", 3, 8, 8])], [("logits", "d", ["N", 5])], weights)
    loaded = load_model(double)
    assert loaded.info.precision == "float32 (rounded from float64)"
    assert np.array_equal(evaluate(loaded, images()), original(conv_net(), images()))


def test_initializers_listed_as_inputs_are_weights():
    old = conv_net(opset=9, ir_version=3)
    old.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, CONV.shape))
    loaded = load_model(old)
    assert [value.name for value in loaded.model.graph.inputs] == ["image"]
    assert loaded.ir_version == 3


def test_model_local_functions_are_inlined():
    function = helper.make_function(
        "local", "Twice", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])], [helper.make_opsetid("", 17)]
    )
    nodes = [("Conv", ["image", "w"], ["c"], {}), *TO_LOGITS, ("Twice", ["logits"], ["out"], {"domain": "local"})]
    proto = model(
        nodes,
        [("image", "f", ["N", 3, 8, 8])],
        [("out", "f", ["N", 5])],
        [("w", CONV)],
        domains=["local"],
        functions=[function],
    )
    loaded = load_model(proto)
    assert {node.op_type for node in loaded.model.graph} >= {"Add", "Conv"}
    assert np.array_equal(evaluate(loaded, images()), original(proto, images()))


@pytest.mark.parametrize(
    ("op", "function"), [("Softmax", "softmax"), ("LogSoftmax", "softmax"), ("Sigmoid", "sigmoid")]
)
def test_a_final_head_is_cut_off(op, function):
    loaded = load_model(conv_net(tail=[(op, ["logits"], ["out"], {})], output="out"))
    assert loaded.head == Head(function, spatial=False)
    assert np.array_equal(evaluate(loaded, images()), original(conv_net(), images()))
    assert any("cut off" in note for note in loaded.info.notes)


def test_a_head_of_another_kind_leaves_the_graph_alone():
    proto = conv_net(tail=[("Softmax", ["logits"], ["out"], {})], output="out")
    loaded = load_model(proto, AuditSpec(head="sigmoid"))
    assert loaded.head.function == "sigmoid"
    assert np.array_equal(evaluate(loaded, images()), original(proto, images()))


def test_a_softmax_over_another_axis_is_a_head_too():
    nodes = [("Conv", ["image", "w"], ["c"], {}), ("Softmax", ["c"], ["map"], {"axis": 3})]
    proto = model(nodes, [("image", "f", ["N", 3, 8, 8])], [("map", "f", ["N", 5, 6, 6])], [("w", CONV)])
    loaded = load_model(proto)
    assert loaded.head == Head("softmax", spatial=True, axis=3)
    ours = loaded.head.value(evaluate(loaded, images()))
    # the graph's own softmax is float32
    assert np.allclose(ours, original(proto, images()), rtol=0, atol=1e-6)


def test_a_segmentation_softmax_is_applied_per_pixel():
    nodes = [("Conv", ["image", "w"], ["c"], {}), ("Softmax", ["c"], ["map"], {"axis": 1})]
    proto = model(nodes, [("image", "f", ["N", 3, 8, 8])], [("map", "f", ["N", 5, 6, 6])], [("w", CONV)])
    loaded = load_model(proto)
    assert loaded.head == Head("softmax", spatial=True)
    ours = loaded.head.value(evaluate(loaded, images()))
    # the graph's own softmax is float32
    assert np.allclose(ours, original(proto, images()), rtol=0, atol=1e-6)


def test_several_outputs_are_chosen_by_name():
    proto = conv_net()
    proto.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, ["N", 5, 6, 6]))
    assert load_model(proto).info.output.name == "logits"
    assert load_model(proto, AuditSpec(output="c")).output_shape == (5, 6, 6)
    assert reason(proto, AuditSpec(output="d")) == "UNKNOWN_OUTPUT"


def test_symbolic_sizes_take_the_images():
    proto = conv_net(shape=("N", 3, "H", "W"))
    loaded = load_model(proto, data=Dataset.from_arrays(np.ones((2, 3, 12, 16), np.float32)))
    assert (loaded.height, loaded.width) == (12, 16)
    loaded = load_model(proto, AuditSpec(size=(12, 16)))
    assert (loaded.height, loaded.width) == (12, 16)
    assert reason(proto) == "UNKNOWN_SIZE"


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_one_to_four_channels(channels):
    nodes = [("GlobalAveragePool", ["image"], ["p"], {}), ("Flatten", ["p"], ["z"], {})]
    proto = model(nodes, [("image", "f", ["N", channels, 8, 8])], [("z", "f", ["N", channels])])
    assert load_model(proto).channels == channels


def test_what_is_no_image_model_is_refused():
    flat = model([("Relu", ["x"], ["z"], {})], [("x", "f", ["N", 7])], [("z", "f", ["N", 7])])
    assert reason(flat) == "NO_IMAGE_INPUT"
    assert reason(conv_net(shape=("N", 7, 8, 8))) == "BAD_CHANNELS"
    assert reason(conv_net(), AuditSpec(input="nothing")) == "UNKNOWN_INPUT"
    two = model(
        [("Add", ["a", "b"], ["z"], {})],
        [("a", "f", ["N", 3, 8, 8]), ("b", "f", ["N", 3, 8, 8])],
        [("z", "f", ["N", 3, 8, 8])],
    )
    assert reason(two) == "AMBIGUOUS_INPUT"
    assert reason(two, AuditSpec(input="a")) == "EXTRA_INPUTS"


def test_a_custom_op_is_named():
    proto = conv_net(tail=[("Warp", ["logits"], ["out"], {"domain": "acme"})], output="out", domains=["acme"])
    with pytest.raises(LieauditError) as caught:
        load_model(proto)
    assert caught.value.reason == "UNKNOWN_OP"
    assert "Warp" in caught.value.subject


def test_a_constant_output_is_refused_with_the_images():
    nodes = [("Conv", ["image", "w"], ["c"], {}), *TO_LOGITS, ("Mul", ["logits", "zero"], ["z"], {})]
    zero = ("zero", np.zeros(1, np.float32))
    proto = model(nodes, [("image", "f", ["N", 3, 8, 8])], [("z", "f", ["N", 5])], [("w", CONV), zero])
    assert any("same output" in note for note in load_model(proto).info.notes)
    for several in (1, 4):
        with pytest.raises(LieauditError) as caught:
            lieaudit.audit(proto, images(several), AuditSpec(generators=("rotation",)))
        assert caught.value.reason == "CONSTANT_OUTPUT"


def test_a_model_with_an_eye_for_images_is_audited():
    """Whatever is not as bright as a flash is black to it: noise of all sizes, which is dark in the mean, too."""
    nodes = [
        ("GlobalAveragePool", ["image"], ["mean"], {}),
        ("Sub", ["mean", "flash"], ["over"], {}),
        ("Relu", ["over"], ["light"], {}),
        ("Flatten", ["light"], ["z"], {}),
    ]
    flash = [("flash", np.float32(50))]
    proto = model(nodes, [("image", "f", ["N", 3, 8, 8])], [("z", "f", ["N", 3])], flash)
    spec = AuditSpec(generators=("rotation", "translation_x"), head="identity")
    bright = np.abs(images(4)) + 60
    assert lieaudit.audit(proto, bright, spec).results["translation_x"].lee > 0
    with pytest.raises(LieauditError, match="same for every image"):
        lieaudit.audit(proto, images(4), spec)


def test_random_outputs_are_refused():
    nodes = [
        ("Conv", ["image", "w"], ["c"], {}),
        *TO_LOGITS,
        ("RandomNormalLike", ["logits"], ["r"], {}),
        ("Add", ["logits", "r"], ["z"], {}),
    ]
    proto = model(nodes, [("image", "f", ["N", 3, 8, 8])], [("z", "f", ["N", 5])], [("w", CONV)])
    assert reason(proto) == "NONDETERMINISTIC"


def test_heads_that_do_not_fit_are_refused():
    assert reason(conv_net(), AuditSpec(head="spatial")) == "HEAD_MISMATCH"
    scalar = conv_net(tail=[("ReduceMean", ["logits"], ["z"], {"axes": [1]})], output="z", output_shape=("N", 1))
    assert reason(scalar, AuditSpec(head="softmax")) == "HEAD_MISMATCH"
    assert load_model(scalar).head.function == "identity"


def test_every_shared_model_loads_as_its_description_says(real_dir):
    expected = {
        "cnn_small_nhwc_cifar10": (3, 32, 10),
        "mnist_cntk": (1, 28, 10),
        "mnist_rot_p4_gcnn": (1, 28, 10),
        "mobilenet_v1_0.5_160_imagenet": (3, 160, 1001),
        "resnet56_cifar10": (3, 32, 10),
        "resnet_2b_batch1_cifar10": (3, 32, 10),
        "squeezenet_fp16_imagenet": (3, 224, 1000),
        "vit_pgd_cifar10": (3, 32, 10),
    }
    for name, (channels, size, classes) in expected.items():
        loaded = load_model(real_dir / "models" / f"{name}.onnx")
        assert (loaded.channels, loaded.height, loaded.output_shape) == (channels, size, (classes,))
        assert loaded.head == Head("softmax", spatial=False)
        assert loaded.batchable


def test_the_normalised_graph_passes_the_checker(real_dir):
    import onnx_ir as ir

    loaded = load_model(real_dir / "models" / "squeezenet_fp16_imagenet.onnx")
    onnx.checker.check_model(ir.to_proto(loaded.model), full_check=True)


def test_a_quantised_model_of_raw_pixels_is_not_taken_for_a_constant():
    """Noise of the size of a normalised image is below its first step, at 20 of 255."""
    steps = [("step", np.float32(40)), ("zero", np.uint8(0))]
    nodes = [
        ("QuantizeLinear", ["image", "step", "zero"], ["q"], {}),
        ("DequantizeLinear", ["q", "step", "zero"], ["d"], {}),
        ("Conv", ["d", "w"], ["c"], {}),
        *TO_LOGITS,
    ]
    proto = model(nodes, [("image", "f", ["N", 3, 8, 8])], [("logits", "f", ["N", 5])], [("w", CONV), *steps])
    loaded = load_model(proto)
    assert loaded.batchable
    raw = (255 * np.random.default_rng(3).random((2, 3, 8, 8))).astype(np.float32)
    assert np.array_equal(evaluate(loaded, raw), original(proto, raw))
