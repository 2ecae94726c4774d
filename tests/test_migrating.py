"""docs/migrating.md: what its tables offer can be given, and nothing of the old scripts is missing from them.

That its blocks do what they say is seen in docs/test_code_blocks.py.
"""

import re

import pytest
from docs.blocks import ROOT, blocks_of, settings_of

from attnconv.models.registry import find
from attnconv.recipes import list_recipes

PAGE = (ROOT / "docs" / "migrating.md").read_text()
SHELL = "".join(block.text for block in blocks_of(PAGE, "migrating.md") if block.language == "sh").replace("\\\n", " ")
COMMANDS = SHELL.splitlines()
CELLS = [line.split("|")[1:3] for line in PAGE.splitlines() if line.startswith("| `--")]
FLAGS = sorted({flag for _, ours in CELLS for flag in re.findall(r"`(--[^`]*)`", ours)} - {"--resume --out RUN"})
MAPPED = {name for theirs, _ in CELLS for name in re.findall(r"--([a-z][\w-]*)", theirs)}


def test_there_is_something_to_check():
    assert len(COMMANDS) >= 17
    assert len(FLAGS) >= 21


def test_the_recipe_written_out_is_the_recipe():
    short, long = (settings_of(command) for command in COMMANDS[:2])
    assert "--recipe" not in COMMANDS[1]
    assert short == long
    assert short.mixup == 0.2


@pytest.mark.parametrize("flag", FLAGS)
def test_what_the_tables_offer_can_be_given(flag):
    model = {"--option dropout=0.3": "--model aa_wide_resnet28_10", "--option symmetric=true": "--model ssa_xresnet50"}
    config = settings_of(f"attnconv train {model.get(flag, '')} {flag}")
    find(config.model).check_options(config.model_options)


def test_every_option_of_the_documents_is_mapped():
    second = "woof size bs mixup sa sym epoch lr lrfinder dump arch gpu log opt mom alpha eps epochs"
    first = "dataset-mode depth widen_factor dropout epochs batch-size learning-rate load-pretrained"
    assert {*second.split(), *first.split()} == MAPPED


def test_every_recipe_that_it_names_exists():
    named = set(re.findall(r"--recipe ([\w-]+)|`((?:cifar|image)\w*-[\w-]+)`", PAGE))
    known = {recipe.name for recipe in list_recipes()} | {"imagenette-old", "imagewoof-old"}
    assert {one or other for one, other in named} <= known
