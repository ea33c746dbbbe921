"""What a plain `pip install polymnia` gives: everything but the extras, and a word about those."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_run import small_recipe

ABSENT = [
    "av",
    "faiss",
    "fastapi",
    "gradio",
    "lance",
    "lancedb",
    "mteb",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pyarrow",
]
ABSENT += ["python_multipart", "sentence_transformers", "sqlglot", "uvicorn"]
PLAIN = """
import importlib.machinery, json, sys
finder = importlib.machinery.PathFinder
found = finder.find_spec
absent = set(json.loads(sys.argv[1]))
finder.find_spec = staticmethod(lambda name, *where: None if name.partition(".")[0] in absent else found(name, *where))
from polymnia.cli import main
sys.argv = ["polymnia", *sys.argv[2:]]
main()
"""


def plain(*words: object) -> subprocess.CompletedProcess[str]:
    """``polymnia WORDS`` where no extra is installed."""
    script = [sys.executable, "-c", PLAIN, json.dumps(ABSENT), *map(str, words)]
    return subprocess.run(script, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plain")
    (root / "recipe.yaml").write_text(yaml.safe_dump(small_recipe(root, train={"steps": 2, "batch": 6, "lr": 0.003})))
    said = plain("run", root / "recipe.yaml")
    assert said.returncode == 0, said.stderr
    (folder,) = (f for f in (root / "runs").iterdir() if (f / "meta.json").exists())
    return folder


def test_a_run_is_learned_measured_reported_and_searched(run: Path, tmp_path: Path):
    assert json.loads((run / "compatibility.json").read_text())["measures"]
    assert plain("report", run, "--out", tmp_path / "out").returncode == 0
    assert (tmp_path / "out" / "report.html").exists()
    said = plain("search", run, "a calm sea", "-k", 2, "--json")
    assert said.returncode == 0 and len(json.loads(said.stdout)) == 2


def test_a_command_of_an_extra_says_which_to_install(run: Path, tmp_path: Path):
    said = plain("embed", run, "--out", tmp_path / "vectors")
    assert said.returncode == 2 and said.stderr.strip().endswith("pip install 'polymnia[index]'")
    assert "Traceback" not in said.stderr
