"""The small model that is served, as an object and as a folder."""

from small_model import model, served, tokenizer

__all__ = ["model", "served", "tokenizer"]
