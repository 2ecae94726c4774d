import pytest
import torch

from attnconv.data.ranked import ranked_classes


def test_the_most_likely_classes_come_first():
    logits = torch.tensor([0.0, 2.0, 1.0]).log_softmax(-1)
    (first, most), (second, less) = ranked_classes(logits, ["a", "b", "c"], 2)
    assert (first, second) == ("b", "c")
    assert (most, less) == pytest.approx(tuple(logits.exp()[[1, 2]].tolist()))
    assert [name for name, _ in ranked_classes(logits.half(), ["a", "b", "c"], 9)] == ["b", "c", "a"]
