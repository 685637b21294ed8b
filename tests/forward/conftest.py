"""Shared by the forward-mode tests: one-op models, rewritten runs, and a float64 derivative that is not ours."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops import op_loop

from lieaudit.graph.forward import Rewritten, measure_shapes, rewrite

DIRECTIONS = 3


@dataclass
class Case:
    """One op on random inputs. ``moving`` inputs get tangents, ``fixed`` ones are initializers."""

    op: str
    moving: dict[str, np.ndarray]
    fixed: dict[str, np.ndarray] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    order: Sequence[str] | None = None
    opset: int = 17
    outputs: int = 1
    wanted: int = 0
    domain: str = ""
    cast: bool = False

    def model(self) -> onnx.ModelProto:
        """Return the float32 model; only the wanted output is one of the graph, if asked for as floats."""
        names = list(self.order or [*self.moving, *self.fixed])
        made = ["y" if i == self.wanted else f"y{i}" for i in range(self.outputs)]
        nodes = [helper.make_node(self.op, names, made, domain=self.domain, **self.attributes)]
        if self.cast:
            nodes[0].output[self.wanted] = "raw"
            nodes.append(helper.make_node("Cast", ["raw"], ["y"], to=TensorProto.FLOAT))
        graph = helper.make_graph(
            nodes,
            "case",
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
                for name, array in self.moving.items()
            ],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(array, name) for name, array in self.fixed.items()],
        )
        imports = [helper.make_opsetid("", self.opset)]
        if self.domain:
            imports.append(helper.make_opsetid(self.domain, 1))
        return helper.make_model(graph, opset_imports=imports, ir_version=8)


def run(rewritten: Rewritten, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run a rewritten graph on onnxruntime: values, then tangents."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        ir.to_proto(rewritten.model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run([*rewritten.values_out, *rewritten.tangents_out], dict(feeds))


def double(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Cast a float32 graph to float64: inputs, initializers, constants, casts."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    _double_graph(copy.graph)
    return copy


def _double_graph(graph: onnx.GraphProto) -> None:
    for info in [*graph.input, *graph.output, *graph.value_info]:
        if info.type.tensor_type.elem_type == TensorProto.FLOAT:
            info.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in graph.initializer:
        _double_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _double_tensor(attribute.t)
            if attribute.type == onnx.AttributeProto.GRAPH:
                _double_graph(attribute.g)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE


class Erf(OpRun):
    """onnx's own gives float32 whatever its input."""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (_erf(x),)


class Gelu(OpRun):
    """onnx's own is made of its Erf."""

    def _run(self, x: np.ndarray, approximate: str = "none") -> tuple[np.ndarray]:
        if approximate == "tanh":
            return (x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),)
        return (x / 2 * (1 + _erf(x / np.sqrt(2))),)


class LSTM(OpRun):
    """onnx's own knows no initial state of a batch; this one goes forward through all steps."""

    def _run(self, x, w, r, b, lengths=None, h=None, c=None, hidden_size=None, **_rest):  # type: ignore[no-untyped-def]
        assert lengths is None
        h, c, w, r = h[0], c[0], w[0], r[0]
        steps = []
        for row in x:
            i, o, f, new = np.split(row @ w.T + h @ r.T + b[0][: len(r)] + b[0][len(r) :], 4, axis=1)
            c = c / (1 + np.exp(-f)) + np.tanh(new) / (1 + np.exp(-i))
            h = np.tanh(c) / (1 + np.exp(-o))
            steps.append(h)
        return np.stack(steps)[:, None], h[None], c[None]


class Loop(op_loop.Loop):
    """onnx's own joins what the rounds give along its first axis instead of a new one. For loops without a break."""

    def _run(self, rounds, cond, *args, **rest):  # type: ignore[no-untyped-def]
        made = super()._run(rounds, cond, *args, **rest)
        scans = [rows.reshape(int(rounds), -1, *rows.shape[1:]) for rows in made[self.N :]]
        return (*made[: self.N], *scans)


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[x.dtype])(x)


