"""A study in a process of its own: python study_process.py FOLDER EPOCHS [ray]; it ends as the command line does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def plan(epochs):
    from study.tiny import BASE, tiny

    return tiny(base={**BASE, "epochs": epochs, "train_subset": 480}, threads=1)


def main(folder, epochs, ray):
    from attnconv.study.folder import StudyFolder
    from attnconv.study.ray import ray_cluster
    from attnconv.study.run import on_this_machine, run_study

    study, place = plan(int(epochs)), StudyFolder(Path(folder))
    if not ray:
        run_study(study, place, on_this_machine)
        return
    with ray_cluster("local") as cluster:
        run_study(study, place, cluster)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:3], sys.argv[3:] == ["ray"])
    except KeyboardInterrupt:
        sys.exit(130)
