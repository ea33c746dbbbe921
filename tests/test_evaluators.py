"""Evaluators on vectors that are chosen so that every number can be worked out by hand or by brute force."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from polymnia.eval.evaluators import labels, probe, retrieval, zeroshot
from polymnia.eval.matrix import scalar
from polymnia.eval.probes import folds
from polymnia.types import AudioFile, Captions, EvalData, Item, Modality, Table, UserError, What

Vectors = Mapping[str, Sequence[Sequence[float]]]


def sound(name: str, captions: int = 0, topic: str = "", **rest) -> Item:
    sources: dict = {"audio": AudioFile(Path(f"{name}.wav"))}
    if captions:
        sources["text"] = Captions(tuple(f"{name} {n}" for n in range(captions)))
    return Item(name, sources, group=rest.pop("group", name), topic=topic, **rest)


class Known:
    """An embed function that looks rows up by the item's group or, for texts, by the text."""

    def __init__(self, audio: Vectors, text: Mapping[str, Sequence[float]] | None = None):
        self.audio, self.text = audio, text or {}
        self.asked: list[tuple[Modality, What]] = []

    def __call__(self, items: Sequence[Item], modality: Modality, what: What = "embedding") -> Table:
        self.asked.append((modality, what))
        assert items and all(modality in i.sources for i in items)
        rows, owners = [], []
        for item in items:
            source = item.sources[modality]
            found = [self.text[t] for t in source.texts] if isinstance(source, Captions) else self.audio[item.group]
            rows += list(found)
            owners += [item] * len(found)
        columns = [tuple(getattr(i, name) for i in owners) for name in ("id", "group", "topic")]
        return Table(columns[0], torch.tensor(rows, dtype=torch.float32), columns[1], columns[2])


def caption_world() -> tuple[tuple[Item, ...], Known]:
    """Three clips on the axes, two captions each. Scores of caption rows against a, b, c are the rows below."""
    items = (sound("a", 2, "wet"), sound("b", 2, "wet"), sound("c", 2, "dry"))
    audio = {"a": [[1.0, 0, 0]], "b": [[0, 1.0, 0]], "c": [[0, 0, 1.0]]}
    text = {
        "a 0": [0.9, 0.1, 0.2],
        "a 1": [0.5, 0.6, 0.7],
        "b 0": [0.8, 0.3, 0.4],
        "b 1": [0.3, 0.2, 0.1],
        "c 0": [0.0, 0.5, 0.5],
        "c 1": [0.1, 0.0, 0.3],
    }
    return items, Known(audio, text)


def both(items: tuple[Item, ...], **rest) -> EvalData:
    return EvalData((), (), items, pairs=(("audio", "text"),), **rest)


def test_every_caption_is_a_query_and_a_clip_is_hit_by_any_of_its_captions() -> None:
    items, embed = caption_world()
    got = retrieval.evaluate(retrieval.Config(k=(1, 2)), embed, both(items))
    # text > audio, rank of the own clip: a0 1, a1 3, b0 3, b1 2, c0 2 (a tie with b goes to b), c1 1
    assert got["text>audio/R@1"] == pytest.approx(100 * 2 / 6)
    assert got["text>audio/R@2"] == pytest.approx(100 * 4 / 6)
    assert got["text>audio/MedR"] == 2
    assert got["text>audio/mAP@10"] == pytest.approx(100 * (1 + 1 / 3 + 1 / 3 + 1 / 2 + 1 / 2 + 1) / 6)
    assert (got["text>audio/N"], got["text>audio/M"]) == (6, 3)
    # audio > text, best own caption: a: .9 is first; b: .3 behind .6 and .5; c: .5 behind .7
    assert got["audio>text/R@1"] == pytest.approx(100 / 3)
    assert got["audio>text/R@2"] == pytest.approx(200 / 3)
    assert (got["audio>text/N"], got["audio>text/M"]) == (3, 6)
    # positives of a at 1 and 3 (.9 .8 .5), of b at 3 and 4 (.6 .5 .3 .2), of c at 2 and 4 (.7 .5 .4 .3)
    ap = [(1 + 2 / 3) / 2, (1 / 3 + 2 / 4) / 2, (1 / 2 + 2 / 4) / 2]
    assert got["audio>text/mAP@10"] == pytest.approx(100 * np.mean(ap))


