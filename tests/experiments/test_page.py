"""The page of the experiments is what its script writes from the results."""

import runpy
from pathlib import Path

import pytest

from llada.experiments.experiment import named

SCRIPT = Path(__file__).parents[2] / "scripts" / "experiments.py"


@pytest.mark.skipif(not SCRIPT.exists(), reason="an installed package has no scripts")
def test_page_is_that_of_the_results():
    script = runpy.run_path(str(SCRIPT))
    text = script["PAGE"].read_text(encoding="utf-8")
    assert text == script["page"]()
    for name, record in script["records"]().items():
        assert f"experiments/{name}.png" in text
        assert (script["KEPT"] / f"{name}.png").exists()
        assert named(name).draw(record["measured"]).axes  # with the code of today
