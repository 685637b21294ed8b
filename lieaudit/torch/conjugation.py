"""The conjugated network F(α): every module k replaced by T_{−α_k} ∘ f_k ∘ T_{α_k} (Gruver et al. 2023, Eq. 5).

A first run of the module maps it: which submodules are called, how often, on tensors of which layout. `Conjugation`
then puts hooks on those whose inputs and outputs all have one. At α = 0 the network is unchanged; its derivative with
respect to α_k is the contribution of module k, of all of its calls together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from lieaudit.errors import SourceError, SpecError
from lieaudit.report import Skipped
from lieaudit.torch.action import Action, per_image
from lieaudit.torch.function import SourceFunction
from lieaudit.torch.layout_tracking import LayoutTracker
from lieaudit.torch.layouts import Layout, declared, feature_map


@dataclass(slots=True)
class Boundary:
    """One tensor that enters or leaves a module; ``layout`` is None where it is unknown."""

    shape: tuple[int, ...]
    layout: Layout | None
    image: bool
    depends: bool


@dataclass(slots=True)
class Call:
    """One call of a module: its tensors in the order of the flattened arguments and results."""

    inputs: list[Boundary]
    outputs: list[Boundary] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ModuleMap:
    """The submodules on the way of the image, in the order of their first call.

    Attributes
    ----------
    calls
        Of each module that can be conjugated, by dotted name.
    parents
        Nearest enclosing module that can be conjugated; empty for the whole network.
    merged
        Modules that cannot, and why; what they do counts for the module around them.
    """

    calls: Mapping[str, Sequence[Call]]
    parents: Mapping[str, str]
    merged: tuple[Skipped, ...]

    def layout(self, name: str) -> Layout:
        """Give the layout of a module's first output."""
        found = self.calls[name][0].outputs[0].layout
        assert found is not None  # noqa: S101 - only such modules are in calls
        return found

    def trivial(self, name: str) -> bool:
        """Say whether a module sees no grid at all, so that it contributes exactly nothing."""
        bounds = [b for call in self.calls[name] for b in (*call.inputs, *call.outputs) if b.depends]
        return all(b.layout is not None and b.layout.trivial for b in bounds)


def map_modules(
    function: SourceFunction, x: torch.Tensor, *, layouts: Mapping[str, str], depth: int | None
) -> ModuleMap:
    """Run a module once and describe the tensors at the boundaries of its submodules.

    Parameters
    ----------
    function
        The module.
    x
        Images (n, C, H, W), n ≥ 2 where the module takes any batch.
    layouts
        Declared layouts: module name → layout of its first output, ``name:input`` → of its first input
        (`lieaudit.torch.layouts.declared`).
    depth
        Only modules down to this depth of the tree; None: all.

    Raises
    ------
    SpecError
        A declaration names no module that is called, or does not fit its tensor.
    SourceError
        The module fails.
    """
    tracker = LayoutTracker()
    open_calls: list[Call] = []
    calls: dict[str, list[Call]] = {}
    used: set[str] = set()
    chosen = [(n, m) for n, m in function.module.named_modules() if n and (depth is None or n.count(".") < depth)]

    def bound(tensors: Sequence[torch.Tensor], key: str) -> list[Boundary]:
        if key in layouts and tensors:
            tracker.describe(tensors[0], _declared(layouts[key], tensors[0].shape, key))
            used.add(key)
        return [Boundary(tuple(t.shape), tracker.layout(t), t is x, tracker.follows(t)) for t in tensors]

    handles = []
    for name, module in chosen:

        def before(_: Any, args: Any, kwargs: Any, name: str = name) -> None:
            open_calls.append(Call(bound(_tensors((args, kwargs)), f"{name}:input")))

        def after(_: Any, args: Any, kwargs: Any, result: Any, name: str = name) -> None:  # noqa: ARG001
            call = open_calls.pop()
            call.outputs = bound(_tensors(result), name)
            calls.setdefault(name, []).append(call)

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        with torch.inference_mode(), tracker:
            tracker.describe(x, feature_map(x.shape))
            function.raw(x)
    finally:
        for handle in handles:
            handle.remove()
    for key in layouts:
        if key not in used:
            raise SpecError(
                f"layouts: no module called {key.removesuffix(':input')!r} hands a tensor on",
                reason="UNKNOWN_TENSOR",
                subject=f"layouts[{key}]",
                hint=f"modules: {', '.join(list(calls)[:20])}",
            )
    return _sorted_out(calls)


