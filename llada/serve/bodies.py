"""The bodies of requests: the fields of the OpenAI interface that this server knows, their types and ranges."""

from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from llada.config import Schema
from llada.sampling.config import Whole

ANY = object()
# what clients send without meaning it, and the values at which it changes nothing
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "user": (ANY,),
    "metadata": (ANY,),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "best_of": (1,),
    "logprobs": (False,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (ANY,),
}
# in messages, answers have them beside their texts, and clients send answers back as they are
NOTHING_INSIDE = {"refusal", "annotations", "audio", "function_call", "tool_calls", "name"}
Stop = Annotated[str, Field(min_length=1, max_length=256)]
# a list is read up to its first mistake, as there may be a million
Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=2**20, fail_fast=True)]
Texts = Annotated[list[str], Field(min_length=1, fail_fast=True)]
IdLists = Annotated[list[Ids], Field(min_length=1, fail_fast=True)]
LONGEST_LIST = 4096  # of a field of the sampler


class Inner(Schema):
    """Of a body. What is null in it is as if it were not there, and what of NOTHING_INSIDE is empty, too."""

    @model_validator(mode="before")
    @classmethod
    def _meant(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        empty = [key for key in given if given[key] is None or (key in NOTHING_INSIDE and given[key] in ("", [], {}))]
        unknown = (key for key in given if key not in cls.model_fields and key not in empty)
        told = set(islice(unknown, 10))  # which are refused, and there may be many
        return {key: given[key] for key in given if key in told or (key in cls.model_fields and key not in empty)}


class StreamOptions(Inner):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False  # nothing is added to hide how long the parts are


class Body(Schema):
    """What both kinds of requests have."""

    model: str
    n: Whole = 1
    max_tokens: Whole | None = None  # None: as many as the server's sampler writes, also with another one
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None  # None: another one each time
    stop: Stop | Annotated[list[Stop], Field(max_length=4, fail_fast=True)] = Field(default_factory=list)
    stream: bool = False
    stream_options: StreamOptions | None = None
    sampler: str | None = None  # of configs/sampling; None: the server's

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop


class CompletionBody(Body):
    """`/v1/completions`: texts, or tokens, to be continued, or with `suffix` a gap to be filled."""

    prompt: str | Ids | Texts | IdLists
    suffix: str | None = None
    echo: bool = False


class Part(Inner):
    """Of a message."""

    type: Literal["text"]
    text: str


class Message(Inner):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(max_length=1024, fail_fast=True)]

    @property
    def plain(self) -> dict[str, str]:
        """With the content as one text, and roles that the layout has."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class ChatBody(Body):
    """`/v1/chat/completions`: a conversation that the model is to go on with."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1024, fail_fast=True)]
    max_completion_tokens: Whole | None = None
