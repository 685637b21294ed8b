"""Directional derivatives of the model's raw outputs, one method a module."""
