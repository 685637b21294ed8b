"""Following axes through a module: a mode of torch that describes every tensor computed from the image input.

Nothing is concluded from a shape, so a square number of tokens is no proof of a grid. `lieaudit.torch.layout_rules`
knows what each operator does to axes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from lieaudit.layouts.axes import Axes, image_axes, plain
from lieaudit.layouts.layout import Layout, layout_of
from lieaudit.torch.layout_rules import derive, known
from lieaudit.torch.operators import Operation


class LayoutTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, describes every tensor that is computed from a described one.

    Run it under `torch.inference_mode`, where the tensors that modules hand on are those the operators made.

    Parameters
    ----------
    image
        The image input (n, C, H, W).
    seen
        Called with each operation on a described tensor, and the axes of its outputs.
    """

    def __init__(self, image: torch.Tensor, seen: Callable[[Operation, list[Axes]], None] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: Any = WeakIdKeyDictionary()
        self._keep: list[torch.Tensor] = []
        self._seen = seen
        self.describe(image, image_axes(image.shape))

    def follows(self, tensor: torch.Tensor) -> bool:
        """Say whether a tensor was computed from the image."""
        return tensor in self._known

    def describe(self, tensor: torch.Tensor, axes: Axes) -> None:
        """Say what a tensor's axes are."""
        self._known[tensor] = axes
        self._keep.append(tensor)

    def layout(self, tensor: torch.Tensor) -> Layout:
        """Return a tensor's layout. A tensor that no image went into is a vector."""
        found = self._known.get(tensor)
        return layout_of(tuple(plain("channel", size) for size in tensor.shape) if found is None else found)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and describe what it returns; called by torch."""
        kwargs = kwargs or {}
        if not known(func):
            with self:  # an operator made of others is followed through them
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        axes = {id(tensor): self._known[tensor] for tensor in inputs if tensor in self._known}
        result = func(*args, **kwargs)
        if axes:
            outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
            call = Operation.of(func, args, kwargs, axes, outputs)
            derived = derive(call)
            for output, found in zip(outputs, derived, strict=True):
                self.describe(output, found)
            if self._seen is not None:
                self._seen(call, derived)
        return result
