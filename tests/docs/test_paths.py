"""The files that README, CONTRIBUTING and docs name exist, in links and as `paths`; headings match the navigation."""

import re

import pytest
import yaml
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


def titles(nav):
    """Return the pages of a nav of mkdocs.yml with their titles."""
    for entry in nav:
        for title, page in entry.items():
            yield from [(page, title)] if isinstance(page, str) else titles(page)


def test_headings_are_the_titles_in_the_navigation():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    shown = {page: title for page, title in titles(nav) if page != "index.md" and not page.endswith(".ipynb.md")}
    headings = {page: (ROOT / "docs" / page).read_text(encoding="utf-8").split("\n", 1)[0] for page in shown}
    assert len(shown) > 30
    assert headings == {page: f"# {title}" for page, title in shown.items()}
    repeated = {title for title in shown.values() if list(shown.values()).count(title) > 1}
    assert repeated == set()
