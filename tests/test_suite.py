"""A whole suite on the encoder of a run: the same numbers as the run's own, resumed, and told what is not scored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import Said, command
from filelock import FileLock
from suite_world import finished, recipe, sets

import polymnia as pm
from polymnia.data.collection import Collection
from polymnia.runs.encoder import load
from polymnia.runs.suite.sets import needs, pairs, read_suite

RECIPES = Path(__file__).parents[1] / "recipes"
PAIRED = ("--only", "VGGSound", "--only", "Clotho")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the finished run that a test may write into."""
    return shutil.copytree(finished(), tmp_path / "run")


def suite(run: Path, *words: object, data: Path | None = None) -> Said:
    return command("eval", run, "--suite", "audio", "--data", data or sets(), *words)


def results(run: Path, after: int = 2) -> dict[str, Any]:
    return json.loads((run / f"evals/audio-after-{after}.json").read_text())


def own(run: Path, head: str, task: str, row: int) -> dict[str, float]:
    """What the run itself scored, over the gallery of the task alone."""
    found = json.loads((run / "matrix.json").read_text())["values"][head][task]
    return {k: column[row] for k, column in found.items() if not k.startswith("union/")}


def scores(found: dict[str, Any], head: str, name: str) -> dict[str, float]:
    return {k: v for k, v in found["sets"][name]["values"][head].items() if not k.startswith("union/")}


def test_the_scores_are_those_that_the_run_itself_had_on_the_same_items(run: Path):
    assert suite(run, *PAIRED).code == 0 and suite(run, *PAIRED, "--task", "1").code == 0
    last, first = results(run), results(run, 1)
    for name, task in (("VGGSound", "seen"), ("Clotho", "told")):
        for head in ("latest", "stored"):
            assert scores(last, head, name) == pytest.approx(own(run, head, task, 2), abs=1e-4), (name, head)
        assert scores(first, "latest", name) == pytest.approx(own(run, "latest", task, 1), abs=1e-4), name
    assert own(run, "latest", "seen", 2) != own(run, "stored", "seen", 2)  # so that the heads are not mixed up unseen
    assert [last["sets"][n]["stored_head"] for n in ("VGGSound", "Clotho")] == [1, 2]
    assert last["encoder"] == load(run).signature != first["encoder"] and last["after"] == 2
    entry = last["sets"]["Clotho"]
    assert entry["count"] == "4 of 4" and entry["eval"][0]["use"] == "retrieval" and entry["versions"]["torch"]


def test_zero_shot_and_probes_say_their_template_their_kind_and_how_many(run: Path):
    quick = "watch.ESC-50 probe.eval.probe.kind=knn"
    said = suite(run, "--only", "ESC-50", "--only", "ESC-50 probe", quick, "--json")
    assert said.code == 0
    found = json.loads(said.out)["sets"]
    assert found["ESC-50"]["scores"]["zeroshot/N"] == 15 == found["ESC-50 probe"]["scores"]["probe/N"]
    assert found["ESC-50"]["eval"][0]["template"] == ["this is a sound of {}"]
    assert found["ESC-50 probe"]["eval"][0]["kind"] == "knn" and found["ESC-50"]["count"] == "15 of 15"


def test_a_set_that_is_done_is_not_done_again_and_the_others_are(run: Path, monkeypatch: pytest.MonkeyPatch):
    opened: list[int] = []
    really = Collection.open.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(Collection, "open", classmethod(lambda c, i, *a: opened.append(len(i)) or really(c, i, *a)))
    assert suite(run, "--only", "Clotho").code == 0 and opened == [4]
    before = results(run)["sets"]["Clotho"]
    assert suite(run, *PAIRED, "--head", "stored").code == 0 and opened == [4, 4]
    assert results(run)["sets"]["Clotho"] == before and "VGGSound" in results(run)["sets"]
    assert suite(run, "--only", "Clotho", "watch.Clotho.eval.retrieval.k=[2]").code == 0
    assert opened == [4, 4, 4] and "audio>text/R@2" in results(run)["sets"]["Clotho"]["values"]["latest"]


def test_a_set_whose_clips_have_come_or_gone_is_scored_anew_and_says_how_many_there_were(run: Path, tmp_path: Path):
    data = tmp_path / "sets"
    shutil.copytree(sets() / "AVE_Dataset", data / "AVE_Dataset")
    assert suite(run, "--only", "AVE", data=data).code == 0 and results(run)["sets"]["AVE"]["count"] == "3 of 3"
    next((data / "AVE_Dataset/AVE").glob("*8.mp4")).unlink()
    said = suite(run, "--only", "AVE", data=data)
    assert said.code == 0 and "2 of 3" in said.out and results(run)["sets"]["AVE"]["count"] == "2 of 3"


