"""Images and labels that are arrays already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lieaudit.data.limits import no_images
from lieaudit.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


_INT8 = 127
"""The greatest pixel of a model that takes int8: its raw pixels are moved down by 128."""


class ArrayImages:
    """Images in one array, raw or as the model takes them."""

    def __init__(self, x: npt.NDArray[Any]) -> None:
        if x.dtype.newbyteorder("=") == np.float32:
            x = x.astype(np.float32, copy=False)  # written on a machine of the other byte order
        if x.dtype not in (np.uint8, np.float32):
            raise DataError(
                f"x is {x.dtype}, not uint8 or float32",
                reason="WRONG_DTYPE",
                subject="x",
                hint="save raw pixels as uint8 (N, H, W, C), or the model's input as float32 (N, C, H, W)",
            )
        self.dtype = x.dtype.name
        layout = "uint8 (N, H, W, C)" if self.dtype == "uint8" else "float32 (N, C, H, W)"
        if x.ndim != 4 or 0 in x.shape[1:]:
            raise DataError(f"x has shape {x.shape}, not {layout}", reason="WRONG_SHAPE", subject="x")
        self.count = x.shape[0]
        if self.count == 0:
            raise no_images("x")
        self._layout = layout
        self.floats: npt.NDArray[np.float32] | None = None
        if self.dtype == "uint8":
            self._raw: npt.NDArray[np.uint8] = x
            height, width, channels = x.shape[1:]
        else:
            self.floats = x
            channels, height, width = x.shape[1:]
            self._check_finite(x)
        self.shape: tuple[int, int, int] | None = (channels, height, width)

    def check_channels(self, wanted: int) -> None:
        """Refuse other channels than the model's."""
        channels = self.shape[0] if self.shape else 0
        if channels != wanted:
            raise DataError(
                f"the images have {channels} channels, the model takes {wanted}",
                reason="WRONG_CHANNELS",
                subject="x",
                hint=f"x is read as {self._layout}; transpose or convert it",
            )

    def read(self, start: int, stop: int, channels: int | None) -> Iterator[npt.NDArray[np.uint8]]:
        """Return raw images."""
        del channels
        yield from self._raw[start:stop]

    def _check_finite(self, x: npt.NDArray[np.float32]) -> None:
        for start in range(0, self.count, 64):  # in parts: the mask of a whole set is memory for nothing
            part = np.isfinite(x[start : start + 64]).all(axis=(1, 2, 3))
            if not part.all():
                index = start + int(np.argmin(part))
                raise DataError(
                    f"image {index} holds NaN or infinity",
                    reason="NON_FINITE",
                    subject=f"image {index}",
                    hint="remove it or repair how x was made",
                )


def check_labels(y: npt.NDArray[Any] | None, count: int) -> npt.NDArray[np.int64] | None:
    """Return labels as (count,) int64, or raise ``BAD_LABELS``."""
    if y is None:
        return None
    if y.shape != (count,) or y.dtype.kind not in "iu" or int(y.min()) < 0 or int(y.max()) >= 2**31:
        raise DataError(
            f"y has shape {y.shape} and dtype {y.dtype}, not one class number per image",
            reason="BAD_LABELS",
            subject="y",
            hint=f"give {count} non-negative integers, or leave y out",
        )
    return y.astype(np.int64)


def check_whole(images: npt.NDArray[np.float32], pixel_range: tuple[int, int], indices: Sequence[int]) -> None:
    """Refuse images that the model as it was exported could not take.

    Parameters
    ----------
    images
        (n, C, H, W) float32.
    pixel_range
        Least and greatest pixel of a model that takes integers.
    indices
        The n images' numbers, for the message.

    Raises
    ------
    DataError
        NOT_WHOLE: a pixel is no whole number of the range.
    """
    low, high = pixel_range
    wrong = (images != np.rint(images)) | (images < low) | (images > high)
    if not wrong.any():
        return
    row = int(np.argmax(wrong.any(axis=(1, 2, 3))))
    found = float(images[row][wrong[row]][0])
    raise DataError(
        f"image {indices[row]} holds {found:g}, and the model takes whole numbers from {low} to {high}",
        reason="NOT_WHOLE",
        subject=f"image {indices[row]}",
        hint="give raw pixels: uint8 images with --preprocess none"
        if high > _INT8
        else "give uint8 images with --preprocess scale=1,mean=128, or raw - 128 as float32",
    )
