"""From files to an index that follows its encoder, by the commands; and the upgrade killed on its way."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import command
from small_run import small_run

from polymnia.index.popularity import counts
from polymnia.index.rows import vectors
from polymnia.index.store import Index

KILLED = """
import os, signal, sys
from pathlib import Path
import polymnia.runs.upgrading.apply as apply
from polymnia.runs.upgrading.upgrade import How, upgrade
apply.BATCH, at = 8, int(sys.argv[3])
whole = apply._with
def deadly(*args):
    deadly.n += 1
    if deadly.n == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*args)
deadly.n = 0
apply._with = deadly
print("ready", flush=True)
upgrade(sys.argv[1], Path(sys.argv[2]), how=How(mode="vectors", force=True))
"""


def content(uri: Path) -> dict[str, tuple[str, list[float]]]:
    rows = Index.open(uri).rows(["key", "encoder", "vector"])
    return {
        k: (e, v)
        for b in rows
        for k, e, v in zip(b["key"].to_pylist(), b["encoder"].to_pylist(), vectors(b).tolist(), strict=True)
    }


@pytest.fixture
def index(tmp_path) -> Path:
    assert command("embed", small_run(), "--task", 1, "--out", tmp_path / "vectors").code == 0
    assert command("index", "create", tmp_path / "index", tmp_path / "vectors").code == 0
    return tmp_path / "index"


def killed(index: Path, at: int, delay: float | None = None) -> int:
    script = [sys.executable, "-c", KILLED, str(index), str(small_run()), str(at)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        if delay is not None:
            time.sleep(delay)
            process.kill()
        return process.wait()


def test_an_upgrade_killed_at_any_moment_leaves_the_old_or_the_new_and_goes_on(index: Path):
    before = content(index)
    assert killed(index, 4) == -signal.SIGKILL  # at the fourth of six batches
    assert content(index) == before
    killed(index, 0, random.uniform(0, 1.5))
    assert len({e for e, _ in content(index).values()}) == 1
    said = command("index", "upgrade", index, small_run(), "--mode", "vectors", "--force", "--json")
    assert said.code == 0
    after = content(index)
    assert after.keys() == before.keys() and {e for e, _ in after.values()} == {
        json.loads(said.out)["encoder"]["signature"]
    }
    still = [k for k in after if not k.split("#")[1].startswith("audio")]
    assert all(after[k][1] == before[k][1] for k in still)  # towers that did not move


def test_an_index_is_made_upgraded_and_searched_by_the_commands(index: Path):
    asked = command("search", index, "a calm sea", "-k", 3, "--json")
    assert asked.code == 0 and len(json.loads(asked.out)) > 0
    assert counts(str(index), [h["id"] for h in json.loads(asked.out)]) == {h["id"]: 1 for h in json.loads(asked.out)}
    assert command("index", "search", index, "a calm sea", "-k", 3, "--json").out == asked.out  # by its other name
    dry = command("index", "upgrade", index, small_run(), "--dry-run")
    assert dry.code == 0
    assert "mean of R@1, R@5 and R@10" in dry.out and "audio>audio" in dry.out and "rows mapped" not in dry.out
    assert "embedding all media again would take about" in " ".join(dry.out.split())
    back = command("index", "upgrade", index, small_run(), "--mode", "queries", "--dry-run")
    assert (
        back.code == 0 and "queries back" in back.out and "queries mapped back (audio:" in " ".join(back.out.split())
    )
    done = command("index", "upgrade", index, small_run(), "--mode", "lazy", "--items", 2)
    assert done.code == 0 and "2 items embedded again" in " ".join(done.out.split())
    assert command("search", index, "a calm sea", "-k", 3, "--json").code == 0
    again = command("index", "upgrade", index, small_run())
    assert again.code == 0 and "every row is of the encoder after task 2 (tunes) already" in " ".join(
        again.out.split()
    )


def test_bad_words_are_told(index: Path, tmp_path: Path):
    assert "no modality" in command("index", "upgrade", index, small_run(), "--queries", "smell").error
    assert "no encoder after task 7" in command("index", "upgrade", index, small_run(), "--task", 7).error
    assert "is no run folder" in command("index", "upgrade", index, tmp_path).error
