"""A conversation in the terminal: what is typed, what it does, and what the model is asked.

A line that begins with a slash is a command, all else is said to the model. Nothing here prints or reads.
"""

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llada.config import ConfigError, apply_overrides
from llada.data.chat import decode_response, encode_prompt
from llada.data.conversations import read_conversations
from llada.durable import check_new_file, publish_file
from llada.model.modeling import LLaDAForMaskedLM
from llada.sampling.config import SamplerConfig
from llada.sampling.denoise import State
from llada.sampling.generate import Generation, account, canvas_of, generate, generation_states
from llada.sampling.predictors import Meter

HELP = """/set KEY VALUE   change the sampler, e.g. /set steps 32
/sampler NAME    take a published sampler, e.g. /sampler semi_autoregressive; KEY=VALUE after it change it
/show            the sampler, and how long the conversation is
/system TEXT     what the model is told before all else; without text: nothing
/again           another answer to the last question
/save FILE       keep the conversation as JSON lines; /load FILE goes on with it
/clear           forget the conversation
/quit            leave, as does the end of input (Ctrl-D)"""


class Effect(NamedTuple):
    """What a line brings about."""

    text: str = ""  # that the program says to it
    asks: bool = False  # the model is to answer
    ends: bool = False


@dataclass
class Session:
    """The conversation so far, and how it goes on."""

    model: LLaDAForMaskedLM
    tokenizer: PreTrainedTokenizerBase
    sampler: SamplerConfig
    seed: int = 0
    messages: list[dict[str, str]] = field(default_factory=list)
    turns: int = 0  # answers that were asked for: each has other random numbers
    _before: list[dict[str, str]] = field(default_factory=list)  # the messages, before what is being answered

    def take(self, line: str) -> Effect:
        """Do what a line says. Raises ValueError or OSError, without any change, where that cannot be done."""
        line = line.strip()
        if not line:
            return Effect()
        self._before = self.messages
        if not line.startswith("/"):
            said = [*self.messages, {"role": "user", "content": line}]
            self._check_room(said)
            self.messages = said
            return Effect(asks=True)
        name, _, rest = line[1:].partition(" ")
        command = _COMMANDS.get(name)
        if command is None:
            raise ValueError(f"/{name} is no command; there are {', '.join('/' + known for known in _COMMANDS)}")
        return command(self, rest.strip())

    def prompt(self) -> Tensor:
        """Tokens (1, P) of the conversation, with the header of the answer."""
        ids = encode_prompt(self.tokenizer, self.messages)
        return torch.tensor([ids], dtype=torch.long, device=self.model.device)

    def answer(self, shown: Callable[[Iterator[State], Tensor, int], Iterator[State]]) -> Generation:
        """Have the model answer, and keep the answer.

        After an interruption the conversation is what it was before the question, which can be said again.

        Args:
            shown: takes the states, the canvas (1, L) they begin with and where the answer begins; passes them on.
        """
        seed = self.seed + self.turns
        try:
            prompt = self.prompt()
            self.turns += 1
            if self.sampler.longest is not None:
                out = generate(self.model, prompt, None, self.sampler, seed)
            else:
                canvas = canvas_of(self.model, prompt, self.sampler)
                meter = Meter.of(prompt)
                states = generation_states(self.model, prompt, None, self.sampler, seed, meter=meter)
                out = account(shown(states, canvas, prompt.shape[1]), canvas, self.model, meter)
        except BaseException:
            self.messages = self._before
            raise
        text = decode_response(self.tokenizer, out.sequences[0, prompt.shape[1] :].tolist())
        self.messages = [*self.messages, {"role": "assistant", "content": text}]
        return out

    def _check_room(self, messages: list[dict[str, str]]) -> None:
        """Raise ValueError where the conversation and an answer exceed what the model holds."""
        length = len(encode_prompt(self.tokenizer, messages))
        longest, most = self.sampler.most_tokens, self.model.config.max_position_embeddings
        if length + longest > most:
            raise ValueError(
                f"the conversation has {length} tokens, which with {longest} for the answer are more than the model's "
                f"{most}; /clear it, say less, or /set {self.sampler.length_field} to less"
            )

    def _set(self, rest: str) -> Effect:
        key, _, value = rest.replace("=", " ", 1).partition(" ")
        if not key or not value.strip():
            raise ValueError("give a field of the sampler and its value, such as /set steps 32")
        changed = apply_overrides(self.sampler.model_dump(exclude_unset=True), [f"{key}={value.strip()}"])
        return self._take_sampler(SamplerConfig(**changed))

    def _named(self, rest: str) -> Effect:
        try:
            name, *fields = shlex.split(rest)
        except ValueError:  # nothing, or a quote without an end
            raise ValueError(
                f"/sampler {rest}: give the name of a sampler and what is changed in it, such as daedal longest=64"
            ) from None
        values = SamplerConfig.values_of(name, gen_length=self.sampler.gen_length)
        return self._take_sampler(SamplerConfig(**apply_overrides(values, fields)))

    def _take_sampler(self, sampler: SamplerConfig) -> Effect:
        sampler.check_lengths()
        most = self.model.config.max_position_embeddings
        if sampler.most_tokens >= most:
            raise ConfigError(
                f"{sampler.length_field}={sampler.most_tokens} leaves no room for a question in the model's {most} "
                f"positions; set it to less, with /set or with /sampler NAME {sampler.length_field}=NUMBER"
            )
        self.sampler = sampler
        return Effect(f"sampler: {_described(sampler)}")

    def _show(self) -> Effect:
        asked = self.messages if self.messages and self.messages[-1]["role"] == "user" else None
        tokens = len(encode_prompt(self.tokenizer, asked or [*self.messages, {"role": "user", "content": "?"}]))
        most = self.model.config.max_position_embeddings
        return Effect(
            f"sampler: {_described(self.sampler)}\n{len(self.messages)} messages, about {tokens} of {most} tokens"
        )

    def _system(self, rest: str) -> Effect:
        others = [message for message in self.messages if message["role"] != "system"]
        told = [{"role": "system", "content": rest}, *others] if rest else others
        if others:
            self._check_room(told)
        self.messages = told
        return Effect(f"the model is told: {rest}" if rest else "nothing is told before the conversation")

    def _again(self) -> Effect:
        if not self.messages or self.messages[-1]["role"] != "assistant":
            raise ValueError("there is no answer yet that could be given anew; ask something")
        encode_prompt(self.tokenizer, self.messages[:-1])  # of a loaded conversation, what it answers may be missing
        self.messages = self.messages[:-1]
        return Effect(asks=True)

    def _save(self, rest: str) -> Effect:
        if not rest:
            raise ValueError("give a file, such as /save conversation.jsonl")
        if not self.messages:
            raise ValueError("there is nothing to save yet; ask something")
        path = Path(rest)
        check_new_file(path)
        publish_file(path, json.dumps({"messages": self.messages}, ensure_ascii=False).encode() + b"\n")
        return Effect(f"saved {len(self.messages)} messages in {path}")

    def _load(self, rest: str) -> Effect:
        if not rest:
            raise ValueError("give a file, such as /load conversation.jsonl")
        loaded = [dict(message) for message in next(iter(read_conversations(rest)))]
        if loaded[-1]["role"] == "user":
            loaded.pop()  # it has no answer, and can be said again
        self._check_room([*loaded, {"role": "user", "content": "?"}])
        self.messages = loaded
        return Effect("\n".join(f"{message['role']}: {message['content']}" for message in loaded))

    def _clear(self) -> Effect:
        self.messages = [message for message in self.messages if message["role"] == "system"]
        return Effect("forgotten" + (", but for what is told before it (/system)" if self.messages else ""))


def _described(sampler: SamplerConfig) -> str:
    return ", ".join(f"{name}={value}" for name, value in sampler.model_dump(exclude_unset=True).items()) or "default"


def _alone(command: Callable[[Session], Effect]) -> Callable[[Session, str], Effect]:
    """A command that nothing follows."""

    def taken(session: Session, rest: str) -> Effect:
        if rest:
            raise ValueError(f"nothing follows this command; leave out {rest!r}")
        return command(session)

    return taken


_COMMANDS: dict[str, Callable[[Session, str], Effect]] = {
    "set": Session._set,
    "sampler": Session._named,
    "show": _alone(Session._show),
    "system": Session._system,
    "again": _alone(Session._again),
    "save": Session._save,
    "load": Session._load,
    "clear": _alone(Session._clear),
    "help": _alone(lambda session: Effect(HELP)),
    "quit": _alone(lambda session: Effect(ends=True)),
}
