"""The training loop: a run that can be stopped anywhere and resumed exactly.

The learning rate, the random numbers and the batches of a step are functions of the step's number and the seed, so a
checkpoint needs only the weights, the optimiser's state and that number. On a CPU with the same number of threads, a
resumed run ends in the same bits as one that was never stopped.

Letters: B batch, K classes.
"""

import contextlib
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attnconv import checks
from attnconv.files import locked, make_folder
from attnconv.layers.activity import attention_activity
from attnconv.layers.attention import Attention
from attnconv.signals import DeferredSignals, interrupts_held, termination_raised
from attnconv.train.checkpoint import load_checkpoint, load_weights
from attnconv.train.config import RunConfig
from attnconv.train.device import Engine, fabric_of, float32_products, make_engine, precision_note
from attnconv.train.evaluate import Diverged, Loader, evaluate, scores_without_attention
from attnconv.train.processes import FAILED, Ranks
from attnconv.train.progress import Display
from attnconv.train.run_folder import RunFolder
from attnconv.train.run_state import RunState
from attnconv.train.step import hold_norms, train_step
from attnconv.train.step_profile import StepProfile
from attnconv.train.track import Tracker, require_service

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MOST_RETURNS = 5  # to a checkpoint, with on_nan "rollback"
OBSERVED = 64  # images on which each epoch measures the activity of attention
STEPS_BETWEEN_LOOKS = 10  # at the losses, because each look waits for the device, and at signals to other processes


def fit(
    model: nn.Module,
    train_loader: Loader,
    val_loader: Loader,
    *,
    config: RunConfig,
    out: Path,
    meta: dict[str, Any],
    taken_over: Collection[str] = (),
    fabric: "Fabric | None" = None,
    resume: bool = False,
    notes: Sequence[str] = (),
    progress: bool = True,
    profile: bool = False,
) -> dict[str, Any]:
    """Train ``model``, (B, C, H, W) -> logits (B, K) or (B, K, H, W), in place; write the run to the folder ``out``.

    The folder receives config.yaml, metrics.csv (a row per epoch), last.pt and best.pt (by validation top-1, or by mean
    IoU if each pixel has a label), and at the end result.json; until then previous.pt keeps the last.pt before.
    The loss is cross-entropy, smoothed in training only. Ctrl-C and SIGTERM save last.pt at the current step and are
    raised. torch's random generators end in an arbitrary state.

    Args:
        taken_over: names of the weights that came with ``config.init_from``, for its freeze_epochs.
        meta: plain values for the checkpoints, from which the network can be rebuilt, such as class names.
        fabric: of `fabric_of`, which is called if None. Each of several processes brings its part of every batch.
        resume: go on with the run in ``out``; a finished one is not trained again.
        notes: sentences to print before the first epoch.
        progress: print a header and a row per epoch on stderr, and show live bars if that is a terminal.
        profile: add a step profile to the result.
    Returns:
        The values of result.json. Accuracies are in percent; seconds are the whole run's, train_seconds_per_epoch the
        median of its epochs.
    Raises:
        InputError: ``out`` already holds a run (or, to resume, none or another one) or cannot be written; the disk is
            full; another process trains into ``out``; the device or the precision is unavailable; a loader gives no
            batch; ``meta`` is not plain; the loss or a weight is not finite.
        KeyboardInterrupt: after Ctrl-C; its subclass Terminated after SIGTERM.
    """
    fabric = fabric_of(config) if fabric is None else fabric
    ranks, folder = Ranks(fabric), RunFolder(out)
    if (result := ranks.on_first(lambda: folder.finished(config) if resume else folder.require_free())) is not None:
        return result
    ranks.on_first(lambda: require_service(config))
    meta = checks.plain("meta", meta)
    for kind, loader in (("training", train_loader), ("validation", val_loader)):
        if not len(loader):
            raise checks.InputError(
                f"the {kind} images do not fill one batch: lower batch_size ({config.batch_size}) or give more images"
            )
    engine = make_engine(model, config, fabric)
    state = RunState(engine, config=config, batches=len(train_loader), folder=folder, meta=meta)
    state.taken_over = set(taken_over)
    signals = DeferredSignals(active=ranks.world > 1)
    with contextlib.ExitStack() as stack:

        def enter() -> None:
            make_folder(folder.path)
            stack.enter_context(locked(folder.path))

        ranks.on_first(enter)
        stack.enter_context(float32_products(config.precision, fabric.device))
        stack.enter_context(signals if signals.active else termination_raised())
        note = state.restore_newest() if resume else ranks.on_first(folder.require_free)
        shown = progress and ranks.first
        display = stack.enter_context(
            Display(shown, epochs=config.epochs, batches=len(train_loader), top5=len(meta.get("classes", ())) > 5)
        )
        display.header(state.facts(train_loader, val_loader))
        for text in filter(None, (*notes, precision_note(config.precision, fabric.device), note, *state.differences())):
            display.note(text)
        tracker = Tracker(config, folder.path, fresh=not resume, say=display.note, active=ranks.first)
        stack.enter_context(tracker)
        profiled = stack.enter_context(StepProfile(fabric.device, folder.path, ranks)) if profile else None
        training = Training(engine, state, train_loader, val_loader, display, signals, tracker, profiled)
        try:
            training.run()
        except Diverged:
            if ranks.first:
                raise
            raise SystemExit(FAILED) from None  # the first process reports it
        result = state.summary() | training.without_attention()
        if profiled is not None:
            result["profile"] = profiled.summary()
        ranks.on_first(lambda: folder.finish(result))
    return result


