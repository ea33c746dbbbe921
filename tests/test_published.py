"""The audio paper's tables: what it printed, and our runs beside it."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
from command import command
from paper_runs import PAPER, recipe_of, write_run

from polymnia.recipe import WHERE, read
from polymnia.report.collect import Run
from polymnia.report.papers.cells import Cell, Line, scored_set
from polymnia.report.papers.settings import APART, Setting
from polymnia.report.papers.sheets import Comparison, Sheet, compare
from polymnia.report.papers.text import digits
from polymnia.report.papers.write import markdown, plain
from polymnia.report.published import FILE, PaperTable, Published, read_published
from polymnia.types import UserError

# As the paper's own text has them, line by line.
TABLE_1 = """CLAP 75.63 77.46 40.75 45.01
LwF 78.17 78.95 40.04 47.21
CaSSLe 74.70 75.36 41.17 43.70
Mod-X 63.18 70.82 34.16 32.63"""
TABLE_2 = """MT-WC 0.48 7.53 0.75 1.05 43.28 47.76 3.37 4.97
Wav2CLIP 50.04 41.66 11.93 10.91 65.42 66.42 11.53 13.52
CLAP 72.58 75.06 40.69 42.87 37.44 33.46 3.16 2.61
LwF 73.50 74.84 41.77 44.40 39.55 38.18 3.00 2.75
CaSSLe 77.47 77.00 41.10 48.28 35.32 36.94 2.64 2.79
Mod-X 79.69 78.02 45.80 46.75 42.04 43.78 3.81 3.97"""
TABLE_3 = """PANNs 92.85 60.89 77.08 83.35 47.84 100.0 53.32 73.62 59.65
MT-WC 91.10 57.03 89.58 81.50 46.89 98.46 52.94 73.93 59.72
Wav2CLIP 91.82 59.66 82.29 81.98 46.83 98.08 51.68 73.19 59.74
CLAP 92.87/91.00 59.78/58.20 77.38/85.86 83.72/81.69 46.20/45.82 97.41/96.44 48.43/49.78 72.26/72.68 59.07/56.06
LwF 93.18/92.35 60.10/59.92 82.74/92.41 83.64/84.27 46.34/45.27 96.88/97.66 54.43/50.62 73.90/74.64 63.73/59.61
CaSSLe 92.42/92.80 58.34/58.93 82.84/82.14 82.16/84.00 45.87/46.48 98.46/96.92 52.70/51.92 73.26/73.31 62.98/61.56
Mod-X 90.20/93.35 55.01/59.87 77.18/82.14 82.56/84.04 45.14/46.09 96.11/97.30 46.42/49.68 70.37/73.21 53.95/60.44"""
QUERIES = (2000, 8732, 5225, 1045, 402, 402, 15446, 15446)
T2 = 4.302652729911275  # Student's t, 0.975, two degrees of freedom
PROBES = ("ESC-50", "FSD50K", "Gunshot", "US8K", "AudioSet", "GTZAN M/S", "CREMA-D")


@pytest.fixture(scope="module")
def published() -> Published:
    return read_published(PAPER)


def of(published: Published, name: str) -> PaperTable:
    return next(t for t in published.tables if t.name == name)


def lines_of(text: str, part: int = 0) -> dict[str, tuple[float, ...]]:
    """A row's name and its values; ``part`` of the pairs a/b."""
    words = [line.split() for line in text.splitlines()]
    return {w[0]: tuple(float((v.split("/") * 2)[part]) for v in w[1:]) for w in words}


def sheet(found: Comparison, name: str, *, stand_in: bool = False) -> Sheet:
    return next(s for s in found.sheets if s.table.name == name and s.stand_in == stand_in)


def line(found: Comparison, table: str, row: str, *, stand_in: bool = False) -> Line:
    (only,) = [x for x in sheet(found, table, stand_in=stand_in).lines if x.row == row]
    return only


def probes(**values: float) -> dict[str, dict[str, float]]:
    found = {name: {"probe/accuracy": 80.0, "probe/mAP": 40.0} for name in PROBES}
    return {f"{name} probe": scores for name, scores in found.items() if name not in values}


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("Table 1", TABLE_1, 0),
        ("Table 2", TABLE_2, 0),
        ("Table 3, A-AT", TABLE_3, 0),
        ("Table 3, A-AV-AT", TABLE_3, 1),
    ],
)
def test_the_file_holds_every_value_that_the_paper_prints(published: Published, name: str, text: str, part: int):
    assert {row: own.values for row, own in of(published, name).rows.items()} == lines_of(text, part)


