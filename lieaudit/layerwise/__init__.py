"""Which layer broke it: layerwise attribution that adds up (Gruver et al. 2023, Eq. 5 and 6; docs/layerwise.md)."""

from lieaudit.layerwise.attribution import INPUT_PER_IMAGE, Attributor, attribute_layers
from lieaudit.layerwise.layers import LayerInfo, layers

__all__ = ["INPUT_PER_IMAGE", "Attributor", "LayerInfo", "attribute_layers", "layers"]
