"""A run as an encoder of MTEB: on its own tasks, held in memory, and on what real data sets have in them."""

from __future__ import annotations

import io
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
from command import command
from PIL import Image
from small_run import small_run
from torch.utils.data import DataLoader

import polymnia as pm
from polymnia.export.modules import export_mteb
from polymnia.export.validate import find_module
from polymnia.types import UserError

pytest.importorskip("mteb", reason="the extra mteb is not installed")
import datasets  # noqa: E402
import mteb  # noqa: E402
from mteb.abstasks.classification import AbsTaskClassification  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models.models_protocols import EncoderProtocol  # noqa: E402

from polymnia.export.mteb import MtebEncoder, encoder  # noqa: E402

TEXTS = ["a slow low drum", "a fast high bird", "a hum"]


def metadata(**own: Any) -> TaskMetadata:
    return TaskMetadata(
        description="in memory",
        dataset={"path": "none", "revision": "none"},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        domains=[],
        task_subtypes=[],
        license="cc-by-4.0",
        annotations_creators="derived",
        sample_creation="found",
        bibtex_citation="",
        **own,
    )


def waves(count: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.float32(rng.uniform(-0.5, 0.5, 9000 + 800 * i)) for i in range(count)]


def recordings(rates: tuple[int, ...] = (16000, 8000, 22050)) -> list[dict[str, Any]]:
    """Sounds as data sets of the hub hold them: files in bytes, of several rates."""
    files = []
    for wave, rate in zip(waves(len(rates)), rates, strict=True):
        soundfile.write(file := io.BytesIO(), wave, rate, format="FLAC")
        files.append({"bytes": file.getvalue(), "path": None})
    return files


def loader(batch: int = 2, **columns: Any) -> DataLoader[Any]:
    """What MTEB hands to an encoder."""
    rows = datasets.Dataset.from_dict(columns)
    if "audio" in columns:
        rows = rows.cast_column("audio", datasets.Audio())

    def collate(items: list[dict[str, Any]]) -> dict[str, list[Any]]:
        return {k: [item[k] for item in items] for k in items[0]}

    return DataLoader(rows, batch_size=batch, collate_fn=collate)


class TextToAudio(AbsTaskRetrieval):
    metadata = metadata(
        type="Any2AnyRetrieval",
        name="Texts2Sounds",
        category="t2a",
        main_score="ndcg_at_10",
        modalities=["text", "audio"],
    )

    def load_data(self, **_: Any) -> None:
        queries = datasets.Dataset.from_list([{"id": f"q{i}", "text": t} for i, t in enumerate(TEXTS)])
        corpus = datasets.Dataset.from_list([{"id": f"d{i}", "audio": a} for i, a in enumerate(recordings())])
        corpus = corpus.cast_column("audio", datasets.Audio())
        right = {f"q{i}": {f"d{i}": 1} for i in range(3)}
        split = RetrievalSplitData(queries=queries, corpus=corpus, relevant_docs=right, top_ranked=None)
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


class Sounds(AbsTaskClassification):
    metadata = metadata(
        type="AudioClassification", name="Sounds", category="a2c", main_score="accuracy", modalities=["audio"]
    )
    input_column_name = "audio"
    n_experiments = 2

    def load_data(self, **_: Any) -> None:
        rows = datasets.Dataset.from_dict({"audio": recordings()[:2] * 4, "label": [0, 1] * 4})
        rows = rows.cast_column("audio", datasets.Audio())
        self.dataset = datasets.DatasetDict({"train": rows, "test": rows})
        self.data_loaded = True


@pytest.fixture(scope="module")
def run() -> MtebEncoder:
    return encoder(small_run())


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    datasets.disable_progress_bars()
    logging.getLogger("mteb").setLevel(logging.ERROR)
    yield


def test_it_keeps_mtebs_protocol_and_says_who_it_is(run: MtebEncoder) -> None:
    assert isinstance(run, EncoderProtocol)
    meta = run.mteb_model_meta
    assert meta.name == f"polymnia/{small_run().name}" and meta.embed_dim == 16
    assert meta.modalities == ["audio", "image", "text"]
    assert meta.revision != encoder(small_run(), task=1).mteb_model_meta.revision


