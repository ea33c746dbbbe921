"""The README's own snippets, as a reader would paste them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny import tiny_recipe

import polymnia as pm

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def mylab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with the package that the README's snippets make."""
    blocks = re.findall(r'```python\n("""(mylab/\w+\.py).*?)```', README, re.DOTALL)
    assert [name for _, name in blocks] == ["mylab/rehearse.py", "mylab/birds.py", "mylab/loudness.py"]
    (tmp_path / "mylab").mkdir()
    for code, name in blocks:
        (tmp_path / name).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [m for m in sys.modules if m.split(".")[0] == "mylab"]:
        del sys.modules[name]


def test_the_method_the_data_set_and_the_encoder_of_the_readme_run_together(shared: Path, mylab: Path) -> None:
    rng = np.random.default_rng(0)
    for species in ("wren", "robin"):
        for n in range(6):
            path = mylab / "songs" / species / f"{species}-{n}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, rng.uniform(-0.5, 0.5, 16000), 16000)
    raw = tiny_recipe(shared, mylab / "runs", train__steps=2)
    raw["towers"] = {"audio": "mylab.loudness", "text": raw["towers"]["text"]}
    birds = {"use": "mylab.birds", "root": str(mylab / "songs")}
    raw["tasks"] = [{"name": n, "pairs": [["audio", "text"]], "data": birds} for n in ("spring", "summer")]
    run = pm.run(raw, {"method": [{"use": "mylab.rehearse", "budget": 200_000}], "cache": str(mylab / "cache")})
    assert run.matrix["rows"] == [0, 1, 2] and run.summary()["average"] is not None
    vectors = pm.load(run.folder).encode_audio([np.zeros(16000, dtype=np.float32)], 16000)
    assert vectors.shape == (1, 16)