def _sorted_out(calls: Mapping[str, list[Call]]) -> ModuleMap:
    usable: dict[str, list[Call]] = {}
    merged: list[Skipped] = []
    for name, made in calls.items():
        if not any(b.depends for call in made for b in call.inputs) or not all(call.outputs for call in made):
            continue  # makes something of constants, or no tensor: nothing of the image passes through
        unknown = [
            f"{side} {position} of shape {b.shape}"
            for call in made
            for side, bounds in (("input", call.inputs), ("output", call.outputs))
            for position, b in enumerate(bounds)
            if b.depends and (b.layout is None or not b.layout.usable)
        ]
        if unknown:
            merged.append(Skipped(name, f"the layout of {unknown[0]} is not known; declare it with layouts[{name}]"))
        else:
            usable[name] = made
    parents = {name: next((p for p in _ancestors(name) if p in usable), "") for name in usable}
    return ModuleMap(usable, parents, tuple(merged))


def _ancestors(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


class Conjugation:
    """Hooks that conjugate modules with α while they are in place.

    Parameters
    ----------
    module
        The module whose submodules are hooked.
    modules
        Their map.
    names
        The submodules to conjugate, S of them.
    action
        The infinitesimal action X.
    alpha
        (S,) or one value per image (S, n), zero; derivatives are taken with respect to it.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        modules: ModuleMap,
        names: Sequence[str],
        action: Action,
        alpha: torch.Tensor,
    ) -> None:
        self._module = module
        self._modules = modules
        self._names = names
        self._action = action
        self._alpha = alpha
        self._handles: list[Any] = []
        self._seen = dict.fromkeys(names, 0)

    def __enter__(self) -> Self:
        for position, name in enumerate(self._names):
            self._hook(name, self._alpha[position])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        for name in self._names:
            if kind is None and self._seen[name] != len(self._modules.calls[name]):
                raise changed(name)

    def _hook(self, name: str, alpha: torch.Tensor) -> None:
        module = self._module.get_submodule(name)
        calls = self._modules.calls[name]

        def before(_: Any, args: Any, kwargs: Any) -> Any:
            if self._seen[name] >= len(calls):
                raise changed(name)
            return self._moved((args, kwargs), calls[self._seen[name]].inputs, alpha, name)

        def after(_: Any, args: Any, kwargs: Any, result: Any) -> Any:  # noqa: ARG001
            self._seen[name] += 1
            return self._moved(result, calls[self._seen[name] - 1].outputs, -alpha, name)

        # In front of the module's other hooks on the way in, behind them on the way out, as in the map.
        self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        self._handles.append(module.register_forward_hook(after, with_kwargs=True))

    def _moved(self, values: Any, bounds: Sequence[Boundary], alpha: torch.Tensor, name: str) -> Any:
        leaves, structure = tree_flatten(values)
        places = [i for i, leaf in enumerate(leaves) if _is_floating(leaf)]
        if len(places) != len(bounds):
            raise changed(name)
        for place, bound in zip(places, bounds, strict=True):
            if bound.depends and bound.layout is not None and not bound.layout.trivial:
                leaves[place] = self._conjugated(leaves[place], bound.layout, alpha, image=bound.image)
        return tree_unflatten(leaves, structure)

    def _conjugated(self, h: torch.Tensor, layout: Layout, alpha: torch.Tensor, *, image: bool) -> torch.Tensor:
        """Give T_α h to first order: h + α X h. X h enters as a constant, for α is 0: its change is of second order."""
        moved = self._action(h.detach(), layout, image=image)
        weight = per_image(alpha, h, layout) if alpha.dim() else alpha
        return h + weight * moved


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_flatten(values)[0] if _is_floating(leaf)]


def _is_floating(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _declared(text: str, shape: Sequence[int], key: str) -> Layout | None:
    try:
        return None if text == "unknown" else declared(text.replace(" ", ""), shape)
    except ValueError as problem:
        raise SpecError(
            f"layouts[{key}]: {problem}",
            reason="INVALID_LAYOUT",
            subject=f"layouts[{key}]",
            hint="write NCHW, NHWC, vector, tokens:HxW, tokens:P+HxW or unknown",
        ) from problem


def changed(name: str) -> SourceError:
    """Return the error for a module that is called in one way on some images and in another on others."""
    return SourceError(
        f"module {name} is not called the same way on every batch",
        reason="CALLS_DIFFER",
        subject=name,
        hint="layerwise attribution needs a module whose calls do not depend on values",
    )
