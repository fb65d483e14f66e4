"""Tasks of all kinds as files of lm-evaluation-harness, for the small model of `asked`."""

import json
from pathlib import Path

KINDS = {
    "choice": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: label
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "likelihood": """
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
    "rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: byte_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
""",
    "writing": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
}


def rows(count: int = 6) -> list[dict]:
    return [
        {
            "question": f"What is {a} plus {a % 3}?" + " Think well." * (a % 3),
            "choices": [str(a + a % 3), "a number", "two"],
            "label": a % 3,
            "answer": "a number" if a % 2 else str(a),
            "text": "The answer is a number of two digits, " * (1 + 3 * (a % 3)),
        }
        for a in range(count)
    ]


def write_task(folder: Path, name: str, kind: str, data: list[dict], extra: str = "") -> None:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in data), encoding="utf-8")
    (folder / f"{name}.yaml").write_text(
        f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {file}}}}}\ntest_split: test\n"
        f"{KINDS[kind]}{extra}",
        encoding="utf-8",
    )


def write_tasks(folder: Path, count: int = 6) -> None:
    """One task of each kind, under the name of the kind."""
    for kind in KINDS:
        write_task(folder, kind, kind, rows(count))
