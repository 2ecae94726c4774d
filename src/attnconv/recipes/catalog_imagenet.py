"""A recipe for ImageNet, whose images cannot be downloaded: ``--data`` names the folder that holds them."""

from attnconv.recipes.recipe import recipe
from attnconv.train.config import YOUR_FOLDER, RunConfig


@recipe
def imagenet_100ep() -> RunConfig:
    """The paper's AA-ResNet-50 on your ImageNet: FOLDER has train/<class>/* and val/<class>/*.

    attnconv train --recipe imagenet-100ep --data FOLDER --devices auto --workers 8

    Source: Bello et al. 2019, table 2, for network and numbers; the settings are those usual for
    ResNet-50, not the paper's.
    Expected: resnet50 76.4, se_resnet50 77.5, aa_resnet50 77.7
    Measured: not measured here
    """
    return RunConfig(
        model="aa_resnet50",
        data=YOUR_FOLDER,
        image_size=224,
        epochs=100,
        batch_size=256,
        optimizer="sgd",
        lr=0.1,
        momentum=0.9,
        weight_decay=1e-4,
        schedule="cosine",
        warmup=0.05,
        label_smoothing=0.1,
        crop_scale=0.08,
        precision="bf16",
        channels_last=True,
    )
