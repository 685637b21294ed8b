"""The algebra of forward-mode differentiation: tangents, and emitting the nodes that compute them."""
