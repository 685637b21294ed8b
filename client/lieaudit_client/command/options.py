"""Options that several subcommands share: the service's address, and the specification of an audit."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from lieaudit_api.v1 import spec_pb2
from lieaudit_policy import GENERATORS

from lieaudit_client.exceptions import InvalidInputError
from lieaudit_client.feeds import parse_feed
from lieaudit_client.layerwise_view import TOP
from lieaudit_client.preprocessing import PRESETS, parse_preprocessing

F = TypeVar("F", bound=Callable[..., Any])

# The service checks them too; here they make the help and the early refusal.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "method": ("auto", "forward", "finite_difference", "torch", "secant"),
    "head": ("auto", "softmax", "identity", "sigmoid", "spatial"),
    "convention": ("central", "reference"),
    "interpolation": ("bilinear", "bicubic", "fourier"),
    "padding": ("reflect", "circular"),
    "layerwise": ("none", "module", "op"),
    "input_layout": ("auto", "NCHW", "NHWC"),
}
_HELP = {
    "method": "How derivatives are computed.",
    "head": "What turns raw outputs into what is audited.",
    "convention": "Derivative at t = 0: central, or right-hand as in published numbers.",
    "interpolation": "Of the images.",
    "padding": "Beyond the images' edges.",
    "layerwise": "Attribute the error to modules or ops.",
    "input_layout": "Of the model's input.",
}
_FILE = click.Path(exists=True, dir_okay=False)


def _split_generators(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(",") if name.strip()) if value else ()
    for name in names:
        if name not in GENERATORS:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(GENERATORS)}")
    return names


def _split_layouts(
    _context: click.Context, _option: click.Parameter, value: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    pairs = []
    for text in value:
        tensor, equals, layout = text.rpartition("=")
        if not (tensor and equals and layout):
            raise click.BadParameter(f"{text!r} is not TENSOR=LAYOUT")
        pairs.append((tensor, layout))
    return tuple(pairs)


def _read_feeds(
    _context: click.Context, _option: click.Parameter, value: tuple[str, ...]
) -> dict[str, spec_pb2.Tensor]:
    found: dict[str, spec_pb2.Tensor] = {}
    for text in value:
        try:
            name, tensor = parse_feed(text)
        except InvalidInputError as problem:
            raise click.BadParameter(str(problem)) from problem
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice")
        found[name] = tensor
    return found


def _read_size(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[int, ...]:
    sides = value.lower().replace("×", "x").split("x") if value is not None else []
    if sides and not (len(sides) == 2 and all(side.isascii() and side.isdigit() and int(side) > 0 for side in sides)):
        raise click.BadParameter(f"{value!r} is not HxW, for example 224x224")
    return tuple(map(int, sides))


def _read_classes(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> tuple[tuple[str, ...], int | None]:
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


def _step(_context: click.Context, _option: click.Parameter, value: str | None) -> dict[str, float]:
    """Give the field of the specification that a step sets: ``step`` in units of t, ``secant_px`` in pixels."""
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


_SERVER = (
    click.option(
        "--server", metavar="HOST:PORT", envvar="LIEAUDIT_SERVER", help="The service; none: start it embedded."
    ),
    click.option(
        "--token-file", type=_FILE, help="File with the bearer token [LIEAUDIT_TOKEN holds the token itself]."
    ),
    click.option("--ca-file", type=_FILE, help="Authority of the service's certificate [LIEAUDIT_CA_FILE]."),
    click.option("--cert-file", type=_FILE, help="Own certificate, for mutual TLS [LIEAUDIT_CERT_FILE]."),
    click.option("--key-file", type=_FILE, help="Its key [LIEAUDIT_KEY_FILE]."),
    click.option(
        "--tls-name", metavar="NAME", help="Name in the service's certificate, if not the host [LIEAUDIT_TLS_NAME]."
    ),
    click.option("--insecure", is_flag=True, default=None, help="Plain text to another machine [LIEAUDIT_INSECURE=1]."),
)

_SPEC = (
    click.option(
        "--generators", metavar="A,B", callback=_split_generators, help=f"Of {', '.join(GENERATORS)} [default: all]."
    ),
    *(
        click.option("--" + name.replace("_", "-"), type=click.Choice(values), help=_HELP[name])
        for name, values in CHOICES.items()
    ),
    click.option("--depth", type=click.IntRange(1, 100), help="Of the module tree, for --layerwise module."),
    click.option(
        "--layout",
        "layouts",
        metavar="TENSOR=LAYOUT",
        multiple=True,
        callback=_split_layouts,
        help="Declare a tensor's layout, e.g. embeddings=tokens:1+14x14; may be repeated.",
    ),
    click.option("--input", metavar="NAME", help="Which of several inputs takes the image."),
    click.option("--output", metavar="NAME", help="Which of several outputs is audited."),
    click.option(
        "--feed",
        "feeds",
        metavar="NAME=VALUE|FILE.npy",
        multiple=True,
        callback=_read_feeds,
        help="Value of a further input, e.g. orig_target_sizes=640,480: one for all images, or one each along its "
        "first axis. May be repeated; arrays of the same name in the .npz do it too.",
    ),
    click.option(
        "--size",
        metavar="HxW",
        callback=_read_size,
        help="Of the images, where the graph leaves it open and the data does not say it.",
    ),
    click.option(
        "--preprocess",
        metavar="P",
        help=f"For uint8 images: a preset ({', '.join(PRESETS)}), a YAML file, or "
        "scale=255,mean=…,std=…,order=…,resize=…,crop=….",
    ),
    click.option(
        "--classes",
        metavar="FILE|OFFSET",
        callback=_read_classes,
        help="For the accuracy: the model's class names in order, one a line, or what to add to the labels' numbers.",
    ),
    click.option("--max-images", type=click.IntRange(1), help="Use the first so many images only."),
    click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Of every random choice."),
    click.option("--bootstrap", type=click.IntRange(100, 100_000), help="Number of bootstrap resamples."),
    click.option("--relative-images", type=click.IntRange(0), help="How many images `relative` is measured on."),
    click.option("--provider", metavar="P", help="cpu, cuda, cuda:1, tensorrt …"),
    click.option("--allow-fallback", is_flag=True, default=None, help="Let ops the provider lacks run on the CPU."),
    click.option("--threads", type=click.IntRange(0, 1024), help="Of the session; 0: all the service gives."),
    click.option("--budget", type=click.IntRange(16), metavar="MIB", help="Memory for activations and rows."),
    click.option(
        "--step",
        metavar="T|Npx",
        callback=_step,
        help="0.5px: measure secants of this root-mean-square displacement (brightness takes t = 0.01), which is how "
        "precisions are compared. A bare number: a fixed finite-difference step in units of t.",
    ),
    click.option("--torch-source", type=_FILE, metavar="FILE.pt2", help="Exported program, for --method torch."),
    click.option("--torch-factory", metavar="NAME", help="Module factory in the service's configuration."),
    click.option("--weights", type=_FILE, metavar="FILE.safetensors", help="Weights for --torch-factory."),
)

_RENAMED = {"budget": "budget_mib"}
_PLAIN = (
    *CHOICES,
    "depth",
    "input",
    "output",
    "max_images",
    "seed",
    "bootstrap",
    "relative_images",
    "provider",
    "allow_fallback",
    "threads",
    "budget",
    "torch_factory",
)


_LAYERS = (
    click.option(
        "--top", default=TOP, type=click.IntRange(1), metavar="K", show_default=True,
        help="How many of the largest segments to show.",
    ),
    click.option("--trees", is_flag=True, help="Also show the module tree of every generator."),
)  # fmt: skip


def layer_options(function: F) -> F:
    """Add the options that say how much of a layerwise decomposition is shown."""
    return _add(function, _LAYERS)


def server_options(function: F) -> F:
    """Add the options that say where the service is (see `lieaudit_client.command.service.connect`)."""
    return _add(function, _SERVER)


def spec_options(function: F) -> F:
    """Add the options of an audit's specification (see `spec_from`)."""
    return _add(function, _SPEC)


