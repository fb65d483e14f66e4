"""Masked diffusion language models: train, fine-tune, sample, measure."""

__version__ = "0.1.0"
