"""Makes transformers' Auto classes and weight loading know LLaDA, without importing transformers early.

`import llada` must stay cheap, and transformers takes about a second. So registration waits until somebody imports
transformers' auto modules: a finder on `sys.meta_path` lets the ordinary import happen and registers right after it.
"""

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


def register_config() -> None:
    """`AutoConfig` builds LLaDAConfig for model_type "llada"."""
    from transformers import AutoConfig

    from llada.model.configuration import LLaDAConfig

    AutoConfig.register("llada", LLaDAConfig, exist_ok=True)


def register_models() -> None:
    """`AutoModel` and `AutoModelForMaskedLM` build LLaDA models: `llada.model.modeling` registers them at its end.

    transformers' `modeling_layers` imports the auto modules half-way through; then this waits until it is complete.
    """
    layers = sys.modules.get("transformers.modeling_layers")
    if layers is None or hasattr(layers, "GradientCheckpointingLayer"):
        importlib.import_module("llada.model.modeling")


_AFTER = {
    "transformers.models.auto.configuration_auto": register_config,
    "transformers.models.auto.modeling_auto": register_models,
    "transformers.modeling_layers": register_models,
}


class _ThenRegister(Loader):
    """The module's own loader, followed by the registration that needs the module."""

    def __init__(self, loader: Loader, name: str):
        self.loader = loader
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _AFTER[self.name]()


class _AutoModuleFinder(MetaPathFinder):
    """Finds only the modules that registration waits for, by the ordinary path search."""

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname in _AFTER else None
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader, fullname)
        return spec


def register_when_imported() -> None:
    """Register now what is imported already, and the rest on its import."""
    for name, register in _AFTER.items():
        if name in sys.modules:
            register()
    sys.meta_path.insert(0, _AutoModuleFinder())
