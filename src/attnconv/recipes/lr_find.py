"""The learning rates that a run could take, found on its own network and data."""

from attnconv.recipes.images import images_of, loaders_of
from attnconv.recipes.run import network, require_fit
from attnconv.train.config import RunConfig
from attnconv.train.device import choose_device
from attnconv.train.lr_find import LrCurve, find_lr
from attnconv.train.optim import build_optimizer


def lr_find(
    config: RunConfig, *, low: float = 1e-6, high: float = 10.0, steps: int = 100, progress: bool = True
) -> LrCurve:
    """The curve of the network, data, batches and optimiser that ``config`` describes, in float32."""
    device = choose_device(config.device)
    data = images_of(config)
    train, _ = loaders_of(config, data, device)
    model = network(config, data.meta())
    require_fit(model, data.channels, data.image_size)
    model.to(device)
    return find_lr(
        model,
        build_optimizer(model, config),
        train,
        low=low,
        high=high,
        steps=steps,
        label_smoothing=config.label_smoothing,
        progress=progress,
    )
