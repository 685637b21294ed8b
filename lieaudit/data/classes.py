"""Which of a model's classes an image belongs to, where that can be known.

Labels are class numbers (``y`` of an .npz) or the names of class folders. Names say nothing about the order of the
model's outputs: they are matched by the list of the model's classes where one is given, else by their sorted order, but
only where there are as many folders as classes. Whatever cannot be matched beyond doubt is not matched, and said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lieaudit.errors import DataError, SpecError

if TYPE_CHECKING:
    from lieaudit.data.dataset import Dataset

_SHOWN = 5
_BACKGROUND = 1001
"""Outputs of an ImageNet model whose first class is the background: its numbers run one ahead of everyone else's."""

_AHEAD = 3
"""From so many missing folders on nobody would guess that they are the first."""

_SPLITS = {"dev", "test", "testing", "train", "training", "val", "valid", "validation"}
"""Folders of these names are parts of a data set, each with all classes."""

_HINT = "give the model's class names in order with --classes FILE"


@dataclass(frozen=True, slots=True)
class ClassFolders:
    """The class folders of a set of image files.

    Attributes
    ----------
    names
        In sorted order, folders without images included.
    empty
        Those that hold no image.
    stray
        An image that lies in no class folder, where others do; empty: there is none.
    """

    names: tuple[str, ...]
    empty: tuple[str, ...] = ()
    stray: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the report should know about the folders."""
        if not self.empty:
            return ()
        return (f"{_counted(len(self.empty), 'class folder')} without an image: {shown(self.empty)}",)


def class_folders(
    images: Sequence[str], folders: Sequence[str]
) -> tuple[ClassFolders | None, npt.NDArray[np.int64] | None]:
    """Return the class folders of image files, and for each image the number of its folder in their sorted order.

    Parameters
    ----------
    images
        Paths of the images.
    folders
        Paths of the folders, as far as they are known; archives need not name any.

    Returns
    -------
    None for both where no image lies in a folder of its own; no numbers where only some do.
    """
    # Some archivers of Windows write "\\" between folders.
    parts = [PurePosixPath(name.replace("\\", "/")).parts for name in images]
    inside = {PurePosixPath(name.replace("\\", "/")).parts for name in folders} | {p[:-1] for p in parts}
    while len({p[0] for p in parts}) == 1 and all(len(p) > 1 for p in parts):
        wrapper = parts[0][0]  # a folder that only wraps the others, as tar and zip make it
        parts = [p[1:] for p in parts]
        inside = {p[1:] for p in inside if p[:1] == (wrapper,)}
    full = {p[0] for p in parts if len(p) > 1}
    if not full:
        return None, None
    names = tuple(sorted(full | {p[0] for p in inside if p}))
    empty = tuple(name for name in names if name not in full)
    stray = next((p[0] for p in parts if len(p) < 2), "")
    if stray:
        return ClassFolders(names, empty, stray), None
    numbers = {name: number for number, name in enumerate(names)}
    return ClassFolders(names, empty), np.array([numbers[p[0]] for p in parts], np.int64)


def match_classes(
    dataset: Dataset, count: int, *, classes: Sequence[str] = (), offset: int | None = None
) -> npt.NDArray[np.int64] | None:
    """Return which of a model's ``count`` outputs is the class of each image; None for a set without labels.

    Parameters
    ----------
    dataset
        The images.
    count
        K, the number of outputs.
    classes
        The model's class names in order, K of them; class folders are found among them.
    offset
        What is added to the numbers of the labels: those of ``y``, or of folders whose names are numbers. Of other
        folders, how many classes come before the first; all the others must be there.

    Raises
    ------
    SpecError
        CLASSES_DO_NOT_FIT: ``classes`` does not list K names.
    DataError
        CLASSES_UNKNOWN: the labels are there, and which classes they are cannot be told; the message says why.
    """
    if classes and len(classes) != count:
        raise SpecError(
            f"{len(classes)} class names are given, and the model has {count} outputs",
            reason="CLASSES_DO_NOT_FIT",
            subject="classes",
            hint="list the model's classes in the order of its outputs, one a line",
        )
    found = dataset.class_folders
    if found is not None and found.stray:
        raise _unknown(f"{found.stray} lies in no class folder, and other images do", "put every image into one")
    if dataset.labels is None:
        return None
    if found is None:
        return _in_range(dataset.labels, count, offset)
    if classes:
        return _by_name(found, classes)[dataset.labels]
    return _by_number(found, count, offset)[dataset.labels]


def _in_range(labels: npt.NDArray[np.int64], count: int, offset: int | None) -> npt.NDArray[np.int64]:
    """Return labels that are numbers, moved by the offset; every one must be a class of the model."""
    if offset is None and count == _BACKGROUND and int(labels.max()) < count - 1:
        raise _unknown(
            f"the model has {count} classes, of which the first is usually the background, and the labels end at "
            f"{int(labels.max())}",
            "say with --classes 1 that label 0 is class 1, with --classes 0 that it is class 0",
        )
    moved = labels + (offset or 0)
    low, high = int(moved.min()), int(moved.max())
    if low < 0 or high >= count:
        at = "" if not offset else f" with the offset {offset}"
        raise _unknown(
            f"the labels run from {low} to {high}{at}, and the model has {count} classes, 0 … {count - 1}",
            "say with --classes OFFSET what is to be added to them",
        )
    return moved


def _by_name(found: ClassFolders, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Find every folder among the class names: as a whole line, or as its first word (``n01440764 tench``)."""
    lines: dict[str, list[int]] = {}
    for number, line in enumerate(classes):
        words = line.replace(",", " ").split()
        for name in {line.strip(), *words[:1]}:
            lines.setdefault(name, []).append(number)
    whole = {line.strip(): number for number, line in enumerate(classes)}
    places = []
    for name in found.names:
        own = lines.get(name, [])
        if len(own) > 1 and sum(line.strip() == name for line in classes) == 1:
            own = [whole[name]]
        if len(own) != 1 and name not in found.empty:
            said = "is not among the class names" if not own else f"stands {len(own)} times among the class names"
            raise _unknown(f"class folder {name!r} {said}", "name the folders as the list names the classes")
        places.append(own[0] if len(own) == 1 else -1)
    return np.array(places, np.int64)


