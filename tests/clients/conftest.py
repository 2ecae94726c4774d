"""Tests with libraries that `make clients` installs; where they are missing, only `make test-slow` says so."""

import importlib.util

# What each file imports at its top: without it the file is left out, rather than skipped in every quick run.
NEEDED = {
    "test_captum.py": "captum",
    "test_fastai.py": "fastai",
    "test_lightning.py": "lightning",
    "test_monai.py": "monai",
    "test_peft.py": "peft",
    "test_segmentation.py": "segmentation_models_pytorch",
    "test_torchao.py": "torchao",
    "test_transformers.py": "transformers",
}


def pytest_ignore_collect(collection_path, config):
    needed = NEEDED.get(collection_path.name)
    quick = "not slow" in config.option.markexpr
    return True if needed and quick and importlib.util.find_spec(needed) is None else None
