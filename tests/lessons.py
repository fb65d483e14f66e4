"""Lessons that are learnt in a second: what experiments are tried on."""

RECIPE = {
    "model": {"d_model": 16, "n_layers": 1, "n_heads": 1, "mlp_hidden_size": 16, "max_sequence_length": 160},
    "training": {"max_length": 160, "steps": 2, "batch_size": 2, "optim": {"learning_rate": 1e-3}},
    "masked": {"masking": "count"},
    "autoregressive": {},
}
LESSON = {"terms": [3, 4], "brief": 0.5, "conversations": 6, "recipe": RECIPE}
