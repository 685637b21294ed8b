"""Detectors whose graph ends in non-maximum suppression, and outputs that have another size for every image."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit.errors import ModelError

_n = helper.make_node


def _detector(*outputs: str, sizes: dict[str, list[int]] | None = None) -> onnx.ModelProto:
    """Return boxes, scores, class probabilities, the boxes kept by suppression and the values above zero of a map."""
    random = np.random.default_rng(6)
    nodes = [
        _n("Conv", ["x", "w"], ["map"], strides=[4, 4], kernel_shape=[4, 4]),
        _n("Reshape", ["map", "flat"], ["cells"]),
        _n("Split", ["cells", "parts"], ["raw", "scores"], axis=1),
        _n("Transpose", ["raw"], ["boxes"], perm=[0, 2, 1]),
        _n("NonMaxSuppression", ["boxes", "scores", "most", "iou", "least"], ["selected"], name="suppression"),
        _n("Gather", ["selected", "two"], ["column"], axis=1),
        _n("Reshape", ["column", "all"], ["index"]),
        _n("Gather", ["boxes", "index"], ["kept"], axis=1),
        _n("GlobalAveragePool", ["map"], ["pooled"]),
        _n("Flatten", ["pooled"], ["logits"]),
        _n("Softmax", ["logits"], ["probabilities"]),
        _n("Relu", ["map"], ["positive"]),
        _n("NonZero", ["positive"], ["where"]),
        _n("Transpose", ["where"], ["points"], perm=[1, 0]),
        _n("GatherND", ["positive", "points"], ["picked"]),
    ]
    arrays = {
        "w": random.standard_normal((7, 3, 4, 4)).astype(np.float32),
        "flat": np.array([0, 0, -1]),
        "parts": np.array([4, 3]),
        "most": np.array([5]),
        "iou": np.array([0.5], np.float32),
        "least": np.array([0.0], np.float32),
        "two": np.array([2]),
        "all": np.array([-1]),
    }
    info = helper.make_tensor_value_info
    kinds = {"selected": TensorProto.INT64}
    graph = helper.make_graph(
        nodes,
        "detector",
        [info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [info(name, kinds.get(name, TensorProto.FLOAT), (sizes or {}).get(name)) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


_IMAGES = np.random.default_rng(7).standard_normal((4, 3, 16, 16)).astype(np.float32)


def _audited(model: onnx.ModelProto, **spec: object) -> lieaudit.Report:
    return lieaudit.audit(model, _IMAGES, lieaudit.AuditSpec(generators=("rotation",), **spec))  # type: ignore[arg-type]


@pytest.mark.parametrize("output", [None, "probabilities"])
def test_suppression_beside_the_audited_output_changes_nothing(output):
    alone = _audited(_detector("probabilities"))
    beside = _audited(_detector("probabilities", "kept", "selected"), output=output)
    assert beside.status == "ok"
    assert beside.results["rotation"].per_image == alone.results["rotation"].per_image


@pytest.mark.parametrize("method", ["auto", "forward", "finite_difference"])
def test_what_suppression_keeps_is_refused_with_what_feeds_it(method):
    with pytest.raises(ModelError, match="NonMaxSuppression 'suppression'") as caught:
        _audited(_detector("kept", "probabilities"), output="kept", method=method)
    assert caught.value.reason == "OUTPUT_SELECTED"
    assert "--output boxes or --output scores" in caught.value.hint


def test_what_feeds_suppression_is_audited_by_its_name():
    report = _audited(_detector("kept"), output="scores", head="identity")
    assert report.model.output.name == "scores"
    weights = numpy_helper.to_array(_detector("kept").graph.initializer[0])[4:].astype(np.float64)
    expected = []
    for image in _IMAGES:
        # the scores are linear in the image, so that LEE is theirs of its derivative
        x = _rotated(image)
        cells = x.reshape(3, 4, 4, 4, 4).transpose(1, 3, 0, 2, 4)
        expected.append(np.mean(np.einsum("hwcij,kcij->khw", cells, weights) ** 2))
    np.testing.assert_allclose(report.results["rotation"].per_image, expected, rtol=1e-5)


def _rotated(image: np.ndarray) -> np.ndarray:
    from lieaudit.data import Dataset
    from lieaudit.graph.load import load_model
    from lieaudit.images import Images

    spec = lieaudit.AuditSpec(generators=("rotation",), output="scores", head="identity")
    images = Images(Dataset.from_arrays(image[None], None), load_model(_detector("kept"), spec), spec)
    return np.asarray(images.tangents(images.load([0]))[0, 0], np.float64)


@pytest.mark.parametrize("method", ["auto", "forward", "finite_difference"])
def test_an_output_whose_size_follows_the_image_is_refused_by_its_name(method):
    with pytest.raises(ModelError, match="output 'picked' has another size for every image") as caught:
        _audited(_detector("picked"), method=method)
    assert caught.value.reason == "OUTPUT_SIZE_VARIES"


@pytest.mark.parametrize("method", ["auto", "finite_difference"])
def test_an_output_whose_size_follows_only_the_images_is_refused_by_its_name(method):
    """On noise all values are above the threshold, on the images some are."""
    model = helper.make_model(
        helper.make_graph(
            [
                _n("ReduceMean", ["x"], ["mean"], keepdims=0),  # of the whole batch: one image at a time
                _n("Sub", ["x", "mean"], ["centred"]),
                _n("Greater", ["x", "low"], ["mask"]),
                _n("NonZero", ["mask"], ["where"]),
                _n("Transpose", ["where"], ["points"], perm=[1, 0]),
                _n("GatherND", ["centred", "points"], ["values"]),
                _n("Unsqueeze", ["values", "front"], ["picked"]),
            ],
            "threshold",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
            [helper.make_tensor_value_info("picked", TensorProto.FLOAT, None)],
            [
                numpy_helper.from_array(np.array(-1e4, np.float32), "low"),
                numpy_helper.from_array(np.array([0]), "front"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    images = np.random.default_rng(7).standard_normal((4, 3, 8, 8)).astype(np.float32)
    images[:, 0, 0, :2] = -1e5
    images[1, 0, 0, 2] = -1e5
    with pytest.raises(ModelError, match="output 'picked' has another size") as caught:
        lieaudit.audit(model, images, lieaudit.AuditSpec(generators=("rotation",), head="identity", method=method))
    assert caught.value.reason == "OUTPUT_SIZE_VARIES"
