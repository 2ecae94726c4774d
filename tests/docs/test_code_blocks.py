"""Every code block of README, CONTRIBUTING and docs works.

Python runs and prints the text block below it. bash runs shell blocks with stubs in place of our programs, and each
call is checked against its program: parser, targets, extras; `test_shell_blocks.py` makes the calls, except those that
it lists. YAML is read by the code that it configures.
"""

import ast
import builtins
import contextlib
import importlib.util
import inspect
import re
import shlex
import sys
import tomllib

import pytest
import torch
import yaml
from docs.blocks import (
    CLIENTS,
    PAGES,
    ROOT,
    blocks_of,
    calls_of,
    files_of,
    pages_blocks,
    programs,
    run_python,
    settings_of,
)

from attnconv import checks
from attnconv.cli import _imports, parse
from attnconv.data import DATA_SETS
from attnconv.models import create_model
from attnconv.study.plan_file import BUILT_IN, study_of
from attnconv.train.config import RunConfig

# A Python block that begins so is only read: its names must exist, and its calls must fit the functions.
NOT_RUN = re.compile(r"# needs (the network|a GPU|minutes)\b")
OWN_DATA = ("FOLDER", "photos", "photos/train", "squares")  # a reader's own folder, in the pages
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TARGETS = set(re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.M)[1].split())

BLOCKS = pages_blocks()
ALL = [block for page in BLOCKS for block in page]
PYTHON = [
    program
    for path, blocks in zip(PAGES, BLOCKS, strict=True)
    for program in programs(blocks, path.read_text(encoding="utf-8"))
    if not program[0].text.startswith(CLIENTS)  # tests/clients/test_page.py runs these
]


def of(language):
    return [block for block in ALL if block.language == language]


# Python


def read_python(block):
    """Check names and arguments of a block without running it."""
    tree = ast.parse(block.text)
    names = dict(vars(builtins))
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            exec(ast.unparse(node), names)
    made = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            assert node.id in names or node.id in made, f"{block}: {node.id} is not defined"
        if isinstance(node, ast.Call) and set(re.findall(r"^\w+", called := ast.unparse(node.func))) <= names.keys():
            function = eval(called, names)
            with contextlib.suppress(ValueError):  # a built-in function without a signature
                inspect.signature(function).bind(*node.args, **{word.arg: word.value for word in node.keywords})


def check_python(program, folder):
    if NOT_RUN.match(program[0].text):
        read_python(program[0])
    else:
        run_python(program, folder)


# Shell


def check_network(name, options, image_size=None):
    with torch.device("meta"):
        create_model(name, num_classes=10, image_size=image_size or 32, **options)


def check_run(config):
    check_network(config.model, config.model_options, config.image_size)
    assert config.data in (*DATA_SETS, *OWN_DATA), f"{config.data} is not a data set"


def check_attnconv(words):
    words, _ = _imports(words)
    given = parse(words)[1].arguments
    config = settings_of(shlex.join(["attnconv", *words]))
    if config is not None:
        check_run(config)
    if words[0] == "summary":
        check_network(words[1], {})
    if words[:2] == ["study", "run"]:
        assert given["plan"] in BUILT_IN or given["plan"].endswith(".yaml"), f"{given['plan']} is not a study"


def check_make(words):
    assert words
    assert set(words) <= TARGETS, f"make {words}: the targets are {sorted(TARGETS)}"


def check_pip(words):
    command, *packages = words
    assert (command, len(packages)) == ("install", 1)
    found = re.fullmatch(r"(?:attnconv|\.)(?:\[([\w,]+)\])?", packages[0])
    assert found, f"pip install {packages[0]}"
    assert set(filter(None, (found[1] or "").split(","))) <= set(PROJECT["project"]["optional-dependencies"])


def check_pytest(words):
    paths = [word for word in words if "/" in word]
    assert paths
    assert all((ROOT / path).exists() for path in paths), words


def check_interpreter(words):
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1]), words
    else:
        assert (ROOT / words[0]).is_file(), words


def check_torchrun(words):
    from torch.distributed.run import get_args_parser

    given = get_args_parser().parse_args(words)
    assert (given.module, given.training_script) == (True, "attnconv")
    check_attnconv(given.training_script_args)


def check_srun(words):
    check_attnconv(words[words.index("attnconv") + 1 :])


CHECKS = {
    "attnconv": check_attnconv,
    "make": check_make,
    "pip": check_pip,
    "pytest": check_pytest,
    "python": check_interpreter,
    "srun": check_srun,
    "torchrun": check_torchrun,
}


def check_shell(block, folder):
    calls = calls_of(block.text, folder)
    assert calls, f"{block} calls nothing"
    for program, *words in calls:
        CHECKS[program](words)


# YAML


def check_yaml(block):
    values = yaml.safe_load(block.text)
    if {"arms", "grid"} & values.keys():
        for planned in study_of(values, source=str(block)).runs():
            check_run(planned.config)
    else:
        check_run(RunConfig.from_dict(values, source=str(block)))


# The tests


