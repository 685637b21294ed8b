"""Decode image files with Pillow, within limits, as the channels a model takes.

JPEG, PNG, BMP, GIF, PPM, TIFF and WebP with at most 8 bits per channel; the first frame of several. EXIF
orientation is applied. Colour becomes grey by Rec. 601 luma, grey becomes three equal channels, alpha is
dropped or added opaque.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import PurePosixPath
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError

from lieaudit.data.limits import Limits, too_large
from lieaudit.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
_CHANNEL_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's readers raise on damaged bytes, as found by fuzzing; Warning for where warnings are errors.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    EOFError,
    OverflowError,
    MemoryError,
    RuntimeError,
    AssertionError,
    ArithmeticError,
    struct.error,
    zlib.error,
    Warning,
)


def is_image_name(name: str) -> bool:
    """Tell whether a file name has the suffix of an image format that is read."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def probe(file: BinaryIO, name: str, limits: Limits) -> tuple[int, int, int]:
    """Read the header: (channels, height, width) of the decoded image, orientation applied.

    Raises
    ------
    DataError
        ``BAD_IMAGE``, ``UNSUPPORTED_IMAGE``, ``TOO_LARGE``.
    """
    with _open(file, name, limits) as image:
        width, height = image.size
        if _orientation(image, name) >= 5:
            width, height = height, width
        return Image.getmodebands(_natural_mode(image)), height, width


def decode(file: BinaryIO, name: str, channels: int | None, limits: Limits) -> npt.NDArray[np.uint8]:
    """Decode one image.

    Parameters
    ----------
    channels
        The model's, 1 … 4 of which a picture can be converted to; None for those of the file.

    Returns
    -------
    (H, W, channels) uint8.

    Raises
    ------
    DataError
        As `probe`; also for a file that stops early. ``WRONG_CHANNELS``: no picture has so many.
    """
    with _open(file, name, limits) as image:
        mode = _natural_mode(image) if channels is None else _CHANNEL_MODES.get(channels)
        if mode is None:
            own = Image.getmodebands(_natural_mode(image))
            raise DataError(
                f"{name} is a picture of {own} channels, the model takes {channels}",
                reason="WRONG_CHANNELS",
                subject=name,
                hint="store the images as an array x in an .npz: uint8 (N, H, W, C) or float32 (N, C, H, W)",
            )
        try:
            turn = _UPRIGHT.get(_orientation(image, name))
            upright = image if turn is None else image.transpose(turn)
            pixels = np.asarray(upright.convert(mode), np.uint8)
        except _PILLOW_ERRORS as error:
            raise _bad(name, error) from error
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _open(file: BinaryIO, name: str, limits: Limits) -> Image.Image:
    try:
        image = Image.open(file, formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_large(f"{name}: {error}", name, "resize it first") from error
    except _PILLOW_ERRORS as error:
        raise _bad(name, error) from error
    width, height = image.size
    if width * height > limits.pixels:
        raise too_large(
            f"{name} has {height}×{width} pixels, over the limit of {limits.pixels}", name, "resize it first"
        )
    if image.mode not in _MODES or _deep(image):
        what = "16-bit colour" if image.mode in _MODES else f"Pillow mode {image.mode}"
        raise DataError(
            f"{name} has {what}, which does not fit 8 bits per channel",
            reason="UNSUPPORTED_IMAGE",
            subject=name,
            hint="convert it to 8 bits, or pass float32 arrays in an .npz",
        )
    return image


def _deep(image: ImageFile.ImageFile) -> bool:
    """Tell whether a colour image holds more than 8 bits per channel: Pillow would keep the upper ones, silently."""
    for tile in image.tile:
        arguments = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if any(isinstance(part, str) and ";16" in part for part in arguments):
            return True
        if tile.codec_name.startswith("ppm") and any(isinstance(part, int) and part > 255 for part in arguments):
            return True
    return False


def _natural_mode(image: Image.Image) -> str:
    if image.mode in {"1", "L"}:
        return "L"
    if image.mode == "LA":
        return "LA"
    transparent = image.mode in {"RGBA", "PA"} or (image.mode == "P" and "transparency" in image.info)
    return "RGBA" if transparent else "RGB"


def _orientation(image: Image.Image, name: str) -> int:
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode the whole image to look for a chunk behind the pixels
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except _PILLOW_ERRORS as error:
        raise _bad(name, error) from error
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _bad(name: str, error: BaseException) -> DataError:
    what = f"{type(error).__name__}: {error!s:.200}"
    if isinstance(error, UnidentifiedImageError):  # its text names the buffer in memory that was read
        what = f"its content is none of {', '.join(_FORMATS)}"
    return DataError(
        f"{name} cannot be decoded: {what}",
        reason="BAD_IMAGE",
        subject=name,
        hint="replace or remove it",
    )
