"""What to audit and how: the specification of one audit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from lieaudit.errors import SpecError
from lieaudit.feeds import Feed, read_feeds
from lieaudit.fields import read_custom
from lieaudit.parts.text import read_parts
from lieaudit.runtime.budget import UNKNOWN
from lieaudit.suggestions import unknown
from lieaudit.symmetries.custom import resolved
from lieaudit.symmetries.generators import GENERATORS as TABLE
from lieaudit.symmetries.generators import Generator

GENERATORS = tuple(TABLE)

MAX_SIDE = 16384
"""Pixels of an image's height or width."""

CHOICES = {
    "method": ("auto", "forward", "finite_difference", "torch", "secant"),
    "head": ("auto", "softmax", "identity", "sigmoid", "spatial"),
    "convention": ("central", "reference"),
    "interpolation": ("bilinear", "bicubic", "fourier"),
    "padding": ("reflect", "circular"),
    "layerwise": ("none", "module", "op"),
    "input_layout": ("auto", "NCHW", "NHWC"),
}


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How uint8 images become the model's float32 input.

    ``x = (raw / scale − mean) / std`` per channel, after resize of the shorter side, centre crop and channel order.
    ``mean`` and ``std`` are in the model's channel order and hold one value, or one per channel.
    """

    scale: float = 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    order: str = "rgb"
    resize: int | None = None
    crop: int | None = None
    name: str = "custom"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale != 0):
            raise _invalid("preprocessing.scale", f"{self.scale} is not a finite non-zero number")
        if not self.mean or not all(map(math.isfinite, self.mean)):
            raise _invalid("preprocessing.mean", f"{self.mean} must be finite numbers")
        if not self.std or not all(math.isfinite(s) and s > 0 for s in self.std):
            raise _invalid("preprocessing.std", f"{self.std} must be finite and positive")
        if self.order not in {"rgb", "bgr"}:
            raise _invalid("preprocessing.order", f"{self.order!r} is neither 'rgb' nor 'bgr'")
        for name in ("resize", "crop"):
            size = getattr(self, name)
            if size is not None and not 1 <= size <= MAX_SIDE:
                raise _invalid(f"preprocessing.{name}", f"{size} is not a size in 1 … {MAX_SIDE} pixels")

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return _fields(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the JSON form; unknown names are a `SpecError`."""
        known = _known(cls, values, "preprocessing.")
        known |= {name: tuple(known[name]) for name in ("mean", "std") if name in known}
        return cls(**known)


