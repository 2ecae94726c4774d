"""The commands in README and docs work: those of a page in order, in a folder like its reader's."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import torch
import torchvision
from docs.blocks import ROOT, calls_of, files_of, pages_blocks
from golden_files import golden, state_dict
from PIL import Image

from attnconv.recipes import run
from attnconv.train.config import RunConfig

# Calls that test_code_blocks.py only parses. The first rule that matches counts.
NOT_RUN = {
    r"^(make|pip|pytest) ": "installs or tests; the first is for test_release.py",
    r"^(srun|torchrun) ": "needs a cluster",
    r"^python benchmarks/departures.py": "run in test_departures.py",
    r"^python examples/sagan_digits.py": "minutes; a few steps in tests/examples/test_sagan_digits.py",
    r"^python benchmarks/old_split.py": "run in test_old_split.py",
    r"train .*--devices auto": "hours, and meant for several GPUs",
    r"train --recipe imagewoof.* --data photos": "half precision, which needs a GPU",
    r"lr-find .*--data photos": "minutes: a hundred steps",
    r"--data (cifar|imagewoof|mnist)|--recipe (cifar|imagewoof)": "needs the network: a data set",
    r"(--out|evaluate) runs/wide": "goes on with a run on CIFAR-10",
    r"study run (aa-cifar100|simple-self-attention|benchmarks/plans)": "needs the network: a data set",
    r"study run (study.yaml|layers.yaml --import cosine$)": "minutes: the runs of a whole study",
    r"study report studies/(photos|layers)": "the report of these runs",
    r"bench ops$": "minutes",
    r"bench .*--impl \S*rows": "a kernel that the reader writes",
}
# Calls that get Ctrl-C once a line of their output matches, and their exit code.
UNTIL_CTRL_C = {
    r"--web": ("Ctrl-C ends it", 0),
    r"study run why-attention": ("^1/", 130),  # the first of its runs is done; all of them would take minutes
}
# Pages without a call that runs.
NOTHING_RUN = {
    "CONTRIBUTING.md",
    "docs/clusters.md",
    "docs/index.md",
    "docs/layers/self-attention.md",
    "docs/results/convnet3-cifar100.md",
    "docs/results/training.md",
}

SHELL = {
    blocks[0].page: "".join(block.text for block in blocks)
    for page in pages_blocks()
    if (blocks := [block for block in page if block.language == "sh"])
}


def rule_of(call, rules):
    """Return the first of ``rules`` that matches a command line, or None."""
    return next((rule for rule in rules if re.search(rule, call)), None)


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """What the pages take for granted: images, runs and kept records."""
    folder = tmp_path_factory.mktemp("readers")
    for part, count in {"train": 32, "val": 1}.items():  # two classes of 32: a batch of 64
        for name in ("cat", "dog"):
            (folder / "photos" / part / name).mkdir(parents=True)
            for number in range(count):
                Image.effect_noise((110, 90), 60).save(folder / "photos" / part / name / f"{number}.png")
    (folder / "holiday").mkdir()
    for path in ("photo.jpg", "holiday/beach.jpg", "holiday/hill.png"):
        Image.effect_noise((110, 90), 60).convert("RGB").save(folder / path)
    shutil.copytree(folder / "photos", folder / "FOLDER")
    config = RunConfig(model="aa_convnet3", data="digits", train_subset=256, epochs=1, batch_size=64, device="cpu")
    for out in ("RUN", "runs/mine", "runs/other"):
        run(config, folder / out, progress=False)
    shutil.copytree(ROOT / "benchmarks", folder / "benchmarks")
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), folder / "resnet18.pth")
    for page in pages_blocks():
        for name, text in files_of(page).items():
            (folder / name).write_text(text)
    torch.save({"model": state_dict(golden("seed_a_wide_resnet10_1"))}, folder / "best_model_ckpt.t7")
    dogs = state_dict(golden("seed_b_ssa_xresnet18"))  # of two classes, as many as there are photos of
    dogs |= {name: dogs[name][:2] for name in ("10.weight", "10.bias")}
    torch.save({"model": dogs, "opt": {}}, folder / "learner.pth")
    return folder


def check_run(call, folder):
    """Run a command line; AssertionError if it fails, or ends before the output at which it gets Ctrl-C."""
    awaited, code = UNTIL_CTRL_C.get(rule_of(call, UNTIL_CTRL_C), (None, 0))
    no_network = {"ATTNCONV_DATA": str(folder / "data"), "https_proxy": "http://127.0.0.1:9"}
    with subprocess.Popen(
        [sys.executable, "-m", *shlex.split(call)],
        cwd=folder,
        env=os.environ | no_network,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        output = ""
        try:
            for line in process.stdout:
                output += line
                if awaited and re.search(awaited, line):
                    process.send_signal(signal.SIGINT)
                    awaited = None
        except BaseException:  # the time for a test is over, say
            process.kill()
            raise
    assert (process.returncode, awaited) == (code, None), f"{call}\n{output}"
    assert "Traceback" not in output, f"{call}\n{output}"


def test_calls_that_are_not_run_are_these(tmp_path):
    calls = {page: [shlex.join(call) for call in calls_of(text, tmp_path / page)] for page, text in SHELL.items()}
    run = {page: [call for call in found if not rule_of(call, NOT_RUN)] for page, found in calls.items()}
    every = [call for found in calls.values() for call in found]
    assert {rule_of(call, NOT_RUN) for call in every} == {None, *NOT_RUN}
    assert {rule_of(call, UNTIL_CTRL_C) for call in every} == {None, *UNTIL_CTRL_C}
    assert {page for page, found in run.items() if not found} == NOTHING_RUN
    assert sum(map(len, run.values())) >= 45


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in SHELL if page not in NOTHING_RUN])
def test_commands_work(page, readers, tmp_path):
    calls = [shlex.join(call) for call in calls_of(SHELL[page], tmp_path / "calls")]
    folder = tmp_path / "reader"
    shutil.copytree(readers, folder)
    for call in calls:
        if not rule_of(call, NOT_RUN):
            check_run(call, folder)


@pytest.mark.parametrize(
    ("call", "output"),
    [
        ("attnconv study status nowhere", "attnconv: error"),
        ("attnconv explain --web --help", "Draw the attention of one position"),
    ],
)
def test_a_command_that_fails_or_ends_too_early_is_noticed(call, output, tmp_path):
    with pytest.raises(AssertionError, match=output):
        check_run(call, tmp_path)
