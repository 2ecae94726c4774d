"""The training loop: one process, one device, and a run that can be stopped anywhere and gone on with exactly.

What makes resuming exact: the learning rate, the random numbers and the batches of a step are functions of the step's
number and the seed, so a checkpoint needs the weights, the optimiser and that number, and nothing else. On a CPU with
the same number of threads, a resumed run ends in the same bits as one that was never stopped.

Letters: B batch, K classes.
"""

import contextlib
import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attnconv import checks
from attnconv.files import locked
from attnconv.signals import interrupts_held
from attnconv.train.checkpoint import load_checkpoint, load_weights
from attnconv.train.config import RunConfig
from attnconv.train.device import fabric_of, float32_products
from attnconv.train.divergence import Diverged
from attnconv.train.engine import Engine, make_engine
from attnconv.train.evaluate import evaluate
from attnconv.train.interrupts import Noted, termination_raised
from attnconv.train.loader import Loader
from attnconv.train.observer import Observer
from attnconv.train.plain import plain
from attnconv.train.progress import Display
from attnconv.train.ranks import FAILED, Ranks
from attnconv.train.result import metrics_row, summary
from attnconv.train.run_folder import RunFolder
from attnconv.train.run_state import RunState
from attnconv.train.sharding import broadcast_buffers
from attnconv.train.step_profile import StepProfile
from attnconv.train.track import Tracker, require_service
from attnconv.train.train_epoch import train_epoch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MOST_RETURNS = 5  # to a checkpoint, with on_nan "rollback"


def fit(
    model: nn.Module,
    train_loader: Loader,
    val_loader: Loader,
    *,
    config: RunConfig,
    out: Path,
    meta: dict[str, Any],
    observer: Observer | None = None,
    fabric: "Fabric | None" = None,
    resume: bool = False,
    progress: bool = True,
    profile: bool = False,
) -> dict[str, Any]:
    """Train ``model``, (B, C, H, W) -> logits (B, K) or (B, K, H, W), in place; leave the run in the folder ``out``.

    The folder receives config.yaml, metrics.csv (a row an epoch), last.pt and best.pt (by validation top-1, or by mean
    IoU where each pixel has a label), and at the end result.json; until then previous.pt is what last.pt was before.
    The loss is cross-entropy, smoothed in training and plain in validation. Ctrl-C and SIGTERM save last.pt at the step
    they came in, and are raised. torch's random generators are left at an arbitrary state.

    Args:
        meta: plain values that the checkpoints carry for whoever rebuilds the network: class names, say.
        observer: what else the rows of metrics.csv and the result say of the network.
        fabric: of `fabric_of`, which is called if None; of several processes, each brings its part of every batch.
        resume: go on with the run in ``out``; a finished one is not trained again.
        progress: show a line an epoch on stderr, and live bars if that is a terminal.
        profile: see where the time of a step goes, and say it under "profile" of the result.
    Returns:
        What result.json holds. Accuracies in percent; seconds are of the run, train_seconds_per_epoch their median.
    Raises:
        InputError: ``out`` holds a run already (or, to resume, none or another one), cannot be written, the disk is
            full or another process trains into it; the device or the precision is not to be had; a loader brings
            nothing; ``meta`` is not plain; the loss or a weight is not finite.
        KeyboardInterrupt: after Ctrl-C; after SIGTERM its subclass Terminated.
    """
    fabric = fabric_of(config) if fabric is None else fabric
    ranks, folder = Ranks(fabric), RunFolder(out)
    if (result := ranks.on_first(lambda: folder.finished(config) if resume else folder.require_free())) is not None:
        return result
    ranks.on_first(lambda: require_service(config))
    meta = plain("meta", meta)
    for kind, loader in (("training", train_loader), ("validation", val_loader)):
        if not len(loader):
            raise checks.InputError(
                f"the {kind} images do not fill one batch: lower batch_size ({config.batch_size}) or give more images"
            )
    engine = make_engine(model, config, fabric)
    state = RunState(engine, config=config, batches=len(train_loader), folder=folder, meta=meta)
    noted = Noted(active=ranks.world > 1)
    with contextlib.ExitStack() as stack:
        ranks.on_first(lambda: enter(stack, folder))
        stack.enter_context(float32_products(config.precision, fabric.device))
        stack.enter_context(noted if noted.active else termination_raised())
        note = stand_at_checkpoint(state) if resume else ranks.on_first(folder.require_free)
        shown = progress and ranks.first
        with Display(shown, epochs=config.epochs, batches=len(train_loader)) as display:
            for text in (note, *differences(state)):
                if text:
                    display.note(text)
            tracker = Tracker(config, folder.path, fresh=not resume, say=display.note, active=ranks.first)
            profiled = StepProfile(fabric.device, folder.path, ranks) if profile else None
            with tracker, profiled or contextlib.nullcontext():
                try:
                    train(engine, state, (train_loader, val_loader), display, noted, tracker, profiled, observer)
                except Diverged:
                    if ranks.first:
                        raise
                    raise SystemExit(FAILED) from None  # the first process says it
                result = summary(state, fabric.device)
                if observer is not None and ranks.world == 1:
                    try:
                        result |= observed_at_end(engine, folder, val_loader, observer)
                    except checks.InputError as error:  # best.pt is gone or damaged: the run is whole without it
                        display.note(f"the best network is not looked at: {error}")
                if profiled is not None:
                    result["profile"] = profiled.summary()
                ranks.on_first(lambda: folder.finish(result))
    return result


