"""Images that are the files of a folder or archive."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lieaudit.data.images import decode, is_image_name, probe
from lieaudit.data.limits import Limits, no_images

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lieaudit.data.archive import Files


class FileImages:
    """Image files of a folder or archive."""

    dtype = "uint8"

    def __init__(self, files: Files, subject: str, limits: Limits) -> None:
        self._files = files
        self._limits = limits
        self.indices = [i for i, name in enumerate(files.names) if is_image_name(name)]
        self.count = len(self.indices)
        ignored = len(files.names) - self.count
        self.notes = (f"{ignored} files without an image suffix were left out",) if ignored else ()
        if not self.indices:
            raise no_images(subject)
        with files.opened() as read:  # every header now, so that a bad file is known before the work starts
            shapes = {probe(read(i), printable_name(files.names[i]), limits) for i in self.indices}
        self.shape = shapes.pop() if len(shapes) == 1 else None

    def read(self, start: int, stop: int, channels: int | None) -> Iterator[npt.NDArray[np.uint8]]:
        """Decode images."""
        with self._files.opened() as read:
            for index in self.indices[start:stop]:
                yield decode(read(index), printable_name(self._files.names[index]), channels, self._limits)

    def sha256(self) -> str:
        """Hash the names and contents of all files, in order."""
        digest = hashlib.sha256()
        with self._files.opened() as read:
            for index, name in enumerate(self._files.names):
                content = hashlib.sha256(read(index).read()).hexdigest()
                digest.update(f"{content}  {name}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def printable_name(name: str) -> str:
    """Write the bytes of a file name that are no UTF-8 as escapes: reports and messages are UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()
