"""Measuring: baselines and scores."""
