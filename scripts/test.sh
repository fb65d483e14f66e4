#!/usr/bin/env bash
# Fresh machine → test suite. Arguments go to pytest: bash scripts/test.sh -m slow
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
ruff check .
ruff format --check .
pyright
python -m pytest --numprocesses 2 --dist worksteal "$@"  # one thread each, files in one piece
