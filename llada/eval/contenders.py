"""The two sides of a comparison: loaded, shown to speak of the same tokens, and described."""

from typing import Any, NamedTuple, cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from llada.data.tokenizer import tokenizer_hash
from llada.eval.arguments import Source
from llada.eval.causal import Causal
from llada.eval.identity import identity
from llada.eval.processes import Processes, dtype_of, load, present
from llada.model.baseline import load_autoregressive
from llada.model.checkpoint import is_autoregressive
from llada.model.modeling import LLaDAForMaskedLM


class Contender(NamedTuple):
    """A model, whether it is a mask predictor or an autoregressive baseline."""

    name: str
    model: LLaDAForMaskedLM | Causal
    tokenizer: PreTrainedTokenizerBase

    @property
    def network(self) -> PreTrainedModel:
        return self.model.network if isinstance(self.model, Causal) else self.model

    @property
    def is_exact(self) -> bool:
        """Whether what is said of it is its likelihood, and not a bound on it."""
        return isinstance(self.model, Causal)

    def description(self) -> dict[str, Any]:
        """What it is, to be kept beside a result."""
        kind = "negative log-likelihood" if self.is_exact else "upper bound on the negative log-likelihood"
        return {"path": self.name, "number": kind} | identity(self.network, self.tokenizer)


def load_contender(source: Source, processes: Processes) -> Contender:
    """The model that a checkpoint holds, on the device of this process. Raises as `load_pretrained`."""
    if not is_autoregressive(source.pretrained):
        return Contender(source.pretrained, *load(source, processes))
    model, tokenizer = load_autoregressive(source.pretrained, dtype=dtype_of(source))
    model.to(processes.device)  # pyright: ignore[reportArgumentType]
    return Contender(source.pretrained, Causal(model), present(tokenizer, source))


def common_room(first: Contender, second: Contender, length: int | None) -> int:
    """The tokens of a row that both can hold, or `length` of them.

    Raises ValueError where their tokens are not the same, so that nats per token are not, and where one cannot hold so
    many.
    """
    hashes = [tokenizer_hash(cast(PreTrainedTokenizerFast, each.tokenizer)) for each in (first, second)]
    if hashes[0] != hashes[1]:
        raise ValueError(
            f"{first.name} and {second.name} have different tokenizers (hashes {hashes[0][:12]} and {hashes[1][:12]}), "
            "so that their nats per token are not of the same tokens; compare models of one tokenizer"
        )
    most = min(int(each.network.config.max_position_embeddings) for each in (first, second))
    if length is not None and not 1 <= length <= most:
        raise ValueError(f"length={length} must be 1 to {most}, what both models hold")
    return most if length is None else length
