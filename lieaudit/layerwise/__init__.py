"""Which layer broke it: layerwise attribution that adds up (Gruver et al. 2023, Eq. 5 and 6; docs/layerwise.md)."""

from lieaudit.layerwise.attribution import Attributor, attribute_layers
from lieaudit.layerwise.layers import LayerInfo, layers
from lieaudit.layerwise.preparation import check_layouts

__all__ = ["Attributor", "LayerInfo", "attribute_layers", "check_layouts", "layers"]