@dataclass(frozen=True)
class Training:
    """The remaining epochs of a run."""

    engine: Engine
    state: RunState
    train_loader: Loader
    val_loader: Loader
    display: Display
    signals: DeferredSignals
    tracker: Tracker
    profile: StepProfile | None

    def run(self) -> None:
        """Train the epochs, each with its validation and its checkpoint."""
        state, folder, ranks = self.state, self.state.folder, self.engine.ranks
        try:
            ranks.on_first(lambda: folder.begin(state.config, state.history))
            if state.config.on_nan == "rollback" and not state.last_is_good:
                state.save()  # something to go back to
            self.tracker.follow(state.history)
            while state.epoch < state.config.epochs:
                try:
                    self.train_epoch()
                    self.validate()
                except Diverged as error:
                    self.display.note(self.go_back(error))
                self.tracker.follow(state.history)
        except KeyboardInterrupt:
            with interrupts_held():
                self.count_skipped()
                try:
                    state.save()
                    self.display.note(f"saved after step {state.step:,}; --resume goes on from there")
                except Diverged as error:
                    self.go_back(error)
            raise
        except BaseException as error:
            if ranks.first:
                folder.forget_empty_run()
            if ranks.world > 1 and type(error) is RuntimeError:  # of a collective operation, when a process has gone
                raise RuntimeError(
                    f"process {ranks.rank} of {ranks.world} cannot go on, perhaps because another one has ended; "
                    f"--resume goes on from the last checkpoint ({error})"
                ) from error
            raise

    def train_epoch(self) -> None:
        """Do the remaining steps of an epoch. Signals are raised between two of them."""
        state, sums, ranks = self.state, self.state.sums, self.engine.ranks
        display, profile = self.display, self.profile
        self.engine.model.train()
        if state.epoch < state.config.freeze_epochs:
            hold_norms(self.engine.bare, state.taken_over)
        display.training(state.epoch, state.step_in_epoch)
        began = time.perf_counter() - sums.seconds
        if profile is not None:
            profile.epoch_begins(sums)
        for images, labels in self._timed_batches():
            with interrupts_held():
                if state.step not in state.left_out:
                    train_step(self.engine, state, images, labels)
                state.step_in_epoch += 1
                if profile is not None:
                    profile.step_done(sums, len(labels))
                sums.seconds = time.perf_counter() - began
                if state.config.checkpoint_steps and state.step % state.config.checkpoint_steps == 0:
                    self.count_skipped()
                    state.save()
                display.batch_done()
                if state.step_in_epoch % STEPS_BETWEEN_LOOKS == 0:
                    sums.flush(state.last, ranks.sum)
                    display.sums_known(sums, state.lr)
                    self.raise_signals()
        sums.flush(state.last, ranks.sum)
        sums.seconds = time.perf_counter() - began  # once more: the flush has waited for the device
        display.sums_known(sums, state.lr)
        self.raise_signals()
        if not sums.images and not state.left_out:
            samples = self.train_loader.num_samples
            raise checks.InputError(f"epoch {state.epoch + 1} brought none of {samples} training images")

    def _timed_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the epoch's batches, and add the seconds of waiting for them to ``state.sums``."""
        batches = iter(self.train_loader.epoch(self.state.epoch, start=self.state.step_in_epoch))
        while True:
            began = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.state.sums.waited += time.perf_counter() - began
            yield batch

    def validate(self) -> None:
        """Score the network after an epoch; write the row of metrics.csv and the checkpoint."""
        engine, state, display = self.engine, self.state, self.display
        display.validating(len(self.val_loader))
        observed: dict[str, float] = {}

        def observe(images: Tensor, logits: Tensor) -> None:
            if engine.ranks.first and not observed:
                with engine.fabric.autocast():
                    observed.update(attention_activity(engine.bare, images[:OBSERVED]))

        with engine.average.in_place() if engine.average is not None else contextlib.nullcontext():
            scores = evaluate(
                engine.model, self.val_loader, ranks=engine.ranks, on_batch=display.batch_done, observe=observe
            )
        with interrupts_held():
            row = state.metrics_row(scores, observed)
            self.count_skipped()
            state.save(best=state.epoch_done(row))
            engine.ranks.on_first(lambda: state.folder.write_metrics(state.history))
            display.epoch_done(row)
        self.raise_signals()

    def raise_signals(self) -> None:
        """Raise in all processes a signal that any of them has received."""
        self.signals.raise_pending(lambda number: max(self.engine.ranks.gather(number)))

    def count_skipped(self) -> None:
        """Add to ``state`` the files that could not be decoded so far."""
        self.state.skipped.update(self.train_loader.skipped, self.val_loader.skipped)

    def go_back(self, error: Diverged) -> str:
        """Return to the last checkpoint, halve the learning rate and skip the bad step; return a note about it.

        Raises:
            Diverged: ``error`` itself, if the configuration says stop, or the run has returned too often.
        """
        state = self.state
        if state.config.on_nan != "rollback" or state.lr_factor <= 0.5**MOST_RETURNS:
            raise error
        factor, left_out = state.lr_factor / 2, [*state.left_out, error.step - 1]
        note = state.restore_newest()
        state.lr_factor, state.left_out = factor, left_out
        with interrupts_held():
            state.save()
        where = f"epoch {state.epoch + 1}, batch {state.step_in_epoch + 1}"
        return f"{error}; back to {where}, at {factor:g} times the learning rate{'; ' + note if note else ''}"

    def without_attention(self) -> dict[str, Any]:
        """Return ``attention_off``, the scores of the network of best.pt without its attention, if it has any.

        The trained network stays as it is.
        """
        engine, path = self.engine, self.state.folder.best
        if not any(isinstance(module, Attention) for module in engine.bare.modules()):
            return {}
        problem: str | None = None
        with weights_restored(engine.bare), torch.no_grad(), engine.fabric.autocast():
            try:
                load_weights(engine.bare, load_checkpoint(path), path, averaged=True)
            except checks.InputError as error:  # best.pt is gone or damaged; the run is complete without it
                problem = str(error)
            problem = next(filter(None, engine.ranks.gather(problem)), None)
            if problem is None:
                return {"attention_off": scores_without_attention(engine.bare, self.val_loader, engine.ranks)}
        self.display.note(f"the best network is not looked at: {problem}")
        return {}


@contextlib.contextmanager
def weights_restored(model: nn.Module) -> Iterator[None]:
    """Put the weights and buffers back at the end of the ``with`` block."""
    state = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    before = {name: tensor.clone() for name, tensor in state.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(before[name])
