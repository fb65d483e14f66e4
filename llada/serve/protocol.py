"""From the bodies of requests to the answers that they ask for.

The names are those of the OpenAI interface; beside them stand the fields of `SamplerConfig`, which clients send as
`extra_body`, and `sampler`, the name of a published one. A field that cannot act is refused by name.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from transformers import PreTrainedTokenizerBase

from llada.config import ConfigError
from llada.data.chat import encode_prompt
from llada.data.tokenizer import encode
from llada.sampling.config import SamplerConfig
from llada.sampling.passes import most_passes
from llada.serve.bodies import ANY, LONGEST_LIST, WITHOUT_EFFECT, Body, ChatBody, CompletionBody
from llada.serve.errors import RequestError
from llada.serve.lengths import continuing, filling
from llada.serve.limits import Limits

BodyT = TypeVar("BodyT", bound=Body)


@dataclass(frozen=True)
class Asked:
    """One answer that is asked for."""

    prompt: list[int]
    suffix: list[int] | None  # what follows the gap that is filled; None: the prompt is continued
    most: int  # tokens of the answer
    sampler: SamplerConfig
    seed: int
    row: int  # which of the answers to the request it is: each has other random numbers


@dataclass(frozen=True)
class Request:
    """All answers that one body asks for."""

    asked: list[Asked]  # those to the first prompt, then those to the second, ...
    prompts: list[str | None]  # of each answer, where they are to be repeated before it
    prompt_tokens: int
    seed: int
    stops: list[str]
    stream: bool
    include_usage: bool


@dataclass(frozen=True)
class Reader:
    """Bodies → requests, for one model."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    mask_token_id: int
    ends: Sequence[int]  # tokens that end a text
    context: int  # tokens of prompt and answer
    sampler: SamplerConfig  # of requests that say nothing else
    limits: Limits

    def check(self) -> None:
        """Raise ConfigError where a request that says nothing else would be refused."""
        length = self.sampler.most_tokens
        if length > self.context:
            raise ConfigError(
                f"the sampler of the server writes {length} tokens, more than the model's {self.context}; set a "
                f"smaller {self.sampler.length_field}"
            )
        try:
            self._sampler(None, {}, length)
        except RequestError as error:
            raise ConfigError(
                f"the sampler of the server is refused by its own limits: {error}; change the sampler or the limits"
            ) from None

    def completion(self, body: object, seed: int) -> Request:
        """Of `/v1/completions`; the seed is that of a body without one. Raises RequestError."""
        read, fields = self._read(CompletionBody, body)
        prompts = _prompts(read.prompt)
        self._check_choices(len(prompts), read.n)
        ids = [self._ids(prompt) for prompt in prompts]
        suffix = None if read.suffix is None else self._encoded(read.suffix, "suffix")
        request = self._request(read, fields, read.max_tokens, ids, suffix, seed)
        if not read.echo:
            return request
        return replace(request, prompts=[self._text(prompt) for prompt in prompts for _ in range(read.n)])

    def chat(self, body: object, seed: int) -> Request:
        """Of `/v1/chat/completions`."""
        read, fields = self._read(ChatBody, body)
        most = read.max_completion_tokens
        if most is not None and read.max_tokens is not None:
            raise RequestError(
                400, "max_tokens and max_completion_tokens say the same; give one of them", param="max_tokens"
            )
        self._check_choices(1, read.n)
        messages = [message.plain for message in read.messages]
        try:
            ids = encode_prompt(self.tokenizer, messages)
        except ValueError as error:
            raise RequestError(400, str(error), param="messages") from None
        return self._request(read, fields, most or read.max_tokens, [ids], None, seed)

    def _read(self, schema: type[BodyT], body: object) -> tuple[BodyT, dict[str, Any]]:
        """The body, and the fields of the sampler that it gives."""
        if not isinstance(body, dict):
            raise RequestError(400, f"the body is a {type(body).__name__}; send a JSON object")
        given = {key: value for key, value in body.items() if value is not None}
        for key in given:
            self._check_key(key, given[key], schema)
        fields = {key: value for key, value in given.items() if key in _SAMPLER}
        try:
            read = schema(**{key: value for key, value in given.items() if key in schema.model_fields})
        except ConfigError as error:
            raise RequestError(400, str(error)) from None
        if read.model != self.name:
            raise RequestError(404, f"there is no model {read.model[:200]!r} here; it is {self.name!r}", param="model")
        if read.stream_options is not None and not read.stream:
            raise RequestError(400, "stream_options has no effect without stream", param="stream_options")
        return read, fields

    def _check_key(self, key: str, value: object, schema: type[Body]) -> None:
        if key in _SAMPLER and isinstance(value, list) and len(value) > LONGEST_LIST:
            raise RequestError(
                400, f"{key} has {len(value)} items, more than the {LONGEST_LIST} allowed; send fewer", param=key
            )
        if key in schema.model_fields or key in _SAMPLER:
            return
        if key in _ELSEWHERE:
            raise RequestError(400, f"{key}: {_ELSEWHERE[key]}", param=key)
        if key not in WITHOUT_EFFECT:
            near = difflib.get_close_matches(key[:200], [*schema.model_fields, *_SAMPLER], n=1)
            hint = f"did you mean {near[0]!r}?" if near else "leave it out"
            raise RequestError(400, f"unknown field {key[:200]!r}; {hint}", param=key[:200])
        allowed = WITHOUT_EFFECT[key]
        if ANY not in allowed and not any(type(value) in (type(a), float) and value == a for a in allowed):
            raise RequestError(400, f"{key} is not supported here; leave it out", param=key)

    def _check_choices(self, prompts: int, n: int) -> None:
        """Raise RequestError for too many answers, before anything is done for each."""
        most = min(self.limits.choices, self.limits.waiting)
        if prompts * n > most:
            raise RequestError(
                400,
                f"{prompts} prompts × n={n} are {prompts * n} answers, more than the {most} that this server allows in "
                "a request",
            )

    def _request(
        self,
        body: Body,
        fields: dict[str, Any],
        most: int | None,
        prompts: Sequence[list[int]],
        suffix: list[int] | None,
        seed: int,
    ) -> Request:
        seed = seed if body.seed is None else body.seed
        most = most or self.sampler.most_tokens
        starts = None if suffix is None else {len(ids) for ids in prompts}
        sampler = self._sampler(body.sampler, fields, most, starts)
        longest = most if suffix is not None else sampler.most_tokens
        for ids in prompts:
            tokens = len(ids) + len(suffix or ())
            if tokens + longest > self.context:
                raise RequestError(
                    400,
                    f"{tokens} tokens of the prompt and {longest} of the answer are more than the model's "
                    f"{self.context}; shorten the prompt, or ask for fewer max_tokens",
                )
        rows = [ids for ids in prompts for _ in range(body.n)]
        asked = [Asked(ids, suffix, most, sampler, seed, row) for row, ids in enumerate(rows)]
        tokens = sum(len(ids) + len(suffix or ()) for ids in prompts)
        usage = body.stream_options is not None and body.stream_options.include_usage
        return Request(asked, [None] * len(rows), tokens, seed, body.stops, body.stream, usage)

    def _sampler(
        self, name: str | None, fields: dict[str, Any], most: int, gaps: Iterable[int] | None = None
    ) -> SamplerConfig:
        """The sampler of a request for so many tokens, whose canvas is as many whole blocks as they need.

        It fills gaps that begin at these positions, or, without any, continues a text.
        """
        # clients' way of saying that nothing is cut off
        if type(fields.get("top_p")) in (int, float) and fields["top_p"] == 1:
            fields = {**fields, "top_p": None}
        if most > self.limits.tokens:
            raise RequestError(400, f"max_tokens={most} exceeds the {self.limits.tokens} that this server allows")
        try:
            chosen = self.sampler if name is None else SamplerConfig.named(_published(name))
            sampler = SamplerConfig(**(continuing if gaps is None else filling)(chosen, fields, most))
            sampler = sampler if gaps is None else sampler.between_texts(self.ends)
        except ConfigError as error:
            raise RequestError(400, str(error)) from None
        length = most if gaps is not None else sampler.most_tokens
        if length > self.limits.tokens:
            raise RequestError(
                400,
                f"max_tokens={most} in whole blocks of block_length={sampler.block_length} are {length} tokens, more "
                f"than the {self.limits.tokens} that this server allows; ask for fewer, or for smaller blocks",
            )
        passes = max(most_passes(sampler, range(start, start + length)) for start in (gaps or (0,)))
        if passes > self.limits.passes:
            raise RequestError(
                400,
                f"this sampler may call the model {passes} times, more than the {self.limits.passes} that this server "
                "allows; ask for fewer max_tokens or steps",
            )
        return sampler

    def _ids(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return self._encoded(prompt, "prompt")
        known = len(self.tokenizer)
        for token in prompt:
            if token >= known or token == self.mask_token_id:
                raise RequestError(400, f"token {token} is not one of the {known} tokens of text", param="prompt")
        return prompt

    def _encoded(self, text: str, param: str) -> list[int]:
        try:
            return encode(self.tokenizer, text)
        except ValueError as error:
            raise RequestError(400, str(error), param=param) from None

    def _text(self, prompt: str | list[int]) -> str:
        return prompt if isinstance(prompt, str) else str(self.tokenizer.decode(prompt))


def _prompts(given: str | list[str] | list[int] | list[list[int]]) -> list[str] | list[list[int]]:
    """One prompt or several as several; an empty list is the prompt without tokens."""
    if isinstance(given, str):
        return [given]
    if given and not isinstance(given[0], int):
        return cast(list[str] | list[list[int]], given)
    return [cast(list[int], given)]


def _published(name: str) -> str:
    if name.endswith(".yaml"):
        raise RequestError(400, "sampler is the name of a published sampler here, not a file", param="sampler")
    return name


_ELSEWHERE = {
    "gen_length": "is max_tokens here",
    "longest": "is max_tokens here, with a sampler that finds its own length, such as sampler: daedal",
    "background": "names a file of the server, which it alone can choose",
}
_SAMPLER = SamplerConfig.model_fields.keys() - _ELSEWHERE.keys()
