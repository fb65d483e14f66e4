"""From a configuration to the parts of a run: every setting arrives where it acts."""

import pytest
from console import llada

from llada.config import ConfigError
from llada.data.tokens import TokenRows
from llada.train.build import inputs_of, parts, place, processes
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


def built(settings, **changes):
    return parts(PretrainConfig(**settings | {"output": "x"} | changes))


def test_splits_and_document_masks_arrive_in_the_batches(settings):
    def masks(made):
        return [b.call.inputs["attention_mask"] for (b, *_) in made.batches.micro_batches(0, 1, 0, 9)]

    lengths = {"length": 64, "random_length": 0.0}
    assert all(mask is None for mask in masks(built(settings, **lengths)))
    for changes in ({"document_mask": True}, {"split": 0.5}):
        assert any(mask is not None and mask.ndim == 4 for mask in masks(built(settings, **lengths | changes)))
    made = built(settings, **lengths | {"document_mask": True})
    assert {"x0", "documents"} == made.heldout[0].keys()
    assert built(settings, **lengths | {"split": 0.3}).batches.noise.split == 0.3


def test_split_takes_the_place_of_random_lengths(settings):
    with pytest.raises(ConfigError, match=r"split=0.3 takes the place of random_length=0.2; set random_length=0"):
        built(settings, split=0.3)


@pytest.mark.parametrize("changes", [{"document_mask": True}, {"split": 0.3, "random_length": 0.0}])
def test_blocks_and_documents_exclude_each_other(settings, changes):
    with pytest.raises(ConfigError, match=r"are for attention without blocks; set model.block_length=null"):
        built(settings, model=settings["model"] | {"block_length": 8}, **changes)


@pytest.fixture
def second(corpus, prepared, tmp_path, monkeypatch):
    llada(monkeypatch, "prepare", corpus, tmp_path / "second", "--tokenizer", prepared / "tokenizer", "--heldout", 0.4)
    return tmp_path / "second"


def test_corpora_are_mixed_in_the_given_proportions(settings, prepared, second):
    made = built(settings, data={str(prepared): 3, str(second): 1}, evaluate_rows=None)
    sizes = [len(TokenRows(folder / "train", 32)) for folder in (prepared, second)]
    assert len(made.batches.rows) == sum(sizes)
    first_batch = made.batches.visits(0)[:8]
    assert (first_batch < sizes[0]).sum() == 6
    heldout = [len(TokenRows(folder / "heldout", 32)) for folder in (prepared, second)]
    assert len(made.heldout) == heldout[0] + round(heldout[0] / 3)  # the first corpus ends first


def test_corpora_of_other_tokenizers_and_folders_without_are_refused(settings, prepared, corpus, tmp_path, monkeypatch):
    llada(monkeypatch, "prepare", corpus, tmp_path / "other", "--vocab-size", 280, "--heldout", 0.1)
    with pytest.raises(ValueError, match="was written with another tokenizer"):
        built(settings, data={str(prepared): 0.5, str(tmp_path / "other"): 0.5})
    with pytest.raises(ConfigError, match="data='nowhere' has no tokenizer"):
        built(settings, data={str(prepared): 0.5, "nowhere": 0.5})


def test_weights_that_make_no_mixture_are_refused(settings, prepared):
    for weight in (0, -1, float("inf")):
        with pytest.raises(ConfigError, match="data"):
            built(settings, data={str(prepared): 1, "x": weight})
    with pytest.raises(ConfigError, match="weights need at least two folders; name a single one without weight"):
        built(settings, data={str(prepared): 1})


def test_inputs_are_all_folders():
    config = {"output": "x", "steps": 1, "batch_size": 1, "length": 8, "model": {}, "optim": {"learning_rate": 1.0}}
    assert inputs_of(PretrainConfig(**config, data={"a": 1, "b": 2.5})) == ["a", "b"]
    assert inputs_of(PretrainConfig(**config, data="a")) == ["a"]


@pytest.mark.parametrize("objective", ["cart", "autoregressive", "block_diffusion"])
def test_objectives_that_cannot_hide_documents_are_refused(settings, objective):
    settings = {name: value for name, value in settings.items() if name != "masking"}
    with pytest.raises(ConfigError, match=f"document_mask and split do not go with objective: {objective}"):
        built(settings, objective=objective, document_mask=True)
