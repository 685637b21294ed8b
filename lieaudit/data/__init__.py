"""Images to audit on: opened safely, labelled where possible, turned into the model's float32 input.

::

    open_dataset(path)        an .npz, a folder of images, a .tar or .zip of one
    Dataset.from_arrays(x, y) the same from memory
    parse_preprocessing(text) what ``--preprocess`` takes

Every unusable input is a `lieaudit.errors.DataError`; `lieaudit.data.limits` lists the stable reasons.
"""

from lieaudit.data.dataset import Dataset, open_dataset
from lieaudit.data.limits import Limits
from lieaudit.data.preprocess import PRESETS, parse_preprocessing

__all__ = ["PRESETS", "Dataset", "Limits", "open_dataset", "parse_preprocessing"]
