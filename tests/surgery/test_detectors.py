"""torchvision's detectors resize their images and pad batches of them: tables cover the largest batch."""

import itertools

import pytest
import torch
from torch import nn
from torchvision.models import detection

from attnconv import surgery, valid_sizes
from attnconv.layers import Attention

PLACE = r"^backbone\.body\.13\.block\.0\.0$"  # a 1x1 convolution on the map of stride 16


def detector(**sizes):
    return detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3, box_detections_per_img=5, **sizes
    ).eval()


def images(*sizes):
    return [torch.rand(3, *size) for size in sizes]


@pytest.mark.parametrize(
    ("min_size", "max_size", "cells"),
    [(64, 107, 8), ((48, 64), 200, 14), (300, 128, 8)],  # padded to multiples of 32 pixels
)
def test_tables_cover_the_largest_batch_and_no_more(min_size, max_size, cells):
    model, [change] = surgery.augment(detector(min_size=min_size, max_size=max_size), image_size=64, where=PLACE)
    assert change.map_size == (cells, cells)
    for one, other in itertools.combinations([(64, 64), (20, 300), (300, 20), (97, 53)], 2):
        assert len(model(images(one, other))) == 2


def test_after_a_larger_max_size_the_tables_fit_again():
    model, _ = surgery.augment(detector(min_size=64, max_size=96), image_size=64, where=PLACE)
    model.transform.max_size = 150
    batch = images((60, 150), (150, 60))
    with pytest.raises(ValueError, match=r"surgery\.resize_feat_size\(model, "):
        model(batch)
    [change] = surgery.resize_feat_size(model, 64)
    assert change.map_size == (10, 10)
    model(batch)


def test_a_detector_within_another_module_and_an_example_instead():
    whole = nn.ModuleDict({"detector": detector(min_size=64, max_size=128)})
    whole.forward = lambda batch: whole["detector"](batch)
    _, [change] = surgery.augment(whole, image_size=64, where=r"body\.13\.block\.0\.0$", inplace=True)
    assert change.map_size == (8, 8)
    example = (images((64, 100)),)
    _, [change] = surgery.augment(detector(min_size=64, max_size=128), example=example, where=PLACE)
    assert change.map_size == (4, 8)


def test_one_of_fixed_size():
    model = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).eval()
    model, [change] = surgery.augment(model, image_size=320, where=r"features\.1\.3\.0$")
    assert change.map_size == (10, 10)
    model(images((320, 200), (64, 400)))


def test_a_detector_that_does_not_run_says_on_what():
    broken = detector(min_size=64, max_size=96)
    broken.roi_heads.forward = None
    with pytest.raises(
        ValueError, match=r"FasterRCNN does not run on zeros of \(3, 1, 96\) and \(3, 96, 1\); pass exam"
    ):
        surgery.augment(broken, image_size=64, where=PLACE)


def test_attention_does_not_see_the_padding_of_a_batch_in_valid_sizes():
    model, _ = surgery.augment(detector(min_size=64, max_size=128), image_size=64, where=PLACE)
    [layer] = [m for m in model.modules() if isinstance(m, Attention)]
    seen = []
    layer.register_forward_hook(lambda module, inputs, y: seen.append(module.input_mask(inputs[0], None)))
    batch = images((64, 128), (128, 64))
    resized, _ = model.transform(batch)
    with valid_sizes(resized.image_sizes, resized.tensors.shape[-2:]):
        model(batch)
    rows, columns = seen[0].any(2), seen[0].any(1)
    assert rows.sum(1).tolist() == [4, 8]
    assert columns.sum(1).tolist() == [8, 4]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "fcos_resnet50_fpn"]
)
def test_other_detectors(name):
    plain = getattr(detection, name)(weights=None, weights_backbone=None, min_size=96, max_size=160).eval()
    model, _ = surgery.add_self_attention(plain, after="backbone.body.layer4", image_size=96)
    model, [change] = surgery.augment(model, image_size=96, where=r"body\.layer4\.2\.conv2$")
    assert change.map_size == (5, 5)
    assert len(model(images((128, 213), (213, 128)))) == 2


def test_a_convolution_that_runs_on_every_level_is_refused():
    with pytest.raises(ValueError, match=r"rpn\.head\.conv\.0\.0 runs 3 times in the model's forward"):
        surgery.augment(detector(min_size=64, max_size=96), image_size=64, where=r"^rpn\.head\.conv\.0\.0$")