def test_topics_are_broken_down_and_class_level_counts_the_whole_topic() -> None:
    items, embed = caption_world()
    got = retrieval.evaluate(retrieval.Config(k=(1, 2)), embed, both(items))
    assert got["topic:wet/text>audio/R@2"] == pytest.approx(50)
    assert got["topic:dry/text>audio/R@2"] == pytest.approx(100)
    assert not any(key.startswith("topic:") and not key.endswith("R@2") for key in got)
    # class level, audio > text, captions in order of score (w: wet, d: dry), an equal score of another topic first
    # a: .9w .8w .5w .3w .1d 0d; b: .6w .5d .3w .2w .1w 0d; c: .7w .5d .4w .3d .2w .1w
    ap = [1, (1 + 2 / 3 + 3 / 4 + 4 / 5) / 4, (1 / 2 + 2 / 4) / 2]
    assert got["audio>text/class_mAP"] == pytest.approx(100 * np.mean(ap))


def test_class_level_is_left_out_where_every_topic_is_one_item() -> None:
    items, embed = caption_world()
    for topics in (("x", "y", "z"), ("x", "x", "x"), ("", "", "")):
        some = tuple(Item(i.id, i.sources, i.group, topic=t) for i, t in zip(items, topics, strict=True))
        got = retrieval.evaluate(retrieval.Config(), embed, both(some))
        assert not any("class_mAP" in key for key in got)
        assert any(key.startswith("topic:") for key in got) == (len(set(topics)) == 3)


def test_items_that_lack_a_modality_are_left_out_and_counted() -> None:
    items, embed = caption_world()
    lonely = sound("d")
    got = retrieval.evaluate(retrieval.Config(k=(1, 2)), embed, both((*items, lonely)))
    assert got == retrieval.evaluate(retrieval.Config(k=(1, 2)), embed, both(items))
    assert retrieval.evaluate(retrieval.Config(), embed, both((lonely,))) == {"audio>text/N": 0, "text>audio/N": 0}
    assert retrieval.evaluate(retrieval.Config(), embed, EvalData((), (), items)) == {}


