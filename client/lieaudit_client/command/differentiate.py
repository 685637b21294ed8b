"""``lieaudit differentiate``: write the derivative of any ONNX graph as an ONNX graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lieaudit_client.command import exits, streams
from lieaudit_client.command.options import check_writable
from lieaudit_client.exceptions import InvalidInputError

if TYPE_CHECKING:
    import onnx


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--mode",
    required=True,
    type=click.Choice(["jvp", "vjp"]),
    help="jvp: the derivative along directions of the inputs; vjp: the gradient of weighted outputs.",
)
@click.option("--out", "out", required=True, metavar="F.onnx", help="Where the graph is written.")
@click.option(
    "--wrt",
    multiple=True,
    metavar="NAME",
    help="An input or weight to differentiate by (repeatable); default: every floating-point input.",
)
@click.option(
    "--output",
    "outputs",
    multiple=True,
    metavar="NAME",
    help="A tensor to differentiate (repeatable); default: every floating-point output.",
)
@click.option(
    "--directions",
    metavar="N|NAME",
    help="With jvp: so many directions at once, along a leading axis of each tangent; a name leaves the number open.",
)
def differentiate(
    model: str, mode: str, out: str, wrt: tuple[str, ...], outputs: tuple[str, ...], directions: str | None
) -> int:
    """Write the graph that computes MODEL and its derivative; it runs in any onnxruntime, without lieaudit.

    X.tangent and Y.tangent are directions and derivatives (jvp), Y.cotangent and X.cotangent weights and gradients
    (vjp); values stay inputs and outputs of their names.
    """
    check_writable(out)
    if mode == "vjp" and directions is not None:
        raise click.UsageError("--directions belongs to --mode jvp")
    made = _made(model, mode, list(wrt) or None, list(outputs) or None, directions)
    if made.ByteSize() > _LARGEST:
        raise InvalidInputError(
            "the graph is larger than 2 GiB, which one ONNX file cannot hold",
            reason="MODEL_TOO_LARGE",
            subject=out,
            hint="use lieaudit.jvp or lieaudit.vjp in Python, and save it with external data",
        )
    Path(out).write_bytes(made.SerializeToString())
    streams.say(f"{out}: {_names(made.graph.input)} → {_names(made.graph.output)}")
    for entry in made.metadata_props:
        if entry.key == "lieaudit.warnings":
            for line in entry.value.splitlines():
                streams.say(f"warning: {line}")
    return exits.OK


_LARGEST = (1 << 31) - 1


def _made(
    model: str, mode: str, wrt: list[str] | None, outputs: list[str] | None, directions: str | None
) -> onnx.ModelProto:
    try:
        from lieaudit.differentiation import jvp, vjp
        from lieaudit.errors import LieauditError
    except ModuleNotFoundError as problem:
        raise InvalidInputError(
            f"a model cannot be differentiated here: {problem.name} is not installed",
            reason="LIEAUDIT_NOT_INSTALLED",
            subject=str(problem.name),
            hint="pip install 'lieaudit[cpu]'",
        ) from problem
    rows = int(directions) if directions is not None and directions.lstrip("-").isdigit() else directions
    try:
        if mode == "jvp":
            return jvp(model, active=wrt, outputs=outputs, directions=rows)
        return vjp(model, wrt=wrt, outputs=outputs)
    except LieauditError as problem:
        raise InvalidInputError(
            problem.message, reason=problem.reason, subject=problem.subject, hint=problem.hint
        ) from problem


def _names(values: object) -> str:
    return ", ".join(value.name for value in values)  # type: ignore[attr-defined]
