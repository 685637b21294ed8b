"""How linear ops are transposed: one short rule each, named by their entries.

A rule takes the cotangents of a node's outputs and returns that of one operand: for y = A x it emits Aᵀ u.
"""
