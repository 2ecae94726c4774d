"""The training part of an epoch: its steps, the looks at the losses, and the signals heeded between them."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from attnconv import checks
from attnconv.signals import interrupts_held
from attnconv.train.engine import Engine
from attnconv.train.interrupts import Noted
from attnconv.train.loader import Loader
from attnconv.train.progress import Display
from attnconv.train.run_state import RunState
from attnconv.train.step import train_step
from attnconv.train.step_profile import StepProfile

STEPS_BETWEEN_LOOKS = 10  # at the losses, for each look waits for the device; and, of several processes, at signals

Item = TypeVar("Item")


def train_epoch(
    engine: Engine,
    state: RunState,
    loader: Loader,
    display: Display,
    noted: Noted,
    profile: StepProfile | None = None,
) -> None:
    """Do what is left of the epoch at which ``state`` stands. Signals are raised between two steps."""
    config, sums = state.config, state.sums
    engine.model.train()
    display.training(state.epoch, state.step_in_epoch)
    began = time.perf_counter() - sums.seconds
    if profile is not None:
        profile.epoch_begins(sums)
    for images, labels in _timed(loader.epoch(state.epoch, start=state.step_in_epoch), state):
        with interrupts_held():
            if state.step not in state.left_out:
                train_step(engine, state, images, labels)
            state.step_in_epoch += 1
            if profile is not None:
                profile.step_done(sums, len(labels))
            sums.seconds = time.perf_counter() - began
            if config.checkpoint_steps and state.step % config.checkpoint_steps == 0:
                state.skipped.update(loader.skipped)
                state.save()
            display.batch_done()
            if state.step_in_epoch % STEPS_BETWEEN_LOOKS == 0:
                sums.flush(state.last, engine.ranks.sum)
                display.sums_known(sums)
                noted.heed(engine.ranks)
    sums.flush(state.last, engine.ranks.sum)
    sums.seconds = time.perf_counter() - began  # once more: the flush has waited for the device
    display.sums_known(sums)
    noted.heed(engine.ranks)
    if not sums.images and not state.left_out:
        raise checks.InputError(f"epoch {state.epoch + 1} brought none of {loader.num_samples} training images")


def _timed(items: Iterable[Item], state: RunState) -> Iterator[Item]:
    """The items, while ``state.sums`` counts the seconds that the loop waits for them."""
    iterator = iter(items)
    while True:
        began = time.perf_counter()
        try:
            item = next(iterator)
        except StopIteration:
            return
        finally:
            state.sums.waited += time.perf_counter() - began
        yield item
