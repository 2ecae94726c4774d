"""The weights and the optimiser's state for a checkpoint, and back."""

from pathlib import Path
from typing import Any

from attnconv import checks
from attnconv.train.checkpoint import require_weights
from attnconv.train.engine import Engine
from attnconv.train.sharding import broadcast_buffers, load_whole_state, whole_state


def gathered(engine: Engine) -> dict[str, Any]:
    """What a checkpoint holds of the engine: all of it in the first process. All have to call this."""
    model, optimizer = engine.bare, engine.optimizer.optimizer
    if engine.sharded:
        broadcast_buffers(model)
        weights, state = whole_state(model, optimizer)
    else:
        weights, state = model.state_dict(), optimizer.state_dict()
    return {
        "model": weights,
        "optimizer": state,
        "scaler": engine.fabric.strategy.precision.state_dict(),
        "average": engine.average and engine.average.state_dict(),
    }


def scatter(engine: Engine, checkpoint: dict[str, Any], path: Path) -> None:
    """Put back what ``gathered`` gave, read from ``path``.

    Raises:
        InputError: the weights are another network's, or the optimiser's state is.
    """
    optimizer = engine.optimizer.optimizer
    require_weights(engine.bare, checkpoint, path)
    try:
        if engine.sharded:
            load_whole_state(engine.bare, optimizer, checkpoint["model"], checkpoint["optimizer"])
        else:
            engine.bare.load_state_dict(checkpoint["model"])
            optimizer.load_state_dict(checkpoint["optimizer"])
        engine.fabric.strategy.precision.load_state_dict(checkpoint["scaler"])
        if engine.average is not None:
            engine.average.load_state_dict(checkpoint["average"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise checks.InputError(f"{path} is damaged: {type(error).__name__}: {error}") from error
