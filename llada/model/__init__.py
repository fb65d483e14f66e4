"""The mask predictor: a bidirectional Transformer, its configuration and its checkpoints."""
