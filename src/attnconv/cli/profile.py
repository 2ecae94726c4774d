"""How `attnconv train --profile` shows where the time of a step goes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnconv.cli.output import print_table, say


def print_profile(profile: Mapping[str, Any] | None, run: Path) -> None:
    """``profile`` as in result.json; None if the run was done before."""
    if profile is None:
        print("no profile: the run was finished already, and without one")
        return
    if profile["steps"]:
        print(
            f"{profile['steps']} steps timed: {profile['step_ms']:.1f} ms a step (median), "
            f"{profile['images_per_second']:.0f} images/s; {profile['loader_share']:.1f}% of the time waiting for the "
            "loader"
        )
    else:
        print("no step timed: there were too few; the first six warm up and are traced")
    if profile["operators"]:
        rows = [
            (entry["name"], f"{entry['ms']:.2f}", f"{entry['share']:.1f}", f"{entry['calls']:.1f}")
            for entry in profile["operators"]
        ]
        print_table(("operator", "ms a step", "% of all", "calls a step"), rows)
        say(f"Trace, for chrome://tracing or ui.perfetto.dev: {run / profile['trace']}")
