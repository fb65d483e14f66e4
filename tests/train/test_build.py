"""From a configuration to the parts of a run: every setting arrives where it acts."""

import pytest

from llada.config import ConfigError
from llada.train.build import parts, place, processes
from llada.train.config import PretrainConfig


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_model_is_placed_as_the_configuration_says(checkpointing, ema, settings):
    config = PretrainConfig(**settings | {"output": "x", "gradient_checkpointing": checkpointing, "ema": ema})
    run = place(parts(config), processes(config))
    assert run.trained.model.is_gradient_checkpointing == checkpointing
    assert (run.trained.average is not None) == (ema is not None)
    assert run.parts.batches.noise.random_length == 0.2
    assert len(run.parts.heldout) == 8


def test_tracker_that_is_not_installed_is_named(settings, monkeypatch):
    monkeypatch.setattr("llada.train.build.find_spec", lambda name: None)
    config = PretrainConfig(**settings | {"output": "x", "trackers": ["wandb"]})
    with pytest.raises(ConfigError, match="trackers: wandb is not installed; `pip install wandb`"):
        processes(config)
