"""The checks as metrics of tasks in files."""

import pytest
from harness_tasks import rows, write_task
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from llada.eval.arguments import Settings
from llada.eval.check_metrics import right
from llada.eval.checks import CHECKS
from llada.eval.harness import LLaDAHarness

pytestmark = pytest.mark.usefixtures("undescribed_machine")


@pytest.mark.parametrize("check", CHECKS)
def test_a_metric_is_1_where_the_check_is_passed(check):
    expected = "It takes 4 days: B"
    assert right([expected], [expected], check=check) == 1.0
    assert right([expected], ["It takes 5 days: C"], check=check) == 0.0


def test_expected_answers_that_no_answer_equals_are_refused():
    with pytest.raises(ValueError, match="metric number: the expected answer 'four' is itself not right by it"):
        right(["four"], ["4"], check="number")


def test_task_files_take_checks_as_metrics(asked, tmp_path):
    """Half of the expected answers are parts of what is written."""
    lm = LLaDAHarness(asked.model, asked.tokenizer, Settings())
    kwargs = {"until": ["\n"], "max_gen_toks": 8, "do_sample": False}
    asking = [Instance("generate_until", {}, (row["question"], kwargs), 0, ("t", i, 1)) for i, row in enumerate(rows())]
    texts = lm.generate_until(asking)
    assert all(text.strip() for text in texts)
    expected = [text.strip()[-3:] if i % 2 else "not in it" for i, text in enumerate(texts)]
    write_task(tmp_path, "own", "writing", [row | {"answer": one} for row, one in zip(rows(), expected, strict=True)])
    file = tmp_path / "own.yaml"
    file.write_text(file.read_text().replace("metric: exact_match", "metric: contains"))
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = simple_evaluate(lm, tasks=["own"], task_manager=manager, bootstrap_iters=2)
    assert found["results"]["own"]["contains,none"] == 0.5
    assert found["results"]["own"]["contains_stderr,none"] == pytest.approx((0.25 / 5) ** 0.5)
