"""Where the image is in a tensor: axes as products of atoms, and the layouts they make."""
