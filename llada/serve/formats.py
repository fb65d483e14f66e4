"""How answers are told: the objects of the OpenAI interface, whole or in pieces."""

import time
import uuid
from abc import ABC, abstractmethod
from typing import Any

from llada import __version__
from llada.serve.replies import Piece, Reply


class Format(ABC):
    """One answer to a request, of one of the two kinds. `diffusion`, which is ours, says what it took."""

    def __init__(self, model: str):
        self._head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": f"llada-{__version__}",
        }

    prefix: str
    whole: str  # name of the object
    part: str

    @abstractmethod
    def choice(self, text: str) -> dict[str, Any]:
        """A whole answer."""

    @abstractmethod
    def opening(self, text: str) -> dict[str, Any]:
        """The first part of an answer in a stream."""

    @abstractmethod
    def growth(self, text: str) -> dict[str, Any]:
        """More of its text."""

    def complete(self, reply: Reply, texts: list[str]) -> dict[str, Any]:
        """The answers with what they took."""
        choices = [
            {"index": index, "finish_reason": choice.finish_reason, "logprobs": None, **self.choice(text)}
            for index, (choice, text) in enumerate(zip(reply.choices, texts, strict=True))
        ]
        return {"object": self.whole, **self._head, "choices": choices, "usage": reply.usage, "diffusion": reply.cost}

    def begin(self, reply: Reply, index: int) -> dict[str, Any]:
        """The first part of an answer in a stream, with the prompt where it is repeated, and the seed."""
        text = reply.request.prompts[index] or ""
        choice = {"index": index, "finish_reason": None, "logprobs": None, **self.opening(text)}
        return self._part(reply, choice) | {"diffusion": {"seed": reply.request.seed}}

    def go_on(self, reply: Reply, piece: Piece) -> dict[str, Any]:
        """Another part of it."""
        growth = self.growth(piece.text)
        return self._part(
            reply, {"index": piece.number, "finish_reason": piece.finish_reason, "logprobs": None, **growth}
        )

    def end(self, reply: Reply) -> dict[str, Any]:
        """What all answers of a stream took."""
        return {**self._part(reply), "usage": reply.usage, "diffusion": reply.cost}

    def _part(self, reply: Reply, *choices: dict[str, Any]) -> dict[str, Any]:
        usage = {"usage": None} if reply.request.include_usage else {}  # null in all parts but the last
        return {"object": self.part, **self._head, "choices": list(choices), **usage}


class Text(Format):
    prefix, whole, part = "cmpl", "text_completion", "text_completion"

    def choice(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def opening(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def growth(self, text: str) -> dict[str, Any]:
        return {"text": text}


class Chat(Format):
    prefix, whole, part = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def choice(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def opening(self, text: str) -> dict[str, Any]:
        return {"delta": {"role": "assistant", "content": text}}

    def growth(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}}
