"""What a run's weights cost on disk."""

import pytest
import torch

from polymnia.runs.weights import read_tensors, save_tensors, share_with


@pytest.fixture
def two(tmp_path):
    before, after = tmp_path / "after-0.safetensors", tmp_path / "after-1.safetensors"
    save_tensors(before, {"w": torch.arange(6.0)})
    return before, after


def test_encoders_of_a_task_that_taught_nothing_are_one_file_on_disk(two):
    before, after = two
    save_tensors(after, {"w": torch.arange(6.0)})
    share_with(before, after)
    assert before.samefile(after)
    assert sorted(p.name for p in before.parent.iterdir()) == ["after-0.safetensors", "after-1.safetensors"]


def test_encoders_that_differ_stay_two_files(two):
    before, after = two
    save_tensors(after, {"w": torch.arange(6.0).flip(0)})
    share_with(before, after)
    assert not before.samefile(after)
    assert read_tensors(after)["w"][0] == 5


def test_replacing_one_of_two_shared_encoders_leaves_the_other(two):
    before, after = two
    save_tensors(after, {"w": torch.arange(6.0)})
    share_with(before, after)
    save_tensors(after, {"w": torch.zeros(6)})
    assert read_tensors(before)["w"].tolist() == [0, 1, 2, 3, 4, 5]
    assert read_tensors(after)["w"].sum() == 0


def test_a_file_system_without_links_keeps_two_files(two, monkeypatch):
    before, after = two
    save_tensors(after, {"w": torch.arange(6.0)})

    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    share_with(before, after)
    assert not before.samefile(after) and read_tensors(after)["w"].sum() == 15
