"""What is measured in place of the generators: as few directions as their fields span, and the right combinations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lieaudit.symmetries import GENERATORS, velocity_field
from lieaudit.symmetries.affine import BASIS, basis_generators
from lieaudit.symmetries.plan import Plan, plan_of

SIZE = (6, 9)
names = st.lists(st.sampled_from(list(GENERATORS)), min_size=1, unique=True)


def plan(*chosen, convention="central", size=SIZE):
    return plan_of([GENERATORS[name] for name in chosen], *size, convention=convention)


def fields(generators, convention):
    return np.stack([velocity_field(g, *SIZE, convention=convention) for g in generators]).reshape(len(generators), -1)


@settings(deadline=None)
@given(chosen=names, convention=st.sampled_from(["central", "reference"]))
def test_any_generators_are_the_stated_combinations_of_as_few_directions_as_they_span(chosen, convention):
    made = plan(*chosen, convention=convention)
    wanted = fields(made.asked, convention)
    np.testing.assert_allclose(made.weights @ fields(made.measured, convention), wanted, atol=1e-12)
    gains = int("brightness" in chosen)
    assert len(made.measured) == np.linalg.matrix_rank(wanted) + gains
    gained = [[g.gain for g in generators] for generators in (made.asked, made.measured)]
    np.testing.assert_array_equal(made.weights @ gained[1], gained[0])


@settings(deadline=None)
@given(chosen=names, convention=st.sampled_from(["central", "reference"]))
def test_the_basis_is_combined_from_what_is_measured_wherever_that_spans_it(chosen, convention):
    made = plan(*chosen, convention=convention)
    spans = np.linalg.matrix_rank(fields(made.asked, convention)) == len(BASIS)
    assert (made.basis is not None) == spans
    if made.basis is not None:
        wanted = fields(basis_generators(), convention)
        np.testing.assert_allclose(made.basis @ fields(made.measured, convention), wanted, atol=1e-12)


def test_all_ten_generators_cost_seven_directions():
    made = plan(*GENERATORS)
    assert {g.id for g in made.measured} == {*BASIS, "brightness"}
    combined = {g.id: set(sources) for g, sources in zip(made.asked, made.combined_from, strict=True) if sources}
    assert combined == {
        "shear_x": {"rotation", "hyperbolic_rotation"},
        "shear_y": {"rotation", "hyperbolic_rotation"},
        "stretch_x": {"scale", "squeeze"},
        "stretch_y": {"scale", "squeeze"},
    }


@pytest.mark.parametrize("name", list(GENERATORS))
def test_one_generator_costs_one_direction_itself(name):
    made = plan(name)
    assert made.measured == (GENERATORS[name],)
    assert made.combined_from == ((),)


def test_what_shares_no_part_of_the_basis_is_measured_itself():
    made = plan("shear_x", "stretch_x", "stretch_y", "scale")
    assert [g.id for g in made.measured] == ["shear_x", "scale", "squeeze"]


def test_a_measured_generator_passes_to_the_last_bit():
    rows = np.random.default_rng(0).standard_normal((2, 7, 5))
    made = plan(*GENERATORS)
    at = [g.id for g in made.measured].index("rotation")
    found = list(made.combined(rows))[list(GENERATORS).index("rotation")]
    np.testing.assert_array_equal(found, rows[:, at])


def test_bars_add_up_with_the_sizes_of_the_weights():
    made = plan("rotation", "shear_x", "shear_y")
    bars = made.bars(np.array([[1.0, 3.0]]))
    np.testing.assert_array_equal(bars, [[1.0, 2.0, 2.0]])


def test_plans_that_measure_other_things_have_other_digests():
    digests = {plan(*chosen).digest for chosen in (("shear_x",), ("shear_y",), ("shear_x", "shear_y", "rotation"))}
    assert len(digests) == 3
    assert plan("shear_x").digest == Plan.direct([GENERATORS["shear_x"]]).digest
