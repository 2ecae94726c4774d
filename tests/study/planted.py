"""A study's folder as it is kept without its runs: a plan, and records with made-up numbers."""

import json
from pathlib import Path

from attnconv.study.plan import Study
from attnconv.study.plan_file import study_of

PLAN = {
    "name": "planted",
    "text": "Does <attention> help & how much?",
    "arms": {
        "plain": {"model": "convnet3"},
        "aa": {"model": "aa_convnet3"},
        "late": {"model": "aa_convnet3", "lr": 0.05},
    },
    "base": {"data": "digits", "epochs": 3},
    "baseline": "plain",
    "seeds": 5,
    "published": {"aa": {"value": 81.6, "source": "A paper, table 1", "runs": 5}, "late": {"value": 80, "source": "B"}},
}
GAIN = {"plain": 0.0, "aa": 4.0, "late": -3.0}
SECONDS = {"plain": 10.0, "aa": 14.0, "late": 15.0}


def plan(**more) -> Study:
    return study_of({**PLAN, **more}, source="the test")


def rows(arm: str, seed: int, epochs: int = 3) -> list[dict[str, float]]:
    own = arm.rpartition("/")[2]
    return [
        {
            "epoch": epoch,
            "val_top1": 60 + 5 * epoch + GAIN[own] + 0.3 * ((7 * seed + 3 * len(own)) % 5),
            "val_top5": 90 + epoch + 0.1 * seed,
            "val_loss": 2 / epoch,
            "seconds": SECONDS[own] + 0.01 * seed,
        }
        for epoch in range(1, epochs + 1)
    ]


def record(arm: str, seed: int, **more) -> dict:
    history = rows(arm, seed)
    return {
        "format": 1, "arm": arm, "seed": seed, "state": "done", "reason": None, "top1": history[-1]["val_top1"],
        "best_top1": max(row["val_top1"] for row in history), "top5": history[-1]["val_top5"], "params": 94_186,
        "flops": 3_870_000, "images": 1437, "history": history, "commit": "0123456789abcdef",
        "machine": "Abacus 2, 2 cores", "device": "cpu", "threads": 2, "torch": "2.99", "version": "0.1.0", **more,
    }  # fmt: skip


def diverged(arm: str, seed: int, epochs: int = 1) -> dict:
    reason = "the loss is not finite in step 12"
    found = record(arm, seed, state="diverged", reason=reason, top1=None, best_top1=None)
    return found | {"history": rows(arm, seed, epochs)}


def undone(arm: str, seed: int, state: str, reason: str | None = None) -> dict:
    return {"format": 1, "arm": arm, "seed": seed, "state": state, "reason": reason, "history": []}


def all_done(study: Study) -> list[dict]:
    return [record(run.arm, run.seed) for run in study.runs()]


def keep(folder: Path, study: Study, records: list[dict]) -> Path:
    """Write the plan and the records; the folder."""
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(study.to_dict(), sort_keys=False))
    (folder / "records.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    return folder
