"""Tracked layouts: acting on a rearranged image is rearranging the action on the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lieaudit.layouts.axes import image_axes
from lieaudit.layouts.layout import layout_of
from lieaudit.symmetries import tangent
from lieaudit.torch.action import Action, per_image
from lieaudit.torch.layout_tracking import LayoutTracker

GENERATORS = ("rotation", "translation_x", "shear_y", "brightness")
SHAPE = (2, 6, 8, 12)


def windows(x, size):
    n, c, h, w = x.shape
    cut = x.permute(0, 2, 3, 1).view(n, h // size, size, w // size, size, c)
    return cut.permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, c)


def unwindowed(t, size, h, w):
    n = t.shape[0] // (h * w // size**2)
    cut = t.view(n, h // size, w // size, size, size, -1)
    return cut.permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, -1).permute(0, 3, 1, 2)


def with_class_token(x):
    token = torch.zeros(1, 1, 6, dtype=x.dtype).expand(len(x), -1, -1)
    return torch.cat([token, token, x.flatten(2).transpose(1, 2)], dim=1)


REARRANGEMENTS = {
    "NHWC": (lambda x: x.permute(0, 2, 3, 1), "NHWC 8x12"),
    "tokens": (lambda x: x.flatten(2).transpose(1, 2), "tokens 8x12"),
    "class token": (with_class_token, "tokens 1+1+8x12"),
    "class token removed": (lambda x: with_class_token(x)[:, 2:], "tokens 8x12"),
    "one of two prefix tokens removed": (lambda x: with_class_token(x)[:, 1:], "tokens 1+8x12"),
    "windows": (lambda x: windows(x, 4), "windows 8x12/4x4"),
    "windows and back": (lambda x: unwindowed(windows(x, 4), 4, 8, 12), "NCHW 8x12"),
    "rolled": (lambda x: x.roll((-3, 5), (2, 3)), "grid 8x12, shifted by 3x7"),
    "shifted windows": (lambda x: windows(x.roll((-2, -2), (2, 3)), 4), "windows 8x12/4x4, shifted by 2"),
    "space to depth": (lambda x: torch.nn.functional.pixel_unshuffle(x, 2), "windows 8x12/2x2"),
    "there and back": (
        lambda x: torch.nn.functional.pixel_shuffle(torch.nn.functional.pixel_unshuffle(x, 2), 2),
        "NCHW 8x12",
    ),
    "heads": (lambda x: x.flatten(2).view(2, 3, 2, 96).permute(0, 3, 1, 2), "tokens 8x12"),
    "sequence first": (lambda x: x.flatten(2).permute(2, 0, 1), "tokens 8x12"),
    "chunks": (lambda x: torch.cat(x.chunk(2, dim=1)[::-1], dim=1), "NCHW 8x12"),
    "transposed grid": (lambda x: x.transpose(2, 3), "grid 8x12"),
}


@pytest.mark.parametrize("name", REARRANGEMENTS)
@pytest.mark.parametrize("generator", GENERATORS)
def test_acting_after_rearranging_is_rearranging_after_acting(name, generator):
    rearrange, text = REARRANGEMENTS[name]
    x = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tracker = LayoutTracker(x)
    with torch.inference_mode(), tracker:
        moved = rearrange(x)
        layout = tracker.layout(moved)
    assert layout.known
    assert layout.text == text
    action = Action(generator, "bilinear", "reflect", "central", torch.float64, torch.device("cpu"))
    expected = rearrange(
        torch.as_tensor(
            tangent(x.numpy(), generator, interpolation="bilinear", padding="reflect", convention="central")
        )
    )
    # matrix products sum in another order than differences of neighbours
    assert torch.allclose(action(moved, layout), expected, rtol=0, atol=1e-13 * expected.abs().max())


@pytest.mark.parametrize("name", REARRANGEMENTS)
def test_values_per_image_reach_their_image(name):
    rearrange, _ = REARRANGEMENTS[name]
    x = torch.ones(SHAPE, dtype=torch.float64)
    tracker = LayoutTracker(x)
    with torch.inference_mode(), tracker:
        layout = tracker.layout(rearrange(x))
    values = torch.tensor([3.0, -5.0], dtype=torch.float64)
    marked = rearrange(x * values.view(2, 1, 1, 1))
    spread = per_image(values, marked, layout)
    assert torch.equal(torch.where(marked == 0, torch.zeros_like(spread), spread), marked)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (torch.nn.Conv2d(6, 4, 3, stride=2), "NCHW 3x5"),
        (lambda x: torch.nn.functional.avg_pool2d(x, 2), "NCHW 4x6"),
        (lambda x: torch.nn.functional.interpolate(x, size=(3, 5), mode="bilinear"), "NCHW 3x5"),
        (lambda x: torch.nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 3, 3)), "NCHW 4x6"),
        (lambda x: x.mean((2, 3)), "vector"),
        (lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1), "vector"),
        (lambda x: with_class_token(x)[:, 0], "vector"),
        (lambda x: torch.nn.LayerNorm(6)(x.permute(0, 2, 3, 1)), "NHWC 8x12"),
        (lambda x: torch.nn.Linear(6, 5)(x.flatten(2).transpose(1, 2)), "tokens 8x12"),
        (lambda x: x + torch.ones(1, 6, 8, 12), "NCHW 8x12"),
        (lambda x: x.mean(2), "tokens 1x12"),  # columns are an image of one row
        (lambda x: x[:, :, 2], "tokens 1x12"),
        (lambda x: x[:, torch.tensor([3, 1, 0])], "NCHW 8x12"),
        (lambda x: x.flip(1), "NCHW 8x12"),
    ],
)
def test_computing_operators_keep_or_make_a_grid(make, text):
    x = torch.randn(SHAPE)
    tracker = LayoutTracker(x)
    with torch.inference_mode(), tracker:
        layout = tracker.layout(make(x))
    assert layout.text == text


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.flip(2),  # the image runs backwards there
        lambda x: x.transpose(2, 3).flatten(2) @ torch.ones(96, 5),  # positions mixed by weights
        lambda x: x.flatten(2)[..., 5:],
        lambda x: x.flatten(2).sort(dim=2).values,
        lambda x: x[:, :, torch.tensor([3, 1, 0])],
        lambda x: x + x.transpose(2, 3)[..., :8, :8].sum() * x.flatten(2).sort(dim=2).values.view(SHAPE),
    ],
)
def test_what_is_not_known_is_unknown(make):
    x = torch.randn(SHAPE)
    tracker = LayoutTracker(x)
    with torch.inference_mode(), tracker:
        layout = tracker.layout(make(x))
    assert not layout.known


def test_a_square_number_of_tokens_is_no_grid():
    x = torch.randn(2, 3, 8, 8)
    tracker = LayoutTracker(x)
    with torch.inference_mode(), tracker:
        mixed = torch.nn.Linear(64, 49)(x.flatten(2)).transpose(1, 2)
        layout = tracker.layout(mixed)
    assert not layout.known


def test_reference_and_fourier_conventions_are_those_of_the_images():
    x = torch.randn(1, 2, 7, 9, dtype=torch.float64)
    for interpolation, padding, convention in (
        ("bilinear", "circular", "central"),
        ("bilinear", "reflect", "reference"),
        ("fourier", "circular", "central"),
    ):
        options = {"interpolation": interpolation, "padding": padding, "convention": convention}
        action = Action("rotation", interpolation, padding, convention, torch.float64, torch.device("cpu"))
        expected = tangent(x.numpy(), "rotation", **options)
        found = action(x, layout_of(image_axes(x.shape))).numpy()
        assert np.abs(found - expected).max() < 1e-13 * np.abs(expected).max()


def test_brightness_of_an_image_is_measured_from_its_zero_point():
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    zero = (-0.5, 0.25, 1.0)
    action = Action("brightness", "bilinear", "reflect", "central", torch.float64, torch.device("cpu"), zero)
    expected = x - torch.tensor(zero, dtype=torch.float64).view(3, 1, 1)
    assert torch.equal(action(x, layout_of(image_axes(x.shape)), image=True), expected)
    assert torch.equal(action(x, layout_of(image_axes(x.shape))), x)