def test_a_set_that_cannot_be_read_costs_itself_only(run: Path, tmp_path: Path):
    data = tmp_path / "sets"
    for name in ("CLOTHO_v2.1", "AVE_Dataset"):
        shutil.copytree(sets() / name, data / name)
    table = data / "CLOTHO_v2.1/clotho_captions_evaluation.csv"
    table.write_text(table.read_text().replace("caption_5", "caption_6", 1))
    said = suite(run, "--only", "Clotho", "--only", "AVE", data=data)
    assert "1 sets are scored" in said.error and f"'Clotho' is not: {table}: no column caption_5" in said.error
    assert list(results(run)["sets"]) == ["AVE"] and "AVE" in said.out


def test_what_is_not_there_and_what_the_encoder_cannot_do_is_said(tmp_path: Path):
    deaf = recipe(sets(), tmp_path, tasks=[recipe(sets(), tmp_path)["tasks"][1]])
    del deaf["towers"]["image"]
    run = pm.run(deaf).folder
    data = tmp_path / "some"
    shutil.copytree(sets() / "CLOTHO_v2.1", data / "CLOTHO_v2.1")
    said = suite(run, data=data)
    assert said.code == 0 and "Clotho" in said.out and "4 of 4" in said.out
    assert "VGGSound: left out: it needs a tower for image, which this run has not" in said.out
    assert f"US8K probe: not there: no {data}/UrbanSound8K" in said.out


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (".", "is a folder too high: give --data {sets}"),
        ("sets/VGGSound", "is a folder too deep: give --data {sets}"),
        ("nowhere", "does not exist; suite 'audio' looks for VGGSound, CLOTHO_v2.1"),
        ("sets/VGGSound/video", "none of the sets is in"),
    ],
)
def test_a_root_that_is_a_folder_off_is_told_which_to_give(run: Path, place: str, message: str):
    error = suite(run, data=sets().parent / place).error
    assert message.format(sets=sets()) in error and not (run / "evals").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "audoi"], "no suite 'audoi'; did you mean 'audio'?"),
        (["--suite", "gone.yaml"], "no recipe at gone.yaml"),
        (["--suite", str(RECIPES / "demo.yaml")], "has no `watch` list"),
        (["--only", "ESC50"], "suite 'audio' has no set 'ESC50'; did you mean 'ESC-50'?"),
        (["--task", "7"], "no encoder after task 7; there are 0, 1, 2"),
        (["watch.AVE.data.rooot=x"], "unknown key 'rooot'; did you mean 'root'?"),
        (["watch.AVA.data.root=x"], "watch.AVA.data.root: no entry 'AVA'"),
        (["--device", "tpu"], "device 'tpu' cannot be used here"),
    ],
)
def test_a_wrong_word_is_one_line(run: Path, words: list[str], message: str):
    assert message in command("eval", run, "--data", sets(), *words).error


def test_a_recipe_of_ones_own_is_a_suite_under_its_own_name(run: Path, tmp_path: Path):
    watch = [{"name": "mine", "data": {"use": "ave", "root": "AVE_Dataset"}, "pairs": [["audio", "image"]]}]
    file = tmp_path / "my suite.yaml"
    file.write_text(yaml.safe_dump({"name": "any", "watch": [{**watch[0], "eval": ["retrieval"]}]}))
    assert command("eval", run, "--suite", file, "--data", sets()).code == 0
    assert json.loads((run / "evals/my-suite-after-2.json").read_text())["sets"]["mine"]["count"] == "3 of 3"


def test_results_that_are_damaged_or_in_use_are_refused(run: Path):
    path = run / "evals/audio-after-2.json"
    path.parent.mkdir()
    path.write_text('{"format": 1, "sets": ')
    assert f"{path} is damaged" in suite(run, "--only", "AVE").error
    path.unlink()
    with FileLock(path.with_suffix(".lock")):
        assert "another process is at work" in suite(run, "--only", "AVE").error


def test_what_another_process_wrote_before_the_lock_was_free_is_kept(run: Path, monkeypatch: pytest.MonkeyPatch):
    class Late(FileLock):
        def __enter__(self) -> Any:
            held = super().__enter__()
            path = run / "evals/audio-after-2.json"
            head = {"format": 1, "suite": "audio", "run": "run", "after": 2, "encoder": load(run).signature}
            path.write_text(json.dumps({**head, "sets": {"other": {"request": "r"}}}))
            return held

    monkeypatch.setattr("polymnia.runs.suite.score.FileLock", Late)
    assert suite(run, "--only", "AVE").code == 0
    assert set(results(run)["sets"]) == {"other", "AVE"}


def test_the_suite_of_the_paper_is_its_watch_list_and_knows_what_it_needs():
    audio = read_suite("audio", RECIPES)
    found = {s.name: (needs(s), pairs(s)) for s in audio.sets}
    assert found["VGGSound"] == (("audio", "image"), (("audio", "image"),))
    assert found["ESC-50"] == (("audio", "text"), (("audio", "text"),))
    assert found["CREMA-D probe"] == (("audio",), ())
    assert len(found) == 12 and audio.max_broken == 0.05


def test_hear_is_still_a_benchmark_of_its_own():
    assert command("eval", "hear", "--help").code == 0
    assert "suite" in command("eval", "--help").out and "hear" in command("eval", "--help").out