def test_the_union_gallery_adds_the_other_tasks_as_distractors() -> None:
    items, embed = caption_world()
    embed.audio = {**embed.audio, "z": [[0.9, 0.9, 0.0]]}
    embed.text = {**embed.text, "z 0": [0.95, 0.0, 0.0]}
    # the same id as an item of the task, but of another data set: still a distractor
    other = Item("a", sound("z", 1).sources, group="z")
    got = retrieval.evaluate(retrieval.Config(k=(1, 2)), embed, both(items, seen=(other, *items)))
    assert got["union/text>audio/M"] == 4 and got["union/audio>text/M"] == 7
    scores = np.array([list(embed.text[f"{n} {k}"]) for n in "abc" for k in (0, 1)], dtype=np.float32)
    gallery = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.9, 0.9, 0]], dtype=np.float32)
    table = scores @ gallery.T
    ranks = [1 + sum(table[q, g] >= table[q, q // 2] for g in range(4) if g != q // 2) for q in range(6)]
    assert got["union/text>audio/R@1"] == pytest.approx(100 * np.mean([r <= 1 for r in ranks]))
    assert got["union/text>audio/R@2"] == pytest.approx(100 * np.mean([r <= 2 for r in ranks]))
    # audio > text: a's own .9 is now behind z's .95
    assert got["union/audio>text/R@1"] == 0
    own = retrieval.evaluate(retrieval.Config(k=(1, 2), gallery="task"), embed, both(items, seen=(other, *items)))
    assert own == {key: value for key, value in got.items() if not key.startswith("union/")}


@pytest.mark.parametrize("seen", ["nothing", "something else"])
def test_there_is_no_union_unless_the_task_was_seen(seen: str) -> None:
    items, embed = caption_world()
    chosen = {"nothing": (), "something else": (sound("z"), items[0])}[seen]
    got = retrieval.evaluate(retrieval.Config(), embed, both(items, seen=chosen))
    assert not any(key.startswith("union/") for key in got)


def test_the_gallery_of_all_tasks_seen_is_the_tasks_own_while_no_other_was_seen() -> None:
    items, embed = caption_world()
    got = retrieval.evaluate(retrieval.Config(k=(1, 2)), embed, both(items, seen=items))
    own = {k: v for k, v in got.items() if "/R@" in k and not k.startswith(("union/", "topic:"))}
    union = {k.removeprefix("union/"): v for k, v in got.items() if k.startswith("union/") and "/R@" in k}
    assert own and union == own


def test_a_collapsed_encoder_retrieves_no_better_than_chance() -> None:
    items = tuple(sound(f"s{n}", 5) for n in range(50))
    embed = Known({i.id: [[0.6, 0.8]] for i in items}, {f"{i.id} {k}": [0.6, 0.8] for i in items for k in range(5)})
    got = retrieval.evaluate(retrieval.Config(), embed, both(items))
    for direction in ("audio>text", "text>audio"):
        for k in (1, 5, 10):
            assert got[f"{direction}/R@{k}"] <= 100 * k / 50
    assert scalar(got) <= 100 * (1 + 5 + 10) / 3 / 50


def zero_shot_world() -> tuple[EvalData, Known]:
    train = (sound("t", topic="sea_waves"), sound("u", topic="rain"))
    test = (
        sound("w", topic="rain", fold=1),
        sound("x", topic="rain", fold=1),
        sound("y", topic="sea_waves", fold=2),
        sound("z", topic="rain", fold=1),
        sound("unknown"),
    )
    audio = {"t": [[1, 0]], "u": [[0, 1]], "w": [[0, 1]], "x": [[1, 0]], "y": [[1, 0.1]], "z": [[1, 1]]}
    text = {"a sea waves": [1.0, 0], "the sea waves": [0, 4.0], "a rain": [0, 1.0], "the rain": [0, 2.0]}
    return EvalData(train, (), test), Known(audio, text)


def test_zero_shot_accuracy_is_counted_over_all_items_and_over_folds() -> None:
    data, embed = zero_shot_world()
    got = zeroshot.evaluate(zeroshot.Config(template=("a {}",)), embed, data)
    # right: w, y; wrong: x; z lies between both classes, and a tie is not a hit. Folds: 1 of 3, 1 of 1
    assert got == pytest.approx(
        {"zeroshot/pooled": 50, "zeroshot/fold_mean": 100 * (1 / 3 + 1) / 2, "zeroshot/N": 4, "zeroshot/classes": 2}
    )
    everything = zeroshot.evaluate(zeroshot.Config(template="a {}", split="all"), embed, data)
    assert everything["zeroshot/N"] == 6 and everything["zeroshot/pooled"] == pytest.approx(400 / 6)


def test_templates_are_averaged_as_unit_vectors() -> None:
    _, embed = zero_shot_world()
    cfg = zeroshot.Config(template=("a {}", "the {}"), names={"sea_waves": "sea waves"})
    got = zeroshot.class_vectors(cfg, embed, ["sea_waves", "rain"])
    # sea waves: (1, 0) and (0, 1) once of unit norm, so the diagonal; a mean of raw rows would lean to the second
    expected = torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, 1.0]])
    torch.testing.assert_close(got, expected)


def test_names_and_labels_may_stand_for_the_topic() -> None:
    items = (sound("p", topic="t", labels=("n01", "extra")), sound("q", topic="t", labels=("n02",)))
    embed = Known({"p": [[1, 0]], "q": [[0, 1]]}, {"this is a sound of hen": [1, 0], "this is a sound of n02": [0, 1]})
    got = zeroshot.evaluate(zeroshot.Config(by="label", names={"n01": "hen"}), embed, EvalData((), (), items))
    assert got["zeroshot/pooled"] == 100 and got["zeroshot/classes"] == 2


def test_a_collapsed_encoder_names_nothing() -> None:
    data, embed = zero_shot_world()
    embed.text = dict.fromkeys(embed.text, [1.0, 0.0])
    assert zeroshot.evaluate(zeroshot.Config(template="a {}"), embed, data)["zeroshot/pooled"] == 0


