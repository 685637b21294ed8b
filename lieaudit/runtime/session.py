"""onnxruntime sessions: one code path (OrtValue and IOBinding) for every provider, full float32, deterministic."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lieaudit.errors import BudgetError, LieauditError, ModelError, ProviderError, UnsupportedOpError
from lieaudit.ops import Kind, is_op, lookup, rearranges
from lieaudit.runtime.failures import DERIVATIVE, Origin, Stop, origins
from lieaudit.runtime.providers import Provider, find_provider, usable_cores
from lieaudit.runtime.serialised import serialised

Feeds = Mapping[str, "npt.NDArray[Any] | Any"]

_INTEGER = {ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL}


class Session:
    """A graph ready to run on one provider.

    Parameters
    ----------
    model
        The graph; an `onnx_ir.Model` or its serialised form.
    provider
        ``cpu``, ``cuda``, ``cuda:ID``, ``tensorrt``, ``tensorrt:ID``.
    threads
        Intra-op threads; 0: every core this process may use.
    allow_fallback
        Let nodes run on CPU that the provider does not take; they are counted in `fallback_ops`.
    shared_arena
        Take CPU memory from one arena of the process that sessions which run in turn share: many small sessions then
        hold the memory of the largest, not of all.

    Raises
    ------
    ProviderError
        The provider is missing, or would leave part of the graph to the CPU without ``allow_fallback``.
    ModelError, UnsupportedOpError
        onnxruntime refuses the graph, or does not know one of its ops.
    """

    def __init__(
        self,
        model: ir.Model | bytes,
        *,
        provider: str = "cpu",
        threads: int = 0,
        allow_fallback: bool = False,
        shared_arena: bool = False,
    ) -> None:
        self.provider: Provider = find_provider(provider)
        self.threads = threads or usable_cores()
        self._options = _shrinking() if shared_arena else None
        self._nodes = origins(model) if isinstance(model, ir.Model) else {}
        self._session = _create(model, self.provider, self.threads, self._nodes, shared_arena=shared_arena)
        self.input_names: tuple[str, ...] = tuple(i.name for i in self._session.get_inputs())
        self.output_names: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())
        self.fallback_ops: dict[str, int] = self._fallback(model) if self.provider.device != "cpu" else {}
        if self.fallback_ops and not allow_fallback:
            named = ", ".join(f"{op} × {count}" for op, count in sorted(self.fallback_ops.items()))
            raise ProviderError(
                f"{provider} would leave part of the graph to the CPU: {named}",
                reason="PROVIDER_FALLBACK",
                subject="provider",
                hint="allow it with --allow-fallback, or audit on cpu",
            )

    def put(self, array: npt.NDArray[Any] | np.generic) -> Any:
        """Move an array to the session's device once, for use in many runs. The array must outlive the result."""
        import onnxruntime

        return onnxruntime.OrtValue.ortvalue_from_numpy(
            np.require(array, requirements="C"), self.provider.device, self.provider.device_id
        )

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> list[npt.NDArray[Any]]:
        """Run on arrays or values made by `put`; give the outputs (default: all) as arrays.

        Raises
        ------
        BudgetError
            The device's memory does not suffice.
        ModelError
            The graph failed on these inputs (RUN_FAILED).
        """
        binding = self._session.io_binding()
        alive = []
        try:
            for name, value in feeds.items():
                device_value = self.put(value) if isinstance(value, np.ndarray | np.generic) else value
                alive.append(device_value)
                binding.bind_ortvalue_input(name, device_value)
            for name in outputs or self.output_names:
                binding.bind_output(name, self.provider.device, self.provider.device_id)
            self._session.run_with_iobinding(binding, self._options)
            return list(binding.copy_outputs_to_cpu())
        except Exception as problem:
            raise _run_error(problem, self._nodes) from problem

    def run_into(self, feeds: Feeds, targets: Mapping[str, npt.NDArray[Any]]) -> None:
        """Run and write outputs into given C-contiguous arrays of the right shape, without a copy on CPU.

        Raises
        ------
        BudgetError, ModelError
            As `run`.
        """
        if self.provider.device != "cpu":
            for target, output in zip(targets.values(), self.run(feeds, list(targets)), strict=True):
                target[...] = output
            return
        binding = self._session.io_binding()
        alive = [self.put(value) if isinstance(value, np.ndarray) else value for value in feeds.values()]
        try:
            for name, value in zip(feeds, alive, strict=True):
                binding.bind_ortvalue_input(name, value)
            for name, array in targets.items():
                alive.append(self.put(array))
                binding.bind_ortvalue_output(name, alive[-1])
            self._session.run_with_iobinding(binding, self._options)
        except Exception as problem:
            raise _run_error(problem, self._nodes) from problem

    def close(self) -> None:
        """Free the session's memory now."""
        del self._session

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fallback(self, model: ir.Model | bytes) -> dict[str, int]:
        """Count the float nodes that landed on the CPU; integer shape arithmetic belongs there."""
        integer = _integer_nodes(model) if isinstance(model, ir.Model) else set()
        counts: Counter[str] = Counter()
        for part in self._session.get_provider_graph_assignment_info():
            if part.ep_name == "CPUExecutionProvider":
                counts.update(node.op_type for node in part.get_nodes() if node.name not in integer)
        return dict(counts)