@pytest.mark.parametrize("name", ["Table 3, A-AT", "Table 3, A-AV-AT"])
def test_the_printed_averages_are_the_means_of_the_seven_columns(published: Published, name: str):
    for row in of(published, name).rows.values():
        assert row.values[7] == pytest.approx(sum(row.values[:7]) / 7, abs=0.005)  # the paper is right throughout
    assert of(published, "Table 3, A-AV-AT").value("LwF", "Avg.") == 74.64  # 94.64 in its text
    assert any("94.64" in slip and "74.64" in slip for slip in published.slips)


def whole(value: float, queries: int, runs: int) -> bool:
    """Whether a printed percentage can be the mean of so many runs, each a whole number of hits."""
    low, high = ((value + d) * queries * runs / 100 for d in (-0.005, 0.005))
    return math.floor(high + 1e-9) >= math.ceil(low - 1e-9)


@pytest.mark.parametrize(("name", "runs", "never"), [("Table 1", 3, (1, 2)), ("Table 2", 4, (1, 2, 3))])
def test_every_printed_value_is_a_whole_number_of_hits_over_the_official_queries(
    published: Published, name: str, runs: int, never: tuple[int, ...]
):
    table = of(published, name)
    sizes = [published.columns[c].n for c in table.columns]
    assert tuple(sizes) == QUERIES[: len(sizes)] and table.runs == runs
    values = [(v, n) for row in table.rows.values() for v, n in zip(row.values, QUERIES, strict=False)]
    assert all(whole(v, n, runs) for v, n in values)
    assert all(any(not whole(v, n, k) for v, n in values) for k in never)


def test_every_row_is_made_of_a_recipe_that_is_there(published: Published):
    there = {read(path).get("name"): path.stem for path in PAPER.glob("*.yaml") if path.stem not in ("mini", "base")}
    assert set(published.recipes) == set(there) - {None}


@pytest.mark.parametrize(
    ("file", "tables"),
    [
        ("a-at-clap", ("Table 1", "Table 3, A-AT")),
        ("a-av-at-clap", ("Table 2", "Table 3, A-AV-AT")),
        ("mt-wc", ("Table 2", "Table 3, A-AT")),
        ("panns", ("Table 3, A-AT",)),
    ],
)
@pytest.mark.parametrize("mini", [False, True])
def test_every_cell_of_a_row_can_be_read_from_the_runs_of_its_recipe(
    published: Published, file: str, tables: tuple[str, ...], mini: bool
):
    recipe = recipe_of(file, mini=mini).model_dump(mode="json")
    setting = Setting(recipe, (Run(Path("x"), {}, {}),))
    own, other = (published.columns, published.stand_ins)[:: -1 if mini else 1]
    for table in (of(published, name) for name in tables):
        for name in table.stand_ins if mini else table.columns:
            entry = scored_set(own[name], setting)
            assert (entry is not None) == bool(own[name].of), (table.name, name)
            if own[name].metric.startswith("probe/"):
                assert entry and (own[name].metric == "probe/mAP") == entry["eval"][0]["multilabel"]
    assert not any(scored_set(c, setting) for c in other.values()), "a run fills a column or its stand-in, never both"