def test_zero_shot_may_choose_among_the_classes_of_every_task_seen() -> None:
    items, embed = caption_world()
    mine = tuple(replace(i, topic="rain") for i in items[:1])
    other = replace(items[1], topic="wind")
    told = Known(
        {i.id: [[1.0, 0.0]] for i in mine}, {"a rain": [1.0, 0.1], "a wind": [1.0, 0.0]}
    )  # the words of the other task lie nearer
    for among, right, classes in (("task", 100, 1), ("seen", 0, 2)):
        cfg = zeroshot.Config(template="a {}", among=among)
        got = zeroshot.evaluate(cfg, told, EvalData((), (), mine, (*mine, other)))
        assert (got["zeroshot/pooled"], got["zeroshot/classes"]) == (right, classes)


def test_zero_shot_of_nothing_is_no_score_and_a_template_needs_a_place() -> None:
    data, embed = zero_shot_world()
    got = zeroshot.evaluate(zeroshot.Config(), embed, EvalData(data.train, (), (sound("unknown"),)))
    assert got == {"zeroshot/N": 0, "zeroshot/classes": 2} and not embed.asked
    with pytest.raises(ValidationError, match="where the class name goes"):
        zeroshot.Config(template="a sound")


def blobs(seed: int, n: int, noise: float, **rest) -> tuple[list[Item], dict[str, list[list[float]]]]:
    """Items of three classes around three centres."""
    rng = np.random.default_rng(seed)
    centres = np.array([[4, 0, 0, 1], [0, 4, 0, 1], [0, 0, 4, 1]])
    items, rows = [], {}
    for i in range(n):
        name = f"{seed}-{i}"
        items.append(sound(name, topic="xyz"[i % 3], fold=1 + i % 5, **rest))
        rows[name] = [list(centres[i % 3] + noise * rng.normal(size=4))]
    return items, rows


def split(noise: float) -> tuple[EvalData, Known, list[tuple[np.ndarray, np.ndarray]]]:
    parts, known, arrays = [], {}, []
    for seed, n in ((0, 60), (1, 30), (2, 45)):
        items, rows = blobs(seed, n, noise)
        parts.append(tuple(items))
        known |= rows
        x = np.array([rows[i.id][0] for i in items], dtype=np.float32).astype(float)
        arrays.append((x, np.array(["xyz".index(i.topic) for i in items])))
    return EvalData(*parts), Known(known), arrays


@pytest.mark.parametrize("kind", ["logreg", "linear", "knn"])
def test_a_probe_reads_separable_features_and_nothing_but_features(kind: str) -> None:
    data, embed, _ = split(0.3)
    got = probe.evaluate(probe.Config(kind=kind), embed, data)
    assert got == {"probe/accuracy": 100, "probe/std": 0, "probe/N": 45}
    assert embed.asked == [("audio", "features")]


def test_logreg_chooses_c_on_validation_and_refits_on_both_as_scikit_learn_by_hand() -> None:
    data, embed, ((x, y), (xv, yv), (xt, yt)) = split(3.0)

    def fitted(c: float, rows: np.ndarray, target: np.ndarray):
        return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)).fit(rows, target)

    sweep = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
    scores = [fitted(c, x, y).score(xv, yv) for c in sweep]
    best = fitted(sweep[int(np.argmax(scores))], np.concatenate([x, xv]), np.concatenate([y, yv]))
    got = probe.evaluate(probe.Config(kind="logreg", c=sweep), embed, data)
    assert got["probe/accuracy"] == pytest.approx(100 * best.score(xt, yt))
    assert got["probe/accuracy"] < 100


def test_knn_votes_as_scikit_learn() -> None:
    data, embed, ((x, y), (xv, yv), (xt, yt)) = split(3.0)
    expected = KNeighborsClassifier(7).fit(np.concatenate([x, xv]), np.concatenate([y, yv])).score(xt, yt)
    got = probe.evaluate(probe.Config(kind="knn", neighbours=(7,), standardise=False), embed, data)
    assert got["probe/accuracy"] == pytest.approx(100 * expected)


