import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photo(tmp_path):
    """Lying on its side, as its EXIF says."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", exif=exif)
    return tmp_path / "photo.jpg"
