"""Imagenette and Imagewoof: ten easy and ten hard classes of ImageNet, in three sizes and two splits.

Source: github.com/fastai/imagenette. The edition follows from the image size, as in the training script of 2019. The
archives were uploaded more than once with the same images, so one archive may have several checksums.
"""

import dataclasses
from pathlib import Path

from attnconv import checks
from attnconv.data.download import fetch
from attnconv.data.files import PLAIN, FileOptions
from attnconv.data.folder import DEFAULT_SIZE, load_folder
from attnconv.data.image_data import ImageData

ADDRESS = "https://s3.amazonaws.com/fast-ai-imageclas/"

# Largest image size of an edition, and its ending, the shorter side of its images.
EDITIONS = ((128, "-160"), (224, "-320"))

IMAGENETTE = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
IMAGEWOOF = {
    "n02086240": "Shih-Tzu",
    "n02087394": "Rhodesian ridgeback",
    "n02088364": "beagle",
    "n02089973": "English foxhound",
    "n02093754": "Border terrier",
    "n02096294": "Australian terrier",
    "n02099601": "golden retriever",
    "n02105641": "Old English sheepdog",
    "n02111889": "Samoyed",
    "n02115641": "dingo",
}


# Stem of the archives' names, and the classes' names by folder. "old" is the split before December 2019, with 50
# validation images a class; results of 2019 were measured on it.
IMAGENETTE_SETS = {
    "imagenette": ("imagenette2", IMAGENETTE),
    "imagewoof": ("imagewoof2", IMAGEWOOF),
    "imagenette-old": ("imagenette", IMAGENETTE),
    "imagewoof-old": ("imagewoof", IMAGEWOOF),
}

# SHA-256 from TensorFlow Datasets, MD5 of Imagenette from torchvision, MD5 of Imagewoof from two public projects that
# agree (Catalyst is one) and have torchvision's for Imagenette. None of them could be compared with a download when
# this was written. No checksum of the old Imagewoof was found.
DIGESTS = {
    "md5": {
        "imagenette2": "fe2fc210e6bb7c5664d602c3cd71e612",
        "imagenette2-320": "3df6f0d01a2c9592104656642f5e78a3",
        "imagenette2-160": "e793b78cc4c9e9a4ccc0c1155377a412",
        "imagewoof2": "9aafe18bcdb1632c4249a76c458465ba",
        "imagewoof2-320": "0f46d997ec2264e97609196c95897a44",
        "imagewoof2-160": "3d200a7be99704a0d7509be2a9fbfe15",
    },
    "sha256": {
        "imagenette2": "de32de18a7d8df0114d5e2c3c14cafb9558e8f00441a73aa7953681ad02be49c",
        "imagenette2-320": "5020a9130cea0348272823cb12d2db7e981c6f2afa3dce71ccd5b8013005c55e",
        "imagenette2-160": "88daccb09b6fce93f45e6c09ddeb269cce705549e6bff322092a2a5a11489863",
        "imagewoof2": "d6f2ffc7b95663f7701b94cea32db1683b9a50dd389382c7cca024e840af0379",
        "imagewoof2-320": "4e4905ed7643120daaf9bf3b2ef7f3a7e8396d9bdaf254a38c6f01f618b4973d",
        "imagewoof2-160": "663c22f69c2802d85e2a67103c017e047096702ffddf9149a14011b7002539bf",
        "imagenette": "1bd650bc16884ca88e4f0f537ed8569b1f8d7ae865d37eba8ecdd87d9cd9dcfa",
        "imagenette-320": "0e3ac85d7f3fd0a63d5e27d85c68511be9ac4dae260345b6f7434a0d4fa24b3f",
        "imagenette-160": "4bacf19aa3f2454e330ac366c98ac1e470ccc6bebca8ff63ecc7f339cb2ead11",
    },
}


def edition_for(image_size: int) -> str:
    """Return the ending of the smallest edition for images of this side, pixels; none for the full one."""
    return next((edition for limit, edition in EDITIONS if image_size <= limit), "")


def load_imagenette(
    name: str, *, data_dir: Path, image_size: tuple[int, int] | None, options: FileOptions = PLAIN
) -> ImageData:
    """Load the set ``name`` of ``IMAGENETTE_SETS``, in the edition for ``image_size`` (128 if None).

    It is downloaded to ``data_dir`` if its folder, such as imagewoof2-160, is not there.

    Raises:
        InputError: it cannot be downloaded, unpacked or read, or the folder holds other classes.
    """
    stem, classes = IMAGENETTE_SETS[name]
    size = image_size or (DEFAULT_SIZE, DEFAULT_SIZE)
    archive = stem + edition_for(max(size))
    digests = {kind: known[archive] for kind, known in DIGESTS.items() if archive in known}
    folder = fetch(f"{ADDRESS}{archive}.tgz", data_dir, digests=digests)
    data = load_folder(folder, image_size=size, options=options)
    if data.classes != tuple(classes):
        other = sorted(set(data.classes) ^ set(classes))
        raise checks.InputError(
            f"{folder} does not hold the ten classes of {name!r}: {other[0]} is missing or too many; delete the "
            "folder, and it is downloaded anew"
        )
    return dataclasses.replace(data, name=name, classes=tuple(classes.values()))
