"""Options that several subcommands share: the service's address, and the specification of an audit."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from lieaudit_api.v1 import spec_pb2
from lieaudit_policy import GENERATORS

from lieaudit_client import own_generators
from lieaudit_client.command import parsing
from lieaudit_client.command.grouping import (
    COMPUTING,
    IMAGES,
    MEASURED,
    MODEL,
    OUTPUT,
    SERVICE,
    STATISTICS,
    TORCH,
    option,
)
from lieaudit_client.formats import files
from lieaudit_client.layerwise_view import TOP
from lieaudit_client.parts import anchors_of
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

_SERVER = (
    option(
        SERVICE, "--server", metavar="HOST:PORT", envvar="LIEAUDIT_SERVER", help="The service; none: start it embedded."
    ),
    option(
        SERVICE, "--token-file", type=_FILE, help="File with the bearer token [LIEAUDIT_TOKEN holds the token itself]."
    ),
    option(SERVICE, "--ca-file", type=_FILE, help="Authority of the service's certificate [LIEAUDIT_CA_FILE]."),
    option(SERVICE, "--cert-file", type=_FILE, help="Own certificate, for mutual TLS [LIEAUDIT_CERT_FILE]."),
    option(SERVICE, "--key-file", type=_FILE, help="Its key [LIEAUDIT_KEY_FILE]."),
    option(
        SERVICE,
        "--tls-name",
        metavar="NAME",
        help="Name in the service's certificate, if not the host [LIEAUDIT_TLS_NAME].",
    ),
    option(
        SERVICE,
        "--insecure",
        is_flag=True,
        default=None,
        help="Plain text to another machine [LIEAUDIT_INSECURE=1].",
    ),
)


def _choice(name: str) -> Callable[[F], F]:
    group = MODEL if name == "input_layout" else MEASURED
    values = CHOICES[name]
    flag = "--" + name.replace("_", "-")
    return option(group, flag, type=click.Choice(values), help=_HELP[name], unset=values[0])


_SPEC = (
    option(
        MEASURED,
        "--generators",
        metavar="A,B",
        callback=parsing.generators,
        help=f"Of {', '.join(GENERATORS)}, names of --generator, and those that an installed distribution brings.",
        unset="all",
    ),
    option(
        MEASURED,
        "--generator",
        "custom",
        metavar="NAME=a,b,c;d,e,f",
        multiple=True,
        is_eager=True,  # --generators may name it
        callback=parsing.custom,
        help="A field of your own, v = (ax + by + c, dx + ey + f) in pixels from the centre; or NAME=FILE.npy, the "
        "displacements of the pixels (H, W, 2). May be repeated.",
    ),
    *(_choice(name) for name in CHOICES),
    option(
        MEASURED,
        "--depth",
        type=click.IntRange(1, 100),
        metavar="N",
        help="Of the module tree, for --layerwise module.",
        unset="to its leaves",
    ),
    option(
        MEASURED,
        "--layout",
        "layouts",
        metavar="TENSOR=LAYOUT",
        multiple=True,
        callback=parsing.layouts,
        help="Declare a tensor's layout, e.g. embeddings=tokens:1+14x14; may be repeated.",
    ),
    option(MODEL, "--input", metavar="NAME", help="Which of several inputs takes the image."),
    option(MEASURED, "--output", metavar="NAME", help="Which of several outputs is audited."),
    option(
        MEASURED,
        "--part",
        "parts",
        metavar="NAME=OUTPUT[SLICE]:KIND[,…]",
        multiple=True,
        help="What an output, or a slice of it, holds: invariant, map, vector_map, covector_map, points, boxes (xyxy, "
        "cxcywh, xywh) or angle, e.g. boxes=output0[:4]:cxcywh,weight=output0[4:]. May be repeated; `lieaudit inspect` "
        "proposes them.",
    ),
    option(
        MODEL,
        "--feed",
        "feeds",
        metavar="NAME=VALUE|FILE.npy",
        multiple=True,
        callback=parsing.feeds,
        help="Value of a further input, e.g. orig_target_sizes=640,480: one for all images, or one each along its "
        "first axis. May be repeated; arrays of the same name in the .npz do it too.",
    ),
    option(
        MODEL,
        "--size",
        metavar="HxW",
        callback=parsing.size,
        help="Of the images, where the graph leaves it open and the data does not say it.",
    ),
    option(
        IMAGES,
        "--preprocess",
        metavar="P",
        help=f"For uint8 images: a preset ({', '.join(PRESETS)}), a YAML file, or "
        "scale=255,mean=…,std=…,order=…,resize=…,crop=….",
    ),
    option(
        IMAGES,
        "--classes",
        metavar="FILE|OFFSET",
        callback=parsing.classes,
        help="For the accuracy: the model's class names in order, one a line, or what to add to the labels' numbers.",
    ),
    option(
        IMAGES,
        "--max-images",
        type=click.IntRange(1),
        metavar="N",
        help="Use the first so many images only.",
        unset="all",
    ),
    option(
        STATISTICS, "--seed", type=click.IntRange(0, 2**31 - 1), metavar="N", help="Of every random choice.", unset="0"
    ),
    option(
        STATISTICS,
        "--bootstrap",
        type=click.IntRange(100, 100_000),
        metavar="N",
        help="Number of bootstrap resamples.",
        unset="2000",
    ),
    option(
        STATISTICS,
        "--relative-images",
        type=click.IntRange(0),
        metavar="N",
        help="How many images `relative` is measured on.",
        unset="64",
    ),
    option(COMPUTING, "--provider", metavar="P", help="cpu, cuda, cuda:1, tensorrt …", unset="cpu"),
    option(
        COMPUTING,
        "--allow-fallback",
        is_flag=True,
        default=None,
        help="Let ops the provider lacks run on the CPU.",
    ),
    option(
        COMPUTING,
        "--threads",
        type=click.IntRange(0, 1024),
        metavar="N",
        help="Of the session.",
        unset="0: all the service gives",
    ),
    option(
        COMPUTING,
        "--budget",
        callback=parsing.budget,
        metavar="MIB",
        help="Memory for activations and rows; auto: a share of what is free where it is computed.",
        unset="auto",
    ),
    option(
        MEASURED,
        "--step",
        metavar="T|Npx",
        callback=parsing.step,
        help="0.5px: measure secants of this root-mean-square displacement (brightness takes t = 0.01), which is how "
        "precisions are compared. A bare number: a fixed finite-difference step in units of t.",
    ),
    option(TORCH, "--torch-source", type=_FILE, metavar="FILE.pt2", help="Exported program, for --method torch."),
    option(TORCH, "--torch-factory", metavar="NAME", help="Module factory in the service's configuration."),
    option(TORCH, "--weights", type=_FILE, metavar="FILE.safetensors", help="Weights for --torch-factory."),
)

NO_MEASUREMENT = (
    "generators", "custom", "method", "convention", "interpolation", "padding", "layerwise", "step", "seed",
    "bootstrap", "relative_images", "torch_source", "torch_factory", "weights",
)  # fmt: skip
"""What `inspect` accepts and has no use for: it measures no derivative."""

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
    option(
        OUTPUT, "--top", default=TOP, type=click.IntRange(1), metavar="K", show_default=True,
        help="With --layerwise: how many of the largest segments to show.",
    ),
    option(OUTPUT, "--trees", is_flag=True, help="With --layerwise: show the module tree of every generator too."),
)  # fmt: skip


_OUTPUT = (
    option(OUTPUT, "--json", "json_file", metavar="FILE", help="Write the report; - for standard output."),
    option(OUTPUT, "--html", "html_file", metavar="FILE", help="Write a page."),
    option(
        OUTPUT, "--format", "formats", multiple=True, metavar="NAME=FILE", callback=parsing.report_formats,
        help=f"Write the report in another format (repeatable): {', '.join(files.names())}.",
    ),
)  # fmt: skip


def output_files(options: Mapping[str, Any]) -> list[str]:
    """Return the files that the options of `output_options` name."""
    named = (options["json_file"], options["html_file"], *(file for _, file in options["formats"]))
    return [file for file in named if file is not None]


def output_options(function: F) -> F:
    """Add the files that a report is written to."""
    return _add(function, _OUTPUT)


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

    Raises `InvalidInputError` on an unusable preprocessing, or anchors that cannot be read.
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
        custom=options["custom"] | own_generators.fields(options["generators"], options["custom"]),
        size=options["size"],
        parts=options["parts"],
        anchors=anchors_of(options["parts"]),
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
    for decorate in reversed(options):
        function = decorate(function)
    return function
