"""Time and memory of a file beside PyTorch's: what the terminal is spared."""

import logging

import pytest
import torch

from attnconv.export import measure

REMARK = "torch.utils.cpp_extension"  # warns of CUDA's tools without a GPU as torch.compile begins


def test_only_the_warning_of_a_missing_gpu_is_silenced(monkeypatch):
    heard = {}

    def record(benchmark, settings, *, tell):
        heard.update(
            {name: logging.getLogger(name).isEnabledFor(logging.WARNING) for name in (REMARK, "torch._inductor")}
        )
        raise KeyboardInterrupt

    monkeypatch.setattr("attnconv.bench.benchmark.measure", record)
    with pytest.raises(KeyboardInterrupt):
        measure.measure(torch.nn.Identity(), None, {}, image=torch.ones(1), tell=print)
    assert heard == {REMARK: False, "torch._inductor": True}
    assert logging.getLogger(REMARK).isEnabledFor(logging.WARNING)
