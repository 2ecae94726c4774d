"""A study's plan: arms and seeds over base options, checked as a whole before anything runs.

An arm is a set of options of RunConfig under a name. Arms may stand in blocks, named BLOCK/ARM: a row of a table, say,
with its own data and its own baseline. Everything here is names and numbers: torch is loaded by `require_runnable`
alone.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from attnconv import checks
from attnconv.train.config import RunConfig

SCALES = ("published", "small", "own")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=,-]*")
ENTRIES = ("value", "score", "source", "runs", "note")  # of a published number

# What a study can compare, by name; always the last epoch's, which is fixed before the runs. In a record it stands
# under its key, in the rows of a record's history under "val_" and the key.
SCORES = {"top1": "top-1", "top5": "top-5", "miou": "mean IoU"}

# What a published number may be, in words.
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
    """A plan of runs.

    Args:
        name: of letters, digits and ``._+=,-``.
        text: what the study asks, for people.
        base: options of RunConfig that all arms share.
        arms: name -> the options in which it differs from ``base``; model_options are merged option by option. Either
            all names have a block, BLOCK/ARM, or none has.
        seeds: a list of them, or how many, counted from 0.
        baseline: the arm that the others are compared with; in a study of blocks ARM, which each block must have.
        score: what is compared, of the last epoch: "top1", "top5" or, where each pixel has a label, "miou"; in a study
            of blocks also BLOCK -> one of these, "top1" for the others.
        published: arm -> {"value": percent, "source": text} and, where known, "score" ("top1" if not
            said, "best_top1" of the best epoch, "top5", "miou", "best_miou"), "runs" and "note".
        scale: "published", "small", or "own", a size that is neither.
        threads: CPU threads of each run; None until the study has a folder, which then keeps the number.
        memory_gb: memory that Ray reserves for each run, 10^9 bytes; None for none.
    Raises:
        InputError: no arms, no seeds, unknown or ill-typed options, names that do not exist (with the nearest), the
            same runs under two names.
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
        for what in ("name", "text", "baseline"):
            if not isinstance(value := getattr(self, what), str):
                raise checks.InputTypeError(f"{what} of a study must be text, got {value!r}")
        if not NAME.fullmatch(self.name):
            raise checks.InputError(f"name of a study must be of letters, digits and ._+=,- only, got {self.name!r}")
        for what in ("base", "arms", "published"):
            object.__setattr__(self, what, checks.plain(what, named(what, getattr(self, what))))
        object.__setattr__(self, "arms", {arm: named(f"arm {arm!r}", options) for arm, options in self.arms.items()})
        object.__setattr__(self, "seeds", _seeds(self.seeds))
        checks.one_of("scale", self.scale, SCALES)
        if self.threads is not None:
            checks.integer("threads", self.threads, at_least=1)
        if self.memory_gb is not None and not checks.number("memory_gb", self.memory_gb) > 0:
            raise checks.InputError(f"memory_gb must be positive, got {self.memory_gb}")
        self._check_names()
        self._check_scores()
        self._check_published()
        configs: dict[str, dict[str, Any]] = {}
        for arm in self.arms:
            config = self.config(arm, self.seeds[0]).to_dict()
            for other, same in configs.items():
                if same == config:
                    raise checks.InputError(f"arms {other!r} and {arm!r} are the same runs under two names")
            configs[arm] = config

    def _check_names(self) -> None:
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
        """Block -> its arms, in order; the block of arms without one is ""."""
        found: dict[str, list[str]] = {}
        for arm in self.arms:
            found.setdefault(arm.rpartition("/")[0], []).append(arm)
        return found

    def score_of(self, block: str) -> str:
        """Return the score that is compared in ``block``."""
        return self.score if isinstance(self.score, str) else self.score.get(block, "top1")

    def baseline_of(self, arm: str) -> str:
        """Return the arm with which ``arm`` is compared: its block's baseline, which is compared with itself."""
        block = arm.rpartition("/")[0]
        return f"{block}/{self.baseline}" if block else self.baseline

    def options(self, arm: str) -> dict[str, Any]:
        """The base options with those of ``arm`` over them."""
        checks.one_of("arm", arm, self.arms)
        return merged(self.base, self.arms[arm])

    def config(self, arm: str, seed: int) -> RunConfig:
        """The configuration of one run."""
        options = self.options(arm)
        if "seed" in options:
            raise checks.InputError(f"arm {arm!r} has a seed of its own: a study's seeds stand in 'seeds'")
        config = RunConfig.from_dict({**options, "seed": seed}, source=f"arm {arm!r}")
        if config.nodes > 1:
            raise checks.InputError(f"arm {arm!r}: each run of a study is on one machine, got nodes {config.nodes}")
        return config

    def runs(self) -> list[PlannedRun]:
        """Every run, seed by seed, so that a study that is cut short has as many of each arm."""
        return [PlannedRun(arm, seed, self.config(arm, seed)) for seed in self.seeds for arm in self.arms]

    def require_runnable(self) -> None:
        """Raise InputError unless the models, their options and the data of all arms exist; nothing is loaded."""
        from attnconv.recipes import dense_models, require_known

        dense = dense_models()
        checked = []  # without what does not decide it: a row of a table more costs nothing
        for arm in self.arms:
            config = dataclasses.replace(self.config(arm, self.seeds[0]), epochs=1)
            if config in checked:
                continue
            checked.append(config)
            try:
                require_known(config)
            except checks.InputError as error:
                raise type(error)(f"arm {arm!r}: {error}") from None
            score = self.score_of(arm.rpartition("/")[0])
            if score == "miou" and config.model not in dense:
                raise checks.InputError(
                    f"arm {arm!r}: score {score!r} is for networks that give each pixel a class ({', '.join(dense)}), "
                    f"got {config.model!r}"
                )

    def only(self, names: list[str]) -> "Study":
        """The study with these arms and blocks alone, and the baselines that they are compared with."""
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
        """Plain values only, from which `attnconv.study.plan_file.study_of` makes the same study."""
        return checks.plain("study", dataclasses.asdict(self))


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` in its place; of model_options each one by itself."""
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
