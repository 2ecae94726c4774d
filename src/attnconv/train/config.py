"""Every choice of a run, in one frozen dataclass: what config.yaml holds and what the command line sets.

Loads nothing but the standard library. ``model``, ``data`` and ``model_options`` are names here; the package that
assembles a run looks them up.
"""

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from attnconv import checks, files


def _option(help_text: str, **kwargs: Any) -> Any:
    return field(metadata={"help": help_text}, **kwargs)


YOUR_FOLDER = "FOLDER"  # in place of a data set's name: images that whoever uses the configuration has
YOUR_DATASET = "DATASET"  # likewise: those of a script
YOUR_FILE = "FILE"  # likewise, of weights
Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]


@dataclass(frozen=True)
class RunConfig:
    """One training run. The help text of each field is also the command line's."""

    model: str = _option(
        "Network: a name of `attnconv models`, timm:NAME, torchvision:NAME, or package.module:function of your own.",
        default="aa_convnet3",
    )
    model_options: dict[str, Any] = _option("The network's own options.", default_factory=dict)  # noqa: RUF009
    attention: list[Any] = _option(  # noqa: RUF009
        "Attention put into the network as it comes, a list of steps: {augment: {where: ...}}, {add: {after: ...}}.",
        default_factory=list,
    )
    init_from: str | None = _option(
        "Trained weights to start from: torchvision, timm, or a file; of the network without or with its attention.",
        default=None,
    )
    freeze_epochs: int = _option("First epochs in which what init_from brought is not trained.", default=0)
    data: str = _option(
        "Data set name, torchvision:NAME, hf:NAME, a folder with `train/<class>/*` and `val/<class>/*`, or a table.",
        default="digits",
    )
    data_dir: str | None = _option("Folder that holds (or receives) the named data sets.", default=None)
    image_size: int | tuple[int, int] | None = _option(
        "Side of the images in pixels, or rows x columns such as 128x192; the data's own if not given.", default=None
    )
    val_split: float | None = _option(
        "Share of each class held out for validation, of images that have none for it.", default=None
    )
    train_subset: int | None = _option("Train on a fixed subset of so many images.", default=None)
    skip_bad_images: bool = _option("Count images that cannot be decoded, and go on.", default=False)
    crop_scale: float = _option("Least part of an image file's area that a random crop covers.", default=0.35)
    presize: bool = _option("Validation images cut as in 2019: shorter side image_size + 32.", default=False)
    trivial_augment: bool = _option("One random operation an image (TrivialAugment).", default=False)
    random_erasing: float = _option("Random-erasing probability.", default=0.0)
    mixup: float = _option("Alpha of the Beta distribution by which images are blended; 0 for none.", default=0.0)
    cutmix: float = _option("Alpha of that by which rectangles of images are swapped; 0 for none.", default=0.0)
    cache_images: bool = _option("Keep a folder's decoded images in memory.", default=False)
    workers: int = _option("Processes that decode a folder's images.", default=2)
    epochs: int = _option("Passes over the training images.", default=30)
    batch_size: int = _option("Images a step.", default=128)
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop", "radam", "ranger"] = _option(
        "Optimiser; ranger is radam with Lookahead.", default="sgd"
    )
    lr: float = _option("Largest learning rate of the schedule.", default=0.1)
    momentum: float | None = _option(
        "Constant momentum; Adam's first beta. 0.9 if neither it nor a cycle is given.", default=None
    )
    base_momentum: float | None = _option(
        "With one-cycle: the momentum at the largest learning rate, in place of a constant one.", default=None
    )
    max_momentum: float | None = _option(
        "With one-cycle: the momentum at the first and the last step, beside base_momentum.", default=None
    )
    weight_decay: float = _option("Weight decay, not on norms, biases, gammas and position tables.", default=5e-4)
    schedule: Literal["one-cycle", "cosine", "flat-cosine", "constant"] = _option(
        "Learning rate over the run: one-cycle rises from lr/10, cosine from 0; flat-cosine falls in the last quarter.",
        default="one-cycle",
    )
    warmup: float = _option("Fraction of the steps in which one-cycle and cosine rise.", default=0.3)
    label_smoothing: float = _option("Probability spread over all classes.", default=0.0)
    precision: Precision = _option("Arithmetic; the 16-bit ones are mixed.", default="fp32")  # noqa: RUF009
    channels_last: bool = _option("Keep maps in memory with the channels of a position side by side.", default=True)
    compile: bool = _option("Run the network through torch.compile.", default=False)
    accumulate: int = _option("Parts that a step's images are computed in, to save memory.", default=1)
    recompute_attention: bool = _option("Compute attention anew in the backward pass, to save memory.", default=False)
    clip: float | None = _option("Largest norm of all gradients together.", default=None)
    ema: float | None = _option("Average the weights with this decay, and score the average.", default=None)
    on_nan: Literal["stop", "skip", "rollback"] = _option(
        "At a loss that is not finite: stop, leave the step out, or go back to the last checkpoint at half the rate.",
        default="stop",
    )
    checkpoint_steps: int | None = _option("Save a checkpoint every so many steps, too.", default=None)
    devices: int | Literal["auto"] | None = _option(
        "Processes on this machine; auto: one a GPU. If not given: one, or what torchrun or srun started.",
        default=None,
    )
    nodes: int = _option("Machines; each needs a launcher, see docs/clusters.md.", default=1)
    sync_batchnorm: bool = _option("Batch norm over the images of all processes; GPUs only.", default=False)
    track: Literal["none", "tensorboard", "wandb"] = _option(
        "Record the epochs in RUN/tensorboard, or for Weights & Biases, too.", default="none"
    )
    device: Device = _option("Where to run.", default="auto")  # noqa: RUF009  as dataclasses.field
    seed: int = _option("Seed of weights, order and augmentation.", default=0)

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(RunConfig).items():
            value = getattr(self, name)
            object.__setattr__(self, name, image_size_of(value) if name == "image_size" else _typed(name, value, kind))
        counts = ("epochs", "batch_size", "accumulate", "nodes", "devices", "train_subset")
        for name in (*counts, "checkpoint_steps"):
            if (value := getattr(self, name)) not in (None, "auto"):
                checks.integer(name, value, at_least=1)
        if self.val_split is not None and not 0 < self.val_split < 1:
            raise checks.InputError(f"val_split must be above 0 and below 1, got {self.val_split}")
        for name in ("workers", "seed", "freeze_epochs"):
            checks.integer(name, getattr(self, name), at_least=0)
        if self.seed >= 2**63:  # what a torch.Generator takes
            raise checks.InputError(f"seed must be below 2**63, got {self.seed}")
        for name in ("model_options", "attention"):
            object.__setattr__(self, name, checks.plain(name, getattr(self, name)))
        if self.freeze_epochs and self.init_from is None:
            raise checks.InputError(
                f"freeze_epochs {self.freeze_epochs} needs init_from: what it brings is not trained in these epochs"
            )
        self._settle_momentum()
        for name in ("momentum", "base_momentum", "max_momentum", "warmup", "label_smoothing"):
            if (value := getattr(self, name)) is not None and not 0 <= value < 1:
                raise checks.InputError(f"{name} must be at least 0 and below 1, got {value}")
        if not 0 < self.lr < float("inf"):
            raise checks.InputError(f"lr must be positive and finite, got {self.lr}")
        if self.clip is not None and not self.clip > 0:
            raise checks.InputError(f"clip must be positive, got {self.clip}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise checks.InputError(f"ema must be above 0 and below 1, got {self.ema}")
        if self.accumulate > self.batch_size:
            raise checks.InputError(f"accumulate must be at most batch_size, {self.batch_size}, got {self.accumulate}")
        if not 0 <= self.weight_decay < float("inf"):
            raise checks.InputError(f"weight_decay must be finite and not negative, got {self.weight_decay}")

    def _settle_momentum(self) -> None:
        """Leave either a constant momentum or both ends of its cycle."""
        ends = {"base_momentum": self.base_momentum, "max_momentum": self.max_momentum}
        given = [name for name, value in ends.items() if value is not None]
        if not given:
            object.__setattr__(self, "momentum", 0.9 if self.momentum is None else self.momentum)
            return
        if len(given) == 1:
            missing = next(name for name in ends if name not in given)
            raise checks.InputError(f"{given[0]} is one end of a cycle: give {missing}, too")
        if self.momentum is not None:
            raise checks.InputError(
                f"momentum {self.momentum} is constant, and base_momentum {self.base_momentum} and max_momentum "
                f"{self.max_momentum} cycle it: give the one, or the others (--base-momentum none --max-momentum none)"
            )
        if self.schedule != "one-cycle":
            raise checks.InputError(
                f"base_momentum and max_momentum belong to schedule 'one-cycle', got schedule {self.schedule!r} "
                "(--base-momentum none --max-momentum none)"
            )

    @property
    def first_momentum(self) -> float:
        """Momentum of the first step."""
        value = self.momentum if self.max_momentum is None else self.max_momentum
        assert value is not None
        return value

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, source: str) -> "RunConfig":
        """Return the configuration with these ``values`` of ``source``, a file say; others have their defaults."""
        if not isinstance(values, dict):
            raise checks.InputTypeError(f"{source} must hold names and values, got {type(values).__name__}")
        if values.get("strategy", "ddp") != "ddp":
            raise checks.InputError(f"{source}: strategy was removed; several processes train with DDP, leave it out")
        values = {name: value for name, value in values.items() if name != "strategy"}
        for name in values:
            checks.one_of(f"option in {source}", name, (f.name for f in dataclasses.fields(cls)))
        try:
            return cls(**values)
        except checks.InputError as error:
            raise type(error)(f"{source}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, in the order of the fields."""
        found = dataclasses.asdict(self)
        if isinstance(self.image_size, tuple):
            found["image_size"] = list(self.image_size)
        return found


def image_size_of(value: Any) -> int | tuple[int, int] | None:
    """Return a side, or rows and columns if they differ; text such as 128x192 and lists are read.

    Raises:
        InputError: it is none, or out of range.
    """
    if value is None:
        return None
    sides: list[Any] = list(value) if isinstance(value, (list, tuple)) and len(value) == 2 else [value]
    if isinstance(value, str) and (written := re.fullmatch(r"(\d+)x(\d+)", value)):
        sides = [int(written[1]), int(written[2])]
    if any(isinstance(side, bool) or not isinstance(side, int) for side in sides):
        raise checks.InputTypeError(f"image_size must be int, got {value!r}; rows and columns are written 128x192")
    for side in sides:
        if checks.integer("image_size", side, at_least=1) > checks.LARGEST_IMAGE:
            raise checks.InputError(f"image_size must be at most {checks.LARGEST_IMAGE}, got {side}")
    return sides[0] if len(set(sides)) == 1 else (sides[0], sides[1])


def without_folders(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `RunConfig.to_dict` as it may leave this machine: no path to images or weights, only names."""
    found = {key: None if key == "data_dir" else value for key, value in config.items()}
    if found.get("init_from") not in (None, "torchvision", "timm"):
        found["init_from"] = YOUR_FILE
    data = str(found.get("data", YOUR_FOLDER))
    of_hub = re.fullmatch(r"hf:(\w[\w.-]*(/\w[\w.-]*)?)", data)  # a name there, or a folder here
    if not (re.fullmatch(r"(torchvision:)?\w[\w.-]*", data) or (of_hub and not Path(of_hub[1]).exists())):
        found["data"] = YOUR_FOLDER
    return found


def read_yaml(path: Path, *, missing: str | None = None, problem: str | None = None) -> Any:
    """Return what a YAML file holds: plain values only, as `yaml_value` reads them.

    Args:
        path: the file.
        missing: the error if there is none.
        problem: the error's first words if it cannot be read, or is no YAML.
    Raises:
        InputError: as above; it has tags that would make Python objects; it is no regular file, or too large.
    """
    import yaml

    try:
        return yaml_value(files.read_text(path))
    except FileNotFoundError:
        raise checks.InputError(missing or f"no file at {path}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise checks.InputError(f"{problem or f'cannot read {path}'}: {' '.join(str(error).split())}") from None


def yaml_value(text: str) -> Any:
    """Return the plain value that ``text`` describes; yaml.YAMLError if it is none, or has a name twice.

    Numbers are those of YAML 1.2: 2e-1 is one, 010 is ten, 1:30 and dates are text.
    """
    import yaml

    # libyaml does not read the escapes of what is not UTF-8 in a path.
    quick = re.search(r"\\u[dD][89a-fA-F]", text) is None
    return yaml.load(text, _with_numbers(getattr(yaml, "CSafeLoader", yaml.SafeLoader) if quick else yaml.SafeLoader))


def yaml_text(value: Any, **options: Any) -> str:
    """Return ``value`` as YAML that `yaml_value` reads; ``options`` are those of yaml.dump."""
    import yaml

    return yaml.dump(value, Dumper=_with_numbers(yaml.SafeDumper), **options)


@functools.cache
def _with_numbers(base: Any) -> Any:
    """Return a subclass of a loader or dumper of PyYAML's that takes the numbers of YAML 1.2, and no name twice."""
    import yaml

    of_1_1 = [f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp")]

    class WithNumbers(base):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
            """Refuse a name that stands twice: the second would silently take the place of the first."""
            seen = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise yaml.YAMLError(
                        f"a name must be one word, got a list or names in line {key.start_mark.line + 1}"
                    )
                if key.value in seen:
                    raise yaml.YAMLError(f"{key.value!r} stands twice in line {key.start_mark.line + 1}")
                seen.add(key.value)
            return super().construct_mapping(node, deep)

        def integer(self, node: Any) -> int:
            text = node.value.replace("_", "")
            prefixed = re.match(r"[-+]?0[xob]", text)
            return int(text, 0) if prefixed else int(text)

    WithNumbers.yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in known if tag not in of_1_1]
        for first, known in base.yaml_implicit_resolvers.items()
    }
    WithNumbers.add_implicit_resolver(
        of_1_1[0],
        re.compile(r"[-+]?(?:0o[0-7]+|0x[0-9a-fA-F]+|0b[01]+|[0-9][0-9_]*)$"),
        list("-+0123456789"),
    )
    WithNumbers.add_implicit_resolver(
        of_1_1[1],
        re.compile(
            r"[-+]?(?:(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))$"
            r"|\.(?:nan|NaN|NAN)$"
        ),
        list("-+0123456789."),
    )
    if hasattr(base, "add_constructor"):
        WithNumbers.add_constructor(of_1_1[0], WithNumbers.integer)
    return WithNumbers


def _typed(name: str, value: Any, kind: Any) -> Any:
    """Return ``value`` if it is of the annotated ``kind``; an integer is a float, too, and so is text like 1e-3.

    PyYAML by itself reads 1e-3 as text, since it has no point; our own reader does not.
    """
    if typing.get_origin(kind) is Literal:
        return checks.one_of(name, value, typing.get_args(kind))
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kinds = typing.get_args(kind)
        if value is None:
            return None
        words = [k for k in kinds if typing.get_origin(k) is Literal]
        if words and isinstance(value, str):
            return checks.one_of(name, value, typing.get_args(words[0]))
        kind = kinds[0]
    wanted = typing.get_origin(kind) or kind
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return checks.number(name, value)
    if wanted is float and isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise checks.InputTypeError(f"{name} must be {wanted.__name__}, got {value!r}")
    return value
