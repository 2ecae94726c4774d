"""Every choice of a run, in one frozen dataclass: what config.yaml holds and what the command line sets.

Loads nothing but the standard library. ``model``, ``data`` and ``model_options`` are names here; the package that
assembles a run looks them up.
"""

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from attnconv import checks, files


def _option(default: Any, help_text: str) -> Any:
    """Return a field with this default; a type stands for a new empty object of it."""
    given: dict[str, Any] = {"default_factory": default} if isinstance(default, type) else {"default": default}
    return field(metadata={"help": help_text}, **given)


YOUR_FOLDER = "FOLDER"  # in place of a data set's name: the user's own images
YOUR_DATASET = "DATASET"  # likewise: those of a script
YOUR_FILE = "FILE"  # likewise, of weights
MOST_VALUES = 100_000  # of a YAML file
DEEPEST = 100  # lists and names around a value of a YAML file
Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]


_ONE = ("at least 1", lambda value: value == "auto" or value >= 1)
_NOT_NEGATIVE = ("at least 0", lambda value: 0 <= value < math.inf)
_PART = ("above 0 and below 1", lambda value: 0 < value < 1)
_SHARE = ("at least 0 and below 1", lambda value: 0 <= value < 1)
RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("epochs", "batch_size", "accumulate", "train_subset", "checkpoint_steps"), _ONE),
    **dict.fromkeys(("nodes", "devices"), _ONE),
    **dict.fromkeys(("val_split", "ema"), _PART),
    **dict.fromkeys(("momentum", "base_momentum", "max_momentum", "warmup", "label_smoothing"), _SHARE),
    "crop_scale": ("above 0 and at most 1", lambda value: 0 < value <= 1),
    "random_erasing": ("at least 0 and at most 1", lambda value: 0 <= value <= 1),
    **dict.fromkeys(("workers", "freeze_epochs", "mixup", "cutmix"), _NOT_NEGATIVE),
    "lr": ("positive and finite", lambda value: 0 < value < math.inf),
    "clip": ("positive", lambda value: value > 0),
    "weight_decay": ("finite and not negative", lambda value: 0 <= value < math.inf),
    "seed": ("at least 0 and below 2**63", lambda value: 0 <= value < 2**63),  # what a torch.Generator takes
}


