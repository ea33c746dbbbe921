"""What the report says of an index whose encoder learns."""

import json
from pathlib import Path

from report_fixture import write_run

from polymnia.report.page import write_report

MEANS = {"kept": 80.0, "stale": 20.0, "upgraded": 50.0, "self": 70.0, "won_back": 60.0}


def measured(folder: Path, shift: float) -> Path:
    means = {k: v + shift for k, v in MEANS.items()}
    own = {k: 100.0 - shift for k in MEANS}
    (folder / "compatibility.json").write_text(json.dumps({"measures": [], "summary": means, "own": own}))
    return folder


def test_stale_and_upgraded_recall_are_columns_of_the_summary_over_seeds(tmp_path):
    runs = [measured(write_run(tmp_path / f"s{s}", "lwf", s, media=False), s) for s in range(3)]
    runs.append(write_run(tmp_path / "er", "er", media=False))
    report = write_report(runs, tmp_path / "out")
    lwf, er = (next(r for r in report.table if r["method"] == m) for m in ("lwf", "er"))
    assert (lwf["index/stale"]["mean"], lwf["index/stale"]["sd"]) == (21.0, 1.0)
    assert lwf["index/upgraded"]["mean"] == 51.0
    assert er["index/stale"] is None
    said = report.markdown.read_text()
    table = said.split("## An index when its encoder learns")[1].split("##")[0]
    assert "| lwf | 81.0 | 21.0 ± 1.0" in table and "99.0 ± 1.0" in table and "| er |" not in table
    page = report.html.read_text()
    assert "stale index" in page and "What becomes of an index when its encoder learns" in page


def test_a_mean_over_some_of_the_seeds_says_so_and_is_never_best(tmp_path):
    lwf = [measured(write_run(tmp_path / f"l{s}", "lwf", s, media=False), s) for s in range(3)]
    er = [write_run(tmp_path / f"e{s}", "er", s, media=False) for s in range(3)]
    runs = [*lwf, measured(er[0], 30.0), *er[1:]]  # one seed of er, and better than all of lwf
    report = write_report(runs, tmp_path / "out")
    summary = next(line for line in report.markdown.read_text().splitlines() if line.startswith("| er |"))
    assert " 50.0 (1 of 3 seeds) " in summary and "**50.0" not in summary
    assert "1 of 3 seeds" in report.html.read_text()
    (table,) = (line for line in report.markdown.read_text().splitlines() if line.startswith("| er | 110.0"))
    assert "50.0 (1 of 3 seeds)" in table


def test_without_measures_the_report_is_silent_about_indexes(tmp_path):
    report = write_report([write_run(tmp_path / "er", "er", media=False)], tmp_path / "out")
    assert "stale index" not in report.html.read_text() + report.markdown.read_text()
