"""Rows cut into parts for several cores, and the buffers they live in."""

from __future__ import annotations

import numpy as np
import pytest

from lieaudit.graph.load import load_model
from lieaudit.layerwise.buffers import Buffers
from lieaudit.layerwise.forward_pass import Chain
from lieaudit.layerwise.preparation import prepare
from lieaudit.spec import AuditSpec
from lieaudit.symmetries import tangents

GENERATORS = ("translation_x", "rotation")


@pytest.fixture
def inputs():
    images = np.random.default_rng(3).standard_normal((2, 3, 64, 96)).astype(np.float32)
    return images, tangents(images, GENERATORS, interpolation="bilinear", padding="reflect", convention="central")


def _chain(source: bytes, threads: int) -> Chain:
    spec = AuditSpec(layerwise="module", generators=GENERATORS, threads=threads)
    model = load_model(source, spec)
    return Chain(model, prepare(model, spec), spec, GENERATORS)


@pytest.mark.parametrize("name", ["unet", "vit"])
def test_parts_change_nothing(exported, inputs, name):
    source = exported(name, 64, 96)
    whole, cut = _chain(source, 1), _chain(source, 3)
    one, parts, again = whole(*inputs), cut(*inputs), cut(*inputs)
    assert parts.sources == one.sources
    for a, b in ((one.contributions, parts.contributions), (one.total, parts.total)):
        # products of other sizes sum in another order: float32 rounding, observed at most 3e-6
        assert np.linalg.norm(a - b) <= 2e-5 * np.linalg.norm(a)
    np.testing.assert_allclose(one.subnetwork, parts.subnetwork, rtol=1e-4, atol=1e-9)
    # a resumed audit repeats an interrupted one bit by bit, and rows of one call survive the next
    np.testing.assert_array_equal(parts.contributions, again.contributions)
    np.testing.assert_array_equal(parts.subnetwork, again.subnetwork)
    assert not np.shares_memory(parts.contributions, again.contributions)
    whole.close()
    cut.close()


def test_buffers_are_used_again():
    buffers = Buffers(1 << 20)
    first = buffers.take((10, 100))
    buffers.give(first)
    second = buffers.take((9, 111))
    assert np.shares_memory(first, second)
    third = buffers.take((9, 111))
    assert not np.shares_memory(second, third)
    assert third.shape == (9, 111)


def test_buffers_in_use_never_overlap_and_free_ones_stay_within_the_limit():
    rng = np.random.default_rng(0)
    limit = 1 << 18
    buffers = Buffers(limit)
    held = []
    for tag in range(400):
        array = buffers.take(tuple(rng.integers(1, 40, 2).tolist()))
        array[...] = tag
        held.append((tag, array))
        if len(held) > 8:
            mark, gone = held.pop(int(rng.integers(len(held))))
            assert np.all(gone == mark)
            buffers.give(gone)
        assert buffers.held_bytes <= limit
    assert all(np.all(array == tag) for tag, array in held)
