"""Sizes that follow the pixels are never those of noise: a branch, a loop or a mean by them is measured as it is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit.errors import ModelError
from lieaudit.symmetries import tangents

torch = pytest.importorskip("torch")

GENERATORS = ("rotation", "translation_x")
CONVENTIONS = {"interpolation": "bilinear", "padding": "reflect", "convention": "central"}
BRIGHT, LIMIT = 4.0, 40
RNG = np.random.default_rng(3)
KERNEL = (RNG.standard_normal((4, 3, 3, 3)) / 3).astype(np.float32)
HEAD = RNG.standard_normal((4, 5)).astype(np.float32)
IMAGES = RNG.uniform(-1.0, 1.0, (4, 3, 8, 10)).astype(np.float32)
# noise of no amplitude that a graph is tried with is bright at so many places of which half are dark
IMAGES[::2] *= 0.2
IMAGES[::2] += 5
DIRECTIONS = np.asarray(tangents(IMAGES.astype(np.float64), GENERATORS, **CONVENTIONS), np.float64)
node = helper.make_node

BOUNDED = [
    node("Greater", ["image", "bright"], ["over"]),
    node("Less", ["image", "brighter"], ["under"]),
    node("And", ["over", "under"], ["between"]),
]
"""Noise of 0.5 has nothing between 4 and 6, noise of 128 little; a bright image has all of its pixels there."""
SIZED = {
    "NonZero": [*BOUNDED, node("NonZero", ["between"], ["kept"])],
    "Compress": [
        *BOUNDED,
        node("Reshape", ["between", "flat"], ["mask"]),
        node("Compress", ["image", "mask"], ["kept"]),
    ],
    "Unique": [
        *BOUNDED,
        node("Where", ["between", "image", "zero"], ["seen"]),
        node("Unique", ["seen"], ["kept"]),
    ],
    "Where of sizes": [
        *BOUNDED,
        node("Cast", ["between"], ["ones"], to=TensorProto.FLOAT),
        node("ReduceMax", ["ones"], ["any"], keepdims=0),
        node("Cast", ["any"], ["bright?"], to=TensorProto.BOOL),
        node("Where", ["bright?", "many", "one"], ["chosen"]),
        node("ConstantOfShape", ["chosen"], ["kept"]),
    ],
}


def info(name, shape=None, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def net(middle, batch="N") -> onnx.ModelProto:
    values = {
        "kernel": KERNEL, "head": HEAD, "bright": np.float32(BRIGHT), "brighter": np.float32(6), "zero": np.float32(0),
        "flat": np.array([-1]), "last": np.array(-1), "limit": np.array(LIMIT), "one": np.array([1]),
        "many": np.array([LIMIT + 1]), "nothing": np.array(0), "yes": np.array(True),
    }  # fmt: skip
    nodes = [
        node("Conv", ["image", "kernel"], ["c"], pads=[1] * 4),
        *middle,
        node("ReduceMean", ["m"], ["p"], axes=[2, 3], keepdims=0),
        node("MatMul", ["p", "head"], ["logits"]),
    ]
    made = helper.make_graph(
        nodes,
        "net",
        [info("image", [batch, 3, 8, 10])],
        [info("logits", [batch, 5])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in values.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def counted(sized):
    return [
        *sized,
        node("Shape", ["kept"], ["shape"]),
        node("Gather", ["shape", "last"], ["count"]),
        node("Greater", ["count", "limit"], ["enough"]),
    ]


def choice():
    then = helper.make_graph([node("Sin", ["c"], ["t"])], "then", [], [info("t")])
    otherwise = helper.make_graph([node("Mul", ["c", "c"], ["e"])], "else", [], [info("e")])
    return node("If", ["enough"], ["m"], name="choice", then_branch=then, else_branch=otherwise)


def rounds():
    """One round, and a second one where enough is kept."""
    body = helper.make_graph(
        [node("Sin", ["state"], ["next"]), node("Equal", ["round", "nothing"], ["first"]),
         node("And", ["first", "enough"], ["go"])],
        "body",
        [info("round", [], TensorProto.INT64), info("going", [], TensorProto.BOOL), info("state", ["N", 4, 8, 10])],
        [info("go", [], TensorProto.BOOL), info("next", ["N", 4, 8, 10])],
    )  # fmt: skip
    return node("Loop", ["", "yes", "c"], ["m"], name="again", body=body)


def lee(function):
    """Per image and generator in float64: each image on its own."""
    found = []
    for i, image in enumerate(IMAGES.astype(np.float64)):
        x = torch.tensor(image[None])
        lies = [torch.func.jvp(lambda y, i=i: function(y, i), (x,), (torch.tensor(d[None]),))[1] for d in DIRECTIONS[i]]
        found.append([float((lie**2).mean()) for lie in lies])
    return np.array(found)


def conv(x):
    return torch.nn.functional.conv2d(x, torch.tensor(KERNEL).double(), padding=1)


def end(m):
    return m.mean((2, 3)) @ torch.tensor(HEAD).double()


def measured(proto, method="forward"):
    spec = lieaudit.AuditSpec(generators=GENERATORS, method=method, head="identity", threads=1, bootstrap=100)
    report = lieaudit.audit(proto, IMAGES, spec)
    return report, np.stack([report.results[g].per_image for g in GENERATORS], axis=1)


# Of smooth ops a difference at 2^-9 of the largest value, up to 20: h²/6 = 3e-4 of sin, twice in its square
ROUGH = 2e-3


@pytest.mark.parametrize("batch", ["N", 1])
@pytest.mark.parametrize("sized", SIZED)
def test_a_branch_by_a_size_that_follows_the_pixels_is_the_images_own(sized, batch):
    report, found = measured(net([*counted(SIZED[sized]), choice()], batch))
    right = lee(lambda x, i: end(torch.sin(conv(x)) if i % 2 == 0 else conv(x) ** 2))
    np.testing.assert_allclose(found, right, rtol=ROUGH)
    assert report.checks.fidelity.ok
    assert "one image at a time" in " ".join(report.model.notes)
    assert any(skip.what == "op.If" for skip in report.skipped)


def test_a_loop_whose_rounds_follow_a_size_by_the_pixels_is_not_unrolled():
    report, found = measured(net([*counted(SIZED["NonZero"]), rounds()]))
    right = lee(lambda x, i: end(torch.sin(torch.sin(conv(x))) if i % 2 == 0 else torch.sin(conv(x))))
    np.testing.assert_allclose(found, right, rtol=ROUGH)
    assert any(skip.what == "op.Loop" for skip in report.skipped)


def test_a_sum_over_kept_images_is_each_images_own():
    """None of the noise that graphs are tried with is kept, so that it does not show that all bright images add up."""
    kept = [
        node("ReduceMean", ["image"], ["light"], axes=[1, 2, 3], keepdims=0),
        node("Greater", ["light", "bright"], ["over"]),
        node("Less", ["light", "brighter"], ["under"]),
        node("And", ["over", "under"], ["between"]),
        node("Compress", ["c", "between"], ["kept"], axis=0),
        node("ReduceSum", ["kept"], ["sum"], keepdims=0),
        node("Add", ["c", "sum"], ["s"]),
        node("Mul", ["c", "s"], ["m"]),
    ]
    _, found = measured(net(kept))

    def right(x, i):
        c = conv(x)
        return end(c * (c + (c.sum() if i % 2 == 0 else 0)))

    np.testing.assert_allclose(found, lee(right), rtol=2e-5)  # some 30 roundings of 6e-8 of the largest value


def test_a_batch_whose_images_decide_together_is_refused():
    with pytest.raises(ModelError, match="4 images at once") as caught:
        measured(net([*counted(SIZED["NonZero"]), choice()], 4))
    assert caught.value.reason == "FIXED_BATCH"
