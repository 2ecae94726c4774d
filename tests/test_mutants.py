"""The changes of mutants.toml can still be made: their places are in the code, and their tests are there.

That tests notice them takes minutes: python tests/mutants/run.py
"""

from pathlib import Path

import pytest
from mutants.run import changed, mutants, row

import attnconv

SOURCE, TESTS = Path(attnconv.__file__).parent, Path(__file__).parent


@pytest.mark.parametrize("mutant", mutants(), ids=lambda mutant: mutant["name"])
def test_a_change_can_be_made(mutant):
    text = changed((SOURCE / mutant["file"]).read_text(), mutant)
    compile(text, mutant["file"], "exec")
    for test in mutant["tests"]:
        file, _, name = test.partition("::")
        assert f"def {name}" in (TESTS / file).read_text()


def test_the_page_has_these_changes():
    page = (TESTS / "mutants.md").read_text(encoding="utf-8").splitlines()
    begun = [line.rpartition(" `")[0] for line in page if line.endswith("` |")]
    assert sorted(begun) == sorted(map(row, mutants()))


def test_a_change_whose_place_has_gone_is_named():
    mutant = {"name": "a change", "file": "a.py", "old": "b = 1", "new": "b = 2"}
    assert changed("b = 1\n", mutant) == "b = 2\n"
    for text, count in (("c = 1\n", 0), ("b = 1\nb = 1\n", 2)):
        with pytest.raises(ValueError, match=f"^'a change': 'b = 1' stands {count} times in a.py$"):
            changed(text, mutant)


def test_names_are_told_apart():
    names = [mutant["name"] for mutant in mutants()]
    assert len(set(names)) == len(names) >= 27
