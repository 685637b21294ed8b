"""Axes are tracked through rearrangements exactly, and are lost where they must be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lieaudit.errors import SpecError
from lieaudit.layouts.axes import (
    BATCH,
    HEIGHT,
    WIDTH,
    Atom,
    concat,
    coordinate,
    merge,
    plain,
    reshape,
    size_of,
    slice_axis,
)
from lieaudit.layouts.layout import layout_of, parse_layouts

B, C, H, W = 2, 6, 12, 8


def start():
    return ((Atom("batch", B),), plain("channel", C), coordinate(HEIGHT, H), coordinate(WIDTH, W))


def positions():
    """Return (y, x) of every pixel as images: what a tracked layout has to be able to say of every entry."""
    y = np.broadcast_to(np.arange(H)[:, None], (B, C, H, W))
    x = np.broadcast_to(np.arange(W)[None, :], (B, C, H, W))
    return y, x


def coordinates_of(axes, role, total):
    """Return the coordinate that the atoms assign to every entry of a tensor."""
    atoms = [atom for axis in axes for atom in axis]
    value = np.zeros(tuple(atom.size for atom in atoms), int)
    shift = 0
    for i, atom in enumerate(atoms):
        if atom.role == role:
            shape = [1] * len(atoms)
            shape[i] = atom.size
            value = value + atom.unit * np.arange(atom.size).reshape(shape)
            shift = atom.shift
    return ((value + shift) % total).reshape([size_of(axis) for axis in axes])


def agree(axes, arrays):
    for role, total, array in ((HEIGHT, H, arrays[0]), (WIDTH, W, arrays[1])):
        np.testing.assert_array_equal(coordinates_of(axes, role, total), array)


def factorisations(sizes):
    """Return shapes of the same number of entries: two axes merged, or one split."""
    out = [(*sizes[:i], sizes[i] * sizes[i + 1], *sizes[i + 2 :]) for i in range(len(sizes) - 1)]
    for i, size in enumerate(sizes):
        out += [(*sizes[:i], size // f, f, *sizes[i + 1 :]) for f in (2, 3, 4) if size % f == 0 and size > f]
    return [shape for shape in out if len(shape) <= 7] or [sizes]


@settings(max_examples=150)
@given(st.data())
def test_random_rearrangements_keep_every_pixel(data):
    axes, arrays = start(), positions()
    for _ in range(data.draw(st.integers(1, 7))):
        sizes = arrays[0].shape
        step = data.draw(st.sampled_from(["transpose", "reshape", "roll"]))
        if step == "transpose":
            perm = data.draw(st.permutations(range(len(sizes))))
            axes, arrays = tuple(axes[i] for i in perm), [a.transpose(perm) for a in arrays]
        elif step == "reshape":
            shape = data.draw(st.sampled_from(factorisations(sizes)))
            axes, arrays = reshape(axes, shape), [a.reshape(shape) for a in arrays]
        else:
            at = data.draw(st.integers(0, len(sizes) - 1))
            if not (
                len(axes[at]) == 1 and axes[at][0].role in {HEIGHT, WIDTH} and axes[at][0].size == axes[at][0].total
            ):
                continue
            by = data.draw(st.integers(1, sizes[at] - 1))
            pieces = [slice_axis(axes[at], by, 1, sizes[at] - by), slice_axis(axes[at], 0, 1, by)]
            axes = (*axes[:at], concat(pieces, grid_elsewhere=True), *axes[at + 1 :])
            arrays = [np.roll(a, -by, axis=at) for a in arrays]
        assert tuple(map(size_of, axes)) == arrays[0].shape
        if any(atom.role == "unknown" for axis in axes for atom in axis):
            return  # a split that falls across the batch or across two digits: not known, and said so
        if {(a.role, a.total) for axis in axes for a in axis if a.role in {HEIGHT, WIDTH}} != {(HEIGHT, H), (WIDTH, W)}:
            return  # channels woven into both coordinates: a finer grid by definition
        agree(axes, arrays)
        assert layout_of(axes).known


def test_a_square_number_is_no_grid():
    """256 channels, 16 of which are picked, are 16 channels, whatever 4 × 4 is."""
    axes = reshape((plain("batch", B), plain("channel", 256)), (B, 16, 16))
    assert layout_of(axes).kind == "vector"


@pytest.mark.parametrize(("axes", "kind", "text"), [
    (start(), "NCHW", "NCHW 12x8"),
    (tuple(start()[i] for i in (0, 2, 3, 1)), "NHWC", "NHWC 12x8"),
    ((start()[0], coordinate(HEIGHT, H) + coordinate(WIDTH, W), plain("channel", C)), "tokens", "tokens 12x8"),
    ((start()[0], plain("channel", C)), "vector", "vector"),
    ((start()[0], plain("mixed", 96), plain("channel", C)), "unknown", "unknown"),
    ((start()[0], coordinate(WIDTH, W), coordinate(HEIGHT, H)), "grid", "grid 12x8"),
])  # fmt: skip
def test_layouts_are_named(axes, kind, text):
    layout = layout_of(axes)
    assert (layout.kind, layout.text) == (kind, text)


def test_two_token_axes_are_no_layout():
    tokens = merge(coordinate(HEIGHT, H) + coordinate(WIDTH, W))
    assert not layout_of((start()[0], tokens, tokens)).known


SIZES = {"t": (BATCH, 197, 64), "m": (BATCH, 3, 32, 48), "w": (4 * BATCH, 49, 8)}


@pytest.mark.parametrize(("name", "text", "shown"), [
    ("t", "tokens:1+14x14", "tokens 1+14x14"),
    ("m", "NCHW", "NCHW 32x48"),
    ("m", "vector", "vector"),
    ("m", "unknown", "unknown"),
    ("w", "windows:14x14/7", "windows 14x14/7x7"),
    ("w", "windows:14x14/7-3", "windows 14x14/7x7, shifted by 3"),
])  # fmt: skip
def test_declared_layouts(name, text, shown):
    assert layout_of(parse_layouts({name: text}, SIZES)[name]).text == shown


@pytest.mark.parametrize(("name", "text", "reason"), [
    ("t", "tokens:14x14", "INVALID_LAYOUT"),
    ("t", "NCHW", "INVALID_LAYOUT"),
    ("t", "windows:14x14/0", "INVALID_LAYOUT"),
    ("m", "nonsense", "INVALID_LAYOUT"),
    ("absent", "NCHW", "UNKNOWN_TENSOR"),
])  # fmt: skip
def test_wrong_declarations_are_refused(name, text, reason):
    with pytest.raises(SpecError) as caught:
        parse_layouts({name: text}, SIZES)
    assert caught.value.reason == reason
    assert name in caught.value.subject
