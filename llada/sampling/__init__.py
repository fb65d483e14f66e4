"""The reverse process: one loop, and the decisions that make a sampler of it."""
