"""What a study plans, and what it refuses before anything runs."""

import dataclasses
from pathlib import Path

import pytest

from attnconv.checks import InputError
from attnconv.study.plan import Study
from attnconv.study.plan_file import read_study, study_of

BASE = {"data": "digits", "epochs": 2}
ARMS = {"plain": {"model": "convnet3"}, "augmented": {"model": "aa_convnet3"}}


def values(**more):
    return {"name": "one", "text": "Why?", "base": BASE, "arms": ARMS, "baseline": "plain", "seeds": 2, **more}


def study(**more):
    return study_of(values(**more), source="plan.yaml")


def test_every_seed_of_every_arm_is_planned_seed_by_seed():
    runs = study().runs()
    assert [run.name for run in runs] == ["plain-seed0", "augmented-seed0", "plain-seed1", "augmented-seed1"]
    assert [run.config.model for run in runs] == ["convnet3", "aa_convnet3"] * 2
    assert {run.config.epochs for run in runs} == {2}
    assert [run.config.seed for run in study(seeds=[7, 3]).runs()] == [7, 7, 3, 3]


def test_an_arms_options_go_over_the_base_and_model_options_merge():
    one = study(
        base={**BASE, "model": "aa_convnet3", "model_options": {"num_heads": 2}, "lr": 0.1},
        arms={"plain": None, "other": {"lr": "1e-3", "model_options": {"augment": [3]}}},
    )
    config = one.config("other", 0)
    assert config.model_options == {"num_heads": 2, "augment": [3]}
    assert config.lr == 1e-3
    assert one.config("plain", 0).lr == 0.1


def test_a_grid_is_every_combination():
    grid = {"model": ["aa_convnet3"], "lr": [0.1, 0.2], "model_options.position": [None, "sine"]}
    plan = values(grid=grid, baseline="aa_convnet3,lr=0.1,position=none")
    del plan["arms"]
    one = study_of(plan, source="plan.yaml")
    assert list(one.arms) == [
        "aa_convnet3,lr=0.1,position=none", "aa_convnet3,lr=0.1,position=sine",
        "aa_convnet3,lr=0.2,position=none", "aa_convnet3,lr=0.2,position=sine",
    ]  # fmt: skip
    assert one.config("aa_convnet3,lr=0.2,position=sine", 0).model_options == {"position": "sine"}
    plan["grid"], plan["baseline"] = {"epochs": [1, 2]}, "epochs=1"
    assert list(study_of(plan, source="plan.yaml").arms) == ["epochs=1", "epochs=2"]


@pytest.mark.parametrize(
    ("grid", "names"),
    [
        ({"image_size": [8, [8, 12]]}, ["image_size=8", "image_size=8x12"]),
        ({"image_size": [[8, 12]], "lr": [0.1]}, ["image_size=8x12,lr=0.1"]),
        ({"model": ["timm:resnet18"], "lr": [0.1]}, ["timm-resnet18,lr=0.1"]),
        ({"attention": [[], [{"add": {"after": "layer3"}}]]}, ["attention=none", "attention=add-after-layer3"]),
        (
            {"attention": [[{"add": {"after": ["a", "b"], "kind": "timm:se"}}]]},
            ["attention=add-after-a-b-kind-timm-se"],
        ),
        (
            {"attention": [[{"augment": {"where": "4.*conv2", "num_heads": 2}}]]},
            ["attention=augment-where-4.-conv2-num_heads-2"],
        ),
    ],
)
def test_names_of_a_grids_values(grid, names):
    plan = values(grid=grid, baseline=names[0].rpartition("/")[2])
    del plan["arms"]
    assert list(study_of(plan, source="plan.yaml").arms) == names


def test_blocks_repeat_the_arms_each_with_its_baseline():
    one = study(blocks={"short": {"epochs": 1}, "long": {"epochs": 4}})
    assert list(one.arms) == ["short/plain", "short/augmented", "long/plain", "long/augmented"]
    assert one.config("long/augmented", 0).epochs == 4
    assert one.baseline_of("long/augmented") == "long/plain"
    assert list(one.only(["long"]).arms) == ["long/plain", "long/augmented"]
    assert list(one.only(["short/augmented"]).arms) == ["short/plain", "short/augmented"]
    scored = dataclasses.replace(one, score={"long": "top5"})
    assert [scored.score_of(block) for block in scored.blocks()] == ["top1", "top5"]
    assert (scored.only(["short"]).score, scored.only(["long"]).score) == ({}, {"long": "top5"})
    assert study_of(scored.to_dict(), source="study.yaml") == scored


def test_a_recipe_lies_under_base_and_arms():
    one = study(recipe="imagewoof-48-5ep", base={"epochs": 2}, arms={"plain": {"model": "xresnet18"}, "ssa": {}})
    config = one.config("plain", 0)
    assert (config.model, config.data, config.lr, config.epochs) == ("xresnet18", "imagewoof", 3e-3, 2)
    assert one.config("ssa", 0).model == "ssa_xresnet18"
    assert study_of(one.to_dict(), source="study.yaml") == one  # the recipe is written out


