"""What a dataset may cost, and the reasons for which one is refused.

Reasons of the `DataError` raised in this package:

======================== ==================================================================================
NOT_FOUND                the path does not exist or cannot be read
UNKNOWN_FORMAT           neither .npz, .tar, .zip nor a folder
EMPTY_FILE               0 bytes
DAMAGED_ARCHIVE          not an archive of the format it claims to be, or bytes in it are wrong
TRUNCATED                the file ends before its content does
UNSAFE_ARCHIVE           a member is a link or device, is encrypted, comes twice, or its name leaves the archive
TOO_LARGE                a limit of `Limits` is exceeded
NO_IMAGES                an empty folder or archive, or an ``x`` of length 0
MISSING_ARRAY            the .npz holds no ``x``
PICKLED_OBJECTS          an array of the .npz would have to be unpickled
WRONG_DTYPE              ``x`` is neither uint8 nor float32
WRONG_SHAPE              ``x`` is not four-dimensional
WRONG_CHANNELS           the images' channels are not the model's
WRONG_SIZE               the images' height and width are not the model's, or smaller than the crop
NON_FINITE               a float image holds NaN or infinity
NOT_WHOLE                the model takes integers, and a float image holds something else
BAD_LABELS               ``y`` is not one non-negative integer per image
BAD_IMAGE                an image file cannot be decoded
UNSUPPORTED_IMAGE        an image file of a kind that does not fit 8 bits per channel
PREPROCESSING_REQUIRED   uint8 images, and nothing says how the model takes them
PREPROCESSING_REFUSED    preprocessing was given for float32 images, which are taken as they are
INVALID_PREPROCESSING    the preprocessing text, file or its fit to the model's channels is wrong
======================== ==================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

from lieaudit.errors import DataError


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds on an untrusted dataset, checked from headers before anything is unpacked.

    Attributes
    ----------
    members
        Files in an archive or folder.
    unpacked_bytes
        Sum of the members' unpacked sizes.
    ratio, ratio_from_bytes
        Unpacked / packed bytes of a member, asked of members of at least ``ratio_from_bytes`` unpacked bytes.
        Deflate reaches 1032; photographs and float images stay under 10, and flat synthetic images are small.
    pixels
        Height × width of one image file.
    """

    members: int = 1_000_000
    unpacked_bytes: int = 16 * 2**30
    ratio: float = 200.0
    ratio_from_bytes: int = 64 * 2**20
    pixels: int = 64_000_000


def too_large(what: str, subject: str, hint: str = "use a smaller set of images") -> DataError:
    """Return the error of an exceeded limit."""
    return DataError(what, reason="TOO_LARGE", subject=subject, hint=hint)


def check_sizes(subject: str, sizes: list[tuple[str, int, int]], limits: Limits) -> None:
    """Check the members' declared sizes against `limits`.

    Parameters
    ----------
    subject
        The archive, for messages.
    sizes
        (name, packed bytes, unpacked bytes) per member.

    Raises
    ------
    DataError
        ``TOO_LARGE``.
    """
    if len(sizes) > limits.members:
        raise too_large(f"{subject} holds {len(sizes)} files, over the limit of {limits.members}", subject)
    total = sum(unpacked for _, _, unpacked in sizes)
    if total > limits.unpacked_bytes:
        raise too_large(f"{subject} unpacks to {total} bytes, over the limit of {limits.unpacked_bytes}", subject)
    for name, packed, unpacked in sizes:
        if unpacked >= limits.ratio_from_bytes and unpacked > limits.ratio * packed:
            raise too_large(
                f"{name} in {subject} unpacks from {packed} to {unpacked} bytes: a decompression bomb",
                name,
                "store it with less compression if it is genuine",
            )


def no_images(subject: str) -> DataError:
    """Return the error of a set without images."""
    return DataError(
        f"{subject} holds no images",
        reason="NO_IMAGES",
        subject=subject,
        hint="it must hold at least one image",
    )