@dataclass(frozen=True, slots=True)
class AuditSpec:
    """One audit's specification; the defaults are the documented conventions (docs/numerics.md).

    Attributes
    ----------
    generators
        Ids from `GENERATORS` and names of ``custom`` fields, in the order of the report; a text of them, separated by
        commas, is read too. Custom fields that are not named come last.
    custom
        Further generators by name: an affine field [[a, b, c], [d, e, f]], v = (a x + b y + c, d x + e y + f) in pixels
        from the image's centre per unit of t, or the displacements of the pixels, (H, W, 2), x then y. Kept as
        `lieaudit.feeds.Feed`.
    method
        ``auto``: forward mode where the graph allows it, cross-checked by finite differences.
    layerwise, depth
        Attribution per ``module`` (of the tree down to ``depth``; None: leaves) or per ``op``.
    layouts
        Declared layouts, tensor name → layout, for tensors whose layout is not derived (or derived wrongly).
    feeds
        Values of further inputs of the graph, by name: numbers, lists or arrays, kept as `lieaudit.feeds.Feed`. An
        array whose first axis is the number of images, for an input with the batch axis, holds one value per image;
        any other is the same for all. They come before arrays of the same name in the data.
    parts
        What the outputs hold, ``NAME=OUTPUT[SLICE]:REPRESENTATION[,OPTION=VALUE…]`` each (docs/parts.md); empty: one
        output is audited as `head` says, or as it is certainly recognised.
    anchors
        Arrays (P, 2) or (P, 4) by the name that ``anchors=NAME`` in a part gives them; kept like `feeds`.
    size
        (H, W) of the images where the graph leaves it open and the data does not say it; empty: not said.
    preprocessing
        Needed for uint8 images; float32 images are taken as the model takes them.
    classes, class_offset
        Which output is which class, for the accuracy: the model's class names in order, among which class folders are
        found; and what is added to labels that are numbers.
    max_images
        Use the first so many images only.
    seed, bootstrap
        Seed of every random choice; number of bootstrap resamples.
    relative_images
        How many images `relative` is measured on (spread evenly over the set).
    provider
        ``cpu``, ``cuda``, ``cuda:1``, ``tensorrt`` …
    threads
        Intra-op threads of the session; 0: all cores this process may use.
    budget_mib
        Memory budget for activations and rows, in MiB; 0: a share of what is free on the device that computes
        (`lieaudit.runtime.budget`), found once when an audit begins and kept with it.
    step
        A fixed finite-difference step in units of t instead of the measured best one.
    secant_px
        Measure secants (F(T_t x) − F(T_−t x)) / 2t of this size, the root-mean-square displacement in pixels, and not
        the derivative (docs/numerics.md, section 5). Quantised models have no other answer.
    """

    generators: tuple[str, ...] = GENERATORS
    method: str = "auto"
    head: str = "auto"
    convention: str = "central"
    interpolation: str = "bilinear"
    padding: str = "reflect"
    layerwise: str = "none"
    depth: int | None = None
    layouts: Mapping[str, str] = field(default_factory=dict)
    input: str | None = None
    output: str | None = None
    input_layout: str = "auto"
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] = ()
    class_offset: int | None = None
    max_images: int | None = None
    seed: int = 0
    bootstrap: int = 2000
    relative_images: int = 64
    provider: str = "cpu"
    allow_fallback: bool = False
    threads: int = 0
    budget_mib: int = 0
    step: float | None = None
    secant_px: float | None = None
    torch_source: str | None = None
    torch_factory: str | None = None
    torch_weights: str | None = None
    feeds: Mapping[str, Feed] = field(default_factory=dict)
    size: tuple[int, ...] = ()
    custom: Mapping[str, Feed] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    anchors: Mapping[str, Feed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise _invalid(name, unknown(str(getattr(self, name)), choices))
        _check_texts(self)
        if self.convention == "reference" and self.interpolation != "bilinear":
            raise _invalid("interpolation", "the reference convention is defined for bilinear only")
        if not self.generators:
            raise _invalid("generators", "the list is empty")
        object.__setattr__(self, "custom", read_custom(self.custom))  # frozen for everybody else
        unnamed = tuple(name for name in self.custom if name not in self.generators)
        object.__setattr__(self, "generators", (*self.generators, *unnamed))
        for generator in self.generators:
            if generator not in GENERATORS and generator not in self.custom:
                raise _invalid("generators", unknown(str(generator), (*GENERATORS, *self.custom)))
        if len(set(self.generators)) != len(self.generators):
            raise _invalid("generators", "a generator is listed twice")
        _in_range("class_offset", self.class_offset, -(10**6), 10**6)
        _in_range("max_images", self.max_images, 1, 10**9)
        _in_range("depth", self.depth, 1, 100)
        _in_range("seed", self.seed, 0, 2**31 - 1)
        _in_range("bootstrap", self.bootstrap, 100, 100_000)
        _in_range("relative_images", self.relative_images, 0, 10**9)
        _in_range("threads", self.threads, 0, 1024)
        _in_range("budget_mib", self.budget_mib or 16, 16, 2**24)  # 0: not stated
        if self.step is not None and not (math.isfinite(self.step) and self.step > 0):
            raise _invalid("step", f"{self.step} is not a positive number")
        _check_secants(self)
        if self.size and (len(self.size) != 2 or not all(1 <= side <= MAX_SIDE for side in self.size)):
            raise _invalid("size", f"{self.size} is not a height and a width in 1 … {MAX_SIDE} pixels")
        object.__setattr__(self, "feeds", read_feeds(self.feeds))
        object.__setattr__(self, "anchors", read_feeds(self.anchors, "anchors"))
        _check_parts(self)

    @property
    def budget(self) -> int:
        """The memory budget in bytes; of a specification that states none and no audit has begun with, `UNKNOWN`."""
        return (self.budget_mib or UNKNOWN) << 20

    def actions(self, height: int, width: int) -> tuple[Generator, ...]:
        """Return the generators on images of this size.

        Raises `SpecError` where one is given by displacements for another size.
        """
        return resolved(self.generators, {name: field.array() for name, field in self.custom.items()}, height, width)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: plain lists and dicts, absent fields left out."""
        return _fields(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the JSON form; unknown names are a `SpecError`."""
        known = _known(cls, values, "")
        if "generators" in known:
            given = known["generators"]
            known["generators"] = given if isinstance(given, str) else tuple(given) or GENERATORS
        if "classes" in known:
            known["classes"] = tuple(known["classes"])
        known |= {name: tuple(known[name]) for name in ("size", "parts") if name in known}
        if known.get("preprocessing") is not None:
            known["preprocessing"] = Preprocessing.from_dict(known["preprocessing"])
        return cls(**known)


def _check_texts(spec: AuditSpec) -> None:
    """Read the generators where they are one text, and say how a preset becomes a `Preprocessing`."""
    given: object = spec.generators
    if isinstance(given, str):
        names = tuple(name.strip() for name in given.split(",") if name.strip())
        object.__setattr__(spec, "generators", names)
    taken: object = spec.preprocessing
    if not isinstance(taken, Preprocessing | None):
        raise SpecError(
            f"preprocessing: {taken!r:.80} is a {type(taken).__name__}, not a Preprocessing",
            reason="INVALID_SPEC",
            subject="preprocessing",
            hint="lieaudit.data.parse_preprocessing('imagenet') makes one of a preset's name",
        )


def _check_parts(spec: AuditSpec) -> None:
    """Refuse parts that cannot be read, lack their anchors, or contradict another field."""
    parts = read_parts(spec.parts)
    wanted = {part.anchors for part in parts if part.anchors is not None}
    for name in sorted(wanted - set(spec.anchors)):
        raise _invalid("anchors", f"a part names anchors={name}, and no array of this name is given")
    for name in sorted(set(spec.anchors) - wanted):
        raise _invalid("anchors", f"{name!r} is given, and no part says anchors={name}")
    if parts and spec.output is not None:
        raise _invalid("output", "parts name the outputs they are slices of; leave it out beside them")
    if parts and spec.secant_px is not None:
        raise _invalid("secant_px", "parts are measured by derivatives; leave the size of secants out beside them")
    if parts and spec.method in {"torch", "secant"}:
        raise _invalid("method", f"parts are slices of the ONNX graph's outputs, which {spec.method} does not measure")
    if parts and spec.head != "auto":
        raise _invalid("head", "parts say what each output holds; leave it out beside them")


def _check_secants(spec: AuditSpec) -> None:
    """Refuse what contradicts secants: they have a size, and are no derivative."""
    if spec.secant_px is None:
        if spec.method == "secant":
            raise _invalid("secant_px", "the method secant needs a size in pixels, e.g. --step 0.5px")
        return
    if not (math.isfinite(spec.secant_px) and 0 < spec.secant_px <= 1000):
        raise _invalid("secant_px", f"{spec.secant_px} is not a size in (0, 1000] pixels")
    if spec.step is not None:
        raise _invalid("secant_px", "a step is given in t or in pixels, not in both")
    if spec.method not in {"auto", "secant"}:
        raise _invalid("method", f"secants of a stated size are measured by the method secant, not by {spec.method}")
    given = [name for name, field in spec.custom.items() if field.shape != (2, 3)]
    if given:
        raise _invalid("secant_px", f"{given[0]!r} is given by displacements at t → 0, which no flow carries so far")
    if spec.convention != "central":
        raise _invalid("convention", "the reference convention is a derivative at t = 0; a secant has a size")
    if spec.layerwise != "none":
        raise _invalid("layerwise", "layers are attributed in the limit t → 0, which secants of a stated size are not")


def _invalid(name: str, problem: str) -> SpecError:
    return SpecError(f"{name}: {problem}", reason="INVALID_SPEC", subject=name)


def _in_range(name: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise _invalid(name, f"{value} is not in {low} … {high}")


def _fields(value: AuditSpec | Preprocessing) -> dict[str, Any]:
    items = ((f.name, getattr(value, f.name)) for f in fields(value))
    return {name: _plain(item) for name, item in items if item is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, AuditSpec | Preprocessing):
        return _fields(value)
    if isinstance(value, Feed):
        return value.to_dict()
    if isinstance(value, tuple):
        return list(value)
    return {name: _plain(item) for name, item in value.items()} if isinstance(value, Mapping) else value


def _known(cls: type, values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    names = [f.name for f in fields(cls)]
    for name in values:
        if name not in names:
            raise SpecError(
                f"{prefix}{name}: no such field",
                reason="INVALID_SPEC",
                subject=prefix + name,
                hint=f"known: {', '.join(names)}",
            )
    return dict(values)
