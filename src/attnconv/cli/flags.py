"""Flags that several commands share: steps of surgery, runs, image sizes, NAME=VALUE pairs and lists."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter, Token

from attnconv import checks, extensions, networks
from attnconv.train.config import image_size_of, yaml_value

if TYPE_CHECKING:
    from attnconv.recipes import Trained

MODEL = Group("Model", sort_key=1)  # of options in --help
Checkpoint = Literal["best", "last"]


# Names in attnconv.data and attnconv.layers, so that a wrong one is refused without loading torch.
DATA_SETS = (
    *("digits", "cifar10", "cifar100", "mnist", "fashion-mnist"),
    *("imagenette", "imagewoof", "imagenette-old", "imagewoof-old"),
    *("far-pairs", "textures", "far-context"),
)
KINDS = ("simple", "sagan", "augmented")


def _optional_text(_: Any, tokens: Sequence[Token]) -> str | None:
    text = tokens[0].value
    return None if text.casefold() in ("none", "null") else text


def _image_size(_: Any, tokens: Sequence[Token]) -> int | tuple[int, int] | None:
    text = _optional_text(_, tokens)
    return image_size_of(int(text) if text and text.lstrip("+-").isdecimal() else text)


# Text, or "none" to unset what a recipe or a file has set.
Texts = Annotated[list[str] | None, Parameter(negative=())]
OptionalText = Annotated[str | None, Parameter(converter=_optional_text)]
# 128, or 128x192, rows x columns.
ImageSize = Annotated[int | tuple[int, int] | None, Parameter(converter=_image_size, n_tokens=1)]


@Parameter(name="*", group=MODEL)
@dataclass(frozen=True)
class Surgery:
    """Attention that is put into a network.

    Parameters
    ----------
    augment:
        Convolutions to augment: a regular expression searched in the names of the network's modules; may be repeated.
    attend:
        MODULE=KIND, such as layer3=sagan: attention behind a module; may be repeated. KIND is simple, sagan, timm:NAME
        (se, eca, cbam, gc, nl and more), or the name of your own layer, with --import.
    attention:
        All steps of surgery as a YAML list, in place of these two; [] for none.
    """

    augment: Texts = None
    attend: Texts = None
    attention: str | None = None

    @property
    def given(self) -> bool:
        return self.attention is not None or bool(self.augment or self.attend)

    def steps(self) -> Any:
        """Return the steps of surgery that the flags ask for, as `attnconv.surgery.apply_steps` takes them."""
        if self.attention is not None:
            if self.augment or self.attend:
                raise checks.InputError("--attention holds all steps: leave --augment and --attend out")
            return _yaml_of(self.attention, "--attention must be a YAML list of steps")
        found: list[dict[str, Any]] = [{"augment": {"where": pattern}} for pattern in self.augment or []]
        for text in self.attend or []:
            module, _, kind = text.rpartition("=")
            if not (module and kind):
                raise checks.InputError(f"--attend must be MODULE=KIND, such as layer3=sagan, got {text!r}")
            found.append({"add": {"after": module, "kind": kind}})
            require_layer("--attend: unknown attention layer", kind)
        return found


NO_SURGERY = Surgery()


def pairs(texts: list[str] | None) -> dict[str, Any]:
    """Return NAME=VALUE texts as a dict; values are YAML, so 3, 0.5, true and [1, 2] are what they look like."""
    found: dict[str, Any] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise checks.InputError(f"--option must be NAME=VALUE, got {text!r}")
        if (key := name.replace("-", "_")) in found:
            raise checks.InputError(f"--option {name} is given twice")
        found[key] = _yaml_of(value, f"--option {name} must be a YAML value")
    return found


def _yaml_of(text: str, rule: str) -> Any:
    try:
        return yaml_value(text)
    except ValueError:
        raise checks.InputError(f"{rule}, got {text!r}") from None


def words(text: str) -> list[str]:
    """Return the words between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def integers(flag: str, text: str) -> list[int]:
    """Return the integers between commas; InputError, naming ``flag``, if one is none."""
    try:
        return [int(word) for word in words(text)]
    except ValueError:
        raise checks.InputError(f"--{flag} must be integers such as 8,16,32, got {text!r}") from None


def require_network(model: str, options: dict[str, Any]) -> None:
    """Import the factory if ``model`` names one; else raise InputError if no network has the name or these options.

    Loads torch only if the factory does.
    """
    if extensions.is_factory(model):
        extensions.import_factory(model)
    networks.require_known(model, options)


def require_data(name: str) -> None:
    """Raise InputError if no data set or file has the name; once torch is loaded, `attnconv.data` finds that out."""
    known, path = (*DATA_SETS, *extensions.offered("attnconv.data")), os.path.expanduser(name)
    if "torch" not in sys.modules and name not in known and ":" not in name and not os.path.exists(path):
        raise checks.InputError(f"{name!r} is neither a data set nor an existing folder; {checks.nearest(name, known)}")


def require_layer(what: str, name: str, known: Sequence[str] = KINDS) -> None:
    """Raise InputError, "``what`` NAME", if neither ``known`` nor a package has the name; not once torch is loaded."""
    known = (*known, *extensions.offered("attnconv.layers"))
    if "torch" not in sys.modules and name not in known and ":" not in name:
        raise checks.InputError(f"{what} {name!r}; {checks.nearest(name, known)}; --import MODULE brings your own")


def require_run(path: Path) -> None:
    """Raise InputError, before torch is loaded, if there is nothing at ``path`` that `load_network` could load."""
    if not path.exists():
        raise checks.InputError(f"{path} is neither a run folder nor a checkpoint: there is no such file or folder")


def load_network(run: Path, *, model: str | None, layers_for: str | None = None, **options: Any) -> "Trained":
    """Load a trained network as `load_trained` does, with the factory that --model names.

    Args:
        run, options: of `load_trained`.
        model: package.module:function, or None.
        layers_for: the command that needs layers, which an exported program has lost.
    Raises:
        InputError: as `load_trained`; --model names no function, or another one than the run's; no layers.
    """
    from attnconv.recipes import load_trained

    trained = load_trained(run, model=named_factory(model) if model else None, **options)
    wanted = trained.config.model
    if model is not None and extensions.can_be_imported(wanted) and wanted != model:
        raise checks.InputError(f"{trained.checkpoint} is of {wanted}: give --model {wanted}, got {model}")
    if layers_for is not None:
        trained.require_layers(layers_for)
    return trained


def named_factory(model: str) -> Callable[..., Any]:
    """Return the function that --model names for a command that reads a run, imported."""
    if not extensions.is_factory(model):
        raise checks.InputError(
            f"--model must be package.module:function, for a network of your own, got {model!r}; a run names any other "
            "network"
        )
    return extensions.import_factory(model)
