"""A study's plan: arms and seeds over base options, checked as a whole before anything runs.

An arm is a set of options of RunConfig under a name. Arms may belong to blocks, named BLOCK/ARM, such as rows of a
table, each with its own data and baseline. Only the check that models and data exist loads torch.
"""

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from attnconv import checks, networks
from attnconv.train.config import RunConfig

SCALES = ("published", "small", "own")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=,-]*")
ENTRIES = ("value", "score", "source", "runs", "note")  # of a published number

# Scores that a study can compare, of the last epoch, which is fixed before the runs. A record holds them under these
# keys, the rows of its history under "val_" and the key.
SCORES = {"top1": "top-1", "top5": "top-5", "miou": "mean IoU"}

# Kinds of published numbers.
PUBLISHED = {
    "top1": "last epoch",
    "best_top1": "best epoch",
    "top5": "top-5, last epoch",
    "miou": "mean IoU, last epoch",
    "best_miou": "mean IoU, best epoch",
}


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study."""

    arm: str
    seed: int
    config: RunConfig

    @property
    def name(self) -> str:
        """ARM-seedS: its folder below runs/."""
        return f"{self.arm}-seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Study:
    """A plan of runs: every arm with every seed.

    Args:
        name: letters, digits and ``._+=,-``.
        text: the question, for people.
        arms: name -> options of `RunConfig` that differ from ``base``; model_options are merged option by option.
            Either all names have a block, BLOCK/ARM, or none.
        baseline: the arm that the others are compared with; with blocks ARM, which each block must have.
        base: options of `RunConfig` that all arms share.
        seeds: a list of seeds, or their number, counted from 0.
        score: the score of the last epoch to compare: "top1", "top5" or, where each pixel has a label, "miou"; with
            blocks also BLOCK -> score, "top1" for the others.
        published: arm -> {"value": percent, "source": text} and optionally "score" ("top1" by default, "best_top1" for
            the best epoch, "top5", "miou", "best_miou"), "runs" and "note".
        scale: "published", "small", or "own" for any other size.
        threads: CPU threads of each run; None until the study has a folder, which then keeps the number.
        memory_gb: memory that Ray reserves for each run, 10^9 bytes; None for none.
    Raises:
        InputError: with every mistake: no arms or seeds, unknown options (with the nearest) or values of the wrong
            type, the same runs under two names.
    """

    name: str
    text: str
    arms: dict[str, dict[str, Any]]
    baseline: str
    base: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    score: str | dict[str, str] = "top1"
    published: dict[str, dict[str, Any]] = field(default_factory=dict)
    scale: str = "own"
    threads: int | None = None
    memory_gb: float | None = None

    def __post_init__(self) -> None:
        mistakes: list[str] = []
        put = partial(object.__setattr__, self)
        for what in ("base", "arms"):
            with noted(mistakes):
                put(what, checks.plain(what, named(what, getattr(self, what))))
        if mistakes:  # all the rest reads these
            raise PlanError(mistakes)
        # A valid value in place of each wrong one, so that the rest can be checked.
        first = next(iter(self.arms), "").rpartition("/")[2]
        for what, valid in (("name", "unnamed"), ("text", ""), ("baseline", first)):
            if not isinstance(value := getattr(self, what), str):
                mistakes.append(f"{what} of a study must be text, got {value!r}")
                put(what, valid)
        for what, read, valid in (("seeds", _seeds, (0,)), ("published", _published, {})):
            value = getattr(self, what)
            put(what, valid)
            with noted(mistakes):
                put(what, read(value))
        right = []
        for arm, options in self.arms.items():
            with noted(mistakes):
                self.arms[arm] = named(f"arm {arm!r}", options)
                right.append(arm)
        self.arms.update({arm: {} for arm in self.arms if arm not in right})
        checked = (self._check_names, self._check_baseline, self._check_scores, self._check_published)
        for check in (*checked, self._check_resources):
            with noted(mistakes):
                check()
        configs = self._configs(right, mistakes)
        if mistakes:
            raise PlanError(mistakes, configs)
        for one, other in itertools.combinations(configs, 2):
            if configs[one] == configs[other]:
                raise checks.InputError(f"arms {one!r} and {other!r} are the same runs under two names")

    def _check_resources(self) -> None:
        if self.threads is not None:
            checks.integer("threads", self.threads, at_least=1)
        if self.memory_gb is not None and not checks.number("memory_gb", self.memory_gb) > 0:
            raise checks.InputError(f"memory_gb must be positive, got {self.memory_gb}")

    def _configs(self, arms: Iterable[str], mistakes: list[str]) -> dict[str, RunConfig]:
        """Return the configurations of ``arms``; those with mistakes, once each, without the options at fault."""
        configs: dict[str, RunConfig] = {}
        said = set()  # a mistake in the base is every arm's
        for arm in arms:
            options, before = self.options(arm), None
            while options != before:
                before = options
                try:
                    configs[arm] = self._config(arm, options, self.seeds[0])
                except checks.InputError as error:
                    text = str(error).replace(f"arm {arm!r}", "")
                    mistakes += [] if text in said else [str(error)]
                    said.add(text)
                    at_fault = re.findall(r"\w+", text)
                    options = {name: value for name, value in options.items() if name not in at_fault}
        return configs

    def _check_names(self) -> None:
        checks.one_of("scale", self.scale, SCALES)
        if not NAME.fullmatch(self.name):
            raise checks.InputError(f"name of a study must be of letters, digits and ._+=,- only, got {self.name!r}")
        if not self.arms:
            raise checks.InputError(f"study {self.name!r} has no arms")
        for arm in self.arms:
            parts = arm.split("/")
            if len(parts) > 2 or not all(NAME.fullmatch(part) for part in parts):
                raise checks.InputError(
                    f"name of an arm must be ARM or BLOCK/ARM, of letters, digits and ._+=,- only, got {arm!r}"
                )
        if len({"/" in arm for arm in self.arms}) > 1:
            raise checks.InputError("either all arms stand in a block, named BLOCK/ARM, or none does")

    def _check_baseline(self) -> None:
        for block, arms in self.blocks().items():
            inside = [arm.rpartition("/")[2] for arm in arms]
            checks.one_of(f"baseline{f' of block {block!r}' if block else ''}:", self.baseline, inside)

    def _check_scores(self) -> None:
        if isinstance(self.score, str):
            checks.one_of("score", self.score, SCORES)
            return
        for block, score in named("score", self.score).items():
            checks.one_of("block in score:", block, [name for name in self.blocks() if name])
            checks.one_of(f"score of block {block!r}", score, SCORES)

    def _check_published(self) -> None:
        for arm, entry in self.published.items():
            checks.one_of("arm in published:", arm, self.arms)
            for key in named(f"published[{arm!r}]", entry):
                checks.one_of(f"entry of published[{arm!r}]:", key, ENTRIES)
            checks.number(f"value of published[{arm!r}]", entry.get("value"))
            if not isinstance(entry.get("source"), str):
                raise checks.InputError(f"published[{arm!r}] needs its source as text, got {entry.get('source')!r}")
            checks.one_of(f"score of published[{arm!r}]:", entry.get("score", "top1"), PUBLISHED)

    def blocks(self) -> dict[str, list[str]]:
        """Return block -> its arms, in order; arms without a block have block ""."""
        found: dict[str, list[str]] = {}
        for arm in self.arms:
            found.setdefault(arm.rpartition("/")[0], []).append(arm)
        return found

    def score_of(self, block: str) -> str:
        """Return the score that is compared in ``block``."""
        return self.score if isinstance(self.score, str) else self.score.get(block, "top1")

    def baseline_of(self, arm: str) -> str:
        """Return the baseline of the block of ``arm``."""
        block = arm.rpartition("/")[0]
        return f"{block}/{self.baseline}" if block else self.baseline

    def options(self, arm: str) -> dict[str, Any]:
        """Return the base options, overridden by those of ``arm``."""
        checks.one_of("arm", arm, self.arms)
        return merged(self.base, self.arms[arm])

    def config(self, arm: str, seed: int) -> RunConfig:
        """Return the configuration of one run."""
        return self._config(arm, self.options(arm), seed)

    @staticmethod
    def _config(arm: str, options: Mapping[str, Any], seed: int) -> RunConfig:
        if "seed" in options:
            raise checks.InputError(f"arm {arm!r} has a seed of its own: give the study's seeds as 'seeds'")
        config = RunConfig.from_dict({**options, "seed": seed}, source=f"arm {arm!r}")
        if config.nodes > 1:
            raise checks.InputError(f"arm {arm!r}: each run of a study is on one machine, got nodes {config.nodes}")
        return config

    def runs(self) -> list[PlannedRun]:
        """Return every run, seed by seed, so that a study that is cut short has as many of each arm."""
        return [PlannedRun(arm, seed, self.config(arm, seed)) for seed in self.seeds for arm in self.arms]

    def require_runnable(self) -> None:
        """Raise InputError unless the models, their options and the data of all arms exist; nothing is loaded."""
        mistakes = unknown_names({arm: self.config(arm, self.seeds[0]) for arm in self.arms})
        dense = networks.list_models(dense=True)
        for arm in self.arms:
            model = self.options(arm).get("model")
            if self.score_of(arm.rpartition("/")[0]) == "miou" and model not in dense:
                mistakes.append(
                    f"arm {arm!r}: score 'miou' is for networks that give each pixel a class ({', '.join(dense)}), "
                    f"got {model!r}"
                )
        if mistakes:
            raise PlanError(mistakes)

    def only(self, names: list[str]) -> "Study":
        """Return the study with these arms and blocks alone, and their baselines."""
        chosen: set[str] = set()
        blocks = self.blocks()
        for name in names:
            checks.one_of("arm or block", name, (*self.arms, *(block for block in blocks if block)))
            chosen |= set(blocks[name]) if name in blocks else {name, self.baseline_of(name)}
        kept = {arm.rpartition("/")[0] for arm in chosen}
        score = self.score
        return dataclasses.replace(
            self,
            arms={arm: options for arm, options in self.arms.items() if arm in chosen},
            score=score if isinstance(score, str) else {block: one for block, one in score.items() if block in kept},
            published={arm: entry for arm, entry in self.published.items() if arm in chosen},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, from which `attnconv.study.plan_file.study_of` makes the same study."""
        return checks.plain("study", dataclasses.asdict(self))


