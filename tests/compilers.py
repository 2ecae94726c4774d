"""C++ compilers, for tests of what becomes of csrc/, and the functions of setup.py that call them."""

import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).parents[1]
CLANGS = ("clang++", *(f"clang++-{version}" for version in range(15, 40)))
OLDEST_CLANG = 15


def needed(*names):
    """The first of these programs that is installed; a test skips where none is, and fails where CI is set."""
    for name in names:
        if found := shutil.which(name):
            return found
    return missing(f"needs {' or '.join(names[:2])}")


def needed_clang():
    """A clang++ that is new enough."""
    for name in CLANGS:
        if (found := shutil.which(name)) and version(found) >= OLDEST_CLANG:
            return found
    return missing(f"needs clang++ {OLDEST_CLANG} or newer")


def version(clang):
    printed = subprocess.run([clang, "--version"], capture_output=True, text=True, check=True).stdout
    return int(re.search(r"version (\d+)", printed)[1])


def missing(reason):
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def setup_py():
    """Return the names that setup.py defines, without a build."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **_: None)
        return runpy.run_path(str(ROOT / "setup.py"))
