"""What the values of options mean; each is a callback of click that raises `click.BadParameter`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from lieaudit_api.v1 import spec_pb2
from lieaudit_policy import GENERATORS

from lieaudit_client import own_generators, registries
from lieaudit_client.exceptions import InvalidInputError
from lieaudit_client.feeds import parse_feed, parse_field
from lieaudit_client.formats import files, named
from lieaudit_client.suggestions import split_names, unknown


class ModelName(click.Path):
    """A file that is there, or the name of a registered model."""

    def __init__(self) -> None:
        super().__init__(exists=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Leave a registered model's name as it is."""
        return value if registries.is_named(str(value)) else super().convert(value, param, ctx)


def generators(context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Split names of generators, of the table, ``--generator``'s or a distribution's, and say which is meant."""
    names = split_names(value) if value else ()
    known = (*GENERATORS, *context.params.get("custom", ()), *own_generators.known())
    for name in names:
        if name not in known:
            raise click.BadParameter(unknown(name, known))
    return names


def custom(_context: click.Context, _option: click.Parameter, value: tuple[str, ...]) -> dict[str, spec_pb2.Tensor]:
    """Read ``NAME=a,b,c;d,e,f`` or ``NAME=FILE.npy``."""
    return _tensors(value, parse_field)


def _tensors(value: tuple[str, ...], parse: Callable[[str], tuple[str, spec_pb2.Tensor]]) -> dict[str, spec_pb2.Tensor]:
    """Read named tensors, each name once."""
    found: dict[str, spec_pb2.Tensor] = {}
    for text in value:
        try:
            name, tensor = parse(text)
        except InvalidInputError as problem:
            raise click.BadParameter(str(problem)) from problem
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice")
        found[name] = tensor
    return found


def formats(
    _context: click.Context, _option: click.Parameter, value: tuple[str, ...]
) -> tuple[tuple[str, named.Render], ...]:
    """Split ``NAME=FILE`` into the file and the format's function."""
    found = []
    for text in value:
        name, equals, place = text.partition("=")
        if not (name and equals and place):
            raise click.BadParameter(f"{text!r} is not NAME=FILE")
        try:
            found.append((place, named.find(name)))
        except InvalidInputError as problem:
            raise click.BadParameter(str(problem)) from problem
    return tuple(found)


def layouts(_context: click.Context, _option: click.Parameter, value: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Split ``TENSOR=LAYOUT``."""
    pairs = []
    for text in value:
        tensor, equals, layout = text.rpartition("=")
        if not (tensor and equals and layout):
            raise click.BadParameter(f"{text!r} is not TENSOR=LAYOUT")
        pairs.append((tensor, layout))
    return tuple(pairs)


def report_formats(
    _context: click.Context, _option: click.Parameter, value: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """Split ``NAME=FILE``, NAME one of the formats of reports."""
    pairs = []
    for text in value:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise click.BadParameter(f"{text!r} is not NAME=FILE")
        if name not in files.names():
            raise click.BadParameter(unknown(name, files.names()))
        try:
            files.find(name)  # before anything is measured
        except InvalidInputError as problem:
            raise click.BadParameter(str(problem)) from problem
        pairs.append((name, file))
    return tuple(pairs)


def feeds(_context: click.Context, _option: click.Parameter, value: tuple[str, ...]) -> dict[str, spec_pb2.Tensor]:
    """Read ``NAME=VALUE`` or ``NAME=FILE.npy``."""
    return _tensors(value, parse_feed)


def budget(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    """Read MiB; ``auto`` leaves the choice to the service."""
    if value is None or value.lower() == "auto":
        return None
    if not (value.isascii() and value.isdigit() and int(value) >= 16):
        raise click.BadParameter(f"{value!r} is neither auto nor a number of MiB from 16 up")
    return int(value)


def size(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Read ``HxW``."""
    sides = value.lower().replace("×", "x").split("x") if value is not None else []
    if sides and not (len(sides) == 2 and all(side.isascii() and side.isdigit() and int(side) > 0 for side in sides)):
        raise click.BadParameter(f"{value!r} is not HxW, for example 224x224")
    return tuple(map(int, sides))


def classes(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[tuple[str, ...], int | None]:
    """Read a file of class names, or an offset of the labels."""
    if value is None:
        return (), None
    if value.removeprefix("-").removeprefix("+").isdecimal():
        return (), int(value)
    try:
        names = tuple(line.strip() for line in Path(value).read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeError) as problem:
        raise click.BadParameter(f"{value!r} is neither a number nor a file of class names: {problem}") from problem
    if not names:
        raise click.BadParameter(f"{value} holds no class names")
    return names, None


def step(_context: click.Context, _option: click.Parameter, value: str | None) -> dict[str, float]:
    """Return the field of the specification that a step sets: ``step`` in units of t, ``secant_px`` in pixels."""
    if value is None:
        return {}
    text = value.strip().lower()
    name = "secant_px" if text.endswith("px") else "step"
    try:
        size = float(text.removesuffix("px"))
    except ValueError:
        size = 0.0
    if not (size > 0 and math.isfinite(size)):
        raise click.BadParameter(f"{value!r} is neither a size in pixels, like 0.5px, nor a step in t, like 0.01")
    return {name: size}