class PlanError(checks.InputError):
    """A plan with mistakes, which the message numbers; ``configs`` are those that the arms have without them."""

    def __init__(self, mistakes: Iterable[str], configs: Mapping[str, RunConfig] | None = None) -> None:
        self.mistakes, self.configs = list(dict.fromkeys(mistakes)), dict(configs or {})
        numbered = "; ".join(f"({number}) {text}" for number, text in enumerate(self.mistakes, start=1))
        several = f"{len(self.mistakes)} mistakes: {numbered}"
        super().__init__(self.mistakes[0] if len(self.mistakes) == 1 else several)


@contextlib.contextmanager
def noted(mistakes: list[str]) -> Iterator[None]:
    """Add an InputError of the block to ``mistakes`` instead of raising it."""
    try:
        yield
    except PlanError as error:
        mistakes += error.mistakes
    except checks.InputError as error:
        mistakes.append(str(error))


def unknown_names(configs: Mapping[str, RunConfig]) -> list[str]:
    """Return the mistakes of arms whose model, model options or data do not exist."""
    from attnconv.recipes import require_known

    mistakes, checked = [], []  # without the option that does not decide it: a row of a table more costs nothing
    for arm, config in configs.items():
        config = dataclasses.replace(config, epochs=1)
        if config not in checked:
            checked.append(config)
            with noted(mistakes), checks.prefixed(f"arm {arm!r}"):
                require_known(config)
    return mistakes


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` overridden by ``over``; model_options are merged option by option."""
    found = {**base, **over}
    if isinstance(base.get("model_options"), dict) and isinstance(over.get("model_options"), dict):
        found["model_options"] = {**base["model_options"], **over["model_options"]}
    return found


def named(what: str, value: Any) -> dict[str, Any]:
    """Return ``value``, {} for None; InputTypeError unless it holds names and values."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise checks.InputTypeError(f"{what} must hold names and values, got {value!r}")
    return value


def _published(value: Any) -> dict[str, Any]:
    return checks.plain("published", named("published", value))


def _seeds(value: Any) -> tuple[int, ...]:
    if isinstance(value, int) and not isinstance(value, bool):
        return tuple(range(checks.integer("seeds", value, at_least=1)))
    if not isinstance(value, (list, tuple)):
        raise checks.InputTypeError(f"seeds must be a list of integers, or how many, got {value!r}")
    seeds = tuple(checks.integer("each of the seeds", seed, at_least=0) for seed in value)
    if not seeds:
        raise checks.InputError("a study needs at least one seed, got none")
    if len(set(seeds)) < len(seeds):
        raise checks.InputError(f"seeds must differ from each other, got {list(seeds)}")
    return seeds
