"""Spaces: two tuples of charts each."""
