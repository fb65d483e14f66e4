"""lm_eval's own command line, with `llada` among its models: `python -m llada.eval --model llada ...`."""

from lm_eval.__main__ import cli_evaluate

import llada.eval.harness as harness

if __name__ == "__main__":
    assert harness.LLaDAHarness  # its import is what registers it
    cli_evaluate()
