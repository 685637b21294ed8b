"""Fields on the command line, and the worst direction as people see it."""

from __future__ import annotations

import struct

import click
import numpy as np
import pytest
from click.testing import CliRunner
from lieaudit_api.v1 import report_pb2
from lieaudit_client.command.options import spec_from, spec_options
from lieaudit_client.exceptions import InvalidInputError
from lieaudit_client.feeds import parse_field
from lieaudit_client.formats.arrows import arrows, as_option, drawn, field_of, size_of
from lieaudit_client.formats.directions import directions_view
from lieaudit_client.formats.html.directions import directions
from lieaudit_client.specification import to_spec
from lieaudit_server.conversions import spec_from_proto
from rich.console import Console

from lieaudit.spec import AuditSpec
from lieaudit.symmetries.affine import BASIS, displacement_matrix

TURN = [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]


def affine(worst=TURN, size=(20, 30)):
    extreme = {"lee": 0.5, "ci95": [0.25, 2.0], "error_bar": 1e-6, "words": "a <turn>", "bias": 0.125}
    found = report_pb2.Affine(
        basis=BASIS,
        eigenvalues=[1, 2, 3, 4, 5, 6],
        worst=report_pb2.AffineDirection(**extreme),
        best=report_pb2.AffineDirection(lee=0.25, words="scale"),
        mean=0.3,
    )
    for row in displacement_matrix(*size):
        found.displacement.add().extend(row.tolist())
    for row in worst:
        found.worst.field.add().extend(row)
    for row in [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]:
        found.best.field.add().extend(row)
    return found


@spec_options
def _command(**options):
    click.echo(spec_from(options).SerializeToString().hex())


command = click.command()(_command)


def specification(*arguments):
    done = CliRunner().invoke(command, arguments)
    if done.exit_code:
        raise click.UsageError(done.output)
    return spec_from_proto(type(to_spec(None)).FromString(bytes.fromhex(done.output.strip())))


def test_a_field_on_the_command_line_is_that_of_the_specification():
    found = specification("--generator", "turn=0,1,0;-1,0,0", "--generators", "scale,turn")
    assert found == AuditSpec(generators=("scale", "turn"), custom={"turn": TURN})
    assert specification("--generator", "turn=0,1.0,0;-1,0,0").generators[-1] == "turn"


def test_displacements_come_from_a_file(tmp_path):
    moves = np.random.default_rng(0).standard_normal((4, 5, 2)).astype(np.float32)
    np.save(tmp_path / "bend.npy", moves)
    found = specification("--generator", f"bend={tmp_path / 'bend.npy'}")
    np.testing.assert_array_equal(found.custom["bend"].array(), moves)


def test_python_gives_lists_and_arrays():
    assert spec_from_proto(to_spec({"custom": {"turn": TURN}})) == AuditSpec(custom={"turn": TURN})
    moves = np.ones((4, 5, 2))
    np.testing.assert_array_equal(spec_from_proto(to_spec({"custom": {"m": moves}})).custom["m"].array(), moves)
    with pytest.raises(InvalidInputError, match="custom"):
        to_spec({"custom": [1]})


@pytest.mark.parametrize(
    "text", ["turn", "turn=", "=1,2,3;4,5,6", "turn=1,2;3,4", "turn=1,2,3", "turn=a,b,c;d,e,f", "turn=nan,0,0;0,0,0"]
)
def test_what_is_no_field_is_refused_by_its_text(text):
    with pytest.raises(InvalidInputError, match="NAME=a,b,c;d,e,f") as caught:
        parse_field(text)
    assert caught.value.reason == "INVALID_SPEC"


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match=r"gone\.npy") as caught:
        parse_field(f"m={tmp_path / 'gone.npy'}")
    assert caught.value.reason == "UNREADABLE_FILE"
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY" + struct.pack("<H", 9))
    with pytest.raises(InvalidInputError, match=r"no \.npy file") as caught:
        parse_field(f"m={tmp_path / 'bad.npy'}")
    assert (caught.value.reason, caught.value.subject) == ("INVALID_SPEC", "custom.m")
    np.save(tmp_path / "large.npy", np.zeros((600, 600, 2), np.float32))
    with pytest.raises(InvalidInputError, match="float16"):
        parse_field(f"m={tmp_path / 'large.npy'}")


def test_a_misspelt_name_is_told_from_the_fields_too():
    with pytest.raises(click.UsageError, match="did you mean turn"):
        specification("--generator", "turn=0,1,0;-1,0,0", "--generators", "turm")
    with pytest.raises(click.UsageError, match="given twice"):
        specification("--generator", "turn=0,1,0;-1,0,0", "--generator", "turn=0,1,0;-1,0,0")


def test_the_stated_field_is_the_field_again():
    field = [[0.123456789, -1.0, 7e-9], [0.25, 1e6, -3.5]]
    name, tensor = parse_field(f"worst={as_option(affine(field).worst)}")
    assert name == "worst"
    np.testing.assert_allclose(np.frombuffer(tensor.data).reshape(2, 3), field, rtol=1e-6)


def test_arrows_of_a_rotation_turn_about_the_centre():
    lines = drawn(field_of(affine().worst), (20, 30), rows=3, columns=3)
    # v = (y, −x): from the right edge up, on top to the left
    assert lines == ["↙ ← ↖", "↓ · ↑", "↘ → ↗"]
    found = arrows(field_of(affine().worst), size_of(affine()), 4, 6)
    assert max(np.hypot(vx, vy) for line in found for *_, vx, vy in line) == pytest.approx(1)


def test_size_comes_from_the_displacements():
    assert size_of(affine(size=(20, 30))) == pytest.approx((20, 30))


def test_terminal_and_page_say_and_draw_both_extremes():
    console = Console(width=120, record=True, file=None)
    with console.capture() as capture:
        for part in directions_view(affine()):
            console.print(part)
    shown = capture.get()
    for said in ("worst direction: a <turn>", "best direction: scale", "0.5, 95 % [0.25, 2]", "↗", "mean over all"):
        assert said in shown
    assert "--generator worst='0,1,0;-1,0,0'" in shown
    page = directions(report_pb2.Report(affine=affine()), None)
    assert "a &lt;turn&gt;" in page
    assert "<turn>" not in page
    assert page.count("<svg") == 2
    assert page.count("<path") > 2 * 9
    assert directions(report_pb2.Report(), None) == ""


@pytest.mark.parametrize("field", [[], [[1.0]], [["a", "b", "c"], [1.0, 2.0, 3.0]]])
def test_a_report_with_nonsense_in_it_is_still_shown(field):
    found = affine(field)
    del found.displacement[:]
    assert "<svg" in directions(report_pb2.Report(affine=found), None)
    assert list(directions_view(found))