def test_a_study_comes_back_from_its_own_values():
    one = study(published={"plain": {"value": 62.3, "source": "a table", "runs": 12}}, threads=2, memory_gb=1.5)
    assert study_of(one.to_dict(), source="study.yaml") == one


BAD = [
    ({"arms": {}}, "study 'one' has no arms"),
    ({"seeds": 0}, "seeds must be at least 1, got 0"),
    ({"seeds": []}, "at least one seed"),
    ({"seeds": [1, 1]}, r"seeds must differ from each other, got \[1, 1\]"),
    ({"seeds": True}, "seeds must be a list of integers, or how many, got True"),
    ({"seeds": [0.5]}, "each of the seeds must be an integer, got 0.5"),
    ({"baseline": "plane"}, "unknown baseline: 'plane'; nearest: 'plain'"),
    ({"score": "top2"}, "unknown score 'top2'"),
    ({"score": "best_top1"}, "unknown score 'best_top1'; nearest: 'top1'"),
    ({"score": {"short": "top5"}}, "unknown block in score: 'short'"),
    ({"score": 3}, "score must hold names and values, got 3"),
    ({"scale": "tiny"}, "unknown scale 'tiny'"),
    ({"name": "a b"}, "name of a study must be of letters"),
    ({"text": 3}, "text of a study must be text, got 3"),
    ({"threads": 0}, "threads must be at least 1"),
    ({"memory_gb": -1}, "memory_gb must be positive"),
    ({"arms": {"a b": {}}, "baseline": "a b"}, "name of an arm must be ARM or BLOCK/ARM"),
    ({"arms": {"../up": {}}, "baseline": "up"}, "name of an arm must be"),
    ({"arms": {"plain": {}, "b/other": {"lr": 0.3}}}, "either all arms stand in a block"),
    ({"arms": {"plain": {}, "same": {"epochs": 2}}}, "'plain' and 'same' are the same runs under two names"),
    ({"arms": {"plain": {"learning_rate": 1}}}, "unknown option in arm 'plain' 'learning_rate'"),
    ({"arms": {"plain": {"lr": "fast"}}}, "arm 'plain': lr must be float, got 'fast'"),
    ({"arms": {"plain": 3}}, "arm 'plain' must hold names and values, got 3"),
    ({"base": {"seed": 3}}, "has a seed of its own"),
    ({"arms": {"plain": {"mixup": -1.0}}}, "arm 'plain': mixup must be at least 0, got -1.0"),
    ({"base": {"nodes": 2}}, "each run of a study is on one machine"),
    ({"published": {"plian": {}}}, "unknown arm in published: 'plian'; nearest: 'plain'"),
    ({"published": {"plain": {"value": "62"}}}, "must be a number, got '62'"),
    ({"published": {"plain": {"value": 62.0}}}, "needs its source as text"),
    ({"published": {"plain": {"value": 62.0, "source": "x", "run": 1}}}, "'run'; nearest: 'runs'"),
    ({"basis": {}}, "plan.yaml: unknown entry of a study 'basis'; nearest: 'base'"),
    ({"grid": {"epochs": [1]}}, "plan.yaml must have either arms or a grid"),
    ({"blocks": {}}, "blocks must name at least one"),
    ({"recipe": "none-such"}, "plan.yaml: unknown recipe 'none-such'"),
]


@pytest.mark.parametrize("name", ["? [1, 2]", "? {a: 1}"])
def test_a_name_that_is_no_word_is_refused(name, tmp_path):
    (tmp_path / "plan.yaml").write_text(f"name: one\narms:\n  {name}\n  : {{lr: 0.1}}\n")
    with pytest.raises(InputError, match="a name must be one word, got a list or names in line 3"):
        read_study(tmp_path / "plan.yaml")


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_plans_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        study(**change)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, "the grid is empty"),
        ({"lr": []}, "the grid is empty: lr has no values"),
        ({"lrr": [1]}, "unknown option in the grid 'lrr'; nearest: 'lr'"),
        ({"seed": [1]}, "unknown option in the grid 'seed'"),
        ({"lr": 0.1}, "grid: lr must be a list of values, got 0.1"),
        ({"lr": [0.1, 0.1]}, "grid: lr has 0.1 twice"),
        ({"model": ["a/b", "a-b"]}, "two combinations of the grid have the name 'a-b'"),
    ],
)
def test_bad_grids_are_refused(grid, message):
    plan = values(grid=grid)
    del plan["arms"]
    with pytest.raises(InputError, match=message):
        study_of(plan, source="plan.yaml")