def test_there_is_something_to_check():
    assert len(PAGES) >= 25
    assert {"README.md", "CONTRIBUTING.md", "docs/faq.md"} <= {block.page for block in ALL}
    assert len(of("python")) >= 30
    assert len(of("sh")) >= 35
    assert len(of("yaml")) >= 3


def test_every_block_is_of_a_kind_that_is_checked():
    """``text`` is a program's output, a tree of files, or a command of other programs."""
    assert [
        f"{block}: {block.language}" for block in ALL if block.language not in ("python", "sh", "yaml", "text")
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_fits_the_column(page):
    blocks = blocks_of(page.read_text(encoding="utf-8"), page.name)
    lines = [line for block in blocks if block.language in ("python", "sh", "yaml") for line in block.text.splitlines()]
    assert [line for line in lines if len(line) > 80] == []


def test_blocks_that_are_not_run_are_these():
    found = {(block.page, NOT_RUN.match(block.text)[1]) for block in of("python") if NOT_RUN.match(block.text)}
    minutes = {("docs/reference/studies.md", "minutes"), ("docs/studies.md", "minutes")}
    assert found == {("docs/models.md", "the network"), *minutes}


EXPORTS = "docs/export.md", "docs/reference/export.md"  # torch.export takes ten seconds a block


@pytest.mark.parametrize(
    "program",
    [pytest.param(one, marks=[pytest.mark.slow] * (one[0].page in EXPORTS), id=str(one[0])) for one in PYTHON],
)
def test_python_prints_the_block_below_it(program, tmp_path):
    check_python(program, tmp_path)


@pytest.mark.parametrize("block", of("sh"), ids=str)
def test_commands_can_be_given(block, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in files_of(ALL).items():
        (tmp_path / name).write_text(text)
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    check_shell(block, tmp_path)


def test_versions_in_commands_are_those_of_the_tests():
    pins = (ROOT / "constraints.txt").read_text().split()
    named = [pin for block in ALL if block.page == "README.md" for pin in re.findall(r"\w+==[\d.]+", block.text)]
    assert len(named) == 2
    assert set(named) <= set(pins)


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_yaml_configures_something(block):
    check_yaml(block)


# Planted errors


def planted(language, text, shown=""):
    below = f"\n```text\n{shown}```\n" if shown else ""
    (block, *_) = blocks_of(f"# A page\n\n```{language}\n{text}\n```\n{below}", "planted.md")
    return block


@pytest.mark.parametrize(
    ("text", "shown", "error"),
    [
        ("print(1 + 1)", "3\n", "differs from the block below it"),
        ("print(1 + 1)", "", "differs from the block below it"),
        ("1 + 1", "2\n", "differs from the block below it"),
        ("from attnconv import AugmentedConv4d", "", "AugmentedConv4d"),
        ("# needs the network: weights\nfrom attnconv import modells", "", "modells"),
        ("# needs the network: weights\nfrom attnconv import models\nmodels.create_model(nam='a')", "", "argument"),
        ("# needs a GPU\nprint(layer)", "", "layer is not defined"),
    ],
)
def test_wrong_python_is_noticed(text, shown, error, tmp_path):
    check_python([planted("python", "print(2)", "2\n")], tmp_path)
    with pytest.raises((AssertionError, ImportError, TypeError), match=error):
        check_python([planted("python", text, shown)], tmp_path)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("attnconv trian --epochs 3", "trian"),
        ("for lr in 0.1 fast; do attnconv train --lr $lr; done", "fast"),
        ("attnconv train --recipe imagewoof-129-5ep", "imagewoof-128-5ep"),
        ("attnconv train --model resnet51 --data digits", "resnet50"),
        ("attnconv train --data digitz", "digitz is not a data set"),
        ("attnconv study run why-attentoin", "is not a study"),
        ("torchrun --nnodes 2 -m attnconv train --epoch 3", "epoch"),
        ("srun attnconv train --epochs three", "three"),
        ("make dcos", "dcos"),
        ("pip install '.[trian]'", "trian"),
        ("pytest tests/ops/test_nothing.py", "test_nothing"),
        ("python -m attnconv.nothing", "nothing"),
        ("git clone there", "git"),
        ("echo", "calls nothing"),
    ],
)
def test_a_wrong_command_is_noticed(text, error, tmp_path):
    with pytest.raises((AssertionError, checks.InputError, ValueError), match=error):
        check_shell(planted("sh", text), tmp_path)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("epoch: 3", "epochs"),
        ("{name: a, text: b, baseline: one, arms: {one: {model: convnet3}}, seed: 3}", "seeds"),
        ("{name: a, text: b, baseline: one, arms: {one: {model: convnet4}, two: {model: convnet3}}}", "convnet3"),
    ],
)
def test_wrong_yaml_is_noticed(text, error):
    with pytest.raises(checks.InputError, match=error):
        check_yaml(planted("yaml", text))


def test_code_by_indentation_and_unknown_languages_are_noticed():
    page = "Text:\n\n    attnconv train\n\n```toml\na = 1\n```\n"
    assert [block.language for block in blocks_of(page, "page.md")] == ["", "toml"]
