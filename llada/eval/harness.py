"""LLaDA as a model of lm-evaluation-harness: likelihoods by the bound, texts by any sampler.

Importing this registers it under the names `llada` and, as the original, `llada_dist`, and our checks as metrics. Every
response is a function of the settings and of what was asked: not of the batch size, the order of requests or the number
of processes, up to rounding.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import simple_parse_args_string
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llada.data.tokenizer import encode
from llada.eval.arguments import Settings, check_guidance, read_arguments, read_gen_kwargs
from llada.eval.check_metrics import register_checks
from llada.eval.crew import Crew, Work
from llada.eval.processes import Processes, load
from llada.eval.respond import Pair, Prompt
from llada.eval.responses import Response, Responses, key_of
from llada.eval.scoring import check_request, request_of
from llada.eval.texts import encode_context, encode_pair, rendered
from llada.model.modeling import LLaDAForMaskedLM

_LOG = logging.getLogger(__name__)


class LLaDAHarness(LM):
    """A model, how it is asked, and what it has answered.

    Where lm_eval itself is started by torchrun or `accelerate launch`, it runs in every process and hands out the
    documents. It then draws other examples for them than in one process; `llada.eval.evaluation` does not.
    """

    def __init__(
        self,
        model: LLaDAForMaskedLM,
        tokenizer: PreTrainedTokenizerBase,
        settings: Settings | None = None,
        crew: Crew | None = None,
        processes: Processes | None = None,
    ):
        """Args: crew: who answers; None: this process. processes: in each of which lm_eval runs, and hands out."""
        super().__init__()
        self.model, self.tokenizer = model.eval(), tokenizer
        self.settings = Settings() if settings is None else settings
        self._processes = Processes(str(model.device)) if processes is None else processes
        if crew is None:
            alone, first = Processes(str(model.device), alone=True), self._processes.rank == 0
            crew = Crew(model, tokenizer, Responses(), alone, watched=first)
        self._crew, self.responses = crew, crew.responses
        self._rank, self._world_size, self._device = self._processes.rank, self._processes.count, model.device
        most = int(model.config.max_position_embeddings)
        self.max_length = self.settings.max_length or most
        if self.max_length > most:
            raise ValueError(f"max_length={self.max_length} exceeds the model's {most} tokens")

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Self:
        """A model from `name=value,name=value`, as for `read_arguments`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> Self:
        """A model from its arguments, as for `read_arguments`; those of lm_eval's own options where not among them."""
        source, settings = read_arguments({**(additional_config or {}), **arg_dict})
        processes = Processes(source.device)
        return cls(*load(source, processes), settings, processes=processes)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """A lower bound on log p(continuation | context) in nats, and whether greedy decoding writes it.

        The latter costs a call of the network per token. Without `check_greedy` it is found out where a document has
        one continuation, as accuracy is made of it there, and false where it has several to choose from.
        """
        check_guidance(self.settings.sampler)
        continuations: dict[tuple[Any, ...], set[Any]] = {}
        for one in requests:
            continuations.setdefault((one.task_name, one.doc_id), set()).add(one.args)
        scored: dict[str, Pair] = {}
        decoded: dict[str, Pair] = {}
        for one in requests:
            checked = self.settings.check_greedy
            if checked is None:
                checked = len(continuations[one.task_name, one.doc_id]) == 1
            for kind, asked in (("loglikelihood", scored), ("greedy", decoded))[: 1 + checked]:
                key = key_of(kind, one.args)
                if self.responses.find(key) is None and key not in asked:
                    asked[key] = self._pair(one)
        self._crew.answer(Work("likelihoods", scored, self.settings))
        self._crew.answer(Work("greedy answers", decoded, self.settings))
        self._warn([self._known("loglikelihood", one.args) for one in requests])
        greedy = [self.responses.find(key_of("greedy", one.args)) for one in requests]
        values = [self._known("loglikelihood", one.args)["value"] for one in requests]
        return [(value, known is not None and known["greedy"]) for value, known in zip(values, greedy, strict=True)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """A lower bound on log p of each text in nats."""
        if self.settings.sampler.cfg_scale:
            raise ValueError("cfg_scale has no meaning for a whole text, which has no prompt to guide by; leave it out")
        texts: dict[str, list[int]] = {}
        for one in requests:
            key = key_of("loglikelihood_rolling", one.args)
            if self.responses.find(key) is None and key not in texts:
                with _named(one):
                    (text,) = one.args
                    texts[key] = encode(self.tokenizer, text)
                    if not texts[key]:
                        raise ValueError("the text is empty, so it has no perplexity; leave it out")
        self._crew.answer(Work("likelihoods of texts", texts, self.settings))
        return [self._known("loglikelihood_rolling", one.args)["value"] for one in requests]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """What the sampler writes after each context, up to a stop string, the end of the turn or of the text."""
        draws: Counter[tuple[str | None, int | None, int]] = Counter()
        prompts: dict[str, Prompt] = {}
        keys = []
        for one in requests:
            place = (one.task_name, one.doc_id, one.idx)
            keys.append(key_of("generate_until", one.args, draws[place] % (one.repeats or 1)))
            draws[place] += 1  # lm_eval asks more often than that to give all processes equally many
            if self.responses.find(keys[-1]) is None and keys[-1] not in prompts:
                with _named(one):
                    how = read_gen_kwargs(self.settings.sampler, one.arguments[1])
                    context = encode_context(self.tokenizer, one.arguments[0])
                    kept = self._fitted(context, how.sampler.most_tokens)
                    prompts[keys[-1]] = Prompt(kept, len(context) - len(kept), how)
        self._crew.answer(Work("texts", prompts, self.settings))
        found = [response for key in keys if (response := self.responses.find(key)) is not None]
        self._warn(found)
        return [response["text"] for response in found]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return rendered(self.tokenizer, chat_history, add_generation_prompt=add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str:
        if isinstance(chat_template, str):
            raise ValueError(f"chat_template={chat_template!r}: the tokenizer has one template; give true")
        return str(self.tokenizer.chat_template) if chat_template else ""

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def all_gather(self, tensor: Tensor) -> Tensor:
        return self._processes.all_gather(tensor)

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any]:
        return self._processes.gather_object(obj, dst)

    def barrier(self) -> None:
        self._processes.barrier()

    def _pair(self, one: Instance) -> Pair:
        with _named(one):
            before, after = encode_pair(self.tokenizer, *one.args)
            check_request(self.model, request_of([], after))  # before its context is cut to what it leaves
            kept = self._fitted(before, len(after))
            return Pair(request_of(kept, after), len(before) - len(kept))

    def _fitted(self, context: list[int], answer: int) -> list[int]:
        """The end of a context, as much of it as an answer of so many tokens leaves room for."""
        room = self.max_length - answer
        if room < bool(context):
            raise ValueError(
                f"an answer of {answer} tokens leaves no room for a prompt in max_length={self.max_length}; set a "
                "smaller gen_length (or longest, or the task's max_gen_toks), or take a model that holds more"
            )
        return context[max(0, len(context) - room) :]

    def _known(self, kind: str, args: tuple[Any, ...]) -> Response:
        response = self.responses.find(key_of(kind, args))
        assert response is not None
        return response

    def _warn(self, responses: Sequence[Response]) -> None:
        dropped = [response["dropped"] for response in responses if response["dropped"]]
        if dropped:
            _LOG.warning(
                f"{len(dropped)} of {len(responses)} contexts were longer than the model holds; of the longest one the "
                f"first {max(dropped)} tokens were dropped"
            )


@contextmanager
def _named(one: Instance) -> Iterator[None]:
    """Say of which document an error is."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"task {one.task_name}, document {one.doc_id}: {error}") from error


register_model("llada", "llada_dist")(LLaDAHarness)  # as a decorator it would hide its parameters from type checkers
register_checks()
