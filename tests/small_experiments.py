"""Overrides with which an experiment takes a second."""

MODEL = "model={d_model: 16, n_layers: 1, n_heads: 2, mlp_hidden_size: 32}"
SMALL = {
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
