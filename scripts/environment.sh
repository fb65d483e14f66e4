# Sourced by the other scripts: a virtual environment in .venv with llada installed, made on the first call; PYTHON and VENV may be set.
VENV="${VENV:-.venv}"
if [ ! -x "$VENV/bin/python" ]; then
  "${PYTHON:-python3}" -m venv "$VENV"
fi
. "$VENV/bin/activate"
stamp="$VENV/.installed-$(cat pyproject.toml scripts/constraints.txt | cksum | cut -d' ' -f1)"
if [ ! -e "$stamp" ]; then
  # torch first and pinned: a range would take a build with gigabytes of CUDA libraries.
  pip install --quiet --disable-pip-version-check --constraint scripts/constraints.txt torch
  pip install --quiet --disable-pip-version-check --constraint scripts/constraints.txt --editable '.[dev,plot]'
  touch "$stamp"
fi
