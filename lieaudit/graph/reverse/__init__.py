"""Reverse mode: the tangent graph transposed."""