@pytest.mark.parametrize("kind", ["logreg", "linear", "knn"])
def test_standardised_features_have_no_units(kind: str) -> None:
    data, embed, _ = split(3.0)
    cfg = probe.Config(kind=kind, epochs=60, standardise=True)
    stretched = Known({k: [[1024 * v[0][0], *v[0][1:]]] for k, v in embed.audio.items()})
    assert probe.evaluate(cfg, stretched, data) == probe.evaluate(cfg, embed, data)
    plain = probe.Config(kind=kind, epochs=60, standardise=False)
    assert probe.evaluate(plain, stretched, data) != probe.evaluate(plain, embed, data)


def test_the_linear_probe_comes_near_logistic_regression_and_repeats_itself() -> None:
    data, embed, ((x, y), _, (xt, yt)) = split(2.0)
    near = LogisticRegression(C=1.0, max_iter=1000).fit(x, y).score(xt, yt)
    state = torch.get_rng_state()
    got = probe.evaluate(probe.Config(kind="linear", epochs=200), embed, data)
    assert got["probe/accuracy"] == pytest.approx(100 * near, abs=7)
    assert torch.equal(torch.get_rng_state(), state)
    assert probe.evaluate(probe.Config(kind="linear", epochs=200), embed, data) == got


def test_folds_rotate_test_then_validation_then_the_rest() -> None:
    items, rows = blobs(3, 75, 2.5)
    x = np.array([rows[i.id][0] for i in items], dtype=np.float32).astype(float)
    y, fold = np.array(["xyz".index(i.topic) for i in items]), np.array([i.fold for i in items])
    expected = []
    for test in (1, 2, 3, 4, 5):  # one C, so the refit is on everything outside the test fold
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        expected.append(100 * model.fit(x[fold != test], y[fold != test]).score(x[fold == test], y[fold == test]))
    data = EvalData(tuple(items[:30]), tuple(items[30:40]), tuple(items[40:]))
    got = probe.evaluate(probe.Config(kind="logreg", folds=True, c=(0.1,)), Known(rows), data)
    assert got["probe/accuracy"] == pytest.approx(np.mean(expected))
    assert got["probe/std"] == pytest.approx(np.std(expected, ddof=1))
    assert got["probe/N"] == 75


def test_the_refit_sees_the_validation_fold_only_after_c_is_chosen() -> None:
    rotations = folds.official(np.arange(8) % 4)
    assert [[part.tolist() for part in r] for r in rotations] == [
        [[2, 3, 6, 7], [1, 5], [0, 4]],
        [[0, 3, 4, 7], [2, 6], [1, 5]],
        [[0, 1, 4, 5], [3, 7], [2, 6]],
        [[1, 2, 5, 6], [0, 4], [3, 7]],
    ]


def test_without_a_validation_split_every_tenth_training_row_of_the_classes_is_lent() -> None:
    items, rows = blobs(4, 63, 0.3)
    data = EvalData(tuple(items[:33]), (), tuple(items[33:]))
    assert probe.evaluate(probe.Config(), Known(rows), data)["probe/accuracy"] == 100
    y = np.eye(3, dtype=bool)[[n % 3 for n in range(63)]]
    train, valid, test = folds.splits([i.id for i in items], data, y)[0]
    # 11 rows a class, in class order 0 3 6 ... 30, 1 4 ..., 2 5 ...: places 0, 10, 20, 30
    assert valid.tolist() == [0, 30, 28, 26]
    assert sorted([*train, *valid]) == list(range(33)) and test.tolist() == list(range(33, 63))


@pytest.mark.parametrize("kind", ["logreg", "linear", "knn"])
def test_a_multilabel_probe_reports_macro_average_precision(kind: str) -> None:
    rng = np.random.default_rng(6)
    items, rows, flags = [], {}, []
    for n in range(160):
        has = rng.random(3) < 0.4
        has[2] |= not has.any()
        flags.append(has)
        rows[str(n)] = [list(has * 1.0 + 0.6 * rng.normal(size=3))]
        items.append(sound(str(n), labels=tuple(c for c, on in zip("xyz", has, strict=True) if on)))
    items[0] = sound("0", labels=(*items[0].labels, "seen once"))  # no positive in the test split: left out
    data = EvalData(tuple(items[:80]), tuple(items[80:120]), tuple(items[120:]))
    got = probe.evaluate(probe.Config(kind=kind, multilabel=True, epochs=300), Known(rows), data)
    raw = np.array([rows[str(n)][0] for n in range(120, 160)])
    # each feature is its own class's evidence: the raw features are near the best possible scores
    ideal = 100 * average_precision_score(np.array(flags[120:]), raw, average="macro")
    assert got["probe/mAP"] == pytest.approx(ideal, abs=15)
    assert "probe/accuracy" not in got and got["probe/N"] == 40


