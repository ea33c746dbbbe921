"""A run as graphs of ONNX: the vectors of torch for any batch and length, and what has no graph is said."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import prompt_miniatures as miniatures
import pytest
import torch
from command import command
from export_runs import transformers_run
from filelock import FileLock
from small_run import small_root, small_run

from polymnia.config import parse_part
from polymnia.continual.chain import Chain
from polymnia.export import graphs, onnx, onnx_check, traceable
from polymnia.export.onnx import export_onnx
from polymnia.export.probes import prepared, probes
from polymnia.export.source import open_run
from polymnia.models.windows import repeat_pad
from polymnia.runs.encoder import Encoder
from polymnia.runs.encoding import MediaEncoder
from polymnia.types import Task, UserError

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small run's graphs, made once for all processes of the test run: their small runs are alike to the bit."""
    shared = "PYTEST_XDIST_WORKER" in os.environ
    place = tmp_path_factory.getbasetemp().parent if shared else tmp_path_factory.mktemp("onnx")
    run, folder = small_run(), place / "onnx-of-the-small-run"
    with FileLock(f"{folder}.lock"), unchecked():
        if not folder.exists():
            export_onnx(run, folder)
    return folder


@contextmanager
def unchecked() -> Iterator[None]:
    """Without the checks of shapes: an axis of any length is no int to them, and they double the time of a trace."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        yield


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return open_run(small_run())


def given(path: Path, **inputs: Any) -> np.ndarray:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, inputs)[0]


@pytest.mark.parametrize(("rows", "samples"), [(1, 1), (3, 700), (2, 6400), (5, 6401), (1, 50000)])
def test_sounds_of_any_length_and_batch_are_those_of_the_encoder(
    out: Path, encoder: Encoder, rows: int, samples: int
) -> None:
    waves = np.float32(np.random.default_rng(rows).uniform(-1.5, 1.5, (rows, samples)))
    found = given(out / "audio.onnx", waveform=waves)
    assert np.abs(found - np.concatenate([encoder.encode_audio([w], 16000) for w in waves])).max() < 1e-5


@pytest.mark.parametrize("texts", [["!"], ["rain"], ["rain", "a bird sings in the wood " * 9], ["a b c"] * 7])
def test_texts_of_any_length_are_and_the_mask_alone_says_what_counts(
    out: Path, encoder: Encoder, texts: list[str]
) -> None:
    ids = encoder.model.tower("text").prepare(texts).numpy()
    mask = (ids != 0).astype(np.int64)
    wanted = encoder.encode_text(texts)
    assert np.abs(given(out / "text.onnx", input_ids=ids, attention_mask=mask) - wanted).max() < 1e-5
    noise = np.where(mask == 1, ids, 33)
    assert np.abs(given(out / "text.onnx", input_ids=noise, attention_mask=mask) - wanted).max() < 1e-5


def test_pictures_are_and_every_file_bears_the_signature(out: Path, encoder: Encoder) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16), dtype=np.uint8)
    with torch.no_grad():
        wanted = encoder.model.encode("image", torch.from_numpy(pixels)).numpy()
    assert np.abs(given(out / "image.onnx", pixels=pixels) - wanted).max() < 1e-5
    for m in ("audio", "image", "text"):
        session = onnxruntime.InferenceSession(out / f"{m}.onnx", providers=["CPUExecutionProvider"])
        said = session.get_modelmeta().custom_metadata_map
        assert (said["signature"], said["task"], said["modality"]) == (encoder.signature, "2", m)
        assert [i.shape[0] for i in session.get_inputs()] == ["batch"] * len(session.get_inputs())
        assert session.get_outputs()[0].shape == ["batch", 16]


def test_config_says_what_goes_in(out: Path, encoder: Encoder) -> None:
    said = json.loads((out / "config.json").read_text())
    assert (said["signature"], said["dim"], said["tolerance"]) == (encoder.signature, 16, 1e-4)
    audio, text = said["towers"]["audio"], said["towers"]["text"]
    assert (audio["sample_rate"], audio["least_samples"], audio["most_samples"]) == (16000, 6400, 480000)
    assert (text["max_tokens"], list(text["inputs"])) == (32, ["input_ids", "attention_mask"])
    assert all(t["differs"] < 1e-5 for t in said["towers"].values())
    assert encoder.signature in (out / "README.md").read_text()
    for path in out.iterdir():
        assert str(small_root()).encode() not in path.read_bytes()


def test_a_fault_in_a_graph_is_found_before_the_folder_is_there(
    out: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx as format
    from onnx import numpy_helper

    def faulty(encoder: Encoder, run: Path, folder: Path) -> None:
        for path in out.glob("*.onnx"):
            model = format.load(path)
            if path.stem == "text":
                table = max(model.graph.initializer, key=lambda t: np.prod(t.dims))
                table.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(table) * np.float32(1.01), table.name))
            format.save(model, folder / path.name)

    monkeypatch.setattr(onnx, "write", faulty)
    with pytest.raises(UserError, match=r"text\.onnx: vectors of input_ids 1 x \d+, .* differ from torch's by"):
        export_onnx(small_run(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_encoder_or_none_at_all_is_refused(out: Path, tmp_path: Path) -> None:
    other = open_run(small_run(), 1)
    with pytest.raises(UserError, match="does not bear the signature"):
        onnx_check.verify(out, other, probes(other, small_run()))
    (tmp_path / "audio.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match=r"onnxruntime does not open audio\.onnx"):
        onnx_check.verify(tmp_path, other, probes(other, small_run()))


def prompted(use: str) -> MediaEncoder:
    """A tiny tower of sound under a method whose first task has begun."""
    model = miniatures.model("audio").float()
    method = Chain([parse_part("methods", {"use": use})], miniatures.setup(model))
    method.begin_task(model, Task("a", 1, (), (), (), (("audio", "text"),)))
    return MediaEncoder(model, method, 1, "cpu")


def test_a_method_that_chooses_by_the_input_has_no_graph(tmp_path: Path) -> None:
    message = (
        r"audio tower \(.*tiny_audio\) under the method sprompts has no graph of ONNX: it chooses by what it sees"
    )
    with unchecked(), pytest.raises(UserError, match=message):
        graphs.graph(prompted("sprompts"), "audio", tmp_path / "audio.onnx", True, {})
    assert list(tmp_path.iterdir()) == []


def test_prompts_that_are_the_same_for_every_input_are_part_of_the_graph() -> None:
    e = prompted("vpt")
    with unchecked():
        program = graphs.traced(e, "audio", True, graphs.STRETCHES[1])
    wave = torch.rand(2, 3000, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.no_grad():
        found, plain = program.module()(wave).numpy(), e.model.encode("audio", wave).numpy()
    assert np.abs(found[1] - e.encode_audio([wave[1].numpy()], 16000)[0]).max() < 1e-5
    assert np.abs(found - plain).max() > 1e-4


def test_a_graph_that_holds_for_some_lengths_only_is_found_and_traced_with_another_clip(
    out: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with unchecked():
        # as many tokens as the tower has positions: these are not interpolated
        graphs.graph(encoder, "audio", tmp_path / "audio.onnx", False, {}, 1.0)
    with pytest.raises(UserError, match=r"audio\.onnx"):
        onnx_check.at_many_lengths(tmp_path / "audio.onnx", encoder)
    tried = []

    def graph(encoder: Encoder, m: str, path: Path, prompted: bool, said: Any, stretch: float) -> None:
        tried.append(stretch)
        shutil.copy(out / "audio.onnx" if stretch == 2.61 else tmp_path / "audio.onnx", path)

    monkeypatch.setattr(graphs, "graph", graph)
    onnx._sounds(encoder, tmp_path / "found.onnx", False, {})
    assert tried == [2.3, 2.61]
    monkeypatch.setattr(graphs, "STRETCHES", (1.0, 2.0))
    with pytest.raises(UserError, match=r"found\.onnx"):
        onnx._sounds(encoder, tmp_path / "found.onnx", False, {})


@pytest.mark.parametrize("samples", [1, 399, 3000, 5001, 9999, 10000, 10001, 30000])
def test_windows_by_indices_are_those_of_the_loop(samples: int) -> None:
    x = torch.rand(2, samples, generator=torch.Generator().manual_seed(samples))
    if samples <= 10000:
        assert torch.equal(traceable.repeated(x, 10000), repeat_pad(x, 10000))
    for kind in ("clap", "ast"):
        e = open_run(transformers_run(kind))
        with torch.no_grad():
            wanted = e.model.encode("audio", x)
            assert (traceable.WindowedSounds(e)(x) - wanted).abs().max() < 1e-6


def test_a_tower_of_windows_has_a_graph_for_clips_of_less_than_one_and_of_several(tmp_path: Path) -> None:
    e = open_run(transformers_run("ast"))
    with unchecked():
        graphs.graph(e, "audio", tmp_path / "audio.onnx", False, {})
    for samples in (1, 700, 10480, 10481, 25000):
        waves = np.float32(np.random.default_rng(0).uniform(-1, 1, (2, samples)))
        found = given(tmp_path / "audio.onnx", waveform=waves)
        assert np.abs(found - np.concatenate([e.encode_audio([w], 16000) for w in waves])).max() < 1e-5


def test_a_tokenizer_lies_beside_the_graph_of_a_text_tower_that_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "graph", lambda *_: None)
    monkeypatch.setattr(onnx_check, "at_many_lengths", lambda *_: None)
    e = open_run(transformers_run("ast"))
    onnx.write(e, transformers_run("ast"), tmp_path)
    texts = ["rain", "a dog barks " * 9]
    (x,) = prepared(e, "text", texts)
    found = onnx_check.ids(e, texts, torch.zeros(1), tmp_path)
    assert np.array_equal(found["input_ids"], x) and np.array_equal(found["attention_mask"], x != 0)


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    said = command("export", "onnx", small_run(), tmp_path / "out")
    assert "pip install 'polymnia[onnx]'" in said.error
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"pip install 'polymnia\[onnx\]'"):
        export_onnx(small_run(), tmp_path / "out")


def test_the_command_refuses_a_folder_that_holds_something(out: Path) -> None:
    assert "already holds something" in command("export", "onnx", small_run(), out).error
