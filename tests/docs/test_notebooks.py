"""The notebooks run from an empty folder, name nothing of a machine, and hold the outputs of their cells.

``python tests/docs/test_notebooks.py`` runs them and writes their outputs.
"""

import re
import sys
import tempfile
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs attnconv[dev]")
nbclient = pytest.importorskip("nbclient", reason="needs attnconv[dev]")

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
FIGURES = {"first-steps": 0, "reading-attention": 3}


def execute(book, folder):
    """Run the cells of ``book`` in ``folder``, by a kernel of this Python; their outputs are put into it."""
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(
        book, timeout=300, kernel_name="python3", resources=resources, record_timing=False
    ).execute()
    for number, cell in enumerate(book.cells, start=1):
        cell.id, cell.metadata = f"cell-{number}", {}
        for output in cell.get("outputs", ()):
            if "data" in output:
                output.metadata = {}
                output.data.pop("text/plain", None)
    book.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return book


def printed(book):
    return "".join(output.get("text", "") for cell in book.cells for output in cell.get("outputs", ()))


def figures(book):
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_there_are_two():
    assert [path.stem for path in NOTEBOOKS] == [*FIGURES]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setenv("ATTNCONV_DATA", str(tmp_path / "no-data"))
    kept = nbformat.read(path, as_version=4)
    book = execute(nbformat.read(path, as_version=4), tmp_path / "here")
    assert len(printed(book)) > 200
    assert len(printed(book).splitlines()) == len(printed(kept).splitlines())
    assert figures(book) == FIGURES[path.stem]
    assert [*(tmp_path / "here").iterdir(), *tmp_path.glob("no-data")] == []


def test_a_cell_that_fails_fails_the_notebook(tmp_path):
    book = nbformat.read(NOTEBOOKS[0], as_version=4)
    first = next(number for number, cell in enumerate(book.cells) if cell.cell_type == "code")
    book.cells.insert(first, nbformat.v4.new_code_cell("assert 1 + 1 == 3, 'planted'"))
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="planted"):
        execute(book, tmp_path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_with_outputs_and_nothing_of_a_machine(path):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    assert path.stat().st_size < 500_000
    assert book.metadata.keys() == {"kernelspec", "language_info"}
    assert [cell.id for cell in book.cells] == [f"cell-{number}" for number in range(1, len(book.cells) + 1)]
    assert [cell for cell in book.cells if cell.metadata] == []
    assert [cell.source for cell in book.cells if cell.cell_type == "code" and not cell.execution_count] == []
    assert [output for cell in book.cells for output in cell.get("outputs", ()) if output.get("name") == "stderr"] == []
    assert figures(book) == FIGURES[path.stem]
    assert re.findall(r"(?:/home|/tmp|/root|/Users|[A-Z]:\\)\S*", path.read_text()) == []
    lines = [line for cell in book.cells if cell.cell_type == "code" for line in cell.source.splitlines()]
    assert [line for line in lines if len(line) > 80] == []
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", text)
    assert len(links) >= 1
    assert [link for link in links if not (FOLDER / link).exists()] == []


if __name__ == "__main__":
    for path in [FOLDER / f"{name}.ipynb" for name in sys.argv[1:]] or NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(execute(nbformat.read(path, as_version=4), folder), path)
