"""How much changes inside a graph move its output, all of them at once, from backward passes.

The estimator of Gruver et al. (ICLR 2023, appendix B.3) for any ONNX graph: with z ~ N(0, I) and C_k = (∂y/∂h_k) δ_k,
E (zᵀ C_k)² = ‖C_k‖², and one backward pass of z gives zᵀ C_k = ⟨(∂y/∂h_k)ᵀ z, δ_k⟩ for every k.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from lieaudit.differentiation import Source, vjp
from lieaudit.errors import SpecError
from lieaudit.runtime.session import Session


@dataclass(frozen=True, slots=True)
class SquaredNorms:
    """What the changes do to the output.

    Attributes
    ----------
    values
        ‖(∂y/∂h) δ‖² by the name of h, over all elements of y.
    passes
        Backward passes that were run.
    relative_error
        The standard error of each value over itself: √(2/passes), as zᵀ C is normal; 0 where every element of y had a
        pass of its own.
    """

    values: Mapping[str, float]
    passes: int
    relative_error: float


def squared_norms(
    model: Source,
    feeds: Mapping[str, npt.NDArray[Any]],
    changes: Mapping[str, npt.NDArray[Any]],
    *,
    output: str | None = None,
    tolerance: float = 0.1,
    seed: int = 0,
    threads: int = 0,
) -> SquaredNorms:
    """Measure ‖(∂y/∂h_k) δ_k‖² for changes δ_k of tensors h_k: inputs, initializers or tensors inside the graph.

    Parameters
    ----------
    model
        As of `lieaudit.vjp`.
    feeds
        The graph's inputs.
    changes
        δ_k by the name of h_k, of its shape.
    output
        y; default: the only output of the graph.
    tolerance
        The relative standard error to reach. A y of fewer elements than that takes passes gets one for each: exact.
    seed
        Of the probes.
    threads
        As of `Session`.

    Raises
    ------
    ModelError, UnsupportedOpError
        As `lieaudit.vjp`.
    SpecError
        TOLERANCE_INVALID; OUTPUT_UNDECLARED where the graph has several outputs; CHANGE_SHAPE where a change has
        another shape than its tensor.
    """
    if not 0 < tolerance < math.inf:
        raise SpecError("tolerance is not positive", reason="TOLERANCE_INVALID", subject="tolerance")
    graph = vjp(model, wrt=list(changes), outputs=None if output is None else [output])
    weights = [value.name for value in graph.graph.input if value.name.endswith(".cotangent")]
    if len(weights) != 1:
        raise SpecError(
            f"the graph has {len(weights)} outputs",
            reason="OUTPUT_UNDECLARED",
            subject="output",
            hint=f"name one of {', '.join(name.removesuffix('.cotangent') for name in weights)}",
        )
    probes = math.ceil(2 / tolerance**2)
    y = _value(graph, feeds, weights[0], threads)
    with Session(graph.SerializeToString(), threads=threads) as session:
        held = {name: session.put(np.ascontiguousarray(array)) for name, array in feeds.items()}
        exact = y.size <= probes
        random = np.random.default_rng(seed)
        names = [f"{name}.cotangent" for name in changes]
        totals = np.zeros(len(names))
        count = y.size if exact else probes
        for p in range(count):
            z = np.zeros(y.size) if exact else random.standard_normal(y.size)
            if exact:
                z[p] = 1
            found = session.run({**held, weights[0]: z.reshape(y.shape).astype(y.dtype)}, names)
            totals += [_dot(c, d, n) ** 2 for c, (n, d) in zip(found, changes.items(), strict=True)]
    values = totals if exact else totals / count
    named = {name: float(value) for name, value in zip(changes, values, strict=True)}
    return SquaredNorms(named, count, 0.0 if exact else math.sqrt(2 / count))


def _value(
    graph: onnx.ModelProto, feeds: Mapping[str, npt.NDArray[Any]], cotangent: str, threads: int
) -> npt.NDArray[Any]:
    """Run the graph without its derivative: the shape of the output is that of its cotangent."""
    model = ir.from_proto(graph)
    name = cotangent.removesuffix(".cotangent")
    model.graph.outputs[:] = [value for value in model.graph.outputs if value.name == name]
    passes.RemoveUnusedNodesPass()(model)
    model.graph.inputs[:] = [value for value in model.graph.inputs if value.name != cotangent]
    with Session(model, threads=threads) as session:
        return session.run(feeds, [name])[0]


def _dot(cotangent: npt.NDArray[Any], change: npt.NDArray[Any], name: str) -> float:
    if cotangent.shape != np.shape(change):
        raise SpecError(
            f"the change of {name!r} has shape {np.shape(change)}, the tensor has {cotangent.shape}",
            reason="CHANGE_SHAPE",
            subject=name,
        )
    return float(np.vdot(cotangent.astype(np.float64), np.asarray(change, np.float64)))