def enter(stack: contextlib.ExitStack, folder: RunFolder) -> None:
    """Make the folder and hold its lock until ``stack`` is left."""
    folder.make()
    stack.enter_context(locked(folder.path))


def stand_at_checkpoint(state: RunState) -> str | None:
    """Restore the newest checkpoint that can be read, if there is one; what is to be said about it."""
    folder, found = state.folder, []

    def look() -> tuple[str, bool, str | None]:
        found.append(folder.reopen(state.config))
        return found[0].path.name, found[0].checkpoint is not None, found[0].note

    name, there, note = state.engine.ranks.on_first(look)
    if there:
        path = folder.path / name
        state.restore(found[0].checkpoint if found else load_checkpoint(path), path)
    return note


def differences(state: RunState) -> list[str]:
    """Why the run may not end in the bits in which it would have ended where it began."""
    found = list(state.changes)
    for name, then, now in (
        ("CPU threads", state.threads, torch.get_num_threads()),
        ("processes", state.processes, state.engine.ranks.world),
    ):
        if then != now:
            found.append(
                f"the run began with {then} {name} and goes on with {now}: it will not end in the very same bits"
            )
    return found


def train(
    engine: Engine,
    state: RunState,
    loaders: tuple[Loader, Loader],
    display: Display,
    noted: Noted,
    tracker: Tracker,
    profile: StepProfile | None,
    observer: Observer | None,
) -> None:
    """Do the epochs that are left, each with its validation and its checkpoint; ``loaders``: training, validation."""
    folder, ranks = state.folder, engine.ranks
    try:
        ranks.on_first(lambda: folder.begin(state.config, state.history))
        if state.config.on_nan == "rollback" and not state.last_is_good:
            state.save()  # something to go back to
        tracker.follow(state.history)
        while state.epoch < state.config.epochs:
            try:
                do_epoch(engine, state, loaders, display, noted, profile, observer)
            except Diverged as error:
                display.note(go_back(state, error))
            tracker.follow(state.history)
    except KeyboardInterrupt:
        with interrupts_held():
            for loader in loaders:
                state.skipped.update(loader.skipped)
            try:
                state.save()
            except Diverged as error:
                go_back(state, error)
        raise
    except BaseException as error:
        if ranks.first:
            folder.forget_empty_run()
        if ranks.world > 1 and type(error) is RuntimeError:  # all that the collectives say when a process has gone
            raise RuntimeError(
                f"process {ranks.rank} of {ranks.world} cannot go on, perhaps because another one has ended; "
                f"--resume goes on from the last checkpoint ({error})"
            ) from error
        raise


def do_epoch(
    engine: Engine,
    state: RunState,
    loaders: tuple[Loader, Loader],
    display: Display,
    noted: Noted,
    profile: StepProfile | None,
    observer: Observer | None,
) -> None:
    """What is left of an epoch, its validation, its row of metrics.csv, its checkpoint."""
    train_epoch(engine, state, loaders[0], display, noted, profile)
    if engine.sharded:
        broadcast_buffers(engine.bare)
    display.validating(len(loaders[1]))
    observed: dict[str, float] = {}

    def observe(images: Tensor) -> None:
        if observer is not None and engine.ranks.first and not engine.sharded:
            with engine.fabric.autocast():
                observed.update(observer.epoch(engine.bare, images))

    with engine.average.in_place() if engine.average is not None else contextlib.nullcontext():
        scores = evaluate(engine.model, loaders[1], ranks=engine.ranks, on_batch=display.batch_done, observe=observe)
    with interrupts_held():
        row = metrics_row(state, scores, observed)
        for loader in loaders:
            state.skipped.update(loader.skipped)
        state.save(best=state.epoch_done(row))
        engine.ranks.on_first(lambda: state.folder.write_metrics(state.history))
        display.epoch_done(row)
    noted.heed(engine.ranks)


def observed_at_end(engine: Engine, folder: RunFolder, loader: Loader, observer: Observer) -> dict[str, Any]:
    """Return what ``observer`` says of the network of best.pt; the trained network stays as it is."""
    best = copy.deepcopy(engine.bare)
    load_weights(best, load_checkpoint(folder.best), folder.best, averaged=True)
    with torch.no_grad(), engine.fabric.autocast():
        return observer.end(best.eval(), loader)


def go_back(state: RunState, error: Diverged) -> str:
    """Return to the last checkpoint, halve the learning rate and leave the bad step out; what is to be said about it.

    Raises:
        Diverged: ``error`` itself, if the run is to stop at it, or has gone back too often.
    """
    if state.config.on_nan != "rollback" or state.lr_factor <= 0.5**MOST_RETURNS:
        raise error
    factor, left_out = state.lr_factor / 2, [*state.left_out, error.step - 1]
    note = stand_at_checkpoint(state)
    state.lr_factor, state.left_out = factor, left_out
    with interrupts_held():
        state.save()
    where = f"epoch {state.epoch + 1}, batch {state.step_in_epoch + 1}"
    return f"{error}; back to {where}, at {factor:g} times the learning rate{'; ' + note if note else ''}"
