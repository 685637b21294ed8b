"""Which submodules the image passes through, on tensors of which layout, and what each does itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_flatten

from lieaudit.errors import SpecError
from lieaudit.layerwise.kinds import Grid, Step, grid_of
from lieaudit.layouts.axes import Axes, image_axes
from lieaudit.layouts.layout import Layout, declared_axes
from lieaudit.report import Skipped
from lieaudit.torch.function import SourceFunction, select_output
from lieaudit.torch.layout_tracking import LayoutTracker
from lieaudit.torch.operator_steps import step_of
from lieaudit.torch.operators import Operation
from lieaudit.torch.wrapping import Forward, wrapped


@dataclass(slots=True)
class Boundary:
    """One tensor that enters or leaves a module.

    Attributes
    ----------
    shape, layout
        Of the tensor.
    depends
        Whether it depends on the image.
    image, output
        Whether it is the image itself, or the audited output.
    """

    shape: tuple[int, ...]
    layout: Layout
    depends: bool
    image: bool
    output: bool = False


@dataclass(slots=True)
class Call:
    """One call of a module: its tensors in the order of the flattened arguments and results."""

    inputs: list[Boundary]
    outputs: list[Boundary] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ModuleMap:
    """The submodules on the way of the image, in the order in which they return.

    Attributes
    ----------
    calls
        Of each module that can be conjugated, by dotted name.
    parents
        Nearest enclosing module that can be conjugated; empty for the whole network.
    merged
        Modules that cannot, and why; what they do counts for the module around them.
    steps
        What each module of ``calls`` does itself, outside the others; the network's own stand under the empty name.
    image
        The grid of the image.
    """

    calls: Mapping[str, Sequence[Call]]
    parents: Mapping[str, str]
    merged: tuple[Skipped, ...]
    steps: Mapping[str, Sequence[Step]]
    image: Grid

    def layout(self, name: str) -> Layout:
        """Return the layout of a module's first output."""
        return self.calls[name][0].outputs[0].layout

    def trivial(self, name: str) -> bool:
        """Say whether a module sees no grid at all, so that it contributes exactly nothing."""
        bounds = [b for call in self.calls[name] for b in (*call.inputs, *call.outputs) if b.depends]
        return not any(b.layout.spatial for b in bounds)

    def acts(self, name: str) -> bool:
        """Say whether a module does anything itself, outside the others, to a tensor with a grid."""
        return any(not step.vectors for step in self.steps.get(name, ()))


class _Recorder:
    """Notes what enters and leaves modules, and what they do, while a function runs once."""

    def __init__(self, x: torch.Tensor, layouts: Mapping[str, str]) -> None:
        self.tracker = LayoutTracker(x, self._step)
        self.calls: dict[str, list[Call]] = {}
        self.steps: dict[str, list[Step]] = {}
        self.used: set[str] = set()
        self._image, self._layouts = x, layouts
        self._open: list[str] = []
        self._bounds: list[tuple[Boundary, torch.Tensor, int]] = []
        self._written: dict[int, int] = {}

    def wrap(self, name: str, module: torch.nn.Module) -> AbstractContextManager[None]:
        """Note the calls of one module inside a ``with`` block."""

        def noted(forward: Forward, args: Any, kwargs: Any) -> Any:
            call = Call(self._boundaries((args, kwargs), f"{name}:input"))
            self._open.append(name)
            result = forward(*args, **kwargs)
            self._open.pop()
            call.outputs = self._boundaries(result, name)
            self.calls.setdefault(name, []).append(call)
            return result

        return wrapped(module, noted)

    def mark_output(self, z: torch.Tensor) -> None:
        """Say which tensor is the audited output."""
        for bound, tensor, written in self._bounds:
            # an operator in place writes the output into a tensor that held something else before
            bound.output = tensor is z and written == self._written.get(id(z), 0)

    def _boundaries(self, values: Any, key: str) -> list[Boundary]:
        tensors = floating(values)
        if key in self._layouts and tensors:
            shape = tuple(tensors[0].shape)
            declared = declared_axes(self._layouts[key], shape, key, batch=len(self._image))
            self.tracker.describe(tensors[0], declared)
            self.used.add(key)
        found = [
            Boundary(tuple(t.shape), self.tracker.layout(t), self.tracker.follows(t), t is self._image) for t in tensors
        ]
        self._bounds += [(b, t, self._written.get(id(t), 0)) for b, t in zip(found, tensors, strict=True)]
        return found

    def _step(self, call: Operation, outputs: list[Axes]) -> None:
        for tensor in call.outputs:
            self._written[id(tensor)] = self._written.get(id(tensor), 0) + 1
        self.steps.setdefault(self._open[-1] if self._open else "", []).append(step_of(call, outputs))


