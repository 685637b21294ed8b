"""Following layouts through a module: a mode of torch that describes every tensor computed from the image input."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from lieaudit.torch.layout_rules import derive, known
from lieaudit.torch.layouts import Layout, factor


class LayoutTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, describes every tensor that is computed from a described one.

    Run it under `torch.inference_mode`, where the tensors that modules hand on are those the operators made.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: Any = WeakIdKeyDictionary()
        self._keep: list[torch.Tensor] = []

    def follows(self, tensor: torch.Tensor) -> bool:
        """Say whether a tensor was computed from a described one."""
        return tensor in self._known

    def describe(self, tensor: torch.Tensor, layout: Layout | None) -> None:
        """Say what a tensor's layout is; None: unknown."""
        self._known[tensor] = layout
        self._keep.append(tensor)

    def layout(self, tensor: torch.Tensor) -> Layout | None:
        """Give a tensor's layout; None: unknown. A tensor that no image went into has no grid."""
        found: Layout | None = self._known.get(tensor, _constant(tensor))
        return found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and describe what it gives; called by torch."""
        kwargs = kwargs or {}
        if not known(func):
            with self:  # an operator made of others is followed through them
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        tracked = any(tensor in self._known for tensor in inputs)
        layouts = {id(tensor): self.layout(tensor) for tensor in inputs} if tracked else {}
        result = func(*args, **kwargs)
        if tracked:
            outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
            derived = derive(func, args, kwargs, layouts, outputs)
            for output, layout in zip(outputs, derived, strict=True):
                fits = layout is not None and all(
                    math.prod(f.size for f in axis) == size
                    for axis, size in zip(layout.axes, output.shape, strict=True)
                )
                self.describe(output, layout if fits else None)
        return result


def _constant(tensor: torch.Tensor) -> Layout:
    return Layout(tuple(factor("c", size) for size in tensor.shape))
