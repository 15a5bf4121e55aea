"""Heads: parameterised densities in chart coordinates."""