def _create(
    model: ir.Model | bytes, provider: Provider, threads: int, nodes: Mapping[str, Origin], *, shared_arena: bool
) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # With memory patterns onnxruntime keeps the arena of the first run and allocates a second one beside it.
    options.enable_mem_pattern = False
    if shared_arena:
        _register_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
        # the threads of a session whose turn is over would spin on against those of the next
        options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 4
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    disabled = _wrong_optimizers(model)
    try:
        with nullcontext(model) if isinstance(model, bytes) else serialised(model) as source:
            return onnxruntime.InferenceSession(
                source, options, providers=provider.chain(), disabled_optimizers=disabled
            )
    except Exception as problem:
        raise _load_error(problem, model, nodes) from problem


def _wrong_optimizers(model: ir.Model | bytes) -> list[str]:
    """Name the optimizers of onnxruntime (up to 1.31) that would change what this graph computes.

    Pad_Fusion moves the zeros of a Pad into a MaxPool, where padding never wins, so that an all-negative window at the
    border gets another maximum, and into an AveragePool, which it then counts wrongly with ``ceil_mode`` or refuses to
    load. Graphs without these keep it, since a Pad before a convolution ends the blocked layout.
    """
    if isinstance(model, ir.Model) and not any(
        _pads_first(node) for node in model.graph.all_nodes() if (op := lookup(node)) and op.kind == Kind.POOLING
    ):
        return []
    return ["Pad_Fusion"]


def _pads_first(node: ir.Node) -> bool:
    """Say whether a Pad is what a node reads, ahead of ops that onnxruntime eliminates."""
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    return source is not None and (is_op(source, "Pad") or (rearranges(source) and _pads_first(source)))


@cache
def _shrinking() -> Any:
    """Options of a run after which the arena gives back what it does not use: sessions of many shapes share it."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


@cache
def _register_arena() -> None:
    """Return the process its one shared CPU arena."""
    import onnxruntime

    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    # extended by what is asked for, not doubled
    onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1}))


def _integer_nodes(model: ir.Model) -> set[str]:
    return {
        node.name or ""
        for node in model.graph
        if all(output.dtype in _INTEGER for output in node.outputs) or node.op_type == "Shape"
    }


def _load_error(problem: Exception, model: ir.Model | bytes, nodes: Mapping[str, Origin]) -> LieauditError:
    stop = Stop.of(problem, nodes)
    unknown = re.search(
        r"[Nn]o [Oo]p registered for (\S+)|(\S+) is not a registered function/op|kernel.*?for.*? (\w+)\(\d+\)",
        str(problem),
    )
    if unknown is not None:
        op = re.sub(r"\(-?\d+\)$", "", next(group for group in unknown.groups() if group)).replace(":", "::", 1)
        return UnsupportedOpError(
            f"onnxruntime does not know op {op}" + (f", of {stop.where}" if stop.subject not in {"", op} else ""),
            reason="UNKNOWN_OP",
            subject=op,
            hint="export the model without it, in ops of the ONNX standard",
        )
    if not stop.where and isinstance(model, ir.Model):
        stop = _alone(model, stop, nodes)
    return ModelError(
        f"onnxruntime refuses {stop.where or 'the graph'}: {stop.why}",
        reason="MODEL_REFUSED",
        subject=stop.subject or "model",
        hint="export the model again, or audit a tensor ahead of it with --output NAME",
    )


def _alone(model: ir.Model, stop: Stop, nodes: Mapping[str, Origin]) -> Stop:
    """Find the node that onnxruntime refuses alone as it refuses the graph, where it names none."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for node in model.graph:
        given = [value.name or "" for value in node.inputs if value is not None and not value.is_initializer()]
        made = [value.name or "" for value in node.outputs if value.name]
        try:
            part = ir.convenience.extract(model.graph, list(dict.fromkeys(given)), made)
            with serialised(ir.Model(part, ir_version=model.ir_version)) as source:
                onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # noqa: BLE001 - onnxruntime raises many types
            origin = nodes.get(node.name or "") or nodes.get(made[0] if made else "")
            if origin is not None and Stop.of(problem, {}).why == stop.why:
                return replace(stop, where=origin.text, subject=origin.subject)
    return stop


def _run_error(problem: Exception, nodes: Mapping[str, Origin]) -> LieauditError:
    stop = Stop.of(problem, nodes)
    if re.search(r"[Ff]ailed to allocate|out of memory|bad_alloc|BFCArena", str(problem)):
        at = f" at {stop.where}" if stop.where else ""
        return BudgetError(
            f"not enough memory{at}: {stop.why}",
            reason="OUT_OF_MEMORY",
            subject="budget_mib",
            hint="lower --budget",
        )
    return ModelError(
        f"{stop.where or 'the graph'} fails on these inputs: {stop.why}",
        reason="RUN_FAILED",
        subject=stop.subject or "model",
        hint="use --method finite_difference"
        if stop.where.startswith(DERIVATIVE)
        else "check --preprocess and the size of the images, or audit a tensor ahead of it with --output NAME",
    )
