"""The published sizes of networks, by name. Loads no torch.

Sources: the tables 1 and 2 of Bello et al. 2019, arXiv:1904.09925; for Attention-Augmented-Conv2d (2019), which states
none, its code. Those of XResNet-50 were never stated. Rows marked ``unverified`` are quoted from memory.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Published:
    """A network and its published size, as printed: millions of parameters, and 10^9 FLOPs for one image.

    ``unverified``: the numbers were not read in the source.
    """

    name: str
    data: str
    params: str | None = None
    gflops: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    unverified: bool = False


PUBLISHED = (
    Published("wide_resnet28_10", "CIFAR-100", "36.3", "10.4"),
    Published("se_wide_resnet28_10", "CIFAR-100", "36.5", "10.4"),
    Published("aa_wide_resnet28_10", "CIFAR-100", "36.2", "10.9"),
    Published("seed_aa_wide_resnet28_10", "CIFAR-100", "206"),
    Published("resnet34", "ImageNet", "21.8", "7.4"),
    Published("se_resnet34", "ImageNet", "22.0", "7.4", unverified=True),
    Published("aa_resnet34", "ImageNet", "20.7", "7.1"),
    Published("resnet50", "ImageNet", "25.6", "8.2"),
    Published("se_resnet50", "ImageNet", "28.1", "8.2"),
    Published("aa_resnet50", "ImageNet", "25.8", "8.3"),
    Published("resnet101", "ImageNet", "44.5", "15.6"),
    Published("se_resnet101", "ImageNet", "49.3", "15.6", unverified=True),
    Published("aa_resnet101", "ImageNet", "45.4", "16.1"),
    Published("resnet152", "ImageNet", "60.2", "23.0", unverified=True),
    Published("se_resnet152", "ImageNet", "66.8", "23.1", unverified=True),
    Published("aa_resnet152", "ImageNet", "61.6", "23.8", unverified=True),
    *(
        Published("aa_resnet50", "ImageNet", size, options={"key_ratio": part, "value_ratio": part}, unverified=True)
        for part, size in ((0.25, "24.3"), (0.5, "22.3"), (0.75, "20.7"), (1.0, "19.4"))
    ),
    *(Published(f"{attention}xresnet50", "Imagewoof") for attention in ("", "sa_", "ssa_")),
)
