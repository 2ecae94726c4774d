"""Values of flags: image sizes, steps of surgery, functions, NAME=VALUE pairs, and lists of words and integers."""

from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Parameter, Token

from attnconv import checks
from attnconv.train.config import image_size_of, yaml_value


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


def named_factory(model: str | None) -> Any:
    """Return the function that --model names for a command that reads a run; None if it is not given."""
    if model is None:
        return None
    from attnconv import extensions

    if not extensions.is_factory(model):
        raise checks.InputError(
            f"--model must be package.module:function, of a network of your own, got {model!r}; a run knows any other"
        )
    return extensions.import_factory(model)


def steps(augment: list[str] | None, attend: list[str] | None) -> list[dict[str, Any]]:
    """Return the steps of surgery that --augment PATTERN and --attend MODULE=KIND ask for."""
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


# Types of --augment and --attend, the flags of `steps`.
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


def words(text: str) -> list[str]:
    """Return what stands between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def integers(flag: str, text: str) -> list[int]:
    """Return the integers between commas; InputError, naming ``flag``, if one is none."""
    try:
        return [int(word) for word in words(text)]
    except ValueError:
        raise checks.InputError(f"--{flag} must be integers such as 8,16,32, got {text!r}") from None
