"""A module as the function that is audited: one image batch in, one tensor of raw outputs out.

`SourceFunction` hides what differs between modules: which argument takes the image, which output is meant, the
precision of weights and constants, evaluation mode, fused kernels. The module itself is never changed: weights are
substituted for the time of a call, hooks stay active, training flags are restored.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from lieaudit.errors import LieauditError, SourceError, SpecError
from lieaudit.torch.precision import Precision

if TYPE_CHECKING:
    from lieaudit.spec import AuditSpec

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


class SourceFunction:
    """``x ↦ z(x)`` of an `torch.nn.Module`, in one precision on one device.

    Parameters
    ----------
    module
        Any module; `eval` mode is set for the time of each call and then restored.
    precision
        ``float64`` or ``float32``: what weights, buffers and constants are converted to, half precision included.
    device
        A torch device, such as ``cpu`` or ``cuda:1``.
    input
        Which argument of ``forward`` takes the images; default: the first one that `others` does not give.
    output
        Which output is audited, where there are several: a key, an attribute or a position.
    others
        Values of further arguments, fixed; tensors whose leading size is 1 are expanded to the batch.
    undo
        A head that the module itself ends in and that is not to be part of z: ``softmax`` or ``sigmoid``. z is then the
        logarithm, or the logit, of what the module gives.

    Raises
    ------
    SourceError
        A required argument is not given, or the output cannot be told.
    SpecError
        The precision or the device is not one of torch's.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        precision: str = "float64",
        device: str = "cpu",
        input: str = "",  # noqa: A002 - the spec's name for it
        output: str = "",
        others: Mapping[str, Any] | None = None,
        undo: str = "",
    ) -> None:
        if precision not in PRECISIONS:
            raise SpecError(
                f"precision: {precision!r} is not one of {', '.join(PRECISIONS)}",
                reason="INVALID_SPEC",
                subject="precision",
            )
        self.module = module
        self.precision = precision
        self.dtype = PRECISIONS[precision]
        self.device = _device(device)
        self.output = output
        self.undo = undo
        self.others = {name: self._convert(value) for name, value in (others or {}).items()}
        self.input = _image_argument(module, input, self.others)
        self._state = {
            name: self._convert(tensor.detach())
            for group in (module.named_parameters(), module.named_buffers())
            for name, tensor in group
        }

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return z(x), shape (n, *K), for images ``x`` (n, C, H, W) of the function's precision and device.

        Raises `SourceError` where the module fails, naming the submodule that did, or gives no tensor to audit.
        """
        versions = [tensor._version for tensor in self._state.values()]  # noqa: SLF001 - counts in-place writes
        result = self.raw(x)
        for (name, tensor), version in zip(self._state.items(), versions, strict=True):
            if tensor.is_floating_point() and tensor._version != version:  # noqa: SLF001
                raise SourceError(
                    f"the module writes into {name} while it evaluates, so that its outputs depend on earlier calls",
                    reason="STATEFUL_MODULE",
                    subject=name,
                    hint="make the module a function of its input",
                )
        z = select_output(result, self.output)
        if z.dim() == 0 or z.shape[0] != x.shape[0]:
            raise SourceError(
                f"the output of shape {tuple(z.shape)} has no row for each of {x.shape[0]} images",
                reason="NO_BATCH_AXIS",
                subject=self.output or "output",
                hint="audit a module whose output has the batch as its first axis",
            )
        if self.undo:
            return torch.log(z) if self.undo == "softmax" else torch.logit(z)
        return z

    def raw(self, x: torch.Tensor) -> Any:
        """Return whatever ``forward`` returns for images ``x``. Raises `SourceError` where the module fails."""
        others = {name: expanded(value, x.shape[0]) for name, value in self.others.items()}
        try:
            with evaluation(self.module), plain_kernels(), Precision(self.dtype):
                return torch.func.functional_call(self.module, self._state, args=(), kwargs={self.input: x, **others})
        except LieauditError:
            raise
        except Exception as problem:
            raise _run_failed(self.module, problem) from problem

    def tensor(self, values: Any) -> torch.Tensor:
        """Return an array as a tensor of the function's precision and device."""
        return torch.as_tensor(values).to(device=self.device, dtype=self.dtype)

    def _convert(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            dtype = self.dtype if value.is_floating_point() else value.dtype
            return value.to(device=self.device, dtype=dtype)
        return value


def fed_values(spec: AuditSpec, images: int) -> dict[str, torch.Tensor]:
    """Return ``spec.feeds`` as further arguments of ``forward``.

    Raises `SpecError` FEED_MISMATCH where a value has one row per image: a module takes one value for all.
    """
    for name, feed in spec.feeds.items():
        if images > 1 and feed.shape[:1] == (images,):
            raise one_for_all(name)
    return {name: torch.from_numpy(np.array(feed.array())) for name, feed in spec.feeds.items()}


def one_for_all(name: str) -> SpecError:
    """Return the error of a value that differs between images."""
    return SpecError(
        f"feeds.{name}: a torch module takes one value for all images, and this one holds one for each",
        reason="FEED_MISMATCH",
        subject=f"feeds.{name}",
        hint="give one value, or audit the ONNX model with another --method",
    )


def batches(count: int, size: int) -> Iterator[torch.Tensor]:
    """Return indices of ``count`` rows in batches of exactly ``size``; the last one repeats its last row to be full."""
    for start in range(0, count, size):
        yield torch.arange(start, start + size).clamp(max=count - 1)


def named_outputs(result: Any) -> dict[str, torch.Tensor]:
    """Return the floating-point tensors of what ``forward`` returned, by (dotted) key, attribute or position."""
    if isinstance(result, torch.Tensor):
        return {"": result} if result.is_floating_point() else {}
    items: Sequence[tuple[str, Any]]
    if isinstance(result, Mapping):
        items = [(str(key), value) for key, value in result.items()]
    elif is_dataclass(result) and not isinstance(result, type):
        items = [(field.name, getattr(result, field.name)) for field in fields(result)]
    elif isinstance(result, tuple) and hasattr(result, "_fields"):
        items = list(zip(result._fields, result, strict=True))
    elif isinstance(result, tuple | list):
        items = [(str(position), value) for position, value in enumerate(result)]
    else:
        return {}
    found: dict[str, torch.Tensor] = {}
    for key, value in items:
        for inner, tensor in named_outputs(value).items():
            found[f"{key}.{inner}" if inner else key] = tensor
    return found


def select_output(result: Any, name: str) -> torch.Tensor:
    """Return the audited tensor of what ``forward`` returned. Raises `SourceError` where it is not clear which."""
    outputs = named_outputs(result)
    if name:
        if name in outputs:
            return outputs[name]
        raise SourceError(
            f"the module has no floating-point output {name!r}",
            reason="NO_SUCH_OUTPUT",
            subject=name,
            hint=f"its outputs: {', '.join(outputs) or 'none'}",
        )
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    if not outputs:
        raise SourceError(
            f"the module returns {type(result).__name__}, which holds no floating-point tensor",
            reason="NO_OUTPUT",
            subject="output",
            hint="audit a module that returns a tensor, or a tuple or mapping of tensors",
        )
    raise SourceError(
        f"the module has {len(outputs)} outputs and nothing says which one to audit",
        reason="AMBIGUOUS_OUTPUT",
        subject="output",
        hint=f"set spec.output to one of: {', '.join(outputs)}",
    )


def _image_argument(module: torch.nn.Module, name: str, others: Mapping[str, Any]) -> str:
    parameters = inspect.signature(module.forward).parameters.values()
    named = [p for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = [p.name for p in named]
    for given in [*others, *([name] if name else [])]:
        if given not in names and not open_ended:
            raise SourceError(
                f"forward of {type(module).__name__} has no argument {given!r}",
                reason="NO_SUCH_INPUT",
                subject=given,
                hint=f"its arguments: {', '.join(names)}",
            )
    chosen = name or next((n for n in names if n not in others), "")
    missing = [p.name for p in named if p.default is p.empty and p.name != chosen and p.name not in others]
    if not chosen or missing:
        raise SourceError(
            f"forward of {type(module).__name__} needs {', '.join(missing) or 'an argument for the images'}",
            reason="MISSING_INPUTS",
            subject=", ".join(missing) or "forward",
            hint="give the fixed values of further arguments as others={name: value}",
        )
    return chosen


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as problem:
        raise SpecError(
            f"device: torch cannot use {name!r}: {str(problem).splitlines()[0]}",
            reason="NO_SUCH_DEVICE",
            subject="device",
            hint="cpu, cuda, cuda:1 …",
        ) from problem
    return device


def expanded(value: Any, count: int) -> Any:
    """Return a tensor whose leading size is 1 that many rows, without memory; anything else as it is."""
    if isinstance(value, torch.Tensor) and value.dim() > 0 and value.shape[0] == 1:
        return value.expand(count, *value.shape[1:])
    return value


@contextlib.contextmanager
def evaluation(module: torch.nn.Module) -> Iterator[None]:
    """Put a module and its parts into evaluation mode for a while."""
    training = [m for m in module.modules() if m.training]
    for m in training:
        m.training = False
    try:
        yield
    finally:
        for m in training:
            m.training = True


@contextlib.contextmanager
def plain_kernels() -> Iterator[None]:
    """Fused attention has no forward rule, TF32 no float32 accuracy: use neither."""
    fast = torch.backends.mha.get_fastpath_enabled()
    matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.backends.cudnn.allow_tf32 = convolution


def _run_failed(module: torch.nn.Module, problem: Exception) -> SourceError:
    where = failing_submodule(module, problem.__traceback__)
    return SourceError(
        f"the module fails in {where}: {first_line(problem)}",
        reason="TORCH_RUN_FAILED",
        subject=where,
        hint="check the input size and channels, and that the module runs on such a batch by itself",
    )


def failing_submodule(module: torch.nn.Module, trace: TracebackType | None) -> str:
    """Return the dotted name of the innermost submodule on the stack of an error."""
    names = {id(m): name or type(m).__name__ for name, m in module.named_modules()}
    found = type(module).__name__
    while trace is not None:
        found = names.get(id(trace.tb_frame.f_locals.get("self")), found)
        trace = trace.tb_next
    return found


def first_line(problem: BaseException) -> str:
    """Return the first line of an error's message, at most 300 characters of it."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0][:300]
