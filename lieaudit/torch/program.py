"""A torch.export program as a module, interpreted node by node.

The program of a .pt2 archive is data: names, operator targets and literal arguments. Interpreting it (instead of having
torch compile it to Python) means that a name is only ever a dictionary key, that a symbolic size is computed where the
program computes it and never parsed from text, and that an operator is one of torch's own tensor operators or it is
refused.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lieaudit.errors import SourceError
from lieaudit.torch.containers import Pt2Archive

_MAJOR = 8
"""Major version of the program's schema (torch 2.7 to 2.13)."""

_DTYPES: Mapping[int, torch.dtype] = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    9: torch.complex32,
    10: torch.complex64,
    11: torch.complex128,
    12: torch.bool,
    13: torch.bfloat16,
}
_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format}
_STRIDED = 7

_ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in (
            "add",
            "sub",
            "mul",
            "floordiv",
            "truediv",
            "mod",
            "neg",
            "eq",
            "ne",
            "lt",
            "le",
            "gt",
            "ge",
            "and_",
            "or_",
            "getitem",
            "pow",
        )
    },
    "math.ceil": math.ceil,
    "math.floor": math.floor,
    "math.trunc": math.trunc,
    "torch.sym_max": torch.sym_max,
    "torch.sym_min": torch.sym_min,
    "torch.sym_float": torch.sym_float,
    "torch.sym_int": torch.sym_int,
    "torch.sym_not": torch.sym_not,
    "torch.sym_ite": torch.sym_ite,
}
_FACTORIES = frozenset(
    {
        "arange",
        "empty",
        "empty_strided",
        "eye",
        "full",
        "linspace",
        "logspace",
        "ones",
        "scalar_tensor",
        "zeros",
        "tril_indices",
        "triu_indices",
    }
)
_MEMORY = frozenset(
    {"set_", "resize_", "resize_as_", "_unsafe_index", "_unsafe_index_put", "_resize_output_", "_print"}
)
"""Operators that reach memory unchecked or write outside the program."""

_CHECKS = frozenset({"_assert_tensor_metadata", "_assert_async", "_assert_scalar", "sym_constrain_range"})
"""Run-time checks of the traced precision and shapes, which an audit in another precision does not keep."""

_INLINE = "torch.ops.higher_order.wrap_with_set_grad_enabled"


@dataclass(frozen=True, slots=True)
class _Step:
    target: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    outputs: tuple[str | tuple[str, ...] | None, ...]
    sequence: bool


@dataclass(frozen=True, slots=True)
class _Ref:
    name: str


@dataclass(frozen=True, slots=True)
class _Graph:
    inputs: tuple[str, ...]
    outputs: tuple[Any, ...]
    steps: tuple[_Step, ...]


