"""The notebooks run from an empty folder, hold nothing of a machine, and a cell that fails is noticed."""

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs attnconv[dev]")
nbclient = pytest.importorskip("nbclient", reason="needs attnconv[dev]")

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def execute(book, folder):
    """What the cells print, in a kernel of this Python that starts in ``folder``; nothing of it is kept in the file."""
    client = nbclient.NotebookClient(
        book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return "".join(output.get("text", "") for cell in book.cells for output in cell.get("outputs", ()))


def test_there_are_two():
    assert [path.name for path in NOTEBOOKS] == ["first-steps.ipynb", "reading-attention.ipynb"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setenv("ATTNCONV_DATA", str(tmp_path / "no-data"))
    book = nbformat.read(path, as_version=4)
    printed = execute(book, tmp_path / "here")
    assert len(printed) > 200
    figures = [
        output for cell in book.cells for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})
    ]
    assert len(figures) == {"first-steps": 0, "reading-attention": 3}[path.stem]
    assert [*(tmp_path / "here").iterdir(), *tmp_path.glob("no-data")] == []


def test_a_cell_that_fails_fails_the_notebook(tmp_path):
    book = nbformat.read(NOTEBOOKS[0], as_version=4)
    first = next(number for number, cell in enumerate(book.cells) if cell.cell_type == "code")
    book.cells.insert(first, nbformat.v4.new_code_cell("assert 1 + 1 == 3, 'planted'"))
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="planted"):
        execute(book, tmp_path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_clean(path):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    assert path.stat().st_size < 100_000
    assert book.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert [cell.id for cell in book.cells] == [f"cell-{number}" for number in range(1, len(book.cells) + 1)]
    assert [cell for cell in book.cells if cell.get("outputs") or cell.get("execution_count") or cell.metadata] == []
    assert re.findall(r"(?:/home|/tmp|/root|/Users|[A-Z]:\\)\S*", path.read_text()) == []
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", text)
    assert len(links) >= 1
    assert [link for link in links if not (FOLDER / link).exists()] == []