def _by_number(found: ClassFolders, count: int, offset: int | None) -> npt.NDArray[np.int64]:
    """Return the class of every folder by its place in sorted order, or by its name where that is a number."""
    names = found.names
    places = np.arange(len(names))
    numbers = np.array([int(n) for n in names]) if all(n.isascii() and n.isdigit() for n in names) else None
    if offset is not None and numbers is not None:
        return _in_range(numbers, count, offset)
    if {name.lower() for name in names} <= _SPLITS:
        raise _unknown(f"the folders {shown(names)} are parts of a data set and no classes", "give one of them as DATA")
    if numbers is not None and not np.array_equal(numbers, places):
        raise _unknown(
            f"the class folders {shown(names)} are named by numbers that are not their places in sorted order",
            "say with --classes 0 that the names are class numbers (1: one less than they are), or " + _HINT,
        )
    if len(names) + (offset or 0) != count or (offset or 0) < 0:
        ahead = count - len(names)
        more = f"; --classes {ahead}: the first {ahead} have no folder, like a background" if 0 < ahead < _AHEAD else ""
        raise _unknown(
            f"there are {_counted(len(names), 'class folder')} ({shown(names)}), and the model has {count} classes",
            _HINT + more,
        )
    return places + (offset or 0)


def shown(names: Sequence[str]) -> str:
    """Return the first few of some names."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _unknown(message: str, hint: str) -> DataError:
    return DataError(message, reason="CLASSES_UNKNOWN", subject="labels", hint=hint)
