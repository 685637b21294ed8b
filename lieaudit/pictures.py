"""Pictures of the worst images and of their tangents, for reports that people look at."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lieaudit.report import Picture

if TYPE_CHECKING:
    from lieaudit.images import Images
    from lieaudit.measured import Measured

PER_GENERATOR = 2
_MAX_SIDE = 128
"""Pixels of a picture's longer side: with `_COLOURS`, ten generators' pictures stay under a megabyte in a page."""
_COLOURS = 128
"""Of a picture for the eye: a third of the bytes of all colours, and nobody sees the difference at this size."""


def worst_pictures(images: Images, measured: Measured) -> tuple[Picture, ...]:
    """Return the images with the largest LEE of each generator and their tangents (grey is 0), as PNG."""
    pictures = []
    for g, generator in enumerate(images.spec.generators):
        for index in np.argsort(measured.lee[:, g])[::-1][:PER_GENERATOR]:
            pixels = images.load([int(index)])
            tangent = images.tangents(pixels)[0, g]
            raw = images.dataset.raw(int(index), images.spec.preprocessing)
            shown = raw if raw is not None else _stretched(pixels[0])
            if raw is None:
                shown = np.moveaxis(shown, 0, -1)
            scale = float(np.abs(tangent).max()) or 1.0
            signed = np.moveaxis(np.rint(127.5 + 127.5 * tangent / scale).astype(np.uint8), 0, -1)
            if images.spec.preprocessing is not None and images.spec.preprocessing.order == "bgr":
                signed = signed[..., ::-1]
            lee = float(measured.lee[index, g])
            pictures.append(Picture(int(index), generator, _png(shown), _png(signed), lee))
    return tuple(pictures)


def _stretched(image: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    low, high = float(image.min()), float(image.max())
    return np.asarray(np.rint(255.0 * (image - low) / ((high - low) or 1.0)), np.uint8)


def _png(pixels: npt.NDArray[Any]) -> bytes:
    """Encode (H, W, C) uint8; of other numbers of channels than a picture's three or four the first is shown."""
    array = pixels if pixels.shape[2] in {3, 4} else pixels[..., 0]
    picture = Image.fromarray(np.ascontiguousarray(array))
    if max(picture.size) > _MAX_SIDE:
        picture.thumbnail((_MAX_SIDE, _MAX_SIDE))
    if picture.mode == "RGB":
        picture = picture.quantize(_COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
