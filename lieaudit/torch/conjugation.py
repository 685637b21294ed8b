"""The conjugated network F(α): every module k replaced by T_{−α_k} ∘ f_k ∘ T_{α_k} (Gruver et al. 2023, Eq. 5).

`lieaudit.torch.module_map` says which submodules are called, how often, on tensors of which layout. `Conjugation`
replaces those whose inputs and outputs all have one. At α = 0 the network is unchanged; its derivative with respect to
α_k is the contribution of module k, of all of its calls together.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any, Self

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from lieaudit.errors import SourceError
from lieaudit.layouts.layout import Layout
from lieaudit.torch.action import Action, per_image
from lieaudit.torch.module_map import Boundary, ModuleMap, is_floating
from lieaudit.torch.wrapping import Forward, wrapped


class Conjugation:
    """Conjugates modules with α inside a ``with`` block.

    Parameters
    ----------
    module
        The module whose submodules are conjugated.
    modules
        Their map.
    names
        The submodules to conjugate, S of them.
    action
        The infinitesimal action X.
    alpha
        (S,) or one value per image (S, n), zero; derivatives are taken with respect to it.
    spatial
        Whether the action moves the audited output. Where it does not, the module that returns this takes a grid to a
        vector, and carries all that is left.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        modules: ModuleMap,
        names: Sequence[str],
        action: Action,
        alpha: torch.Tensor,
        *,
        spatial: bool,
    ) -> None:
        self._spatial = spatial
        self._module = module
        self._modules = modules
        self._names = names
        self._action = action
        self._alpha = alpha
        self._stack = ExitStack()
        self._seen = dict.fromkeys(names, 0)

    def __enter__(self) -> Self:
        for position, name in enumerate(self._names):
            self._stack.enter_context(self._wrap(name, self._alpha[position]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        for name in self._names:
            if kind is None and self._seen[name] != len(self._modules.calls[name]):
                raise changed(name)

    def _wrap(self, name: str, alpha: torch.Tensor) -> AbstractContextManager[None]:
        calls = self._modules.calls[name]

        def conjugated(forward: Forward, args: Any, kwargs: Any) -> Any:
            if self._seen[name] >= len(calls):
                raise changed(name)
            args, kwargs = self._moved((args, kwargs), calls[self._seen[name]].inputs, alpha, name)
            result = forward(*args, **kwargs)
            self._seen[name] += 1
            return self._moved(result, calls[self._seen[name] - 1].outputs, -alpha, name)

        return wrapped(self._module.get_submodule(name), conjugated)

    def _moved(self, values: Any, bounds: Sequence[Boundary], alpha: torch.Tensor, name: str) -> Any:
        leaves, structure = tree_flatten(values)
        places = [i for i, leaf in enumerate(leaves) if is_floating(leaf)]
        if len(places) != len(bounds):
            raise changed(name)
        for place, bound in zip(places, bounds, strict=True):
            if bound.depends and bound.layout.spatial and (self._spatial or not bound.output):
                leaves[place] = self._conjugated(leaves[place], bound.layout, alpha, image=bound.image)
        return tree_unflatten(leaves, structure)

    def _conjugated(self, h: torch.Tensor, layout: Layout, alpha: torch.Tensor, *, image: bool) -> torch.Tensor:
        """Return T_α h to first order: h + α X h. X h is a constant here: α is 0, its change is of second order."""
        moved = self._action(h.detach(), layout, image=image)
        weight = per_image(alpha, h, layout) if alpha.dim() else alpha
        return h + weight * moved


def changed(name: str) -> SourceError:
    """Return the error for a module that is called in one way on some images and in another on others."""
    return SourceError(
        f"module {name} is not called the same way on every batch",
        reason="CALLS_DIFFER",
        subject=name,
        hint="layerwise attribution needs a module whose calls do not depend on values",
    )
