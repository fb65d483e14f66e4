import random

import pytest

from llada.data.tokenizer import train_tokenizer

SENTENCES = [
    "the quick brown fox jumps over the lazy dog",
    "a masked diffusion model reveals its tokens step by step",
    "What is 12 plus 345? It is 357, said the system to the user and the assistant.",
    "def forward(x):\n    return x + 1\n\nMore text after a blank line.\n\n\nAnd more.",
]


@pytest.fixture(scope="session")
def corpus():
    draw = random.Random(0)
    words = " ".join(SENTENCES).split()
    # blank lines before all kinds of text, so that "\n\n" becomes a token and could merge with what follows
    return [*SENTENCES, *(f"\n\n{word}" for word in words), *(" ".join(draw.choices(words, k=30)) for _ in range(20))]


@pytest.fixture(scope="session")
def tokenizer(corpus):
    return train_tokenizer(corpus, 350)
