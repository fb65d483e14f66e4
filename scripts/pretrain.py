"""Pretraining for `accelerate launch` (GPUs) and `torchrun` (CPUs too); one process is `llada pretrain`.

accelerate launch scripts/pretrain.py configs/pretrain/quickstart.yaml seed=1
torchrun --nproc_per_node 2 scripts/pretrain.py configs/pretrain/quickstart.yaml seed=1
"""

import sys

from llada.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "pretrain")
    main()
