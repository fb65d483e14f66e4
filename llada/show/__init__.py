"""Showing what a sampler does: in a terminal as it happens, and later from a trace."""
