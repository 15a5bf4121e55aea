"""Unnormalised log-densities, with exact answers where they exist."""
