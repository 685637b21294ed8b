"""Layerwise attribution of a torch module: the exact Jacobian of the conjugated network F(α) at 0.

Its column k is the contribution C_k of part k to the Lie derivative (Gruver et al. 2023, Eq. 5): one forward-mode
row per part, vectorised over parts (`lieaudit.torch.network`). From there on the report is made as for an ONNX graph
(`lieaudit.layerwise.summary`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lieaudit.derivatives.rounding import COVERAGE
from lieaudit.errors import DataError
from lieaudit.layerwise.kinds import kind_of
from lieaudit.layerwise.reduce import empty, fill
from lieaudit.layerwise.summary import Described, summarise
from lieaudit.metrics.head import Float64Array, Head
from lieaudit.report import Layerwise
from lieaudit.spec import AuditSpec
from lieaudit.symmetries import Generator
from lieaudit.symmetries.plan import combination, plan_of
from lieaudit.torch.conjugation import changed
from lieaudit.torch.function import SourceFunction
from lieaudit.torch.jvp import jittered
from lieaudit.torch.network import HEAD, Network, Part

_IMAGES = 8
"""Images at a time."""

_REDRAWN = 2
"""Images on which the rounding errors are redrawn to measure them."""


@dataclass(frozen=True, slots=True)
class Attribution:
    """The contributions under one generator.

    Attributes
    ----------
    lie
        L F, float64 (n, *K).
    inclusive
        C of every module that could be conjugated, parts included: name → (n, *K).
    parts
        What adds up to L F: modules without parts, and what modules do themselves, ``name: own operations``;
        name → (n, *K).
    completeness
        ‖Σ parts − L F‖ / ‖L F‖ over all images: every part and L F are differentiated for themselves.
    layerwise
        The same as a report holds it.
    """

    lie: Float64Array
    inclusive: Mapping[str, Float64Array]
    parts: Mapping[str, Float64Array]
    completeness: float
    layerwise: Layerwise


def attribute(
    module: torch.nn.Module,
    images: npt.NDArray[np.float32],
    spec: AuditSpec | None = None,
    *,
    precision: str = "float64",
    device: str = "cpu",
    others: Mapping[str, object] | None = None,
    zero_point: npt.ArrayLike = 0.0,
    head: Head | None = None,
) -> dict[str, Attribution]:
    """Attribute the Lie derivative of a module to its parts, for each generator of the specification.

    Parameters
    ----------
    module
        Any module.
    images
        float32 (n, C, H, W), as the module takes them.
    spec
        Generators, conventions, head, ``depth`` of the module tree, and ``layouts``: module name → layout of its
        output, where the tracked one is unknown (`lieaudit.layouts.layout.GRAMMAR`).
    precision, device, others
        See `lieaudit.torch.SourceFunction`.
    zero_point
        What a raw intensity of 0 is in these images, one value or one per channel (for ``brightness``).
    head
        The head, where an audit has settled it; default: what ``spec.head`` and the outputs say.

    Raises
    ------
    SourceError
        The module fails, has no forward derivative, returns NaN or infinity, or is not called the same way on every
        batch.
    SpecError
        The declared layouts or the head do not fit.
    DataError
        The images are not (n, C, H, W) with n ≥ 1.
    """
    spec = spec or AuditSpec()
    images = check_images(images)
    function = SourceFunction(
        module, precision=precision, device=device, input=spec.input or "", output=spec.output or "", others=others
    )
    zero = tuple(float(v) for v in np.atleast_1d(np.asarray(zero_point, np.float64)))
    networks: list[Network] = []
    for start in range(0, len(images), _IMAGES):
        x = function.tensor(images[start : start + _IMAGES])
        networks.append(Network(function, x, spec, head=networks[0].head if networks else head))
    networks.append(Network(function, jittered(networks[0].x[:_REDRAWN]), spec, head=networks[0].head))
    for network in networks[1:]:
        called = set(network.modules.calls) ^ set(networks[0].modules.calls)
        for name in called or {part.label for part in set(network.parts) ^ set(networks[0].parts)}:
            raise changed(name)
    found = {}
    height, width = images.shape[-2:]
    plan = plan_of(spec.actions(height, width), height, width, convention=spec.convention)
    labels = [part.label for part in networks[0].parts]
    rows = [_along(networks, direction, zero, labels) for direction in plan.measured]
    for generator, weights in zip(spec.generators, plan.weights, strict=True):
        lie, *vectors = (combination(np.stack(one, axis=1), weights) for one in zip(*rows, strict=True))
        parts = dict(zip(labels, vectors[: len(labels)], strict=True))
        redrawn = dict(zip(labels, vectors[len(labels) :], strict=True))
        layerwise = _layerwise(networks[0], generator, lie, parts, redrawn)
        found[generator] = Attribution(lie, networks[0].inclusive(parts), parts, layerwise.completeness, layerwise)
    return found


def _along(
    networks: Sequence[Network], direction: Generator, zero: tuple[float, ...], labels: Sequence[str]
) -> list[Float64Array]:
    """Return L F, C of every part, and C on the redrawn images, which the last of the networks holds."""
    *pieces, moved = (network.contributions(direction, zero) for network in networks)
    lie = np.concatenate([piece[0] for piece in pieces])
    parts = [np.concatenate([piece[1][label] for piece in pieces]) for label in labels]
    return [lie, *parts, *(moved[1][label] for label in labels)]


def check_images(images: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return images as an array of floats (n, C, H, W). Raises `DataError` where they are none."""
    found = np.asarray(images)
    if found.ndim != 4 or 0 in found.shape or found.dtype.kind != "f":
        raise DataError(
            f"images are {found.dtype} of shape {found.shape}, not floats (N, C, H, W) with at least one image",
            reason="INVALID_IMAGES",
            subject="images",
        )
    return found


def _layerwise(
    network: Network,
    generator: str,
    lie: Float64Array,
    parts: Mapping[str, Float64Array],
    redrawn: Mapping[str, Float64Array],
) -> Layerwise:
    """Return the report's part. L F is the audit's own derivative, so that nothing drifts between the two."""
    n, size = len(lie), int(np.prod(lie.shape[1:]))
    vectors = np.stack([rows.reshape(n, size) for rows in parts.values()], axis=1)
    # The redrawn images stand for all: their change, root mean square, bounds the error of every image.
    change = np.stack(
        [(redrawn[label] - rows[: len(redrawn[label])]).reshape(-1, size) for label, rows in parts.items()]
    )
    wrong = COVERAGE * np.sqrt(np.mean(np.sum(change**2, axis=2), axis=1))
    arrays = empty(n, 1, len(parts), size)
    arrays["subnetwork"][...] = np.nan
    places = range(len(parts))
    fill(arrays, 0, places, vectors, lie.reshape(n, size), np.broadcast_to(wrong, (n, len(parts))))
    described = [_described(network, part) for part in network.parts]
    found = summarise(arrays, 0, generator, described, network.spec, "torch")
    return replace(found, merged=network.modules.merged)


def _described(network: Network, part: Part) -> Described:
    modules = network.modules
    inner = network.function.module.get_submodule(part.module)
    return Described(
        name=part.label,
        ops=(type(inner).__name__,),
        kind="head" if part.label == HEAD else kind_of(modules.steps.get(part.module, ()), modules.image),
        boundary=part.module,
        layout=modules.layout(part.module).text if part.module else "",
        depth=max(1, part.module.count(".") + bool(part.module)),
        commutes=not part.moves and not part.own,
    )
