import subprocess

import pytest
import torch

import attnconv
from attnconv.train import provenance as module
from attnconv.train.provenance import commit, provenance


@pytest.fixture
def checkout(tmp_path):
    git = ("git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    return tmp_path


def test_the_commit_of_a_checkout(checkout):
    head = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert commit(checkout) == head.stdout.strip()


def test_a_changed_checkout_is_dirty(checkout):
    git = ("git", "-C", str(checkout))
    (checkout / "file").write_text("one")
    head = commit(checkout)
    assert len(head) == 40  # what git does not follow is no change
    subprocess.run([*git, "add", "file"], check=True)
    assert commit(checkout) == f"{head}-dirty"
    subprocess.run([*git, "rm", "-q", "-f", "file"], check=True)
    subprocess.run([*git, "tag", "v1"], check=True)
    assert commit(checkout) == head


def test_a_package_inside_another_projects_checkout_has_no_commit(checkout):
    (checkout / "site-packages").mkdir()
    assert commit(checkout / "site-packages") is None


def test_outside_a_checkout_or_without_git(tmp_path, monkeypatch):
    assert commit(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(tmp_path) is None


def test_versions():
    found = provenance(torch.device("cpu"))
    assert found == {
        "device": "cpu",
        "torch": torch.__version__,
        "attnconv": attnconv.__version__,
        "commit": commit(module.ROOT),
    }
