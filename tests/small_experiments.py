"""Overrides with which an experiment takes a second."""

import json

from lessons import LESSON, RECIPE

CHAINS = [f"lesson={json.dumps(LESSON)}", "questions=2"]
SCALED = {"length": 16, "steps": 3, "batch_size": 2, "evaluate_every": 1, "evaluate_rows": 4}
MODEL = "model={d_model: 16, n_layers: 1, n_heads: 2, mlp_hidden_size: 32}"
SMALL = {
    "samplers": [*CHAINS, "gen_length=16", "steps=[4]", "samplers={a: {block_length: 8}}"],
    "order": [*CHAINS, "gen_length=16", "samplers={a: {block_length: 8}}"],
    "steps": [*CHAINS, "gen_length=16", "steps=[2]", "samplers={a: {}}", "thresholds=[0.9]"],
    **{name: [*CHAINS, "gen_lengths=[4]", "samplers={a: {}}"] for name in ("length", "flood")},
    "guidance": [*CHAINS, "gen_length=4", "scales=[0.5]", "samplers={a: {}}"],
    "efficiency": [*CHAINS, "gen_length=4", "samplers={a: [{steps: 2}]}"],
    "reversal": ["facts=6", f"recipe={json.dumps(RECIPE)}"],
    "scaling": [
        *("max_bytes=300000", "model={n_layers: 1, n_heads: 1, mlp_hidden_size: 16}"),
        *("sizes={a: {d_model: 8}, b: {d_model: 16}}", f"training={json.dumps(SCALED)}"),
        *("learning_rates=[0.01]", "fit_from=0"),
    ],
    "precision": ["vocabulary=50", "draws=100", "canvas_draws=20000"],
    "planning": [
        *("box=[2, 2]", "grids=null", "givens=8", "puzzles=30", MODEL, "batch_size=8", "optim.warmup=0"),
        *("measure_at=[2, 4]", "orders=[random, margin]", "cells_per_step=[4]"),
    ],
    "time_agnostic": [
        *(MODEL, "batch_size=8", "steps=4", "warmup=1", "rates=[0.01]", "seeds=[0, 1]", "noise_steps=2"),
        *("noise_draws=30", "gradient_draws=30", "samples=40", "few_steps=[1, 2]", "time_steps=[1, 3]"),
        "evaluate_draws=1",
    ],
}