@pytest.mark.filterwarnings("ignore")  # of mteb and scikit-learn over so few rows
@pytest.mark.parametrize(("task", "metric"), [(TextToAudio, "ndcg_at_10"), (Sounds, "accuracy")])
def test_mteb_scores_a_run_on_recordings_without_any_decoder_of_its_own(
    run: MtebEncoder, task: type, metric: str
) -> None:
    assert "torchcodec" not in sys.modules
    result = mteb.evaluate(run, task(), cache=None, show_progress_bar=False)
    (scores,) = result.task_results[0].scores["test"]
    if task is Sounds:
        assert scores[metric] == 1.0  # two sounds, seen in training
    else:
        e = pm.load(small_run())
        sounds = [e.encode_audio([w], r)[0] for w, r in zip(waves(), (16000, 8000, 22050), strict=True)]
        similar = e.encode_text(TEXTS) @ np.stack(sounds).T
        ranks = 1 + (similar > similar.diagonal()[:, None]).sum(1)
        assert scores[metric] == pytest.approx(np.mean(1 / np.log2(1 + ranks)), abs=1e-5)


def test_rows_are_those_of_the_encoder_itself_in_the_order_given(run: MtebEncoder) -> None:
    e = pm.load(small_run())
    assert np.allclose(run.encode(loader(text=TEXTS)), e.encode_text(TEXTS), atol=1e-6)
    pictures = [Image.new("RGB", (20, 16), c) for c in ("red", "blue", "green")]
    assert np.allclose(run.encode(loader(image=pictures)), e.encode_image(pictures), atol=1e-6)
    wanted = [e.encode_audio([w], r)[0] for w, r in zip(waves(), (16000, 8000, 22050), strict=True)]
    assert np.allclose(run.encode(loader(3, audio=recordings())), wanted, atol=1e-4)  # FLAC: 16 bits


def test_sounds_that_mteb_has_decoded_are_taken_as_they_are_channels_first(run: MtebEncoder) -> None:
    (wave,) = waves(1)
    stereo = [{"array": np.stack([wave, wave]), "sampling_rate": 16000}]
    mono = [{"array": wave, "sampling_rate": 16000}]
    assert np.allclose(run._rows("audio", stereo), run._rows("audio", mono), atol=1e-6)


def test_rows_of_two_modalities_are_the_sum_of_both(run: MtebEncoder) -> None:
    both = run.encode(loader(text=TEXTS, audio=recordings()))
    assert np.allclose(both, run.encode(loader(text=TEXTS)) + run.encode(loader(audio=recordings())), atol=1e-6)


def test_an_empty_clip_or_text_is_similar_to_nothing_and_said(run: MtebEncoder) -> None:
    soundfile.write(empty := io.BytesIO(), np.zeros(0), 16000, format="WAV")
    sounds = [recordings()[0], {"bytes": empty.getvalue(), "path": None}]
    with pytest.warns(UserWarning, match="1 of 2 inputs are an empty clip|1 of 1 inputs are an empty clip"):
        found = run.encode(loader(audio=sounds))
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 0])
    with pytest.warns(UserWarning, match="1 of 2 inputs are an empty text"):
        found = run.encode(loader(text=["a drum", " "]))
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 0])


def test_inputs_of_no_tower_and_broken_recordings_are_refused(run: MtebEncoder) -> None:
    with pytest.raises(UserError, match="this run has towers for audio, image, text; the task gives depth"):
        run.encode(loader(depth=[1, 2]))
    with pytest.raises(UserError, match="cannot be decoded by libsndfile"):
        run.encode(loader(audio=[{"bytes": b"no sound", "path": "a.wav"}]))


def test_the_exported_module_gives_the_same_encoder_after_the_run_is_gone(tmp_path: Path, run: MtebEncoder) -> None:
    gone = shutil.copytree(small_run(), tmp_path / "my-run")
    name = export_mteb(gone, tmp_path / "out", task=1)
    shutil.rmtree(gone)
    before = list(sys.path)
    module: ModuleType = find_module(str(tmp_path / "out"))
    sys.path[:] = before
    loaded = module.load_model()
    assert (module.__name__, name) == ("polymnia_my_run_task1_mteb",) * 2
    assert loaded.mteb_model_meta.name == "polymnia/my-run"
    assert loaded.mteb_model_meta.revision == encoder(small_run(), 1).mteb_model_meta.revision
    assert np.array_equal(loaded.encode(loader(text=TEXTS)), encoder(small_run(), 1).encode(loader(text=TEXTS)))


def test_the_command_writes_it(tmp_path: Path) -> None:
    code, out, err = command("export", "mteb", small_run(), tmp_path / "out")
    assert code == 0, err
    assert "mteb.evaluate(polymnia_small" in out and (tmp_path / "out" / "pyproject.toml").exists()
    assert "is no run folder" in command("export", "mteb", tmp_path, tmp_path / "other").error


def test_without_mteb_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb.models.abs_encoder", None)
    monkeypatch.delitem(sys.modules, "polymnia.export.mteb")
    with pytest.raises(UserError, match=r"pip install 'polymnia\[mteb\]'"):
        import polymnia.export.mteb  # noqa: F401
