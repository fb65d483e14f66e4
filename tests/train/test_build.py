"""From a configuration to the parts of a run: every setting arrives where it acts."""

import pytest

from llada.config import ConfigError
from llada.train.build import parts, place, processes
from llada.train.config import PretrainConfig
from llada.train.run import steps_of
from llada.train.state import Position, fingerprint


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_model_is_placed_as_the_configuration_says(checkpointing, ema, settings):
    config = PretrainConfig(**settings | {"output": "x", "gradient_checkpointing": checkpointing, "ema": ema})
    run = place(parts(config), processes(config))
    assert run.trained.model.is_gradient_checkpointing == checkpointing
    assert (run.trained.average is not None) == (ema is not None)
    assert run.parts.batches.noise.random_length == 0.2
    assert len(run.parts.heldout) == 8


@pytest.mark.parametrize("compiled", [False, True])
def test_blocks_are_compiled_on_request(compiled, settings):
    """Here only that it is asked for; `test_compiled_training_is_the_same_training` waits for the compiler."""
    config = PretrainConfig(**settings | {"output": "x", "compile": compiled})
    blocks = place(parts(config), processes(config)).trained.model.model.layers
    assert [block._compiled_call_impl is not None for block in blocks] == [compiled] * len(blocks)


@pytest.mark.slow
def test_compiled_training_is_the_same_training(settings):
    losses = []
    for compiled in (False, True):
        config = PretrainConfig(**settings | {"output": "x", "compile": compiled})
        run = place(parts(config), processes(config))
        losses.append([log.loss for log in steps_of(run, Position(data=fingerprint(run.parts.batches.rows)))])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0] != losses[1]  # other kernels round in another way


def test_tracker_that_is_not_installed_is_named(settings, monkeypatch):
    monkeypatch.setattr("llada.train.build.find_spec", lambda name: None)
    config = PretrainConfig(**settings | {"output": "x", "trackers": ["wandb"]})
    with pytest.raises(ConfigError, match="trackers: wandb is not installed; `pip install wandb`"):
        processes(config)
