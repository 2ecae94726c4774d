"""docs/migrating.md: each command is one that can be given, and its Python prints what stands below it."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from attnconv.cli import parse
from attnconv.cli.settings import run_settings
from attnconv.models import create_model
from attnconv.models.registry import check_options
from attnconv.recipes import list_recipes

PAGE_FILE = Path(__file__).parents[1] / "docs" / "migrating.md"
PAGE = PAGE_FILE.read_text()
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.S)).replace("\\\n", " ")
COMMANDS = [line for line in SHELL.splitlines() if line]
PYTHON = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.S)
CELLS = [line.split("|")[1:3] for line in PAGE.splitlines() if line.startswith("| `--")]
FLAGS = sorted({flag for _, ours in CELLS for flag in re.findall(r"`(--[^`]*)`", ours)} - {"--resume --out RUN"})
MAPPED = {name for theirs, _ in CELLS for name in re.findall(r"--([a-z][\w-]*)", theirs)}


def settings_of(command):
    """The configuration that a command describes, or None if it describes no new run; InputError if it is wrong."""
    program, *arguments = shlex.split(command)
    assert program == "attnconv"
    _, bound = parse(arguments)
    given = bound.arguments
    if arguments[0] not in ("train", "lr-find") or given.get("resume"):
        return None
    names = ("recipe", "config", "option")
    return run_settings(**{name: given.get(name) for name in names}, options=given.get("options", {}))


def test_there_is_something_to_check():
    assert len(COMMANDS) == PAGE.count("\nattnconv ") >= 17
    assert len(PYTHON) == PAGE.count("```python") == 1
    assert len(FLAGS) >= 23


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_can_be_given(command):
    config = settings_of(command)
    if config is None:
        return
    check_options(config.model, config.model_options)
    size = config.image_size or 32
    create_model(config.model, num_classes=10, image_size=size, **config.model_options) if size < 128 else None


def test_a_wrong_command_would_be_noticed():
    for wrong in ("--recipe imagewoof-256", "--woof 1", "--lr fast", "--optimizer adma"):
        with pytest.raises(ValueError, match=r"unknown|Unknown|convert|Choose"):
            settings_of(f"attnconv train {wrong}")


def test_the_recipe_written_out_is_the_recipe():
    short, long = (settings_of(command) for command in COMMANDS[:2])
    assert "--recipe" not in COMMANDS[1]
    assert short == long
    assert short.mixup == 0.2


@pytest.mark.parametrize("flag", FLAGS)
def test_what_the_tables_offer_can_be_given(flag):
    model = {"--option dropout=0.3": "--model aa_wide_resnet28_10", "--option symmetric=true": "--model ssa_xresnet50"}
    config = settings_of(f"attnconv train {model.get(flag, '')} {flag}")
    check_options(config.model, config.model_options)


def test_every_option_of_the_documents_is_mapped():
    second = "woof size bs mixup sa sym epoch lr lrfinder dump arch gpu log opt mom alpha eps epochs"
    first = "dataset-mode depth widen_factor dropout epochs batch-size learning-rate load-pretrained num-worker cuda"
    assert {*second.split(), *first.split()} == MAPPED


def test_every_recipe_that_it_names_exists():
    named = set(re.findall(r"--recipe ([\w-]+)|`((?:cifar|image)\w*-[\w-]+)`", PAGE))
    known = {recipe.name for recipe in list_recipes()} | {"imagenette-old", "imagewoof-old"}
    assert {one or other for one, other in named} <= known


@pytest.mark.parametrize(("code", "printed"), PYTHON)
def test_python_prints_what_stands_below_it(code, printed):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(code, {"__name__": "__main__"})
    assert output.getvalue() == printed


def test_its_links_exist():
    links = re.findall(r"\]\(([^)#]+)", PAGE)
    assert len(links) >= 2
    assert all((PAGE_FILE.parent / link).exists() for link in links)
