"""The learning rates that a run could take, found on its own network and data."""

from attnconv.data import load_data
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
    data = load_data(
        config.data,
        data_dir=config.data_dir,
        image_size=config.image_size,
        train_subset=config.train_subset,
        skip_bad_images=config.skip_bad_images,
    )
    train, _ = data.loaders(batch_size=config.batch_size, seed=config.seed, device=device, workers=config.workers)
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