@pytest.mark.parametrize("name", ["name", "text", "baseline"])
def test_what_a_study_must_say(name):
    plan = values()
    del plan[name]
    with pytest.raises(InputError, match=f"plan.yaml: {name} is missing"):
        study_of(plan, source="plan.yaml")


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"model": "convnet33"}, "arm 'plain': unknown model 'convnet33'; nearest: 'convnet3'"),
        ({"data": "cifar1000"}, "arm 'plain': 'cifar1000' is neither a data set nor .*; nearest: 'cifar100'"),
        ({"model_options": {"head": 1}}, "arm 'plain': unknown option of aa_convnet3: 'head'"),
        ({"model_options": {"num_heads": 0}}, "arm 'plain': num_heads must be at least 1"),
    ],
)
def test_names_that_do_not_exist_are_refused_with_the_nearest(arm, message):
    with pytest.raises(InputError, match=message):
        Study(name="one", text="", arms={"plain": arm}, baseline="plain", base=BASE).require_runnable()


def test_mean_iou_needs_a_network_that_labels_pixels():
    with pytest.raises(InputError, match=r"arm 'plain': score 'miou' is for .* \(aa_unet, unet\), got 'convnet3'"):
        study(score="miou").require_runnable()
    arms = {"plain": {"model": "unet", "data": "far-context"}}
    study(score="miou", arms=arms).require_runnable()


def test_only_names_arms_that_there_are():
    with pytest.raises(InputError, match="unknown arm or block 'augmentd'; nearest: 'augmented'"):
        study().only(["augmentd"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "must hold names and values, got list"),
        ("name: [", "cannot read .*plan.yaml"),
        ("name: !!python/object/apply:os.system [ls]", "cannot read .*could not determine a constructor"),
        ("name: one\nname: two", "'name' stands twice in line 2"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, message):
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_study(tmp_path / "plan.yaml")


def test_no_file():
    with pytest.raises(InputError, match=r"no file at nowhere\.yaml"):
        read_study(Path("nowhere.yaml"))


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[2] / "benchmarks" / "plans").glob("*.yaml")))
def test_the_plans_that_are_kept_can_be_run(file):
    study = read_study(file)
    study.require_runnable()
    assert study.name == file.stem
    options = study.runs()[0].config
    assert (options.data, options.image_size, options.base_momentum) == ("imagewoof-old", 128, 0.85)


def test_all_mistakes_of_a_file_are_said_at_once(tmp_path):
    (tmp_path / "plan.yaml").write_text(
        "name: one\ntext: Why?\nbasis: {}\nbase: {data: digits, epocs: 3, lr: fast}\n"
        "arms: {plain: {model: convnet33}, augmented: {model: aa_convnet3}}\nbaseline: plane\nseeds: 2\n"
    )
    with pytest.raises(InputError) as caught:
        read_study(tmp_path / "plan.yaml")
    said = str(caught.value)
    assert "plan.yaml: 5 mistakes: (1) unknown entry of a study 'basis'; nearest: 'base'; (2) unknown baseline" in said
    for mistake in ("'epocs'; nearest: 'epochs'", "lr must be float, got 'fast'", "(5) arm 'plain': unknown model"):
        assert said.count(mistake) == 1
    assert "\n" not in said


def test_a_wrong_value_does_not_hide_the_mistakes_behind_it(tmp_path):
    (tmp_path / "plan.yaml").write_text(
        "name: 3\nbase: {data: digits, epochs: 1, optimizer: sdg}\nseeds: zero\npublished: none\nbaseline: plian\n"
        "arms: {plain: {modle: convnet3}, augmented: {model: aa_convnet4}, third: 3}\n"
    )
    with pytest.raises(InputError) as caught:
        read_study(tmp_path / "plan.yaml")
    said = str(caught.value)
    for mistake in (
        "plan.yaml: 9 mistakes: (1) text is missing; (2) name of a study must be text, got 3;",
        *(
            "seeds must be a list of integers",
            "published must hold names",
            "arm 'third' must hold",
            "baseline: 'plian'",
        ),
        *("'modle'; nearest: 'model'", "optimizer 'sdg'", "model 'aa_convnet4'"),
    ):
        assert said.count(mistake) == 1


def test_models_that_do_not_exist_are_all_said():
    with pytest.raises(InputError, match=r"2 mistakes: .*'convnet33'.*'aa_convnet33'"):
        study(arms={"plain": {"model": "convnet33"}, "augmented": {"model": "aa_convnet33"}}).require_runnable()


def test_arms_that_differ_in_a_mistake_alone_are_no_twins():
    with pytest.raises(InputError, match="unknown option in arm 'plain' 'modle'") as caught:
        study(arms={"plain": {"modle": "convnet3"}, "other": {"modle": "aa_convnet3"}})
    assert "same runs" not in str(caught.value)


def test_a_name_that_is_no_text_is_refused():
    with pytest.raises(InputError, match="name of a study must be text, got 3"):
        study(name=3)
