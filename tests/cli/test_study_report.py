"""attnconv study report, as a user meets it; what the report holds is tested in tests/study."""

import json
import re

from study.planted import all_done, keep, plan


def test_every_flag_is_listed_here(attnconv):
    _, out, _ = attnconv("study", "report", "--help")
    assert set(re.findall(r"--[a-z][a-z-]*", out)) == {"--import", "--json", "--folder"}


def test_the_verdict_the_table_and_the_files_are_printed(attnconv, tmp_path):
    study = plan()
    keep(tmp_path, study, all_done(study))
    code, out, err = attnconv("study", "report", tmp_path)
    assert code == 0, err
    assert re.search(r"^ ?aa +79\.60 ± 0\.47 +\+4\.00 ", out, flags=re.MULTILINE)
    assert out.startswith(
        "No verdict with 5 seeds: 2 comparisons need at least 7. Differences so far:\naa: +4.00 points"
    )
    assert str(tmp_path / "report.html") in out.splitlines()
    assert (tmp_path / "report.html").exists()


def test_p_and_the_runs_needed_stay_in_a_narrow_terminal(attnconv, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "72")
    keep(tmp_path, plan(), all_done(plan()))
    _, out, _ = attnconv("study", "report", tmp_path)
    assert re.search(r"^arm .* difference +p \(Holm\) +runs needed$", out, flags=re.MULTILINE)
    assert re.search(r"leave no room for '95 % interval'", out)


def test_json(attnconv, tmp_path):
    study = plan()
    keep(tmp_path, study, all_done(study)[:-1])
    _, out, _ = attnconv("study", "report", tmp_path, "--json")
    found = json.loads(out)
    assert found["counts"] == {"done": 14, "diverged": 0, "failed": 0, "running": 0, "missing": 1}
    assert str(tmp_path / "summary.csv") in found["files"]
    assert {row["arm"] for row in found["summary"]} == {"plain", "aa", "late"}


def test_what_is_no_study_is_refused_in_one_line(attnconv, tmp_path):
    for folder, text in ((tmp_path, "holds no study"), (tmp_path / "gone", "holds no study")):
        code, out, err = attnconv("study", "report", folder)
        assert (code, out) == (2, "")
        assert re.fullmatch(rf"attnconv: error: .*{text}.*\n", err)


def test_damaged_records_are_refused_in_one_line(attnconv, tmp_path):
    study = plan()
    records = all_done(study)
    keep(tmp_path, study, [records[0] | {"top1": "high"}, *records[1:]])
    code, out, err = attnconv("study", "report", tmp_path)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"attnconv: error: top1 in the record of 'plain' with seed 0 must be a number.*\n", err)
