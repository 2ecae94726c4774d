"""Networks of other libraries, and a U-Net: where each is augmented, and after which modules attention goes."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torchvision
from torch import nn

IMAGE_SIZE = 64


class Join(nn.Module):
    """Concatenate a map, upsampled, with the map that skipped the levels below."""

    def forward(self, x, skipped):
        x = nn.functional.interpolate(x, size=skipped.shape[2:])
        return torch.cat([x, skipped], dim=1)


def double(in_channels, channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    def __init__(self, in_channels=1, classes=3):
        super().__init__()
        self.down = nn.ModuleList([double(in_channels, 8), double(8, 16)])
        self.bottom = double(16, 32)
        self.join = nn.ModuleList([Join(), Join()])
        self.up = nn.ModuleList([double(48, 16), double(24, 8)])
        self.head = nn.Conv2d(8, classes, 1)

    def forward(self, x):
        skipped = []
        for level in self.down:
            x = level(x)
            skipped.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.bottom(x)
        for join, level in zip(self.join, self.up, strict=True):
            x = level(join(x, skipped.pop()))
        return self.head(x)


def timm_model(name):
    import timm

    return timm.create_model(name, pretrained=False, num_classes=5)


@dataclass(frozen=True)
class Case:
    build: object
    where: str
    maps: dict  # name of a convolution that `where` matches -> its output map at IMAGE_SIZE
    after: dict  # name of a module -> channels of its output
    channels: int = 3

    def image(self, *map_size, batch=2):
        return torch.randn(batch, self.channels, *(map_size or (IMAGE_SIZE, IMAGE_SIZE)))


vision = torchvision.models
CASES = {
    "resnet50": Case(
        lambda: vision.resnet50(num_classes=5),
        r"layer4\.\d\.conv2",
        {"layer4.0.conv2": (2, 2), "layer4.1.conv2": (2, 2), "layer4.2.conv2": (2, 2)},
        {"layer1.2.bn3": 256, "layer3": 1024},
    ),
    "mobilenet_v3_small": Case(
        lambda: vision.mobilenet_v3_small(num_classes=5),
        r"features\.(4|10)\.block\.0\.0",
        {"features.4.block.0.0": (8, 8), "features.10.block.0.0": (2, 2)},
        {"features.4": 40},
    ),
    "convnext_tiny": Case(
        lambda: vision.convnext_tiny(num_classes=5),
        r"features\.[24]\.1$",
        {"features.2.1": (8, 8), "features.4.1": (4, 4)},
        {"features.3.2": 192},
    ),
    "deeplabv3": Case(
        lambda: vision.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=5),
        r"backbone\.layer4\.[12]\.conv2|^classifier\.1",
        {"backbone.layer4.1.conv2": (8, 8), "backbone.layer4.2.conv2": (8, 8), "classifier.1": (8, 8)},
        {"classifier.0": 256},
    ),
    "retinanet_backbone": Case(
        lambda: vision.detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None).backbone,
        r"body\.layer4\.2\.conv2|fpn\.layer_blocks\.0\.0",
        {"body.layer4.2.conv2": (2, 2), "fpn.layer_blocks.0.0": (8, 8)},
        {"body.layer2": 512, "fpn.layer_blocks.1": 256},
    ),
    "timm_resnet50": Case(
        lambda: timm_model("resnet50"),
        r"layer4\.\d\.conv2",
        {"layer4.0.conv2": (2, 2), "layer4.1.conv2": (2, 2), "layer4.2.conv2": (2, 2)},
        {"layer2": 512},
    ),
    "timm_efficientnet_b0": Case(
        lambda: timm_model("efficientnet_b0"),
        r"blocks\.[35]\.1\.conv_pwl?$",
        {
            "blocks.3.1.conv_pw": (4, 4),
            "blocks.3.1.conv_pwl": (4, 4),
            "blocks.5.1.conv_pw": (2, 2),
            "blocks.5.1.conv_pwl": (2, 2),
        },
        {"blocks.2": 40},
    ),
    "unet": Case(
        UNet,
        r"bottom\.\d|up\.0",
        {"bottom.0": (16, 16), "bottom.3": (16, 16), "up.0.0": (32, 32), "up.0.3": (32, 32)},
        {"join.0": 48, "up.1": 8},
        channels=1,
    ),
}


def tensors(output):
    """The tensors of whatever a network returns."""
    return list(output.values()) if isinstance(output, OrderedDict) else [output]