def _double_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def derivative64(
    proto: onnx.ModelProto, values: Mapping[str, np.ndarray], directions: Mapping[str, np.ndarray], step: float = 1e-6
) -> np.ndarray:
    """Differentiate in float64 by central differences on onnx's own reference evaluator: (D, *shape of output)."""
    evaluator = ReferenceEvaluator(double(proto), new_ops=[Erf, Gelu, LSTM, Loop])
    count = next(iter(directions.values())).shape[0]
    rows = []
    for d in range(count):
        sides = [
            np.asarray(
                evaluator.run(
                    None,
                    {name: x.astype(np.float64) + sign * step * directions[name][d] for name, x in values.items()},
                )[0],
                np.float64,
            )
            for sign in (1, -1)
        ]
        rows.append((sides[0] - sides[1]) / (2 * step))
    return np.stack(rows)


def numpy_derivative(
    function: Callable[..., np.ndarray], values: Mapping[str, np.ndarray], step: float = 1e-6
) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """Differentiate a numpy function of the inputs in float64, where onnx's reference lacks or misses the form."""

    def derivative(directions: Mapping[str, np.ndarray]) -> np.ndarray:
        point = [x.astype(np.float64) for x in values.values()]
        rows = []
        for d in range(DIRECTIONS):
            shift = [step * directions[name][d].astype(np.float64) for name in values]
            ahead, behind = (function(*(x + sign * v for x, v in zip(point, shift, strict=True))) for sign in (1, -1))
            rows.append((ahead - behind) / (2 * step))
        return np.stack(rows)

    return derivative


def derivatives(
    case: Case, *, unroll: bool, reference: Callable[..., np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return dy of the rewritten one-op graph and dy64, with all moving inputs along random directions."""
    proto = case.model()
    random = np.random.default_rng(7)
    directions = {
        name: random.standard_normal((DIRECTIONS, *array.shape)).astype(np.float32)
        for name, array in case.moving.items()
    }
    model = ir.from_proto(proto)
    measure_shapes(model, feeds=case.moving)
    rewritten = rewrite(model, unroll=DIRECTIONS if unroll else None)
    feeds = {**case.moving, **{f"{name}.tangent": rows for name, rows in directions.items()}}
    _, made = run(rewritten, feeds)
    expected = derivative64(proto, case.moving, directions) if reference is None else reference(directions)
    assert made.shape == expected.shape
    return made, expected


def error_of(case: Case, *, unroll: bool, reference: Callable[..., np.ndarray] | None = None) -> float:
    """Return ‖dy − dy64‖ / ‖dy64‖: see `derivatives`."""
    made, expected = derivatives(case, unroll=unroll, reference=reference)
    scale = np.linalg.norm(expected)
    return float(np.linalg.norm(made - expected) / (scale if scale > 0 else 1.0))


def exact(case: Case, reference: Callable[..., np.ndarray] | None = None, tolerance: float = 3e-6) -> None:
    """Assert that both forms of the rewrite are exact to float32 rounding and use no inexact rule."""
    model = ir.from_proto(case.model())
    measure_shapes(model, feeds=case.moving)
    rules = {(a.op, a.rule) for a in rewrite(model).applied if not a.exact}
    assert not rules
    for unroll in (False, True):
        assert error_of(case, unroll=unroll, reference=reference) < tolerance


@pytest.fixture(scope="session")
def check_exact() -> Callable[..., None]:
    """The whole check of one op: see `exact`."""
    return exact


@pytest.fixture(scope="session")
def make_case() -> type[Case]:
    """The description of one op."""
    return Case


@pytest.fixture(scope="session")
def run_rewritten() -> Callable[[Rewritten, Mapping[str, np.ndarray]], list[np.ndarray]]:
    """Runs a rewritten graph."""
    return run


@pytest.fixture(scope="session")
def reference_derivative() -> Callable[..., np.ndarray]:
    """Differentiates a graph in float64: see `derivative64`."""
    return derivative64


@pytest.fixture(scope="session")
def of_numpy() -> Callable[..., Callable[..., np.ndarray]]:
    """Reference derivative of a numpy function: see `numpy_derivative`."""
    return numpy_derivative


def _zoo() -> Any:
    path = Path(__file__).resolve().parents[2] / "bench" / "forward_zoo.py"
    spec = importlib.util.spec_from_file_location("forward_zoo", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def zoo() -> Any:
    """bench/forward_zoo.py: random-weight models of every family."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    return _zoo()