def test_a_sweep_that_does_not_converge_raises_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    data, embed, _ = split(3.0)
    scaled = Known({k: [[1e6 * v[0][0], *v[0][1:]]] for k, v in embed.audio.items()})
    probe.evaluate(probe.Config(kind="logreg", c=(1e6,), standardise=False), scaled, data)
    assert not list(recwarn)


def test_a_task_without_two_classes_gives_no_probe_score_but_wrong_folds_are_an_error() -> None:
    items, rows = blobs(7, 9, 0.3)
    one = tuple(i for i in items if i.topic == "x")
    assert probe.evaluate(probe.Config(), Known(rows), EvalData(one[:2], (), one[2:])) == {"probe/N": 0}
    assert probe.evaluate(probe.Config(), Known(rows), EvalData(tuple(items), (), ())) == {"probe/N": 0}
    assert probe.evaluate(probe.Config(by="label"), Known(rows), EvalData(tuple(items), (), ())) == {"probe/N": 0}
    flat = tuple(sound(i.id, topic=i.topic) for i in items)
    with pytest.raises(UserError, match="three official folds or more, the data has 1"):
        probe.evaluate(probe.Config(folds=True), Known(rows), EvalData(flat, (), ()))


def tagged() -> tuple[Known, EvalData]:
    names = {"audio": ("Dog", "Bark", "Rain", "Drip")}
    items = (sound("p", topic="dog"), sound("q", topic="dog"), sound("r", topic="rain"), sound("s", topic="other"))
    logits = {"p": [[0, 5, 1, 4]], "q": [[2, 0, 1, 3]], "r": [[1, 2, 2, 0]], "s": [[0, 0, 0, 0]]}
    return Known(logits), EvalData((), (), items, names=names)


def test_the_best_logit_of_a_topics_classes_decides() -> None:
    embed, data = tagged()
    cfg = labels.Config(classes={"dog": ("Dog", "Bark"), "rain": ("Rain", "Drip")})
    # p: 5 > 4 right; q: 2 < 3 wrong; r: 2 against 2, a tie, wrong; s: not listed
    assert labels.evaluate(cfg, embed, data) == pytest.approx({"labels/accuracy": 100 / 3, "labels/N": 3})
    assert embed.asked == [("audio", "scores")]


def test_a_topic_may_itself_be_a_class_of_the_tower() -> None:
    embed, data = tagged()
    named = EvalData((), (), (sound("p", topic="Bark"), sound("r", topic="Rain")), names=data.names)
    assert labels.evaluate(labels.Config(), embed, named) == {"labels/accuracy": 50, "labels/N": 2}
    drip = EvalData((sound("q", topic="Drip"),), (), named.test, names=data.names)
    got = labels.evaluate(labels.Config(split="all"), embed, drip)
    # of Bark, Rain and Drip: p Bark 5 right, r Bark 2 and Rain 2 a tie, q Drip 3 right
    assert got == pytest.approx({"labels/accuracy": 200 / 3, "labels/N": 3})


def test_an_unknown_class_is_an_error_that_names_the_nearest() -> None:
    embed, data = tagged()
    with pytest.raises(UserError, match="no class 'Barks'.*'dog'.*nearest: Bark"):
        labels.evaluate(labels.Config(classes={"dog": ("Barks",)}), embed, data)
    with pytest.raises(UserError, match="no classifier of its own"):
        labels.evaluate(labels.Config(), embed, EvalData((), (), data.test))
    assert labels.evaluate(labels.Config(classes={"cat": ("Dog",)}), embed, data) == {"labels/N": 0}
