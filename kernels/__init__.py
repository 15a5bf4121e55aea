"""Concrete reference kernels (spaces) and densities (heads)."""