def map_modules(
    function: SourceFunction, x: torch.Tensor, *, layouts: Mapping[str, str], depth: int | None
) -> ModuleMap:
    """Run a module once and describe the tensors at the boundaries of its submodules.

    Parameters
    ----------
    function, x
        The module and images (n, C, H, W).
    layouts
        Module name → layout of its first output, or ``name:input`` → of its first input
        (`lieaudit.layouts.layout.GRAMMAR`).
    depth
        Only modules down to this depth of the tree; None: all.

    Raises
    ------
    SpecError
        A declaration names no module that is called, or does not fit its tensor.
    SourceError
        The module fails.
    """
    recorder = _Recorder(x, layouts)
    with ExitStack() as stack:
        for name, module in function.module.named_modules():
            if name and (depth is None or name.count(".") < depth):
                stack.enter_context(recorder.wrap(name, module))
        with torch.inference_mode(), recorder.tracker:
            recorder.mark_output(select_output(function.raw(x), function.output))
    for key in layouts:
        if key not in recorder.used:
            raise SpecError(
                f"layouts: no module called {key.removesuffix(':input')!r} hands a tensor on",
                reason="UNKNOWN_TENSOR",
                subject=f"layouts[{key}]",
                hint=f"modules: {', '.join(list(recorder.calls)[:20])}",
            )
    return _sorted_out(recorder, grid_of(image_axes(x.shape)), several=len(x) > 1)


def _sorted_out(recorder: _Recorder, image: Grid, *, several: bool) -> ModuleMap:
    usable: dict[str, list[Call]] = {}
    merged: list[Skipped] = []
    for name, calls in recorder.calls.items():
        if not any(b.depends for call in calls for b in call.inputs) or not all(call.outputs for call in calls):
            continue  # makes something of constants, or no tensor: nothing of the image passes through
        unknown = [
            f"{side} {position} of shape {b.shape}"
            for call in calls
            for side, bounds in (("input", call.inputs), ("output", call.outputs))
            for position, b in enumerate(bounds)
            if b.depends and not _usable(b.layout, several=several)
        ]
        if unknown:
            merged.append(Skipped(name, f"the layout of {unknown[0]} is not known; declare it with layouts[{name}]"))
        else:
            usable[name] = calls
    parents = {name: _holder(name, usable) for name in usable}
    steps: dict[str, list[Step]] = {}
    for name, own in recorder.steps.items():
        steps.setdefault(name if name in usable else _holder(name, usable), []).extend(own)
    return ModuleMap(usable, parents, tuple(merged), steps, image)


def _usable(layout: Layout, *, several: bool) -> bool:
    """Say whether the symmetry acts on a tensor, and the tensor has a part for each of several images."""
    own = not several or any(atom.role == "batch" for axis in layout.axes for atom in axis)
    return layout.known and own


def _holder(name: str, usable: Mapping[str, Any]) -> str:
    """Return the nearest module around one that is among the usable ones; empty for the whole network."""
    return next((parent for parent in _ancestors(name) if parent in usable), "")


def _ancestors(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def floating(values: Any) -> list[torch.Tensor]:
    """Return the floating-point tensors among nested values, in the order in which they are flattened."""
    return [leaf for leaf in tree_flatten(values)[0] if is_floating(leaf)]


def is_floating(value: Any) -> bool:
    """Say whether a value is a floating-point tensor."""
    return isinstance(value, torch.Tensor) and value.is_floating_point()
