"""Masked diffusion language models: train, fine-tune, sample, measure.

Importing this is cheap: each public name is imported from its module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from llada.model.registration import register_when_imported

__version__ = "0.1.0"

_PUBLIC = {
    "LLaDAConfig": "llada.model.configuration",
    "LLaDAModel": "llada.model.modeling",
    "LLaDAForMaskedLM": "llada.model.modeling",
    "load_pretrained": "llada.model.checkpoint",
    "forward_process": "llada.train.objective",
    "elbo_loss": "llada.train.objective",
    "fit": "llada.train.loop",
    "evaluate": "llada.train.loop",
    "SamplerConfig": "llada.sampling.config",
    "generate": "llada.sampling.generate",
    "infill": "llada.sampling.generate",
    "denoise": "llada.sampling.denoise",
    "log_likelihood": "llada.eval.likelihood",
    "exact_log_likelihood": "llada.eval.exact",
    "ConfigError": "llada.config",
    "load_config": "llada.config",
}
__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:  # for editors and type checkers, which do not see __getattr__
    from llada.config import ConfigError as ConfigError
    from llada.config import load_config as load_config
    from llada.eval.exact import exact_log_likelihood as exact_log_likelihood
    from llada.eval.likelihood import log_likelihood as log_likelihood
    from llada.model.checkpoint import load_pretrained as load_pretrained
    from llada.model.configuration import LLaDAConfig as LLaDAConfig
    from llada.model.modeling import LLaDAForMaskedLM as LLaDAForMaskedLM
    from llada.model.modeling import LLaDAModel as LLaDAModel
    from llada.sampling.config import SamplerConfig as SamplerConfig
    from llada.sampling.denoise import denoise as denoise
    from llada.sampling.generate import generate as generate
    from llada.sampling.generate import infill as infill
    from llada.train.loop import evaluate as evaluate
    from llada.train.loop import fit as fit
    from llada.train.objective import elbo_loss as elbo_loss
    from llada.train.objective import forward_process as forward_process


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'llada' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_when_imported()