def test_seeds_are_joined_and_stand_beside_the_paper_with_a_difference(tmp_path: Path):
    values = {0: 76.0, 1: 77.0, 2: 79.0}
    runs = [
        write_run(
            tmp_path,
            recipe_of("a-at-lwf", seed),
            {"ESC-50": {"zeroshot/pooled": v, "zeroshot/N": 2000.0}},
            counts={"ESC-50": "2000 of 2000"},
        )
        for seed, v in values.items()
    ]
    found = line(compare(PAPER, runs), "Table 1", "LwF").cells["ESC-50 zero-shot"]
    mean, sd = 232 / 3, math.sqrt(((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2)
    assert found.ours and found.ours.n == 3
    assert (found.ours.mean, found.ours.sd) == pytest.approx((mean, sd))
    assert found.ours.low == pytest.approx(mean - T2 * sd / math.sqrt(3))
    assert found.difference == pytest.approx(mean - 78.17)
    assert (found.n, found.official, found.clips, found.head) == (2000, 2000, "2000 of 2000", "latest")
    text = markdown(compare(PAPER, runs))
    assert "| LwF | paper | 78.17 | 78.95 | 40.04 | 47.21 |" in text
    assert "| LwF | ours, 3 seeds | 77.33 ± 1.53 [73.54, 81.13] | – | – | – |" in text
    assert "| LwF | ours − paper | −0.84 | – | – | – |" in text
    assert "| LwF | N | 2,000 of 2,000 |  |  |  |" in text


def test_a_cell_without_a_run_is_a_dash_and_never_the_papers_number(tmp_path: Path):
    run = write_run(tmp_path, recipe_of("a-at-lwf"), {"AT": {"text>audio/R@10": 40.0}})
    found = compare(PAPER, [run])
    empty = [x for s in found.sheets for x in s.lines if x.setting is None]
    assert len(empty) == 4 + 6 + 7 + 7 - 1
    assert all(c.ours is None and c.difference is None and c.paper for x in empty for c in x.cells.values())
    assert "| CLAP | ours | – | – | – | – |" in markdown(found)
    ours = line(found, "Table 1", "LwF").cells
    assert [n for n, c in ours.items() if c.ours] == ["Clotho T2A"]


def test_a_task_that_is_tested_on_more_than_the_papers_set_fills_no_cell(tmp_path: Path):
    scores = {"AT": {"text>audio/R@10": 40.0}}
    alone = write_run(tmp_path, recipe_of("a-at-lwf", tasks__AT__test_on=["clotho"]), scores)
    both = write_run(tmp_path, recipe_of("a-at-clap", tasks__AT__test_on=["clotho", "audiocaps"]), scores)
    found = compare(PAPER, [alone, both])
    assert line(found, "Table 1", "LwF").cells["Clotho T2A"].by_seed == {0: 40.0}
    assert line(found, "Table 1", "CLAP").cells["Clotho T2A"].by_seed == {}


def test_wav2clip_is_scored_under_the_head_stored_after_av_in_audio_visual_columns_only(tmp_path: Path):
    latest = {"AV": {"image>audio/R@10": 1.0}, "AT": {"text>audio/R@10": 12.0}, "AVE": {"image>audio/R@10": 2.0}}
    stored = {"AV": {"image>audio/R@10": 11.0}, "AT": {"text>audio/R@10": 99.0}, "AVE": {"image>audio/R@10": 65.0}}
    runs = [write_run(tmp_path, recipe_of("a-av-at-wav2clip", variant="clip"), latest, stored)]
    runs.append(write_run(tmp_path, recipe_of("a-av-at-lwf"), latest, stored))

    def shown(row: str, **how: str) -> list[float | None]:
        cells = line(compare(PAPER, runs, **how), "Table 2", row).cells  # type: ignore[arg-type]
        return [c.ours.mean if c.ours else None for c in cells.values()][2:]

    assert shown("Wav2CLIP") == [12.0, None, 65.0, None, 11.0, None]
    assert shown("LwF") == [12.0, None, 2.0, None, 1.0, None]
    assert shown("Wav2CLIP", head="latest") == [12.0, None, 2.0, None, 1.0, None]
    assert shown("LwF", head="stored") == [99.0, None, 65.0, None, 11.0, None]


def test_runs_of_two_settings_are_never_averaged_and_are_told_apart_by_what_differs(tmp_path: Path):
    scores = [{"ESC-50": {"zeroshot/pooled": v}} for v in (70.0, 72.0, 50.0, 60.0)]
    runs = [
        write_run(tmp_path, recipe_of("a-at-lwf", 0), scores[0]),
        write_run(tmp_path, recipe_of("a-at-lwf", 1, device="cuda", data="/elsewhere"), scores[1]),
        write_run(tmp_path, recipe_of("a-at-lwf", 0, method__lwf__weight=0.5), scores[2]),
        write_run(tmp_path / "other", recipe_of("a-at-lwf", 1), scores[3], fingerprint="other items"),
    ]
    lines = [x for x in sheet(compare(PAPER, runs), "Table 1").lines if x.row == "LwF"]
    found = [x.cells["ESC-50 zero-shot"].ours for x in lines]
    assert [(v.mean, v.n) for v in found if v] == [(71.0, 2), (50.0, 1), (60.0, 1)]
    assert [x.label for x in lines] == [
        "method.lwf.weight=0.3, fingerprint=0f",
        "method.lwf.weight=0.5, fingerprint=0f",
        "method.lwf.weight=0.3, fingerprint=other items",
    ]
    assert "method.lwf.weight is 0.5; the paper: lambda = 0.3" in lines[1].notes


def test_variants_are_rows_of_their_own(tmp_path: Path):
    runs = [
        write_run(
            tmp_path, recipe_of("a-av-at-wav2clip", variant=v), {"AT": {"text>audio/R@10": x}}, counts={"AT": "9 of 9"}
        )
        for v, x in (("clip", 10.0), ("cx", 14.0))
    ]
    lines = [x for x in sheet(compare(PAPER, runs), "Table 2").lines if x.row == "Wav2CLIP"]
    assert [(x.label, x.cells["Clotho T2A"].by_seed) for x in lines] == [("clip", {0: 10.0}), ("cx", {0: 14.0})]


def test_what_cannot_be_shown_is_skipped_and_said(tmp_path: Path):
    scores = {"ESC-50": {"zeroshot/pooled": 70.0}}
    recipe = recipe_of("a-at-clap")
    good = write_run(tmp_path, recipe, scores)
    begun = write_run(tmp_path, recipe_of("a-at-clap", 1), scores, finished=None)
    twin = write_run(tmp_path / "copy", recipe, scores)
    valid = write_run(tmp_path, recipe_of("a-at-clap", 2, eval_split="valid"), scores)
    other = write_run(tmp_path, recipe_of("a-at-clap", name="mine"), scores)
    report = tmp_path / "audio-report"
    report.mkdir()
    (report / "report.html").touch()
    (begun / "matrix.json").unlink()
    found = compare(PAPER, [good, begun, twin, valid, other, report, good])
    assert line(found, "Table 1", "CLAP").cells["ESC-50 zero-shot"].by_seed == {0: 70.0}
    assert list(found.skipped) == [
        f"{begun.name}: not finished",
        f"{twin.name}: the same setting and seed as {good.name}",
        f"{valid.name}: scored on its valid items, not on the test items",
        f"{other.name}: no row of the paper is 'mine'",
    ]
    assert all(said in markdown(found) for said in found.skipped)


def test_stand_ins_have_a_table_of_their_own_and_no_difference(tmp_path: Path):
    digits_ = {"image>audio/class_mAP": 60.0, "image>audio/N": 300.0}
    esc = {"zeroshot/pooled": 90.0, "zeroshot/N": 80.0, "text>audio/class_mAP": 85.0}
    probe = {"ESC-10 probe": {"probe/accuracy": 95.0, "probe/N": 400.0}, "FSDD probe": {"probe/accuracy": 97.0}}
    run = write_run(tmp_path, recipe_of("a-av-at-modx", mini=True), {"AV": digits_, "AT": esc, **probe})
    found = compare(PAPER, [run])
    assert not any(s.filled for s in found.sheets if not s.stand_in)
    assert [s.table.name for s in found.sheets if s.stand_in] == ["Table 2", "Table 3, A-AV-AT"]
    own = line(found, "Table 2", "Mod-X", stand_in=True)
    assert {n: c.by_seed.get(0) for n, c in own.cells.items()} == {
        "ESC-10 zero-shot": 90.0,
        "ESC-10 T2A": 85.0,
        "ESC-10 A2T": None,
        "digits I2A": 60.0,
        "digits A2I": None,
    }
    assert own.cells["digits I2A"].paper == (42.04,)  # Mod-X on AVE
    assert all(c.difference is None for c in own.cells.values())
    text = markdown(found).split("\n## ")
    part = next(t for t in text if t.startswith("Table 2, stand-ins: other data in the place of the paper's"))
    assert "ESC-10 zero-shot (here: ESC-10, fold 1, 80 clips; in place of ESC-50 zero-shot)" in part
    assert "ours − paper" not in part and "| Mod-X | paper, on its own data | 79.69 |" in part
    assert "all of ours" not in part  # there is one line only
    assert "| Mod-X − CLAP | paper, on its own data | +7.11 |" in part
    assert "- Mod-X: towers.audio.use is efficientat; the paper: PANNs" in markdown(found)
    assert "towers.audio.arch" not in markdown(found)  # of another tower it says nothing
    assert "- Mod-X: ESC-10 probe: probe with kind logreg; the paper: linear" in markdown(found)


def test_an_average_is_ours_only_where_all_seven_columns_are_there(tmp_path: Path):
    metrics = {n: "probe/mAP" if n in ("FSD50K", "AudioSet") else "probe/accuracy" for n in PROBES}
    scores = {f"{n} probe": {m: 10.0 * k} for k, (n, m) in enumerate(metrics.items(), 1)}
    less = {n: s for n, s in scores.items() if n != "CREMA-D probe"}
    runs = [write_run(tmp_path, recipe_of("panns"), scores), write_run(tmp_path, recipe_of("a-at-clap"), less)]
    found = compare(PAPER, runs)
    panns = line(found, "Table 3, A-AT", "PANNs").cells
    assert panns["Avg."].by_seed == {0: pytest.approx(40.0)} and panns["Full HEAR"].ours is None
    assert panns["Avg."].difference == pytest.approx(40.0 - 73.62)
    clap = line(found, "Table 3, A-AT", "CLAP").cells
    assert clap["AudioSet"].by_seed == {0: 50.0} and clap["CREMA-D"].ours is None and clap["Avg."].ours is None


def test_what_differs_from_the_paper_is_said_of_the_lines_that_it_is_true_of(tmp_path: Path):
    leak = {"learned": "vggsound", "scored": "ave", "outcome": "allowed", "scored_items": 71}
    ignored = {"learned": "vggsound", "scored": "audioset", "outcome": "allowed", "scored_items": 5}
    ave = {"image>audio/R@10": 40.0, "image>audio/N": 380.0}
    few = {"zeroshot/pooled": 90.0, "zeroshot/N": 400.0}
    recipe = recipe_of("a-av-at-lwf", towers__image__model="my/clip", tasks__AT__train__stop=None)
    run = write_run(tmp_path, recipe, {"AVE": ave, "ESC-50": few}, leaks=[leak, ignored])
    found = compare(PAPER, [run])
    own = line(found, "Table 2", "LwF")
    assert list(own.notes) == [
        "towers.image.model is my/clip; the paper: CLIP, not said which; our default is ViT-B/32",
        "tasks.AT.train.stop is none; the paper: early stopping",
        "one seed; the paper's numbers are means of 4 runs or more",
        "ESC-50 zero-shot: scored on 400 of 2,000 clips; too few for a difference",
        "AVE I2A: scored on 380 of 402 clips",
        "71 test items of ave are also among the training items of vggsound: kept in training",
    ]
    assert own.cells["ESC-50 zero-shot"].difference is None
    assert own.cells["AVE I2A"].difference == pytest.approx(40.0 - 39.55)
    assert "AVE I2A: scored on 380 of 402 clips" in markdown(found) and "380 of 402 |" in markdown(found)


def test_forward_transfer_has_the_papers_own_differences(tmp_path: Path):
    found = compare(PAPER, [])
    (first,) = sheet(found, "Table 1").transfers
    assert first[0].name == "forward transfer" and [x.method for x in first[1]] == ["LwF", "CaSSLe", "Mod-X"]
    assert [g.paper for g in list(first[1][0].cells.values())[:2]] == [(2.54,), (1.49,)]  # section 4
    forward, backward = sheet(found, "Table 2").transfers
    assert [g.paper for g in list(forward[1][2].cells.values())[:2]] == [(7.11,), (2.96,)]
    assert [x.method for x in backward[1]] == ["CLAP", "LwF", "CaSSLe", "Mod-X"]
    assert list(backward[1][0].cells) == ["AVE I2A", "AVE A2I", "VGGSound I2A", "VGGSound A2I"]
    assert backward[1][3].cells["AVE I2A"].paper == (-23.38,)


def test_our_transfers_are_paired_by_seed(tmp_path: Path):
    clap, lwf = {0: 60.0, 1: 70.0, 3: 1.0}, {0: 61.0, 1: 74.0, 2: 99.0}
    runs = [
        write_run(tmp_path, recipe_of(f"a-at-{n}", s), {"ESC-50": {"zeroshot/pooled": v}})
        for n, own in (("clap", clap), ("lwf", lwf))
        for s, v in own.items()
    ]
    ((_, lines),) = sheet(compare(PAPER, runs), "Table 1").transfers
    gain = lines[0].cells["ESC-50 zero-shot"]
    assert gain.by_seed == {0: 1.0, 1: 4.0} and gain.ours and gain.ours.mean == 2.5
    assert gain.ours.sd == pytest.approx(math.sqrt(4.5))
    assert "| LwF − CLAP | ours | +2.50 ± 2.12 [" in markdown(compare(PAPER, runs))


def test_a_method_is_not_compared_with_a_baseline_of_other_training(tmp_path: Path):
    scores = {"ESC-50": {"zeroshot/pooled": 70.0}}
    runs = [write_run(tmp_path, recipe_of("a-at-clap", tasks__AT__train__lr=1.0e-3), scores)]
    runs.append(write_run(tmp_path, recipe_of("a-at-lwf"), scores))
    found = compare(PAPER, runs)
    ((_, lines),) = sheet(found, "Table 1").transfers
    assert lines[0].cells["ESC-50 zero-shot"].ours is None
    assert lines[0].note == "LwF: no CLAP on the same data with the same towers and training"
    assert lines[0].note in markdown(found) and "lr is 0.001; the paper: 0.0001" in markdown(found)


def test_the_command_prints_the_tables_and_writes_them_as_markdown_csv_and_json(tmp_path: Path):
    run = write_run(tmp_path, recipe_of("a-at-lwf"), {"ESC-50": {"zeroshot/pooled": 78.0, "zeroshot/N": 2000.0}})
    said = command("table", PAPER, run, "--out", tmp_path / "out")
    assert said.code == 0 and "Table 1: audio-text tasks after A -> AT" in said.out and "78.00" in said.out
    text = (tmp_path / "out/table.md").read_text()
    assert text == markdown(compare(PAPER, [run]))
    assert json.loads((tmp_path / "out/table.json").read_text()) == plain(compare(PAPER, [run]))
    with (tmp_path / "out/table.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["ours"]]
    (row,) = rows
    assert (row["table"], row["row"], row["column"], row["seeds"]) == ("Table 1", "LwF", "ESC-50 zero-shot", "0")
    assert (row["paper"], row["ours"], row["n"], row["official"], row["sd"]) == ("78.17", "78.0", "2000", "2000", "")
    assert float(row["difference"]) == pytest.approx(-0.17)
    only = command("table", PAPER, run)
    assert only.code == 0 and only.out in said.out


def test_a_folder_without_published_values_and_a_folder_that_is_no_run_are_refused(tmp_path: Path):
    assert f"cannot read {tmp_path / FILE}" in command("table", tmp_path, tmp_path).error
    assert "is" in command("table", PAPER, tmp_path).error and "meta.json" in command("table", PAPER, tmp_path).error
    with pytest.raises(UserError, match="is .* the folder of a run"):
        run = write_run(tmp_path, recipe_of("a-at-lwf"), {})
        (run / "recipe.yaml").unlink()
        compare(PAPER, [run])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("columns: [ESC-50 zero-shot, US8K", "columns: [ESC-50 zero-sot, US8K", "did you mean 'ESC-50 zero-shot'"),
        ("[75.63, 77.46, ", "[75.63, ", "Table 1, CLAP: 3 values, 4 columns"),
        ("of: [LwF, CaSSLe, Mod-X], minus: CLAP", "of: [LwF, CaSSLe, Mod-X], minus: CLAPS", "no 'CLAPS'"),
        ("slips:", "slip:", "unknown key 'slip'"),
    ],
)
def test_a_mistake_in_the_published_values_is_named(tmp_path: Path, old: str, new: str, message: str):
    text = (PAPER / FILE).read_text()
    assert old in text
    (tmp_path / FILE).write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match="published.yaml") as error:
        read_published(tmp_path)
    assert message in str(error.value)


def test_settings_are_told_apart_by_every_key_that_decides_a_result():
    assert (WHERE | {"seed"}) - {"variant"} == APART


def test_numbers_have_two_decimals_and_no_negative_zero():
    assert [digits(v, signed=True) for v in (-0.001, 0.001, 2.5, -2.5, None)] == [
        "0.00",
        "0.00",
        "+2.50",
        "−2.50",
        "–",
    ]
    assert digits(100.0) == "100.00" and digits(-0.004) == "0.00"


def test_a_difference_needs_both_numbers():
    assert Cell((50.0,)).difference is None and Cell((), {0: 50.0}).difference is None
    assert Cell((50.0,), {0: 60.0}, n=100, official=201).difference is None
    assert Cell((50.0,), {0: 60.0}, n=100, official=200).difference == 10.0