def spec_from(options: Mapping[str, Any]) -> spec_pb2.AuditSpec:
    """Make the specification from the options; files for torch are uploaded by `lieaudit_client.command.service`.

    Raises `InvalidInputError` on an unusable preprocessing.
    """
    values = {_RENAMED.get(name, name): options[name] for name in _PLAIN if options[name] is not None}
    values |= options["step"]
    names, offset = options["classes"]
    spec = spec_pb2.AuditSpec(
        generators=options["generators"],
        layouts=dict(options["layouts"]),
        classes=names,
        class_offset=offset,
        feeds=options["feeds"],
        size=options["size"],
        **values,
    )
    if options["preprocess"] is not None:
        spec.preprocessing.CopyFrom(parse_preprocessing(options["preprocess"]))
    return spec


def check_writable(*paths: str | None) -> None:
    """Refuse output files that cannot be written before hours of work, not after."""
    for path in paths:
        if path is None or path == "-":
            continue
        place = Path(path).resolve()
        if not place.parent.is_dir():
            raise click.UsageError(f"cannot write {path}: there is no folder {place.parent}")
        if place.is_dir():
            raise click.UsageError(f"cannot write {path}: it is a folder")
        if not os.access(place if place.exists() else place.parent, os.W_OK):
            raise click.UsageError(f"cannot write {path}: this user may not write there")


def _add(function: F, options: tuple[Callable[[F], F], ...]) -> F:
    for option in reversed(options):
        function = option(function)
    return function
