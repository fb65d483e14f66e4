"""The page of the experiments is what its script writes from the results."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "experiments.py"


@pytest.mark.skipif(not SCRIPT.exists(), reason="an installed package has no scripts")
def test_page_is_that_of_the_results():
    script = runpy.run_path(str(SCRIPT))
    text = script["PAGE"].read_text(encoding="utf-8")
    assert text == script["page"]()
    for picture in script["KEPT"].glob("*.json"):
        assert f"experiments/{picture.stem}.png" in text
        assert picture.with_suffix(".png").exists()
