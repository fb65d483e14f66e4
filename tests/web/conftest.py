"""The small model that the page is tried with, as an object and as a folder."""

from small_model import model, served, tokenizer

__all__ = ["model", "served", "tokenizer"]
