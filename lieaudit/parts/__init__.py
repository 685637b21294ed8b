"""Outputs that move: boxes, points, maps of displacements, angles, beside scores that do not.

An output is a set of named parts, each with a representation of the symmetry: L F = DF[X x] − X' F in the part's own
unit, never summed over parts (docs/parts.md).

* `lieaudit.parts.text`: the text of a part, read
* `lieaudit.parts.binding`: parts on the outputs of a model, every slice checked
* `lieaudit.parts.representations`: X' F of each kind
* `lieaudit.parts.derivative`: L F of a part, with its numerical error
"""

from lieaudit.parts.binding import BoundParts, Reading, bind, outputs_of
from lieaudit.parts.derivative import PartDerivative, PartRows, part_derivative
from lieaudit.parts.representations import REPRESENTATIONS, Frame
from lieaudit.parts.text import PartText, read_part, read_parts

__all__ = [
    "REPRESENTATIONS",
    "BoundParts",
    "Frame",
    "PartDerivative",
    "PartRows",
    "PartText",
    "Reading",
    "bind",
    "outputs_of",
    "part_derivative",
    "read_part",
    "read_parts",
]
