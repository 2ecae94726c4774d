"""Tables of paths and labels, CSV and parquet."""

import pytest

from attnconv.checks import InputError
from attnconv.data import load_data

ROWS = [("train/cat/000.jpg", "cat"), ("train/cat/001.jpg", "cat"), ("train/dog/100.jpg", "dog")]
SPLIT = [*((*row, "train") for row in ROWS), ("val/dog/300.jpg", "dog", "val"), ("val/newt/400.jpg", "cat", "val")]


def write_csv(folder, rows, header="path,label", name="labels.csv", delimiter=","):
    lines = [header, *(delimiter.join(map(str, row)) for row in rows)]
    (folder / name).write_text("\n".join(lines) + "\n")
    return str(folder / name)


def test_a_table_with_splits(image_folder):
    data = load_data(write_csv(image_folder, SPLIT, "path,label,split"))
    assert (data.name, data.classes, data.num_train, data.num_val) == ("labels.csv", ("cat", "dog"), 3, 2)
    assert data.train.paths[2] == f"{image_folder}/train/dog/100.jpg"
    assert data.val.labels == (1, 0)
    assert data.val.sizes[0] == (image_folder / "val" / "dog" / "300.jpg").stat().st_size


def test_a_table_without(image_folder):
    path = write_csv(image_folder, [*ROWS, ("train/dog/101.jpg", "dog")])
    data = load_data(path, val_split=0.5)
    assert (data.num_train, data.num_val, sorted(data.val.labels)) == (2, 2, [0, 1])
    with pytest.raises(InputError, match=r"'labels.csv' has no validation images: --val-split 0.2 holds out a fifth"):
        load_data(path)


@pytest.mark.parametrize(("delimiter", "name"), [(";", "a.csv"), ("\t", "a.tsv"), ("\t", "a.csv")])
def test_other_delimiters(image_folder, delimiter, name):
    path = write_csv(image_folder, SPLIT, delimiter.join(("path", "label", "split")), name, delimiter)
    assert load_data(path).num_train == 3


def test_excels_first_letter_other_columns_and_quotes(image_folder):
    text = '\ufeffid,Label,Path\r\n1,"cat, black",train/cat/000.jpg\r\n2,dog,train/dog/100.jpg\r\n,,\r\n'
    (image_folder / "a.csv").write_text(text + '3,dog,train/dog/101.jpg\r\n4,"cat, black",train/cat/001.jpg\r\n')
    assert load_data(str(image_folder / "a.csv"), val_split=0.5).classes == ("cat, black", "dog")


def test_numbers_are_ordered_as_numbers(image_folder):
    rows = [(path, label) for (path, _), label in zip([*ROWS, ROWS[0]], (10, 9, 9, 10), strict=True)]
    assert load_data(write_csv(image_folder, rows), val_split=0.5).classes == ("9", "10")


@pytest.mark.parametrize("name", ["train", "Training"])
@pytest.mark.parametrize("other", ["val", "VALID", "test", "dev"])
def test_names_of_splits(image_folder, name, other):
    rows = [(path, label, name if split == "train" else other) for path, label, split in SPLIT]
    assert load_data(write_csv(image_folder, rows, "path,label,split")).num_val == 2


def test_splits_that_are_not_used_are_counted(image_folder):
    rows = [*SPLIT, ("train/dog/102.jpg", "dog", "test")]
    data = load_data(write_csv(image_folder, rows, "path,label,split"))
    assert data.notes == ("1 file passed over: 1 in test/, which is not used",)


def test_parquet(image_folder):
    parquet = pytest.importorskip("pyarrow.parquet")
    from pyarrow import table

    columns = zip(*SPLIT, strict=True)
    parquet.write_table(table(dict(zip(("path", "label", "split"), columns, strict=True))), image_folder / "a.parquet")
    data = load_data(str(image_folder / "a.parquet"))
    assert (data.classes, data.num_train, data.num_val) == (("cat", "dog"), 3, 2)
    (image_folder / "b.parquet").write_text("no table")
    with pytest.raises(InputError, match=r"cannot read .*b.parquet: "):
        load_data(str(image_folder / "b.parquet"))


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (
            [("a.jpg", "cat"), *ROWS, ("b.jpg", "dog")],
            "path,label",
            "2 of 5 files that {file} names are missing, first",
        ),
        ([], "path,label", "{file} has no rows"),
        (ROWS, "file,label", "{file} must have one column 'path'; it has file, label"),
        (ROWS, "path,class", "{file} must have one column 'label'; it has path, class"),
        ([("a.jpg", "")], "path,label", "{file}: row 1 has no label"),
        ([("", "cat")], "path,label", "{file}: row 1 has no path"),
        (SPLIT, "path,label,x,split", "{file}: row 1 has no split"),
        ([(*row, "trian") for row in ROWS], "path,label,split", "unknown split in {file} 'trian'; nearest: 'train'"),
        ([(*row, "val") for row in ROWS], "path,label,split", "{file} has no row of split 'train'"),
        (
            [(*ROWS[0], "train"), (*ROWS[2], "val")],
            "path,label,split",
            "{file}: no training image has the label 'dog'",
        ),
    ],
)
def test_what_is_refused(image_folder, rows, header, message):
    path = write_csv(image_folder, rows, header)
    with pytest.raises(InputError) as caught:
        load_data(path)
    assert message.format(file=path) in str(caught.value)


def test_missing_files_name_the_first(image_folder):
    path = write_csv(image_folder, [("gone/a.jpg", "cat"), *ROWS])
    with pytest.raises(InputError, match=f"missing, first {image_folder}/gone/a.jpg$"):
        load_data(path)


def test_other_files_are_no_data(image_folder):
    (image_folder / "a.zip").write_text("")
    with pytest.raises(
        InputError, match=r"a.zip is a file; give a folder, or a table of paths and labels \(.csv, .tsv"
    ):
        load_data(str(image_folder / "a.zip"))
