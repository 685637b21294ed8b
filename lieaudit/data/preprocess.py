"""From raw uint8 images to the model's float32 input, and the ways to write that down.

A preprocessing is written as a preset's name (`PRESETS`), as inline text, or as YAML with the same names::

    imagenet
    imagenet,resize=256,crop=224
    scale=255,mean=.485:.456:.406,std=.229:.224:.225,order=rgb,resize=256,crop=224

Applied in this order: shorter side resized, square crop from the centre, channel order,
``(raw / scale − mean) / std`` with ``mean`` and ``std`` in the model's channel order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image

from lieaudit.data.limits import too_large
from lieaudit.errors import DataError, SpecError
from lieaudit.spec import Preprocessing
from lieaudit.suggestions import meant

PRESETS: dict[str, Preprocessing] = {
    preset.name: preset
    for preset in (
        Preprocessing(scale=1.0, name="none"),
        Preprocessing(scale=255.0, name="unit"),
        # The [−1, 1] of TensorFlow's Inception and MobileNet: raw / 127.5 − 1.
        Preprocessing(mean=(0.5,), std=(0.5,), name="inception"),
        Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), name="imagenet"),
        # Caffe's VGG and ResNet: raw BGR minus the mean pixel.
        Preprocessing(scale=1.0, mean=(103.939, 116.779, 123.68), order="bgr", name="caffe"),
        Preprocessing(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711), name="clip"),
        Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), name="cifar10"),
        Preprocessing(mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761), name="cifar100"),
        Preprocessing(mean=(0.1307,), std=(0.3081,), name="mnist"),
    )
}

_FIELDS = ("scale", "mean", "std", "order", "resize", "crop")
_MAX_TEXT = 64 * 1024
_MAX_RESIZED_PIXELS = 2**27


def parse_preprocessing(text: str) -> Preprocessing:
    """Read a preset's name, a YAML file's path, inline text or YAML text.

    Raises
    ------
    DataError
        ``INVALID_PREPROCESSING``: no such preset, file or field, or a value out of range.
    """
    text = text.strip()
    if text in PRESETS:
        return PRESETS[text]
    if len(text) > _MAX_TEXT:
        _fail(f"the text is longer than {_MAX_TEXT} characters")
    if "\n" not in text and text.endswith((".yaml", ".yml")):
        return _from_yaml(_read_text(Path(text)))
    if "\n" in text or text.startswith("{"):
        return _from_yaml(text)
    if "=" in text:
        return _from_inline(text)
    if ":" in text:
        return _from_yaml(text)
    return _from_values({"preset": text})


def required(preprocessing: Preprocessing | None, subject: str) -> Preprocessing:
    """Return the preprocessing, or the error that names the presets."""
    if preprocessing is None:
        raise DataError(
            f"{subject} holds uint8 images, and nothing says how the model takes them",
            reason="PREPROCESSING_REQUIRED",
            subject="preprocessing",
            hint=f"give --preprocess a preset ({', '.join(PRESETS)}), a YAML file, or scale=…,mean=…,std=…",
        )
    return preprocessing


def is_identity(preprocessing: Preprocessing) -> bool:
    """Tell whether it leaves an array as it is."""
    return (
        preprocessing.scale == 1.0
        and not any(preprocessing.mean)
        and all(s == 1.0 for s in preprocessing.std)
        and preprocessing.order == "rgb"
        and preprocessing.resize is None
        and preprocessing.crop is None
    )


def normalisation_table(preprocessing: Preprocessing, channels: int) -> npt.NDArray[np.float32]:
    """Return the float32 value of every raw value.

    Computed in float64 and rounded once: the result does not depend on how a framework orders the operations.

    Returns
    -------
    (channels, 256) float32, in the model's channel order.

    Raises
    ------
    DataError
        ``INVALID_PREPROCESSING``: mean, std or order do not fit the channels, or a value overflows float32.
    """
    mean = _per_channel("mean", preprocessing.mean, channels)
    std = _per_channel("std", preprocessing.std, channels)
    if preprocessing.order == "bgr" and channels != 3:
        _fail(f"order: bgr needs three channels, the model takes {channels}", "preprocessing.order")
    raw = np.arange(256, dtype=np.float64)
    with np.errstate(over="ignore"):
        table = ((raw[None, :] / preprocessing.scale - mean[:, None]) / std[:, None]).astype(np.float32)
    if not np.isfinite(table).all():
        _fail("scale, mean and std give values outside float32")
    return table


def normalise(raw: npt.NDArray[np.uint8], table: npt.NDArray[np.float32], order: str) -> npt.NDArray[np.float32]:
    """Turn raw images (N, H, W, C) uint8 into the model's (N, C, H, W) float32 by `normalisation_table`."""
    n, height, width, channels = raw.shape
    out = np.empty((n, channels, height, width), np.float32)
    for c in range(channels):
        source = channels - 1 - c if order == "bgr" else c
        out[:, c] = table[c][raw[..., source]]
    return out


