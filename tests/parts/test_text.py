"""The text of a part: everything that is read, and everything that is refused, with the tensor's shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lieaudit.errors import SpecError
from lieaudit.parts import REPRESENTATIONS, Frame, bind, read_part, read_parts
from lieaudit.parts.indexing import IndexingError, read_index
from lieaudit.parts.text import CHOICES, OPTIONS
from lieaudit.parts.text import REPRESENTATIONS as WORDS

FRAME = Frame((64, 96))
SHAPES = {"out": (84, 126), "landmarks": (1404,), "map": (2, 16, 24), "many:0/x": (7,), "pairs": (4, 4)}


def test_every_representation_has_a_word_and_options() -> None:
    assert tuple(REPRESENTATIONS) == WORDS == tuple(OPTIONS)
    assert {option for options in OPTIONS.values() for option in options} >= set(CHOICES)


def test_all_that_a_text_says_is_read() -> None:
    part = read_part(
        "boxes=out[:4, ::2]:boxes,form=cxcywh,unit=px,origin=edge,weight=out[4:, ::2],power=2,score=sigmoid"
    )
    assert (part.name, part.source.output, part.source.index.text) == ("boxes", "out", ":4,::2")
    assert (part.representation, part.form, part.unit, part.origin) == ("boxes", "cxcywh", "px", "edge")
    assert part.weight is not None
    assert (part.weight.text, part.power, part.score) == ("out[4:,::2]", 2.0, "sigmoid")
    grid = read_part("p=out:points,unit=grid,strides=8:16:32,cell=centre,shape=42x2,order=yx,axis=1")
    assert (grid.strides, grid.shape, grid.axis, grid.cell) == ((8.0, 16.0, 32.0), (42, 2), 1, "centre")


@pytest.mark.parametrize("name", ["many:0/x", "StatefulPartitionedCall:1", "a.b[0]", "x:points_of"])
def test_names_of_tensors_may_hold_colons_and_brackets(name: str) -> None:
    assert read_part(f"p={name}[3:]:invariant").source.output == name
    assert read_part(f"p={name}[3:]:points,shape=2x2").source.index.text == "3:"


UNREADABLE = {
    "": "does not begin with NAME=",
    "boxes": "does not begin with NAME=",
    "=out:points": "does not begin with NAME=",
    "9a=out:points": "does not begin with NAME=",
    "b=out": "says no representation",
    "b=out[:4]": "says no representation",
    "b=:points": "names no output",
    "b=out:polygons": "is no representation",
    "b=out[a]:points": "is no slice",
    "b=out[1.5]:points": "is no slice",
    "b=out[::0]:points": "step of 0",
    "b=out[...,...]:points": "twice",
    "b=out[__import__('os')]:points": "is no slice",
    "b=out:points,colour=red": "is no option of points",
    "b=out:invariant,unit=px": "is no option of invariant",
    "b=out:points,unit": "is no OPTION=VALUE",
    "b=out:points,unit=": "is no OPTION=VALUE",
    "b=out:points,unit=mile": "is not one of px, share, grid",
    "b=out:angle,unit=px": "is not one of rad, deg",
    "b=out:points,unit=px,unit=px": "given twice",
    "b=out:points,shape=0x2": "is no shape",
    "b=out:points,shape=ax2": "is no shape",
    "b=out:points,axis=x": "is no axis",
    "b=out:points,unit=grid": "needs to know the grid",
    "b=out:points,strides=8": "add unit=grid",
    "b=out:points,unit=grid,strides=8:x": "no positive number",
    "b=out:points,unit=grid,strides=8,anchors=a.npy": "give one of them",
    "b=out:points,cell=centre": "add strides",
    "b=out:points,variance=.1:.2": "beside anchors",
    "b=out:xyxy,decode=exp": "form=cxcywh",
    "b=out:points,power=2": "add weight=",
    "b=out:points,weight=out,power=0": "no positive number",
    "b=out:points,weight=out,power=nan": "no positive number",
    "b=out:points,weight=out,background=last": "add score=softmax",
    "b=nothing:points": "the graph has no output 'nothing'",
    "b=out[:4]:cxcywh,weight=out[": "the graph has no output 'out['",
}


@pytest.mark.parametrize("text", UNREADABLE)
def test_what_cannot_be_read_is_refused_and_says_what_to_write(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        bind(read_parts([text]), SHAPES, FRAME)
    assert caught.value.reason == "INVALID_PART"
    assert UNREADABLE[text] in str(caught.value)


UNFIT = {
    "b=out[:0]:invariant": ("is empty", "(N, 84, 126)"),
    "b=out[90]:invariant": ("out of bounds", "(N, 84, 126)"),
    "b=out[:, :, :]:invariant": ("has 3 axes, the tensor 2", "(N, 84, 126)"),
    "b=out:points": ("no axis", "(84, 126)"),
    "b=out[:4]:points": ("no axis", "(4, 126)"),
    "b=pairs:cxcywh": ("axes 0 and 1", "say axis=1"),
    "b=out[:4]:cxcywh,axis=1": ("axis 1", "(4, 126)"),
    "b=out[:4]:cxcywh,axis=7": ("axis 7", "(4, 126)"),
    "b=out[:4]:boxes": ("form=cxcywh, form=xyxy or form=xywh",),
    "b=landmarks:points,shape=468x2": ("holds 936 numbers", "(N, 1404)"),
    "b=landmarks:map": ("(…, H, W)", "(1404,)"),
    "b=map[:1]:vector_map": ("1 channels, not pairs", "(1, 16, 24)"),
    "b=map[0]:vector_map": ("(…, 2, H, W)", "(16, 24)"),
    "b=map:vector_map,layout=HWC": ("24 channels, not pairs", "(2, 16, 24)"),
    "b=out[:4]:cxcywh,unit=grid,strides=16:32": ("4x6 + 2x3 = 30 cells", "holds 126"),
    "b=out[:4]:cxcywh,unit=grid,anchors=none.npy": ("no array of this name",),
    "b=out[:4]:cxcywh,anchors=three.npy": ("(126, 3)", "(P, 2)"),
    "b=out[:4]:cxcywh,anchors=few.npy": ("5 anchors are given", "126"),
    "b=out[:4]:cxcywh,unit=grid,anchors=bare.npy": ("holds no sizes",),
    "b=out[:4]:cxcywh,weight=out[4, :5]": ("weight=out[4,:5] has shape (5,)", "(126,)"),
    "b=out[:4]:cxcywh,weight=out[4:], weight=out": ("given twice",),
    "b=out[:4]:cxcywh,weight=out[200:]": ("is empty", "(N, 84, 126)"),
    "b=out[:4]:cxcywh,weight=out[4],score=softmax": ("an axis of classes",),
}
ANCHORS = {"three.npy": np.ones((126, 3)), "few.npy": np.ones((5, 4)), "bare.npy": np.ones((126, 2))}


@pytest.mark.parametrize("text", UNFIT)
def test_what_does_not_fit_the_tensor_is_refused_with_its_shape(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        bind(read_parts([text]), SHAPES, FRAME, ANCHORS)
    assert caught.value.reason == "INVALID_PART"
    assert caught.value.subject == "parts.b"
    for said in UNFIT[text]:
        assert said in str(caught.value)


def test_parts_that_overlap_are_refused_and_weights_may() -> None:
    with pytest.raises(SpecError, match=r"'scores': out\[3:\] overlaps part 'boxes'; output 'out' has shape \(N, 84"):
        bind(read_parts(["boxes=out[:4]:cxcywh", "scores=out[3:]:invariant"]), SHAPES, FRAME)
    bound = bind(read_parts(["boxes=out[:4]:cxcywh,weight=out[4:]", "scores=out[4:]:invariant"]), SHAPES, FRAME)
    assert len(bound.kept) == 84 * 126
    assert [reading.name for reading in bound.readings] == ["boxes.centre", "boxes.size", "scores"]


def test_a_name_is_given_once_and_parts_are_limited() -> None:
    with pytest.raises(SpecError, match="given twice"):
        read_parts(["a=out[0]:invariant", "a=out[1]:invariant"])
    with pytest.raises(SpecError, match="32 is the limit"):
        read_parts([f"a{i}=out[{i}]:invariant" for i in range(33)])


def test_the_raw_vector_holds_each_element_once_in_the_order_of_the_parts() -> None:
    parts = read_parts(["b=out[4:8, 1:3]:invariant,weight=landmarks[:8],shape=84x126", "p=map[1, 0]:invariant"])
    with pytest.raises(SpecError, match="weight"):
        bind(parts, SHAPES, FRAME)
    parts = read_parts(["p=map[1, 0, ::-1]:invariant", "b=out[1:3, 4:8]:invariant,weight=out[0, 4:8]"])
    with pytest.raises(SpecError, match="weight"):
        bind(parts, SHAPES, FRAME)
    parts = read_parts(["p=map[1, 0, ::-1]:invariant", "b=out[1:3, 4:8]:invariant,weight=out[:2, 4:8]"])
    bound = bind(parts, SHAPES, FRAME)
    random = np.random.default_rng(0)
    outputs = {name: random.random((3, *SHAPES[name])) for name in SHAPES}
    z = np.concatenate([outputs[name].reshape(3, -1) for name in bound.outputs], axis=1)[:, bound.kept]
    p, b = bound.readings
    assert np.array_equal(p.raw(z), outputs["map"][:, 1, 0, ::-1])
    assert np.array_equal(b.raw(z), outputs["out"][:, 1:3, 4:8])
    assert np.array_equal(b.weights(z), outputs["out"][:, :2, 4:8].reshape(3, -1))
    assert z.shape[1] == 24 + 12


def test_of_several_classes_the_largest_score_counts() -> None:
    parts = read_parts(["b=out[:4]:cxcywh,weight=out[4:],power=2"])
    z = np.random.default_rng(0).random((2, 84 * 126))
    (reading, _) = bind(parts, SHAPES, FRAME).readings
    assert reading.weights(z) == pytest.approx(z.reshape(2, 84, 126)[:, 4:].max(axis=1) ** 2)
    parts = read_parts(["b=out[:4]:cxcywh,weight=out[4:],score=softmax,background=last"])
    (reading, _) = bind(parts, SHAPES, FRAME).readings
    logits = 5 * z
    p = np.exp(logits.reshape(2, 84, 126)[:, 4:])
    assert reading.weights(logits) == pytest.approx((p / p.sum(axis=1, keepdims=True))[:, :-1].max(axis=1))


@given(st.text(alphabet="[]():,.=-0123456789abpoints", max_size=40))
def test_no_text_ends_in_anything_but_a_spec_error(text: str) -> None:
    for written in (text, f"b=out[{text}]:points", f"b=out:points,{text}"):
        try:
            bind(read_parts([written]), SHAPES, FRAME)
        except SpecError as problem:
            assert problem.reason == "INVALID_PART"  # noqa: PT017 - most texts are none, few are


@given(st.lists(st.sampled_from(["0", "-1", "1:", ":2", "::-1", "...", ":"]), min_size=1, max_size=4))
def test_slices_are_numpy_s(items: list[str]) -> None:
    text = ",".join(items)
    array = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    expression = tuple(
        slice(*(int(p) if p else None for p in i.split(":"))) if ":" in i else Ellipsis if i == "..." else int(i)
        for i in items
    )
    try:
        expected = array[expression]
    except IndexError:
        expected = None
    try:
        found = read_index(text).of(array)
    except IndexingError:
        assert expected is None or not expected.size
    else:
        assert np.array_equal(found, expected)
