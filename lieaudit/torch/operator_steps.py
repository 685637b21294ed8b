"""Operators of torch as the steps from which the kind of a layer is read."""

from __future__ import annotations

from collections.abc import Sequence

from lieaudit.layerwise.kinds import Step, grid_of
from lieaudit.layouts.algebra import differs_over_grid
from lieaudit.layouts.axes import Axes, has_grid
from lieaudit.layouts.layout import layout_of
from lieaudit.ops import Kind
from lieaudit.torch.layout_rules import one_pixel
from lieaudit.torch.operators import Operation


def step_of(call: Operation, outputs: Sequence[Axes]) -> Step:
    """Return what the tests of kinds ask of an operator's call, given the axes of its outputs."""
    kind = call.entry.kind if call.entry is not None else None
    moving = [call.axes(tensor) for tensor in call.inputs if call.varies(tensor)]
    convolves = kind == Kind.CONVOLUTION
    return Step(
        kind=kind,
        name=call.entry.name if call.entry is not None else "",
        moving=len(moving),
        source=grid_of(call.axes(call.first())) if call.varies(call.first()) else (),
        target=grid_of(outputs[0]) if outputs else (),
        vectors=all(layout_of(axes).kind == "vector" for axes in (*moving, *outputs[:1])),
        kernel=tuple(call.given("weight").shape[2:]) if convolves else (),
        strides=_strides(call),
        pointwise=convolves and one_pixel(call),
        contracts=kind == Kind.MATRIX_PRODUCT and _contracts_grid(call),
        positional=_positional(call, outputs),
    )


def _strides(call: Operation) -> tuple[int, ...]:
    given = call.given("step") if call.name == "slice" else call.given("stride")
    return (given,) if isinstance(given, int) else tuple(given or (1,))


def _contracts_grid(call: Operation) -> bool:
    first, second = call.operands()
    if call.varies(first):
        return has_grid(call.axes(first)[-1])
    return has_grid(call.axes(second)[-2])


def _positional(call: Operation, outputs: Sequence[Axes]) -> bool:
    if call.name != "add" or not outputs or not layout_of(outputs[0]).spatial:
        return False
    constants = [tensor for tensor in call.inputs if not call.varies(tensor)]
    return len(call.inputs) - len(constants) == 1 and any(
        differs_over_grid(outputs[0], tuple(tensor.shape), lambda tensor=tensor: tensor.detach().cpu().numpy())  # type: ignore[misc]
        for tensor in constants
    )