@dataclass(frozen=True)
class RunConfig:
    """One training run. The help text of each field is also the command line's."""

    model: str = _option(
        "aa_convnet3", "Network: a name of `attnconv models`, timm:NAME, torchvision:NAME or MODULE:FUNCTION."
    )
    model_options: dict[str, Any] = _option(dict, "Options of the network itself.")  # noqa: RUF009
    attention: list[Any] = _option(list, "Steps that add attention: {augment: {where: ...}}, {add: {after: ...}}.")  # noqa: RUF009
    init_from: str | None = _option(None, "Weights to start from: torchvision, timm or a file.")
    freeze_epochs: int = _option(0, "Keep the weights of init_from fixed in the first epochs.")
    data: str = _option(
        "digits", "Name of a data set, torchvision:NAME, hf:NAME, a folder of images, or a table of paths."
    )
    data_dir: str | None = _option(None, "Folder of the named data sets; they are downloaded into it.")
    image_size: int | tuple[int, int] | None = _option(
        None, "Image size in pixels: a side, or rows x columns such as 128x192. Default: the data set's own."
    )
    val_split: float | None = _option(None, "Share of each class to hold out if there are no validation images.")
    train_subset: int | None = _option(None, "Train on a fixed subset of this many images.")
    skip_bad_images: bool = _option(False, "Skip and count images that cannot be decoded.")
    crop_scale: float = _option(0.35, "Smallest share of an image file's area that a random crop covers.")
    presize: bool = _option(False, "Resize validation images as in 2019: shorter side image_size + 32.")
    trivial_augment: bool = _option(False, "Apply one random operation to each image (TrivialAugment).")
    random_erasing: float = _option(0.0, "Random-erasing probability.")
    mixup: float = _option(0.0, "Mixup: alpha of the Beta distribution; 0 turns it off.")
    cutmix: float = _option(0.0, "CutMix: alpha of the Beta distribution; 0 turns it off.")
    cache_images: bool = _option(False, "Keep decoded image files in memory.")
    workers: int = _option(2, "Processes that decode image files.")
    epochs: int = _option(30, "Epochs.")
    batch_size: int = _option(128, "Images per step.")
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop", "radam", "ranger"] = _option(
        "sgd", "Optimiser; ranger is RAdam with Lookahead."
    )
    lr: float = _option(0.1, "Largest learning rate of the schedule.")
    momentum: float | None = _option(None, "Constant momentum, or Adam's first beta; 0.9 without a momentum cycle.")
    base_momentum: float | None = _option(None, "Momentum cycle of one-cycle: momentum at the largest learning rate.")
    max_momentum: float | None = _option(None, "Momentum cycle of one-cycle: momentum at the first and last steps.")
    weight_decay: float = _option(5e-4, "Weight decay; norms, biases, gammas and position tables have none.")
    schedule: Literal["one-cycle", "cosine", "flat-cosine", "constant"] = _option(
        "one-cycle",
        "Learning-rate schedule: one-cycle starts at lr/10, cosine at 0; flat-cosine falls in the last quarter.",
    )
    warmup: float = _option(0.3, "Share of the steps in which one-cycle and cosine rise.")
    label_smoothing: float = _option(0.0, "Probability spread over all classes.")
    precision: Precision = _option("fp32", "Precision; bf16 and fp16 are mixed precision.")  # noqa: RUF009
    channels_last: bool = _option(True, "Use the channels_last memory format.")
    compile: bool = _option(False, "Compile the network with torch.compile.")
    accumulate: int = _option(1, "Compute each step's images in this many parts, to save memory.")
    recompute_attention: bool = _option(False, "Recompute attention in the backward pass, to save memory.")
    clip: float | None = _option(None, "Clip the gradients to this norm.")
    ema: float | None = _option(None, "Average the weights with this decay, and score the average.")
    on_nan: Literal["stop", "skip", "rollback"] = _option(
        "stop",
        "After a loss that is not finite: stop, skip the step, or return to the last checkpoint at half the rate.",
    )
    checkpoint_steps: int | None = _option(None, "Save a checkpoint every this many steps, too.")
    devices: int | Literal["auto"] | None = _option(
        None, "Processes on this machine; auto: one per GPU. Default: one, or those that torchrun or srun started."
    )
    nodes: int = _option(1, "Machines; each needs a launcher, see docs/clusters.md.")
    sync_batchnorm: bool = _option(False, "Compute batch norm over the images of all processes; GPUs only.")
    track: Literal["none", "tensorboard", "wandb"] = _option("none", "Log to RUN/tensorboard or Weights & Biases, too.")
    device: Device = _option("auto", "Device.")  # noqa: RUF009  as dataclasses.field
    seed: int = _option(0, "Random seed.")

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(RunConfig).items():
            value = getattr(self, name)
            object.__setattr__(self, name, image_size_of(value) if name == "image_size" else _typed(name, value, kind))
        for name, (rule, follows) in RANGES.items():
            if (value := getattr(self, name)) is not None and not follows(value):
                raise checks.InputError(f"{name} must be {rule}, got {value}")
        if self.accumulate > self.batch_size:
            raise checks.InputError(f"accumulate must be at most batch_size, {self.batch_size}, got {self.accumulate}")
        for name in ("model_options", "attention"):
            object.__setattr__(self, name, checks.plain(name, getattr(self, name)))
        if self.freeze_epochs and self.init_from is None:
            raise checks.InputError(
                f"freeze_epochs {self.freeze_epochs} needs init_from, whose weights are not trained in these epochs"
            )
        self._settle_momentum()

    def _settle_momentum(self) -> None:
        """Leave either a constant momentum or both ends of its cycle."""
        base, largest = self.base_momentum, self.max_momentum
        if base is None and largest is None:
            object.__setattr__(self, "momentum", 0.9 if self.momentum is None else self.momentum)
            return
        none = "(--base-momentum none --max-momentum none)"
        if base is None or largest is None:
            given, missing = ("max", "base") if base is None else ("base", "max")
            raise checks.InputError(f"{given}_momentum is one end of a cycle: give {missing}_momentum, too")
        if self.momentum is not None:
            raise checks.InputError(
                f"momentum {self.momentum} is constant, and base_momentum {base} and max_momentum {largest} cycle it: "
                f"give the one, or the others {none}"
            )
        if self.schedule != "one-cycle":
            raise checks.InputError(
                f"base_momentum and max_momentum belong to schedule 'one-cycle', got schedule {self.schedule!r} {none}"
            )

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
        with checks.prefixed(source):
            return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, in the order of the fields."""
        return checks.plain("config", dataclasses.asdict(self))


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
        checks.prepared_size("image_size", checks.integer("image_size", side, at_least=1))
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


def read_yaml(path: Path, *, missing: str | None = None) -> Any:
    """Return what a YAML file holds: plain values only, as `yaml_value` reads them.

    Args:
        path: the file.
        missing: the error if there is none.
    Raises:
        InputError: as above; it has tags that would make Python objects; it is no regular file, or too large.
    """
    if not path.exists():
        raise checks.InputError(missing or f"no file at {path}")
    with checks.explained(f"cannot read {path}", OSError, ValueError, reason=str):
        return yaml_value(files.read_text(path))


def yaml_value(text: str) -> Any:
    """Return the plain value that ``text`` describes; ValueError if it is none, or has a name twice.

    2e-1 is a number and 010 is ten, as in YAML 1.2; 1:30, dates, 0x1F and 1_000 are text.
    """
    import yaml  # in functions: `make gpu` has no YAML

    # libyaml does not read the escapes of what is not UTF-8 in a path.
    quick = re.search(r"\\u[dD][89a-fA-F]", text) is None
    loader = _with_numbers(getattr(yaml, "CSafeLoader", yaml.SafeLoader) if quick else yaml.SafeLoader)
    try:
        _require_shallow(text, loader)
        value = yaml.load(text, loader)
        if _written_out(value, {}) > MOST_VALUES:
            raise ValueError(f"it holds itself or, with those of its aliases, more than {MOST_VALUES:,} values")
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError:  # by a chain of aliases
        raise ValueError("its aliases are nested too deeply") from None
    return value


def _require_shallow(text: str, loader: Any) -> None:
    """Raise ValueError if ``text`` is nested so deeply that libyaml, which composes it by recursion, might crash."""
    import yaml

    depth = 0
    for event in yaml.parse(text, loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise ValueError(
                f"lists and names are nested more than {DEEPEST} deep, in line {event.start_mark.line + 1}"
            )


def _written_out(value: Any, known: dict[int, float]) -> float:
    """Return the number of values in ``value``, those of an alias each time; infinite if it holds itself."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(value)]


