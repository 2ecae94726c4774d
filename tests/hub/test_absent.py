"""Without a network, a token or the extra: one line each, and what needs none of them works."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("huggingface_hub")

OFFLINE = """
import time
from attnconv import checks
from attnconv.models import create_model, from_pretrained

model = create_model("convnet3", num_classes=2, image_size=8)
begin = time.perf_counter()
for call in (
    lambda: from_pretrained("someone/thing"),
    lambda: model.push_to_hub("someone/thing"),
    lambda: model.push_to_hub("someone/thing", token="hf_none"),
    lambda: from_pretrained("no name!/thing"),
):
    try:
        call()
    except checks.InputError as error:
        print(error)
assert time.perf_counter() - begin < 20
model.save_pretrained("saved")
from_pretrained("saved")
"""
NO_CONNECTION = "no connection to http://127.0.0.1:9"


def test_without_a_network_or_a_token(tmp_path):
    """In a process of its own, for a Hub at an address where nothing listens; a local folder needs none."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "home")}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    got, no_token, pushed, name = done.stdout.splitlines()
    assert got == f"cannot get 'someone/thing', which is not a local folder, from the Hugging Face Hub: {NO_CONNECTION}"
    assert "needs a token; run `hf auth login`, set HF_TOKEN or give token=" in no_token
    assert pushed == f"cannot push to someone/thing: {NO_CONNECTION}"
    assert name.startswith("cannot get 'no name!/thing'")
    assert done.stderr == ""


def test_answers_of_the_hub_become_sentences(monkeypatch):
    from huggingface_hub import errors

    from attnconv.models.hub import reason

    class Answer(Exception):
        response = type("Response", (), {"status_code": 403})

    def made(kind):
        return kind.__new__(kind)

    assert "the Hub refuses the token (HTTP 403)" in reason(Answer())
    assert "no such repository" in reason(made(errors.RepositoryNotFoundError))
    assert "grant you access" in reason(made(errors.GatedRepoError))
    assert "no such revision" in reason(made(errors.RevisionNotFoundError))
    assert "no connection to" in reason(made(errors.LocalEntryNotFoundError))
    assert "not a network of attnconv" in reason(made(errors.EntryNotFoundError))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in reason(made(errors.LocalEntryNotFoundError))
    monkeypatch.undo()
    assert reason(OSError("no space\nleft")) == "no space"


WITHOUT = """
import sys
import attnconv, torch
from attnconv import checks, models

def refusals(missing, *calls):
    assert missing not in sys.modules
    sys.modules[missing] = None
    for call in calls:
        try:
            call()
        except checks.MissingExtraError as error:
            print(error)
    del sys.modules[missing]

model = models.create_model("aa_convnet3", num_classes=2, image_size=8)
model(torch.zeros(1, 3, 8, 8))
refusals("huggingface_hub", lambda: model.push_to_hub("a/b", token="x"), lambda: models.from_pretrained("x"))
refusals("safetensors", lambda: model.save_pretrained("x"), lambda: model.push_to_hub("a/b", token="x"))
sys.modules["huggingface_hub"] = None
model.save_pretrained("saved")
models.from_pretrained("saved")
"""


def test_without_the_extra_networks_and_folders_of_this_machine_work_and_the_rest_says_what_to_install(tmp_path):
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"this needs {missing}: pip install 'attnconv[hub]'"
        for missing in ("huggingface_hub", "safetensors")
        for _ in range(2)
    ]
    assert done.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
