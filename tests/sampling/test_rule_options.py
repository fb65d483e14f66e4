"""Options of orders and rules: every one acts, or is refused."""

import json
import math

import pytest
import torch
from rule_steps import drafts_of

from llada.config import ConfigError
from llada.sampling.generate import SamplerConfig
from llada.sampling.orders import ORDERS
from llada.sampling.reveals import REVEALS

EXTRA: dict[str, dict] = {"remdm": {"remask": "cap"}, "threshold": {"threshold": 0.9}, "factor": {"factor": 1.0},
                          "entropy_bound": {"entropy_bound": 0.1}, "gibbs": {"steps": 200}}  # fmt: skip
VALUES = {"threshold": 0.5, "factor": 1.0, "entropy_bound": 0.1, "kl_threshold": 0.1, "history": 1, "remask": "cap",
          "eta": 0.5, "t_on": 0.5, "t_off": 0.1, "alpha_on": 0.8, "resample": 1, "background": "counts.json",
          "position_decay": 0.1}  # fmt: skip


def test_every_field_of_a_rule_has_a_value_here():
    entries = (*ORDERS.values(), *REVEALS.values())
    assert {field for entry in entries for field in entry.fields} == set(VALUES)


@pytest.mark.parametrize("reveal", REVEALS)
@pytest.mark.parametrize("field", VALUES)
def test_field_of_another_rule_is_refused(reveal, field):
    values = {"reveal": reveal, **EXTRA.get(reveal, {})}
    assert isinstance(SamplerConfig(**values), SamplerConfig)
    if field not in REVEALS[reveal].fields:
        with pytest.raises(ConfigError, match=f"{field} has no effect with order: confidence and reveal: {reveal}"):
            SamplerConfig(**values, **{field: VALUES[field]})


@pytest.mark.parametrize("order", [name for name in ORDERS if name != "position_calibrated"])
@pytest.mark.parametrize("field", ["background", "position_decay"])
def test_field_of_another_order_is_refused(order, field):
    with pytest.raises(ConfigError, match=f"{field} has no effect with order: {order} and reveal: top_k; remove it"):
        SamplerConfig(order=order, **{field: VALUES[field]})


@pytest.mark.parametrize(
    ("name", "field"),
    [(name, field) for name, entry in REVEALS.items() for field in entry.required],
)
def test_rule_without_its_number_is_refused(name, field):
    with pytest.raises(ConfigError, match=f"reveal: {name} needs {field}"):
        SamplerConfig(reveal=name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"top_p": 0.9}, "top_k and top_p have no effect at temperature 0"),
        ({"top_k": 5}, "top_k and top_p have no effect at temperature 0"),
        ({"counts": "cosine"}, "counts: cosine has no effect without steps"),
        ({"guidance": "adaptive"}, "guidance has no effect with cfg_scale: 0; set cfg_scale"),
        ({"guidance": "prompt"}, "guidance has no effect with cfg_scale: 0; set cfg_scale"),
        ({"cfg_scale": 1.0, "guidance_share": 0.5}, "guidance_share has no effect without guidance: adaptive"),
        ({"reveal": "threshold", "threshold": 0.9, "steps": 8}, "steps has no effect with reveal: threshold"),
        ({"reveal": "factor", "factor": 1.0, "steps": 8}, "steps has no effect with reveal: factor"),
        ({"reveal": "entropy_bound", "entropy_bound": 0.1, "steps": 8}, "steps has no effect with reveal: entropy"),
        ({"reveal": "ancestral", "counts": "even"}, "counts has no effect with reveal: ancestral"),
        ({"reveal": "p2", "counts": "cosine", "steps": 8}, "counts has no effect with reveal: p2"),
        ({"reveal": "ancestral", "order": "random"}, "order and eos_last have no effect with reveal: ancestral"),
        ({"reveal": "mask_predict", "eos_last": True}, "order and eos_last have no effect with reveal: mask_predict"),
        (
            {"reveal": "threshold", "threshold": 0.9, "order": "entropy"},
            "those of order: entropy are none; known: conf",
        ),
        ({"reveal": "factor", "factor": 1.0, "order": "random"}, "compares scores with a probability"),
        (
            {"reveal": "remdm", "remask": "cap", "t_on": 0.5},
            "t_on, t_off and alpha_on have no effect without remask: l",
        ),
        ({"reveal": "p2", "early_exit": True}, "early_exit, stop_at_eos and edit_threshold do not go with reveal: p2"),
        ({"reveal": "gibbs", "steps": 200, "stop_at_eos": True}, "do not go with reveal: gibbs, which may mask any"),
        ({"reveal": "mask_predict", "edit_threshold": 0.5}, "do not go with reveal: mask_predict"),
        ({"edit_steps": 4}, "edit_steps has no effect without edit_threshold"),
        ({"forbid_eos": True, "stop_at_eos": True}, "stop_at_eos has no effect with forbid_eos"),
        ({"reveal": "gibbs", "steps": 12, "gen_length": 16}, "steps=12 gives 12 to a block of 16 masks; gibbs"),
        ({"threshold": -0.1, "reveal": "threshold"}, "threshold: .* greater than or equal to 0"),
        ({"top_p": 1.5, "temperature": 1.0}, "top_p: .* less than or equal to 1"),
        ({"reveal": "remdm", "remask": "often"}, "remask: .*'cap', 'rescale', 'conf' or 'loop'"),
    ],
)
def test_option_that_cannot_act_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        SamplerConfig(**values)


def test_background_is_read_and_used(tmp_path):
    file = tmp_path / "counts.json"
    file.write_text(json.dumps([1, 9]))
    order = SamplerConfig(order="position_calibrated", background=str(file), position_decay=0.0).make_order()
    drafts = drafts_of(torch.zeros(2, 2, dtype=torch.float64), [0, 1])
    assert order(drafts).exp().tolist() == pytest.approx([math.log(10) / 2, math.log(10 / 9) / 2])


def test_fields_reach_what_the_loop_is_asked_for():
    assert SamplerConfig().make_edit() is None
    assert SamplerConfig(edit_threshold=0.5).make_edit().extra_steps == 16
    for extra_steps in (0, 3):
        assert SamplerConfig(edit_threshold=0.5, edit_steps=extra_steps).make_edit().extra_steps == extra_steps
    for fields, traits in (
        ({"reveal": "klass"}, {"lookback": 2}),
        ({"reveal": "klass", "history": 5}, {"lookback": 5}),
        ({"reveal": "klass", "history": 5, "early_exit": True}, {"lookback": 5}),
        ({"reveal": "remdm", "remask": "loop"}, {"every_step": True}),
        ({"reveal": "p2"}, {"everywhere": True}),
    ):
        rule = SamplerConfig(**fields).make_reveal()
        usual = {"everywhere": False, "every_step": False, "lookback": 0}
        assert {name: getattr(rule, name) for name in usual} == usual | traits
