#!/usr/bin/env bash
# Fresh machine → trained model → generated text, in about ten minutes on two CPU cores. Safe to run again: what is
# finished is kept. Everything is written to runs/quickstart.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
export HF_HUB_OFFLINE=1
RUN=runs/quickstart
[ -d $RUN/data/heldout ] || { rm -rf $RUN/data && llada prepare python-documentation $RUN/data --vocab-size 262 --max-bytes 4000000; }
[ -e $RUN/instructions/test.jsonl ] || { rm -rf $RUN/instructions && llada prepare instructions $RUN/instructions --families count_words --count 14000; }
[ -d $RUN/pretrain/model ] || llada pretrain configs/pretrain/quickstart.yaml overwrite=true
[ -d $RUN/sft/model ] || llada sft configs/sft/quickstart.yaml overwrite=true
python scripts/quickstart.py $RUN
