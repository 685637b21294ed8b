"""Which layer to change, and by what known means: from the layerwise shares, never called a repair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lieaudit_api.v1 import report_pb2

from lieaudit_client.formats.numbers import percent

OWNS = 0.2
"""A segment with less of the error than this is not worth a change of its own."""
CANCEL = 2.0
"""Where positive shares add up to more, layers undo each other so much that none owns the error."""
MOST = 3
"""Segments that are advised on."""

MEANS = {
    "downsampling": "anti-aliased downsampling: blur before the stride, then train",
    "patch embedding": "overlapping patches or a convolutional stem with blur before its strides, then train",
    "pooling": "blur pooling: take the maximum or mean at every place, blur, then subsample, and train",
    "upsampling": "bilinear upsampling followed by a convolution, then train",
    "nonlinearity": "a smoother activation (GELU, SiLU), or the same one between upsampling and blurred downsampling",
    "convolution": "reflected or circular padding in place of zeros where the data allow it, then train",
    "position mixing": "global pooling in place of flattening ahead of this layer, then train",
    "positional embedding": "relative or conditional positional encodings, then train",
    "padding": "reflected or circular padding in place of zeros",
}
"""What is known to help, by the kind of the layer."""
TRAINING = "training along the symmetry: augmentation, or lieaudit.torch.LieLoss"
"""What concerns no kind of layer alone."""


@dataclass(frozen=True)
class Advice:
    """A segment, the share of the error that it owns under each generator it is advised for, and what may help."""

    segment: str
    kind: str
    shares: tuple[tuple[str, float], ...]
    means: str

    def sentence(self) -> str:
        """Say it in one sentence."""
        owned = ", ".join(f"{percent(share)} of {name.replace('_', ' ')}" for name, share in self.shares)
        return f"{self.segment or 'the model'} ({self.kind}) owns {owned}. Known to help: {self.means}."


def advice(layers: Sequence[tuple[str, report_pb2.Layerwise]]) -> tuple[Advice, ...]:
    """Return what to change first, the segments that own most at the front; empty where none owns enough.

    ``layers`` are (generator, its decomposition). Brightness moves no pixel, so that none of `MEANS` concerns it.
    """
    owned: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for name, found in layers:
        if found.status != "ok" or sum(max(0.0, segment.share) for segment in found.segments) > CANCEL:
            continue
        for segment in found.segments:
            if segment.share >= OWNS and not segment.commutes:
                owned.setdefault((segment.name, segment.kind), []).append((name, segment.share))
    # What owns places comes first: for brightness there is but one advice, whichever layer it is.
    order = sorted(owned.items(), key=lambda item: -max(s if n != "brightness" else 0.0 for n, s in item[1]))[:MOST]
    return tuple(
        Advice(segment, kind, tuple(sorted(shares, key=lambda pair: -pair[1])), _means(kind, shares))
        for (segment, kind), shares in order
    )


def _means(kind: str, shares: Sequence[tuple[str, float]]) -> str:
    return MEANS.get(kind, TRAINING) if any(name != "brightness" for name, _ in shares) else TRAINING


CAVEAT = (
    "This is advice, not a repair: nothing was measured with it. Change, train, and audit again; "
    "`lieaudit gate` says whether it helped."
)
