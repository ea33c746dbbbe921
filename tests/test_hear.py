"""HEAR's tasks, from the official layout to scores, with encoders whose scores are known."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hear_trees import RATE, Analytic, events, multiclass, multilabel, write_task
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from polymnia.eval.hear import data, embeddings, metrics, results, runner, tasks
from polymnia.eval.hear.embeddings import HearEncoder
from polymnia.eval.hear.events import Postprocessing
from polymnia.eval.probes.trainer import Settings
from polymnia.runs.hear import evaluate, summarise
from polymnia.types import UserError

QUICK = runner.Options("linear", 8, Settings(epochs=45, every=3, patience=20, batch=128, device="cpu"))


def scored(folder: Path, encoder: HearEncoder, cache: Path, options: runner.Options = QUICK) -> dict:
    fast = {"evaluation_params": {"task_specific_param_grid": {"lr": [0.1], "check_val_every_n_epoch": [3]}}}
    path = folder / tasks.METADATA
    meta = json.loads(path.read_text())
    path.write_text(
        json.dumps(
            {**meta, **fast, "evaluation_params": fast["evaluation_params"] | (meta.get("evaluation_params") or {})}
        )
    )
    return runner.score(tasks.read(folder), encoder, cache, options)


def test_an_encoder_that_knows_the_labels_has_every_score_in_full(tmp_path: Path) -> None:
    assert isinstance(Analytic(), HearEncoder)
    got = scored(multiclass(tmp_path), Analytic(), tmp_path / "cache")
    assert (got["primary"], got["score"], got["std"], got["N"]) == ("top1_acc", 100.0, None, 12)
    assert got["mean"] == {"top1_acc": 100.0, "mAP": 100.0, "aucroc": 100.0, "d_prime": None}  # infinite: no number
    assert [f["test"] for f in got["folds"]] == ["test"] and got["folds"][0]["postprocessing"] is None
    assert got["searched"] == 2 and got["point"]["lr"] == 0.1


def test_hears_own_predictor_has_one_or_two_hidden_layers(tmp_path: Path) -> None:
    small = QUICK.settings._replace(hidden=16)
    got = scored(multiclass(tmp_path), Analytic(), tmp_path / "cache", runner.Options("hear", 3, small))
    assert (got["probe"], got["searched"], got["score"]) == ("hear", 3, 100.0)
    assert got["point"]["layers"] in (1, 2) and got["settings"]["hidden"] == 16


def test_folds_rotate_and_the_mean_is_over_them(tmp_path: Path) -> None:
    got = scored(multilabel(tmp_path), Analytic(), tmp_path / "cache")
    assert [f["test"] for f in got["folds"]] == ["fold00", "fold01", "fold02", "fold03"]
    assert (got["score"], got["std"], got["N"]) == (100.0, 0.0, 4 * 8)
    assert got["folds"][0]["N"] == 8


def test_an_encoder_of_noise_scores_chance(tmp_path: Path) -> None:
    got = scored(multilabel(tmp_path, folds=8), Analytic(noise=True), tmp_path / "cache")
    wanted = [f["metrics"]["mAP"] for f in got["folds"]]
    assert got["score"] == pytest.approx(np.mean(wanted)) and got["std"] == pytest.approx(np.std(wanted, ddof=1))
    assert 45 < got["score"] < 80  # four of eight have each label; few rows have a high average precision by luck


def test_events_of_an_encoder_that_knows_them_are_found_at_their_onsets(tmp_path: Path) -> None:
    got = scored(events(tmp_path), Analytic(), tmp_path / "cache")
    assert got["mean"] == {"event_onset_200ms_fms": 100.0, "segment_1s_er": 0.0}
    assert got["N"] == 3
    assert got["folds"][0]["postprocessing"] == {"median": 250.0, "shortest": 250.0}  # the longest of equals


def test_a_task_may_stop_by_the_loss_and_name_its_own_postprocessing(tmp_path: Path) -> None:
    own = {"event_postprocessing_grid": {"median_filter_ms": [150], "min_duration": [600]}}
    metrics_ = ["event_onset_50ms_fms", "event_onset_offset_50ms_20perc_fms"]
    folder = events(
        tmp_path, "maestro-v3.0.0-5h", evaluation=metrics_, evaluation_params=own, use_scoring_for_early_stopping=False
    )
    got = scored(folder, Analytic(), tmp_path / "cache")
    # events of half a second are dropped, of a whole one kept: all of what is found is right, half is missing
    assert got["mean"]["event_onset_50ms_fms"] == pytest.approx(100 * 2 * 1 / (2 + 1))
    assert got["folds"][0]["valid"] < 0  # minus the loss
    assert got["folds"][0]["postprocessing"] == {"median": 150.0, "shortest": 600.0}


def test_the_kits_settings_hold_unless_a_task_has_its_own(tmp_path: Path) -> None:
    points, settings = runner.plan(tasks.read(multiclass(tmp_path)), runner.Options())
    assert len(points) == 8 and {p.layers for p in points} == {1, 2}
    assert settings == Settings() and (settings.epochs, settings.every, settings.patience) == (500, 3, 20)
    assert runner.plan(tasks.read(events(tmp_path)), runner.Options())[1].every == 10  # DCASE 2016
    own = {"task_specific_param_grid": {"max_epochs": [50], "check_val_every_n_epoch": [1]}}
    _, settings = runner.plan(
        tasks.read(events(tmp_path, "maestro-v3.0.0-5h", evaluation_params=own)), runner.Options()
    )
    assert (settings.epochs, settings.every) == (50, 1)
    for wrong in ({"optim": ["sgd"]}, {"max_epochs": [5, 10]}):
        odd = multiclass(tmp_path / str(len(str(wrong))), evaluation_params={"task_specific_param_grid": wrong})
        with pytest.raises(UserError, match="task_specific_param_grid"):
            runner.plan(tasks.read(odd), runner.Options())


def test_embeddings_are_made_once_and_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = tasks.read(multiclass(tmp_path))
    monkeypatch.setattr(embeddings, "BATCH_SECONDS", 1.0)  # four clips of 0.25 s
    names = list(tasks.scenes(task, "train"))
    cache, encoder = tmp_path / "cache", Analytic()
    first = embeddings.embed(task, "train", names, encoder, cache)
    files = sorted(cache.rglob("*.safetensors"))
    assert len(files) == 6 and encoder.heard == 24
    embeddings.embed(task, "train", names, encoder, cache)
    assert encoder.heard == 24
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:40])  # cut off
    again = embeddings.embed(task, "train", names, encoder, cache)
    assert encoder.heard == 24 + 8
    assert torch.equal(embeddings.rows(list(first.parts.values())), embeddings.rows(list(again.parts.values())))
    embeddings.embed(task, "train", names, Analytic("other weights"), cache)
    assert len(list(cache.rglob("*.safetensors"))) == 12
    wav = task.folder / str(RATE) / "train" / names[0]
    os.utime(wav, ns=(1, 1))  # another file: only its batch is made again
    embeddings.embed(task, "train", names, encoder, cache)
    assert encoder.heard == 24 + 8 + 4


def test_rows_on_the_disk_are_the_rows_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = tasks.read(events(tmp_path))
    monkeypatch.setattr(embeddings, "BATCH_SECONDS", 8.0)
    recordings = data.load(task, Analytic(), tmp_path / "cache")["train"]
    parts = [r.part for r in recordings]
    whole, lazy = embeddings.rows(parts), embeddings.Rows(parts)
    assert isinstance(whole, torch.Tensor) and tuple(lazy.shape) == tuple(whole.shape) == (6 * 80, 3)
    for rows in (slice(0, 480), slice(75, 90), slice(160, 161), slice(400, 999), slice(5, 5)):
        assert torch.equal(lazy[rows], whole[rows])
    assert torch.equal(whole, torch.from_numpy(data.stack(recordings)).float()) is False  # the last frame of an event
    monkeypatch.setattr(embeddings, "IN_MEMORY", 100)
    assert isinstance(embeddings.rows(parts), embeddings.Rows)
    assert scored(task.folder, Analytic(), tmp_path / "cache")["score"] == 100


def test_recordings_of_several_lengths_are_embedded_one_length_at_a_time(tmp_path: Path) -> None:
    paths = []
    for k, samples in enumerate((100, 100, 50, 50, 50, 100)):
        folder = multiclass(tmp_path / str(k))
        path = next((folder / str(RATE) / "train").iterdir())
        import soundfile

        soundfile.write(path, np.zeros(samples), RATE)
        paths.append(path)
    assert [len(b) for b in embeddings._batches(paths, RATE)] == [2, 3, 1]
    assert [len(b) for b in embeddings._batches(paths, 2 * RATE)] == [2, 3, 1]


def test_another_rate_is_resampled_only_where_that_is_asked_for(tmp_path: Path) -> None:
    task = tasks.read(multiclass(tmp_path))
    encoder = Analytic()
    encoder.sample_rate = 8000
    with pytest.raises(UserError, match=r"no 8000/train; it has 16000: .*--rate"):
        embeddings.embed(task, "train", ["train0.wav"], encoder, tmp_path / "cache")
    found = embeddings.embed(task, "train", ["train0.wav"], encoder, tmp_path / "cache", rate=16000)
    assert embeddings.rows(list(found.parts.values())).tolist() == [[1.0, 0.0, 0.0]]


def test_an_encoder_that_breaks_the_api_is_told_so(tmp_path: Path) -> None:
    task, encoder = tasks.read(multiclass(tmp_path)), Analytic()
    for bad in (
        lambda a: torch.zeros(1, 3),
        lambda a: torch.full((len(a), 3), torch.nan),
        lambda a: torch.zeros(len(a), 2, 3),
    ):
        encoder.get_scene_embeddings = bad
        with pytest.raises(UserError, match="the encoder gave"):
            embeddings.embed(task, "train", list(tasks.scenes(task, "train")), encoder, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize("where", ["", "esc50-v2.0.0-full", "../"])
def test_a_root_one_folder_too_high_or_too_deep_is_said(tmp_path: Path, where: str) -> None:
    root = tmp_path / "hear" / "tasks"
    multiclass(root)
    assert [t.name for t in tasks.find(root)] == ["esc50-v2.0.0-full"]
    if where == "esc50-v2.0.0-full":
        with pytest.raises(UserError, match=f"is one task: give the folder that holds it, {root}"):
            tasks.find(root / where)
    if where == "../":
        with pytest.raises(UserError, match=f"holds no HEAR tasks; {root} has some"):
            tasks.find(tmp_path / "hear")
        with pytest.raises(UserError, match=f"holds no HEAR tasks; {root} has some"):
            tasks.find(tmp_path)
        with pytest.raises(UserError, match="it needs <task>-<version>-<mode>"):
            tasks.find(tmp_path / "gone")


def test_tasks_are_chosen_by_folder_task_or_task_and_mode(tmp_path: Path) -> None:
    for name in ("nsynth_pitch-v2.2.3-5h", "nsynth_pitch-v2.2.3-50h", "beijing_opera-v1.0-full"):
        multiclass(tmp_path, name)
    found = {
        w: [t.mode for t in tasks.find(tmp_path, [w])] for w in ("nsynth_pitch", "nsynth_pitch-50h", "beijing_opera")
    }
    assert found == {"nsynth_pitch": ["50h", "5h"], "nsynth_pitch-50h": ["50h"], "beijing_opera": ["full"]}
    assert [t.name for t in tasks.find(tmp_path, ["nsynth_pitch-v2.2.3-5h"])] == ["nsynth_pitch-v2.2.3-5h"]
    with pytest.raises(UserError, match="no task 'nsynth_pitch-v2.2.3-5'.*did you mean"):
        tasks.find(tmp_path, ["nsynth_pitch-v2.2.3-5"])


def test_two_versions_of_one_task_are_refused_until_one_is_chosen(tmp_path: Path) -> None:
    for name in ("esc50-v1.0.0-full", "esc50-v2.0.0-full"):
        multiclass(tmp_path, name)
    said = "esc50-v1.0.0-full and esc50-v2.0.0-full .* are one task: choose by --task"
    for wanted in ([], ["esc50"]):
        with pytest.raises(UserError, match=said):
            tasks.find(tmp_path, wanted)
    assert [t.name for t in tasks.find(tmp_path, ["esc50-v1.0.0-full"])] == ["esc50-v1.0.0-full"]


def test_a_task_is_scored_again_where_a_recording_was_replaced_and_only_there(tmp_path: Path) -> None:
    folder, encoder, out = multiclass(tmp_path / "tasks"), Analytic(), tmp_path / "out"

    def run() -> tuple[str, int]:
        before = encoder.heard
        (result,) = evaluate(encoder, tmp_path / "tasks", out, options=QUICK)
        return result["request"], encoder.heard - before

    first, heard = run()
    assert heard == 45 and run() == (first, 0)
    wav = folder / str(RATE) / "test" / "test0.wav"
    content = wav.read_bytes()
    wav.write_bytes(content[:-2] + b"xx")  # of the same size
    os.utime(wav, ns=(1, 1))
    other, heard = run()
    assert other != first and heard > 0


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("task_metadata.json", "{}", "'embedding_type' is missing"),
        ("task_metadata.json", "[]", "must hold an object"),
        ("task_metadata.json", "{", "cannot be read"),
        ("labelvocabulary.csv", "idx,label\n1,dog\n", "idx must count up from 0"),
        ("labelvocabulary.csv", "label\ndog\n", "no table of idx,label"),
        ("valid.json", '{"../x.wav": ["dog"]}', "no plain file name"),
        ("valid.json", '{"x.wav": ["dogg"]}', "'dogg'; did you mean 'dog'"),
        ("valid.json", '{"x.wav": ["dog", "sea"]}', "2 labels, but the task is multiclass"),
        ("valid.json", '{"x.wav": ["dog"]}', "1 of 1 files are missing"),
        ("valid.json", "{}", "names no recording"),
    ],
)
def test_damaged_files_are_refused_with_their_name(tmp_path: Path, file: str, content: str, message: str) -> None:
    folder = multiclass(tmp_path)
    (folder / file).write_text(content)
    with pytest.raises(UserError, match=message):
        data.load(tasks.read(folder), Analytic(), tmp_path / "cache")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding_type": "sceen"}, "embedding_type 'sceen' is not known; did you mean 'scene'"),
        ({"split_mode": "kfold"}, "split_mode 'kfold'"),
        ({"evaluation": ["top1"]}, "evaluation 'top1' is not known; did you mean 'top1_acc'"),
        ({"evaluation": []}, "needs a metric"),
        ({"splits": ["fold00", "fold09"], "split_mode": "presplit_kfold"}, "has no fold09.json|no fold00.json"),
    ],
)
def test_metadata_that_are_not_hears_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tasks.read(multiclass(tmp_path, **change))
    with pytest.raises(UserError, match="events are multilabel"):
        tasks.read(events(tmp_path, prediction_type="multiclass"))


def test_an_event_outside_the_vocabulary_or_backwards_is_refused(tmp_path: Path) -> None:
    task = tasks.read(events(tmp_path))
    for wrong in ({"label": "cat", "start": 0, "end": 1}, {"label": "dog", "start": 2, "end": 1}, {"label": "dog"}):
        (task.folder / "test.json").write_text(json.dumps({"a.wav": [wrong]}))
        with pytest.raises(UserError, match="not of this task's vocabulary|needs label, start and end"):
            tasks.events(task, "test")


def test_scene_metrics_are_what_their_names_say() -> None:
    rng = np.random.default_rng(0)
    scores, y = rng.normal(size=(40, 30)), np.eye(30, dtype=bool)[rng.integers(0, 28, 40)]
    own, best = y.argmax(1), scores.argmax(1)
    assert metrics.SCENE["top1_acc"](scores, y) == pytest.approx(100 * np.mean(own == best))
    assert metrics.SCENE["chroma_acc"](scores, y) == pytest.approx(100 * np.mean(own % 12 == best % 12))
    used = [k for k in range(30) if y[:, k].any()]
    areas = roc_auc_score(y[:, used], scores[:, used], average=None)
    assert metrics.SCENE["aucroc"](scores, y) == pytest.approx(100 * areas.mean())
    assert metrics.SCENE["d_prime"](scores, y) == pytest.approx((math.sqrt(2) * norm.ppf(areas)).mean())
    assert math.isnan(metrics.aucroc(scores[:, :1], np.ones((40, 1), dtype=bool)))


def test_probabilities_that_saturate_do_not_tie(tmp_path: Path) -> None:
    task = tasks.read(multiclass(tmp_path, evaluation=["mAP"]))
    recordings = data.load(task, Analytic(), tmp_path / "cache")["test"]
    own = data.stack(recordings)
    # All say class 0, and a softmax says 1 to each; those that are of it say so a little more.
    logits = np.where(own, [60.0, 1.0, 1.0], [50.0, 0.0, 0.0])
    assert data.measure(task, recordings, logits, None)["mAP"] == pytest.approx(100)
    near = np.random.default_rng(0).normal(size=(12, 3))
    p = np.exp(near) / np.exp(near).sum(1, keepdims=True)
    assert data._scores(task, near) == pytest.approx(np.log(p / (1 - p)))


def test_the_best_postprocessing_is_that_of_the_primary_metric(tmp_path: Path) -> None:
    grid = {"median_filter_ms": [0], "min_duration": [0, 600]}
    task = tasks.read(events(tmp_path, evaluation_params={"event_postprocessing_grid": grid}))
    recordings = data.load(task, Analytic(), tmp_path / "cache")["valid"]
    logits = np.where(data.stack(recordings), 1.0, -1.0)
    assert data.best_postprocessing(task, recordings, logits) == Postprocessing(0.0, 0.0)
    with pytest.raises(UserError, match="needs median_filter_ms and min_duration"):
        data.postprocessings({"event_postprocessing_grid": {"median_filter_ms": [1]}})
    with pytest.raises(UserError, match="keys other than"):
        data.postprocessings({"event_postprocessing_grid": {**grid, "threshold": [0.5]}})


def fake(name: str, mode: str, score: float | None, primary: str = "top1_acc", n: int = 10) -> dict:
    return {
        "task": f"{name}-v1-{mode}",
        "name": name,
        "mode": mode,
        "primary": primary,
        "score": score,
        "std": 1.5,
        "N": n,
    }


def test_the_table_has_the_nineteen_tasks_and_means_over_named_columns() -> None:
    done = [
        fake("esc50", "full", 80.0),
        fake("fsd50k", "full", 60.0, "mAP"),
        fake("beehive_states_fold0", "full", 50.0, "aucroc"),
        fake("beehive_states_fold1", "full", 70.0, "aucroc"),
        fake("nsynth_pitch", "5h", 30.0, "pitch_acc"),
        fake("own", "full", 10.0),
    ]
    rows = results.table(done)
    assert len(results.TASKS) == 19 and len(rows) == 20 and len(results.FULL16) == 16
    by_name = {r.name: r for r in rows}
    bees = by_name["Beehive States"]
    assert (bees.score, bees.std, bees.n) == (60.0, pytest.approx(math.sqrt(200)), 20)
    assert by_name["ESC-50"].std == 1.5 and by_name["own-full"].score == 10 and by_name["Gunshot"].score is None
    assert results.mean(rows, results.TABLE3) == (70.0, ["ESC-50", "FSD50K"])
    assert results.mean(rows, results.FULL16)[0] == pytest.approx(200 / 3)  # NSynth 5h is not in it
    assert results.mean(rows, ["NSynth Pitch 5h"]) == (30.0, ["NSynth Pitch 5h"])
    with pytest.raises(UserError, match="no HEAR task 'Nsynth'"):
        results.mean(rows, ["Nsynth"])
    half = results.table(done[2:3])
    assert {r.name: r.score for r in half}["Beehive States"] is None
    text = results.markdown(rows)
    assert "| ESC-50 | top1_acc | 80.00 | 1.50 | 10 |" in text and "| Gunshot | top1_acc | – | – | – |" in text
    assert "Table 3: 70.00 over 2 of 5 (ESC-50, FSD50K)" in text and "full16: 66.67 over 3 of 16" in text


def test_a_finished_task_is_not_run_again_until_something_changed(tmp_path: Path) -> None:
    root, out = tmp_path / "tasks", tmp_path / "out"
    folder = multiclass(root)
    encoder, said, short = Analytic(), [], runner.Options("linear", 8, Settings(epochs=2, every=2, device="cpu"))
    first = evaluate(encoder, root, out, options=short, said=said.append)
    assert said == [f"esc50-v2.0.0-full: top1_acc {first[0]['score']:.2f} (N 12)"] and encoder.heard == 45
    assert json.loads((out / "esc50-v2.0.0-full.json").read_text()) == first[0]
    assert evaluate(Analytic(), root, out, options=short)[0] == first[0]
    other = evaluate(encoder, root, out, options=runner.Options("linear", 8, short.settings._replace(seed=1)))
    assert other[0]["request"] != first[0]["request"] and encoder.heard == 45  # the embeddings are still good
    (folder / "test.json").write_text(json.dumps({"test0.wav": ["dog"]}))
    assert evaluate(encoder, root, out, options=short)[0]["N"] == 1
    (out / "esc50-v2.0.0-full.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        evaluate(encoder, root, out, options=short)
    text = summarise(first, out, results.FULL16)
    assert (out / "summary.md").read_text() == text + "\n"
    assert json.loads((out / "summary.json").read_text())["full16"] == {"mean": first[0]["score"], "over": ["ESC-50"]}


def test_a_training_split_of_one_recording_is_refused(tmp_path: Path) -> None:
    one = {s: {f"{s}.wav": ["dog"]} for s in ("train", "valid", "test")}
    task = tasks.read(write_task(tmp_path, "few-v1-full", one))
    with pytest.raises(UserError, match="two training rows"):
        runner.score(task, Analytic(), tmp_path / "cache", runner.Options())
