"""Where a process of an evaluation has its model."""

import pytest
import torch

from llada.eval.processes import Processes


@pytest.mark.parametrize("named", [None, "cpu", "cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_becomes_the_cpu(named, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert Processes(named).device == torch.device("cpu")


@pytest.mark.parametrize("named", ["gpu", "cudas", "", "meta"])
def test_any_other_device_that_is_not_there_is_refused(named):
    with pytest.raises(ValueError, match=f"device '{named}' is not on this machine; there is cpu"):
        Processes(named)
