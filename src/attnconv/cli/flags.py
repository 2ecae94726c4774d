"""Values of flags: runs, image sizes, steps of surgery, NAME=VALUE pairs, and lists of words and integers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, Token

from attnconv import checks
from attnconv.train.config import image_size_of, yaml_value

if TYPE_CHECKING:
    from attnconv.recipes import Trained


def _image_size(_: Any, tokens: Sequence[Token]) -> int | tuple[int, int] | None:
    text = tokens[0].value
    if text.casefold() in ("none", "null"):
        return None
    return image_size_of(int(text) if text.lstrip("+-").isdecimal() else text)


def _optional_text(_: Any, tokens: Sequence[Token]) -> str | None:
    text = tokens[0].value
    return None if text.casefold() in ("none", "null") else text


# Text, or none where a recipe or a file has set some.
OptionalText = Annotated[str | None, Parameter(converter=_optional_text)]

# A flag's type: 128, or 128x192, rows x columns.
ImageSize = Annotated[int | tuple[int, int] | None, Parameter(converter=_image_size, n_tokens=1)]


def load_network(run: Path, *, model: str | None, **options: Any) -> "Trained":
    """Load a trained network, as `load_trained`, made by the function that --model names if it is given.

    Raises:
        InputError: as there, or --model names no function, or another one than the run's.
    """
    from attnconv import extensions
    from attnconv.recipes import load_trained

    if model is None:
        return load_trained(run, **options)
    trained = load_trained(run, model=named_factory(model), **options)
    wanted = trained.config.model
    if extensions.can_be_imported(wanted) and wanted != model:
        raise checks.InputError(f"{trained.checkpoint} is of {wanted}: give --model {wanted}, got {model}")
    return trained


def named_factory(model: str) -> Callable[..., Any]:
    """Return the function that --model names for a command that reads a run, imported."""
    from attnconv import extensions

    if not extensions.is_factory(model):
        raise checks.InputError(
            f"--model must be package.module:function, of a network of your own, got {model!r}; a run knows any other"
        )
    return extensions.import_factory(model)


def steps(augment: list[str] | None, attend: list[str] | None, attention: str | None = None) -> Any:
    """Return the steps of surgery that --augment PATTERN and --attend MODULE=KIND ask for, or those of --attention."""
    import yaml

    if attention is not None:
        if augment or attend:
            raise checks.InputError("--attention holds all steps: leave --augment and --attend out")
        try:
            return yaml_value(attention)
        except yaml.YAMLError:
            raise checks.InputError(f"--attention must be a YAML list of steps, got {attention!r}") from None
    found: list[dict[str, Any]] = [{"augment": {"where": pattern}} for pattern in augment or []]
    for text in attend or []:
        module, equals, kind = text.rpartition("=")
        if not (equals and module and kind):
            raise checks.InputError(f"--attend must be MODULE=KIND, such as layer3=simple, got {text!r}")
        found.append({"add": {"after": module, "kind": kind}})
    return found


def pairs(texts: list[str] | None) -> dict[str, Any]:
    """Return NAME=VALUE texts as a dict; values are YAML, so 3, 0.5, true and [1, 2] are what they look like."""
    import yaml

    found: dict[str, Any] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise checks.InputError(f"--option must be NAME=VALUE, got {text!r}")
        if (key := name.replace("-", "_")) in found:
            raise checks.InputError(f"--option {name} stands twice")
        try:
            found[key] = yaml_value(value)
        except yaml.YAMLError:
            raise checks.InputError(f"--option {name}: {value!r} is no YAML value") from None
    return found


# Types of --augment, --attend and --attention, the flags of `steps`.
Augment = Annotated[
    list[str] | None,
    Parameter(
        help="Convolutions to augment, a regular expression searched in the names of the network's modules; may be "
        "repeated.",
        negative=(),
    ),
]
Attend = Annotated[
    list[str] | None,
    Parameter(
        help="MODULE=KIND, such as layer3=simple: attention behind a module; may be repeated. KIND is simple, sagan, "
        "timm:NAME (se, eca, cbam, gc, nl and more), or the name of a layer of your own, with --import.",
        negative=(),
    ),
]
Attention = Annotated[
    str | None, Parameter(help="All steps of surgery as a YAML list, in place of these two; [] for none.")
]


def words(text: str) -> list[str]:
    """Return what stands between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def integers(flag: str, text: str) -> list[int]:
    """Return the integers between commas; InputError, naming ``flag``, if one is none."""
    try:
        return [int(word) for word in words(text)]
    except ValueError:
        raise checks.InputError(f"--{flag} must be integers such as 8,16,32, got {text!r}") from None