def yaml_text(value: Any, **options: Any) -> str:
    """Return ``value`` as YAML that `yaml_value` reads; ``options`` are those of yaml.dump."""
    import yaml

    return yaml.dump(value, Dumper=_with_numbers(yaml.SafeDumper), **options)


@functools.cache
def _with_numbers(base: Any) -> Any:
    """Return a subclass of a loader or dumper of PyYAML's that has the numbers of YAML 1.2, and no name twice."""
    import yaml

    of_1_1 = integer, real, _ = [f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp")]

    class WithNumbers(base):
        copied = 0  # names, by <<

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
            """Refuse a name that stands twice: the second would silently take the place of the first."""
            names: set[str] = set()
            for key, _ in node.value:
                line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode):
                    raise yaml.YAMLError(f"a name must be one word, got a list or names in line {line}")
                if key.value in names:
                    raise yaml.YAMLError(f"{key.value!r} stands twice in line {line}")
                names.add(key.value)
            return super().construct_mapping(node, deep)

        def flatten_mapping(self, node: Any) -> None:
            """Bound what << copies, of which the copies of copies would grow without end."""
            own = len(node.value)
            for key, value in node.value:
                if key.tag == "tag:yaml.org,2002:merge" and not isinstance(value, yaml.MappingNode):
                    raise yaml.YAMLError(f"<< takes one alias, got something else in line {key.start_mark.line + 1}")
            super().flatten_mapping(node)
            self.copied += max(len(node.value) - own, 0)
            if self.copied > MOST_VALUES:
                raise yaml.YAMLError(f"its << copy more than {MOST_VALUES:,} values")

    WithNumbers.yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in known if tag not in of_1_1]
        for first, known in base.yaml_implicit_resolvers.items()
    }
    WithNumbers.add_implicit_resolver(integer, re.compile(r"[-+]?[0-9]+$"), list("-+0123456789"))
    number = r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
    WithNumbers.add_implicit_resolver(real, re.compile(number), list("-+0123456789."))
    if hasattr(base, "add_constructor"):
        WithNumbers.add_constructor(integer, lambda _, node: int(node.value))
    return WithNumbers


def _typed(name: str, value: Any, kind: Any) -> Any:
    """Return ``value`` if it is of the annotated ``kind``; an integer is a float, too, and so is text like 1e-3.

    PyYAML by itself reads 1e-3 as text, since it has no point; our own reader does not.
    """
    kinds = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    if value is None and type(None) in kinds:
        return None
    words = next((typing.get_args(one) for one in kinds if typing.get_origin(one) is Literal), ())
    if words and (len(kinds) == 1 or isinstance(value, str)):
        return checks.one_of(name, value, words)
    wanted = typing.get_origin(kinds[0]) or kinds[0]
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return checks.number(name, value)
    if wanted is float and isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise checks.InputTypeError(f"{name} must be {wanted.__name__}, got {value!r}")
    return value
