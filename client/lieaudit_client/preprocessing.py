"""How uint8 images become the model's input: presets, YAML files and inline text.

::

    imagenet                                          a preset
    imagenet,resize=256,crop=224                      a preset with changes
    scale=255,mean=.485:.456:.406,std=.229:.224:.225,order=rgb,resize=256,crop=224
    preprocessing.yaml                                a file with these names, or a preset's name

Applied in this order: shorter side resized, square crop from the centre, channel order, then
``(raw / scale − mean) / std`` with ``mean`` and ``std`` in the model's channel order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lieaudit_api.v1 import spec_pb2

from lieaudit_client.exceptions import InvalidInputError
from lieaudit_client.suggestions import meant

_FIELDS = ("scale", "mean", "std", "order", "resize", "crop")
_MAX_TEXT = 64 * 1024
_MAX_SIZE = 16384  # pixels, of resize and crop


def _preset(
    name: str,
    *,
    scale: float = 255.0,
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
    order: str = "rgb",
) -> tuple[str, spec_pb2.Preprocessing]:
    return name, spec_pb2.Preprocessing(scale=scale, mean=mean, std=std, order=order, name=name)


PRESETS: Mapping[str, spec_pb2.Preprocessing] = dict(
    (
        _preset("none", scale=1.0),
        _preset("unit"),
        # The [−1, 1] of TensorFlow's Inception and MobileNet: raw / 127.5 − 1.
        _preset("inception", mean=(0.5,), std=(0.5,)),
        _preset("imagenet", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        # Caffe's VGG and ResNet: raw BGR minus the mean pixel.
        _preset("caffe", scale=1.0, mean=(103.939, 116.779, 123.68), order="bgr"),
        _preset("clip", mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)),
        _preset("cifar10", mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
        _preset("cifar100", mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761)),
        _preset("mnist", mean=(0.1307,), std=(0.3081,)),
    )
)


def parse_preprocessing(text: str) -> spec_pb2.Preprocessing:
    """Read a preset's name, the path of a YAML file, or inline text.

    Raises
    ------
    InvalidInputError
        ``INVALID_PREPROCESSING``: no such preset, file or field, or a value out of range.
    """
    text = text.strip()
    if len(text) > _MAX_TEXT:
        _fail(f"the text is longer than {_MAX_TEXT} characters")
    if text.endswith((".yaml", ".yml")):
        return _from_values(_read_yaml(Path(text)))
    values: dict[str, Any] = {}
    for position, item in enumerate(text.split(",")):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals and position == 0:
            name, value = "preset", name
        elif not equals:
            _fail(f"{item.strip()!r} is not name=value")
        if name in values:
            _fail(f"{name} is given twice", f"preprocessing.{name}")
        values[name] = value.split(":") if name in {"mean", "std"} else value
    return _from_values(values)


def _read_yaml(path: Path) -> Mapping[Any, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_TEXT + 1)
    except (OSError, ValueError) as problem:
        _fail(f"{path} cannot be read: {problem}", str(path))
    if len(text) > _MAX_TEXT:
        _fail(f"{path} is longer than {_MAX_TEXT} characters", str(path))
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        _fail(f"{path} is not valid YAML: {problem}", str(path))
    if isinstance(values, str):
        return {"preset": values}
    if not isinstance(values, Mapping):
        _fail(f"{path} is not a mapping of field names to values", str(path))
    return values


def _from_values(values: Mapping[Any, Any]) -> spec_pb2.Preprocessing:
    found = spec_pb2.Preprocessing(scale=255.0, mean=[0.0], std=[1.0], order="rgb", name="custom")
    if "preset" in values:
        preset = values["preset"]
        if not isinstance(preset, str) or preset not in PRESETS:
            _fail(f"{preset!r:.80} is not a preset{meant(str(preset)[:80], PRESETS)}")
        found.CopyFrom(PRESETS[preset])
    for name, value in values.items():
        if name == "preset":
            continue
        if name not in _FIELDS:
            _fail(f"{name!r:.80}: no such field")
        _set(found, name, value)
        found.name = "custom"
    return found


def _set(found: spec_pb2.Preprocessing, name: str, value: Any) -> None:
    subject = f"preprocessing.{name}"
    try:
        if name in {"mean", "std"}:
            numbers = [float(str(v)) for v in (value if isinstance(value, list) else [value])]
            if not numbers or not all(math.isfinite(v) and (name == "mean" or v > 0) for v in numbers):
                _fail(f"{name}: {value!r:.80} must be finite{'' if name == 'mean' else ' and positive'}", subject)
            getattr(found, name)[:] = numbers
        elif name in {"resize", "crop"} and value is None:
            pass  # as if it were not there
        elif name in {"resize", "crop"}:  # through str: 224.5 and true are mistakes, not 224 and 1
            size = int(str(value))
            if not 1 <= size <= _MAX_SIZE:
                _fail(f"{name}: {size} is not a size in 1 … {_MAX_SIZE} pixels", subject)
            setattr(found, name, size)
        elif name == "scale":
            scale = float(str(value))
            if not math.isfinite(scale) or scale == 0:
                _fail(f"scale: {scale} is not a finite non-zero number", subject)
            found.scale = scale
        elif str(value).lower() in {"rgb", "bgr"}:
            found.order = str(value).lower()
        else:
            _fail(f"order: {value!r:.80} is neither rgb nor bgr", subject)
    except ValueError:
        _fail(f"{name}: {value!r:.80} is not a number", subject)


def _fail(problem: str, subject: str = "preprocessing") -> NoReturn:
    raise InvalidInputError(
        f"the preprocessing is unusable: {problem}",
        reason="INVALID_PREPROCESSING",
        subject=subject,
        hint=f"presets: {', '.join(PRESETS)}; fields: {', '.join(_FIELDS)}",
    )
