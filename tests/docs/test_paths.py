"""The files that README, CONTRIBUTING and docs name exist, in links and as `paths`."""

import re

import pytest
from docs.blocks import PAGES, ROOT, blocks_of

LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")
PATH = re.compile(r"`((?:benchmarks|docs|examples|src|tests)/[\w./-]+)`")


def missing(page, text):
    text = "\n".join(line for line in without_code(text))
    links = {link for link in LINK.findall(text) if not (page.parent / link).exists()}
    return links | {path for path in PATH.findall(text) if not (ROOT / path).exists()}


def without_code(text):
    lines = text.splitlines()
    for block in blocks_of(text, "page"):
        lines[block.line - 1 : block.line + block.text.count("\n")] = [""] * (block.text.count("\n") + 1)
    return lines


def test_there_is_something_to_check():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert len(LINK.findall(text)) > 80
    assert len(PATH.findall(text)) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_it_names_exist(page):
    assert missing(page, page.read_text(encoding="utf-8")) == set()


def test_a_file_that_is_not_there_would_be_noticed():
    text = "[a](docs/none.md#x) [b](docs/faq.md#x) `tests/none.py` `tests/oracles.py`\n\n```text\n`src/none`\n```\n"
    assert missing(ROOT / "README.md", text) == {"docs/none.md", "tests/none.py"}