def resized_shape(preprocessing: Preprocessing, height: int, width: int) -> tuple[int, int]:
    """Return (height, width) after `resize_and_crop`, unless the crop does not fit (then before the crop)."""
    if preprocessing.resize is not None:
        short, long = min(height, width), max(height, width)
        longer = max(1, preprocessing.resize * long // short)
        height, width = (preprocessing.resize, longer) if height <= width else (longer, preprocessing.resize)
    if preprocessing.crop is not None and min(height, width) >= preprocessing.crop:
        return preprocessing.crop, preprocessing.crop
    return height, width


def resize_and_crop(image: npt.NDArray[np.uint8], preprocessing: Preprocessing, subject: str) -> npt.NDArray[np.uint8]:
    """Resize the shorter side (antialiased bilinear), then crop a square from the centre.

    Parameters
    ----------
    image
        (H, W, C) uint8, C any.

    Raises
    ------
    DataError
        ``WRONG_SIZE``: smaller than the crop. ``TOO_LARGE``: resized to more than 2²⁷ pixels.
    """
    height, width = image.shape[:2]
    before_crop = dataclasses.replace(preprocessing, crop=None)
    height, width = resized_shape(before_crop, height, width)
    if (height, width) != image.shape[:2]:
        if height * width > _MAX_RESIZED_PIXELS:
            raise too_large(f"{subject} would be resized to {height}×{width}", subject, "resize to less")
        # One channel at a time: for RGBA Pillow would weight the colours by the alpha channel.
        planes = [
            np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR))
            for plane in np.ascontiguousarray(image.transpose(2, 0, 1))
        ]
        image = np.stack(planes, axis=-1)
    crop = preprocessing.crop
    if crop is None:
        return image
    if min(height, width) < crop:
        raise DataError(
            f"{subject} is {height}×{width}, smaller than the crop of {crop}",
            reason="WRONG_SIZE",
            subject=subject,
            hint=f"resize first, for example resize={crop}",
        )
    top, left = round((height - crop) / 2), round((width - crop) / 2)
    return image[top : top + crop, left : left + crop]


def _per_channel(name: str, values: tuple[float, ...], channels: int) -> npt.NDArray[np.float64]:
    if len(values) not in {1, channels}:
        _fail(f"{name} holds {len(values)} values, the model takes {channels} channels", f"preprocessing.{name}")
    return np.broadcast_to(np.asarray(values, np.float64), (channels,))


def _read_text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_TEXT + 1)
    except (OSError, ValueError) as error:
        _fail(f"{path} cannot be read: {error}", str(path))
    if len(text) > _MAX_TEXT:
        _fail(f"{path} is longer than {_MAX_TEXT} characters", str(path))
    return text


def _from_yaml(text: str) -> Preprocessing:
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        _fail(f"not valid YAML: {error}")
    if isinstance(values, str):
        values = {"preset": values}
    if not isinstance(values, Mapping):
        _fail("the YAML is not a mapping of field names to values")
    return _from_values(values)


def _from_inline(text: str) -> Preprocessing:
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


def _from_values(values: Mapping[Any, Any]) -> Preprocessing:
    preset = values.get("preset")
    if preset is not None and preset not in list(PRESETS):
        _fail(f"{preset!r:.80} is not a preset{meant(str(preset)[:80], PRESETS)}", "preprocessing")
    base = PRESETS[preset] if preset is not None else Preprocessing()
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name in _FIELDS:
            changes[name] = _convert(name, value)
        elif name != "preset":
            _fail(f"{name!r:.80}: no such field", "preprocessing")
    try:
        return dataclasses.replace(base, **changes, name="custom") if changes else base
    except SpecError as error:
        _fail(error.message, error.subject)


def _convert(name: str, value: Any) -> Any:
    try:
        if name in {"mean", "std"}:
            return tuple(float(str(v)) for v in (value if isinstance(value, list) else [value]))
        if name in {"resize", "crop"}:  # through str: 224.5 and true are mistakes, not 224 and 1
            return None if value is None else int(str(value))
        return float(str(value)) if name == "scale" else str(value).lower()
    except ValueError:
        _fail(f"{name}: {value!r:.80} is not a number", f"preprocessing.{name}")


def _fail(problem: str, subject: str = "preprocessing") -> NoReturn:
    raise DataError(
        f"the preprocessing is unusable: {problem}",
        reason="INVALID_PREPROCESSING",
        subject=subject,
        hint=f"presets: {', '.join(PRESETS)}; fields: {', '.join(_FIELDS)}",
    )
