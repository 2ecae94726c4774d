"""Pages and notebooks import only public names, which are in the reference and in tests/public_api.txt."""

import ast
import json
import re

import pytest
from docs.blocks import PAGES, ROOT, blocks_of
from test_public_api import MODULES, names_of

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
# Not public: the arithmetic of a kernel, which a page explains; and timm's registry, a module to import.
ALSO = {
    ("docs/kernels.md", "attnconv.kernels.relative_attention.position_term"),
    ("docs/integrations.md", "attnconv.timm"),
}


def imported(text):
    """Yield our dotted names that Python code or a notebook's cell imports."""
    for node in ast.walk(ast.parse(re.sub(r"^%.*", "", text, flags=re.M))):
        if isinstance(node, ast.ImportFrom):
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name for name in found if name.partition(".")[0] == "attnconv")


def codes(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        return ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return [block.text for block in blocks_of(text, path.name) if block.language == "python"]


def is_public(name):
    module, _, last = name.rpartition(".")
    return name in MODULES or (module in MODULES and last in names_of(module))


FOUND = {
    (str(path.relative_to(ROOT)), name)
    for path in [*PAGES, *NOTEBOOKS]
    for text in codes(path)
    for name in imported(text)
}


def test_every_import_is_of_a_public_name():
    assert len(FOUND) > 30
    assert {page for page, _ in FOUND} >= {"README.md", "docs/training.md", "docs/notebooks/first-steps.ipynb"}
    assert {(page, name) for page, name in FOUND if not is_public(name)} == ALSO


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("import attnconv", True),
        ("from attnconv.recipes import load_example", True),
        ("import attnconv.models as m", True),
        ("from attnconv.recipes.trained import load_example", False),
        ("from attnconv.checks import nearest", False),
        ("def f():\n    import attnconv.train", False),
    ],
)
def test_what_is_not_public_would_be_noticed(text, public):
    assert [is_public(name) for name in imported(text)] == [public]