class ProgramModule(torch.nn.Module):
    """The program of a .pt2 archive.

    Attributes
    ----------
    batch
        The only batch size the program takes; None: any.
    paths
        Module paths of the exported source that have nodes in the program.

    Raises
    ------
    SourceError
        The schema is of another version, the program takes more than one tensor, or it uses an operator that is not
        one of torch's tensor operators.
    """

    batch: int | None

    def __init__(self, archive: Pt2Archive) -> None:
        super().__init__()
        try:
            self._build(archive)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError, RecursionError, RuntimeError) as problem:
            raise SourceError(
                f"malformed program: {problem!r}"[:300], reason="NOT_PT2", subject="models/model.json"
            ) from problem

    def _build(self, archive: Pt2Archive) -> None:
        version = archive.program["schema_version"]["major"]
        if version != _MAJOR:
            raise SourceError(
                f"the program's schema has major version {version}, this lieaudit reads {_MAJOR}",
                reason="UNSUPPORTED_PT2",
                subject="schema_version",
                hint="export with torch 2.9 to 2.13",
            )
        _check_payloads(archive)
        graph = archive.program["graph_module"]["graph"]
        signature = archive.program["graph_module"]["signature"]
        self._held: dict[str, str] = {}
        images: list[str] = []
        for spec in signature["input_specs"]:
            ((kind, value),) = spec.items()
            if kind in {"parameter", "buffer", "tensor_constant"}:
                self._hold(archive, kind, value)
            elif kind == "user_input" and "as_tensor" in value["arg"]:
                images.append(value["arg"]["as_tensor"]["name"])
            elif not (kind == "user_input" and "as_none" in value["arg"]) and kind != "constant_input":
                raise _unsupported(f"an input of kind {kind}", kind)
        if len(images) != 1:
            raise _unsupported(
                f"{len(images)} tensor inputs", ", ".join(images) or "inputs", "export a module of images only"
            )
        self._image = images[0]
        sizes = graph["tensor_values"][self._image]["sizes"]
        self.batch = sizes[0].get("as_int") if sizes else None
        self._graph = _parse_graph(graph)
        kinds = [next(iter(spec)) for spec in signature["output_specs"]]
        self._outputs = tuple(
            output for output, kind in zip(self._graph.outputs, kinds, strict=True) if kind == "user_output"
        )

    def _hold(self, archive: Pt2Archive, kind: str, value: Mapping[str, Any]) -> None:
        source = value[f"{kind}_name"]
        folder, config = (
            ("weights/", archive.weights) if source in archive.weights else ("constants/", archive.constants)
        )
        entry = config[source]
        tensor = _tensor(archive.payloads[f"data/{folder}{entry['path_name']}"], entry["tensor_meta"])
        attribute = f"t{len(self._held)}"
        self.register_buffer(attribute, tensor)
        self._held[value["arg"]["name"]] = attribute

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Run the program on images ``x``; several outputs come as a tuple."""
        values: dict[str, Any] = {name: getattr(self, held) for name, held in self._held.items()}
        values[self._image] = x
        _run(self._graph, values)
        outputs = tuple(_resolve(output, values) for output in self._outputs)
        return outputs[0] if len(outputs) == 1 else outputs


def _check_payloads(archive: Pt2Archive) -> None:
    """Refuse payloads that hold more or fewer bytes than the tensors in them need: they are something else."""
    needed: dict[str, int] = {}
    for folder, config in (("data/weights/", archive.weights), ("data/constants/", archive.constants)):
        for entry in config.values():
            meta = entry["tensor_meta"]
            reach = int(meta["storage_offset"]["as_int"]) + 1
            for size, stride in zip(meta["sizes"], meta["strides"], strict=True):
                reach += (int(size["as_int"]) - 1) * int(stride["as_int"])
            empty = any(int(size["as_int"]) == 0 for size in meta["sizes"])
            path = folder + entry["path_name"]
            count = 0 if empty else reach * _DTYPES[meta["dtype"]].itemsize
            needed[path] = max(needed.get(path, 0), count)
    for path, count in needed.items():
        if len(archive.payloads[path]) != count:
            raise SourceError(
                f"{path} has {len(archive.payloads[path])} bytes where its tensors take {count}",
                reason="NOT_PT2",
                subject=path,
                hint="clone weights that are views of larger tensors before the export",
            )


def _tensor(data: bytes, meta: Mapping[str, Any]) -> torch.Tensor:
    dtype = _DTYPES[meta["dtype"]]
    sizes = [int(s["as_int"]) for s in meta["sizes"]]
    strides = [int(s["as_int"]) for s in meta["strides"]]
    offset = int(meta["storage_offset"]["as_int"])
    if meta["layout"] != _STRIDED or min([offset, *sizes, *strides], default=0) < 0:
        raise ValueError("a tensor that is not strided")
    if math.prod(sizes) == 0:
        return torch.zeros(sizes, dtype=dtype)
    flat = torch.frombuffer(bytearray(data), dtype=dtype)
    # as_strided refuses what reaches beyond the payload; clone unties aliases of one payload.
    return torch.as_strided(flat, sizes, strides, offset).clone()


def _parse_graph(graph: Mapping[str, Any]) -> _Graph:
    inputs = tuple(next(iter(value.values()))["name"] for value in graph["inputs"] if "as_tensor" in value)
    steps = tuple(step for node in graph["nodes"] if (step := _parse_node(node)) is not None)
    return _Graph(inputs, tuple(_parse_argument(output) for output in graph["outputs"]), steps)


def _parse_node(node: Mapping[str, Any]) -> _Step | None:
    target = str(node["target"])
    if not _CHECKS.isdisjoint(target.split(".")):
        return None
    arguments: list[Any] = []
    keywords: dict[str, Any] = {}
    for item in node["inputs"]:
        if item.get("kind") == 2:
            keywords[str(item["name"])] = _parse_argument(item["arg"])
        else:
            arguments.append(_parse_argument(item["arg"]))
    listed = len(node["outputs"]) == 1 and "as_tensors" in node["outputs"][0]
    outputs = node["outputs"][0]["as_tensors"] if listed else [next(iter(o.values())) for o in node["outputs"]]
    names = tuple(_output_name(output) for output in outputs)
    function = _inline if target == _INLINE else _operator(target, node)
    sequence = listed or len(names) != 1 or target == _INLINE
    return _Step(target, function, tuple(arguments), keywords, names, sequence)


def _output_name(output: Any) -> str | tuple[str, ...] | None:
    if isinstance(output, list):
        return tuple(str(item["name"]) for item in output)
    if isinstance(output, Mapping):
        return str(output.get("name") or output["as_name"])
    return None


def _operator(target: str, node: Mapping[str, Any]) -> Callable[..., Any]:
    if target in _ARITHMETIC:
        return _ARITHMETIC[target]
    parts = target.split(".")
    if parts[:2] != ["torch", "ops"] or len(parts) != 5 or parts[2] not in {"aten", "prims"}:
        raise _unsupported(f"the operator {target}", target, _where(node))
    packet = getattr(getattr(torch.ops, parts[2]), parts[3], None)
    found = getattr(packet, parts[4], None)
    if not isinstance(found, torch._ops.OpOverload) or parts[3] in _MEMORY:  # noqa: SLF001 - the only name it has
        raise _unsupported(f"the operator {target}", target, _where(node))
    if parts[3] not in _FACTORIES and not any("Tensor" in str(a.type) for a in found._schema.arguments):  # noqa: SLF001
        raise _unsupported(f"the operator {target}", target, _where(node))
    return found


def _where(node: Mapping[str, Any]) -> str:
    stack = str(node.get("metadata", {}).get("nn_module_stack", ""))
    path = stack.rsplit(";", 1)[-1].split(",")
    return f"it stands in module {path[1]}" if len(path) > 2 and path[1] else ""


_LITERALS = frozenset(
    {"as_int", "as_ints", "as_float", "as_floats", "as_string", "as_strings", "as_bool", "as_bools", "as_int_lists"}
)


def _parse_argument(argument: Mapping[str, Any]) -> Any:  # noqa: PLR0911 - one return per kind of the schema
    ((kind, value),) = argument.items()
    if kind in _LITERALS:
        return value
    if kind == "as_none":
        return None
    if kind == "as_tensor":
        return _Ref(str(value["name"]))
    if kind in {"as_sym_int", "as_sym_float", "as_sym_bool", "as_optional_tensor"}:
        return _reference(value)
    if kind in {"as_tensors", "as_sym_ints", "as_sym_floats", "as_sym_bools", "as_optional_tensors"}:
        return [_reference(item) for item in value]
    if kind == "as_scalar_type":
        return _DTYPES[value]
    if kind == "as_memory_format":
        return _FORMATS[value]
    if kind == "as_device":
        return _Device()
    if kind == "as_layout" and value == _STRIDED:
        return torch.strided
    if kind == "as_complex":
        return complex(value["real"], value["imag"])
    if kind == "as_graph":
        return _parse_graph(value["graph"])
    raise _unsupported(f"an argument of kind {kind}", kind)


class _Device:
    """Stands for the device the images are on, whatever the program was traced on."""


def _reference(value: Mapping[str, Any]) -> Any:
    if "name" in value:
        return _Ref(str(value["name"]))
    ((kind, inner),) = value.items()
    if kind == "as_name":
        return _Ref(str(inner))
    if kind == "as_tensor":
        return _Ref(str(inner["name"]))
    return None if kind == "as_none" else inner


def _resolve(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, _Ref):
        return values[value.name]
    if isinstance(value, list):
        return [_resolve(item, values) for item in value]
    return values[""] if isinstance(value, _Device) else value


def _inline(_enabled: bool, graph: _Graph, *arguments: Any, device: torch.device) -> list[Any]:  # noqa: FBT001
    values = dict(zip(graph.inputs, arguments, strict=True))
    values[""] = device
    _run(graph, values)
    return [_resolve(output, values) for output in graph.outputs]


def _run(graph: _Graph, values: dict[str, Any]) -> None:
    for name in graph.inputs:
        if isinstance(values[name], torch.Tensor):
            values.setdefault("", values[name].device)
    for step in graph.steps:
        arguments = [_resolve(argument, values) for argument in step.arguments]
        keywords = {name: _resolve(argument, values) for name, argument in step.keywords.items()}
        if step.function is _inline:
            keywords["device"] = values[""]
        result = step.function(*arguments, **keywords)
        if not step.sequence:
            result = (result,)
        for output, value in zip(step.outputs, result, strict=False):
            if isinstance(output, str):
                values[output] = value
            elif output is not None:
                values.update(zip(output, value, strict=True))


def _unsupported(what: str, subject: str, hint: str = "") -> SourceError:
    return SourceError(
        f"the exported program has {what}, which lieaudit does not run",
        reason="UNSUPPORTED_PT2",
        subject=subject,
        hint=hint or "audit in process, or register a factory with the server's operator",
    )
