"""docs/integrations.md: its table against what is installed and tested, and each library's block, which is run."""

import importlib.metadata
import os
import re

import pytest
from docs.blocks import CLIENTS, ROOT, blocks_of, run_python

PAGE = (ROOT / "docs/integrations.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| \[(\w+)\]\(#(\w+)\) ([\w.]+) \| .*\| `([\w/.]+)` \|$", PAGE, re.M)
BLOCKS = [block for block in blocks_of(PAGE, "docs/integrations.md") if block.text.startswith(CLIENTS)]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(("name", "section", "version", "tests"), ROWS)
def test_rows_tell_the_version_that_is_installed(name, section, version, tests):
    try:
        installed = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is missing: make clients")
        pytest.skip("make clients installs it")
    assert installed.partition("+")[0] == version
    assert f"{name}=={version}" in (ROOT / "constraints.txt").read_text().split()
    assert f"\n## {section}\n" in PAGE.lower()
    assert "def test_" in (ROOT / "tests" / tests).read_text()


def test_every_test_of_a_client_is_named_in_a_row():
    named = {tests for *_, tests in ROWS}
    assert {f"clients/{path.name}" for path in (ROOT / "tests/clients").glob("test_*.py")} - named == {
        "clients/test_page.py"
    }
    assert len(ROWS) == len(re.findall(r"^\| \[", PAGE, re.M)) >= 13
    assert len(BLOCKS) >= 9


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line {block.line}")
def test_blocks_print_what_stands_below_them(block, tmp_path, monkeypatch):
    for module in re.findall(r"^(?:from|import) (\w+)", block.text, re.M):
        pytest.importorskip(module, reason="make clients installs it")
    for name, value in {"HF_HUB_OFFLINE": "1", "YOLO_OFFLINE": "1", "YOLO_CONFIG_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    run_python([block], tmp_path)
