"""WebDataset shards and foreign pickles: what they mean, and what a hostile or broken one cannot do."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
from collections import OrderedDict
from pathlib import Path

import pytest
from conformance import archive_miniatures as miniature

from polymnia.data import tar
from polymnia.data.datasets import webdataset
from polymnia.data.media import decode_audio
from polymnia.data.pickles import read_plain
from polymnia.types import AudioFile, Captions, ImageFile, Item, UserError, VideoFile


def read(root: Path, **settings: object) -> list[Item]:
    return webdataset.items(webdataset.Config(root=root, **settings))


def refusal(root: Path, **settings: object) -> str:
    with pytest.raises(UserError) as caught:
        read(root, **settings)
    return str(caught.value)


def texts(item: Item) -> tuple[str, ...]:
    source = item.sources["text"]
    assert isinstance(source, Captions)
    return source.texts


# ---------------------------------------------------------------- shards


def test_samples_are_the_members_that_share_a_key(tmp_path: Path) -> None:
    items = webdataset.items(webdataset.Config(**miniature.webdataset(tmp_path)))
    assert [(item.id, item.split, sorted(item.sources)) for item in items] == [
        ("train-000/0", "train", ["audio", "text"]),
        ("train-000/1", "train", ["image"]),
        ("train-001/0", "train", ["audio", "text"]),
        ("test-000/a/b", "test", ["audio", "text"]),
    ]
    assert texts(items[0]) == ("a dog", "a dog barks") and texts(items[2]) == ("rain",)
    assert texts(items[3]) == ("caf\u00e9",)
    assert (items[0].topic, items[0].labels) == ("animals", ("dog",))
    audio = items[0].sources["audio"]
    assert isinstance(audio, AudioFile) and decode_audio(audio, 8000).shape == (800,)


def test_a_video_gives_pictures_and_the_sound_where_there_is_no_other(tmp_path: Path) -> None:
    miniature.shard(tmp_path / "a.tar", {"x.mp4": b"1", "y.mp4": b"2", "y.wav": b"3"})
    x, y = read(tmp_path)
    assert isinstance(x.sources["image"], VideoFile) and isinstance(x.sources["audio"], AudioFile)
    assert x.sources["audio"].path == x.sources["image"].path
    assert isinstance(y.sources["audio"], AudioFile) and y.sources["audio"].path.suffix == ".wav"


def test_a_picture_is_preferred_to_the_frames_of_a_video(tmp_path: Path) -> None:
    miniature.shard(tmp_path / "a.tar", {"x.mp4": b"1", "x.jpg": b"2"})
    assert isinstance(read(tmp_path)[0].sources["image"], ImageFile)


def test_shards_are_unpacked_once_and_again_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = miniature.webdataset(tmp_path)
    first = webdataset.items(webdataset.Config(**settings))
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", lambda *a, **k: pytest.fail("a shard was opened again"))
        assert webdataset.items(webdataset.Config(**settings)) == first
    miniature.shard(tmp_path / "train-001.tar", {"0.txt": b"snow"})
    os.utime(tmp_path / "train-001.tar", (1, 1))
    assert texts(webdataset.items(webdataset.Config(**settings))[2]) == ("snow",)


def test_a_killed_unpacking_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    miniature.shard(tmp_path / "a.tar", {"0.wav": b"1", "1.wav": b"2"})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            read(tmp_path)
    (part,) = [path.with_suffix(".part") for path in (tmp_path / ".extracted").glob("*.lock")]
    part.mkdir()
    (part / "leftover.wav").write_bytes(b"half")  # what a kill that nobody could catch leaves
    items = read(tmp_path)
    assert len(items) == 2
    assert not [path for path in (tmp_path / ".extracted").rglob("leftover.wav")]


def test_media_can_go_elsewhere(tmp_path: Path) -> None:
    miniature.shard(tmp_path / "in/a.tar", {"0.wav": b"1"})
    read(tmp_path / "in", unpacked=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["a.tar"]
    assert len(list((tmp_path / "out").rglob("*.wav"))) == 1


def test_braces_keep_their_width_and_multiply() -> None:
    assert list(webdataset.expand("{a,b}-{08..10}.tar")) == [
        *("a-08.tar", "a-09.tar", "a-10.tar"),
        *("b-08.tar", "b-09.tar", "b-10.tar"),
    ]
    for bomb in ("{0..9999999}", "{0..999}{0..999}"):
        with pytest.raises(UserError, match="more than 100,000"):
            list(webdataset.expand(bomb))


def test_a_range_that_counts_down_is_refused() -> None:
    with pytest.raises(UserError, match=r"'\{02..00\}' counts down"):
        list(webdataset.expand("a-{02..00}.tar"))
    assert list(webdataset.expand("a-{02..02}.tar")) == ["a-02.tar"]


def test_what_is_unpacked_only_to_look_into_it_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    miniature.shard(tmp_path / "set/a.tar", {"0.wav": bytes(9000)})
    miniature.shard(tmp_path / "set/b.tar", {"0.wav": bytes(9000)})
    cfg = webdataset.Config(root=tmp_path / "set")
    sizes = [(tmp_path / "set" / name).stat().st_size for name in ("a.tar", "b.tar")]
    monkeypatch.setattr(webdataset, "MAX_ASIDE", sum(sizes) - 1)
    aside = webdataset.elsewhere(cfg, tmp_path / "aside")
    with pytest.raises(UserError, match=r"2 shards .* 0 MB.*`polymnia data check webdataset .*set`"):
        webdataset.items(aside)
    assert not list((tmp_path / "aside").iterdir())
    monkeypatch.setattr(webdataset, "MAX_ASIDE", sum(sizes))
    assert len(webdataset.items(webdataset.elsewhere(cfg, tmp_path / "aside"))) == 2
    assert len(webdataset.items(cfg)) == 2  # a run unpacks as much as there is
    monkeypatch.setattr(webdataset, "MAX_ASIDE", 0)
    assert len(webdataset.items(webdataset.elsewhere(cfg, tmp_path / "other"))) == 2
    assert "max_bytes" not in cfg.model_dump()  # so that no recipe's hash knows it


def test_missing_shards_are_named_with_the_folder_that_has_them(tmp_path: Path) -> None:
    settings = miniature.webdataset(tmp_path / "set")
    assert "train-002.tar" in refusal(**settings | {"shards": "train-{000..002}.tar"})
    assert f"give {tmp_path / 'set'}" in refusal(**settings | {"root": tmp_path})
    (tmp_path / "set/deep").mkdir()
    assert f"give {tmp_path / 'set'}" in refusal(**settings | {"root": tmp_path / "set/deep"})
    assert "leads out" in refusal(**settings | {"shards": "../*.tar"})
    assert "in two splits" in refusal(**settings | {"test_shards": "train-*.tar"})


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (member("../out.wav"), "'../out.wav' leads out"),
        (member("a/../../out.wav"), "leads out"),
        (member("/etc/out.wav"), "'/etc/out.wav' leads out"),
        (member("..\\out.wav"), "leads out"),
        (member("x.wav", tarfile.SYMTYPE, "/etc/passwd"), "'x.wav' is a link or a device"),
        (member("x.wav", tarfile.LNKTYPE, "/etc/passwd"), "is a link or a device"),
        (member("x.wav", tarfile.FIFOTYPE), "is a link or a device"),
    ],
)
def test_a_member_that_leads_out_is_refused_by_name_and_nothing_is_kept(
    bad: tarfile.TarInfo, said: str, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        good = member("0.wav", size=1)
        shard.addfile(good, io.BytesIO(b"1"))
        shard.addfile(bad)
    assert said in refusal(tmp_path)
    assert not [path for path in (tmp_path / ".extracted").rglob("*") if path.suffix != ".lock"]


def test_sizes_and_counts_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    miniature.shard(tmp_path / "a.tar", {"0.wav": b"12345", "1.wav": b"1"})
    monkeypatch.setattr(tar, "MAX_MEMBER", 4)
    assert "'0.wav' has 5 bytes, more than 4" in refusal(tmp_path)
    monkeypatch.setattr(tar, "MAX_MEMBER", 5)
    monkeypatch.setattr(tar, "MAX_MEMBERS", 1)
    assert "more than 1 members" in refusal(tmp_path)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_an_extended_header_that_would_fill_the_memory_is_not_read(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        shard.addfile(member("0.wav", size=1), io.BytesIO(b"1"))
        shard.addfile(member("long", kind, size=tar.MAX_TEXT + 1), io.BytesIO(bytes(tar.MAX_TEXT + 1)))
    assert "an extended header of 1,048,577 bytes" in refusal(tmp_path)


def test_a_long_name_is_read(tmp_path: Path) -> None:
    name = f"{'a' * 90}/{'b' * 90}/{'c' * 90}"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "a.tar", "w", format=form) as shard:
            shard.addfile(member(f"{name}.wav", size=1), io.BytesIO(b"1"))
        assert read(tmp_path)[0].id == f"a/{name}"


@pytest.mark.parametrize("cut", [100, 512, 600, 1024])
def test_a_shard_that_was_cut_off_is_refused(cut: int, tmp_path: Path) -> None:
    """Within a header, behind one, within a member, before its last block."""
    miniature.shard(tmp_path / "a.tar", {"0.wav": bytes(2000)})
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:cut])
    assert "not a whole, plain tar" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"0.cls": b"1"}, "no member <key>.flac"),
        ({"0.wav": b"1", "0.b.wav": b"2"}, "two members *.wav"),
        ({"0.txt": b"\xff"}, "not UTF-8"),
        ({"0.json": b"{", "0.wav": b"1"}, "malformed JSON"),
        ({"0.json": b"[]", "0.wav": b"1"}, "must be a JSON object"),
        ({"0.json": b'{"text": 3}', "0.wav": b"1"}, "a.tar: 'text' of '0.json' must be a text"),
    ],
)
def test_a_malformed_sample_is_named(members: dict[str, bytes], said: str, tmp_path: Path) -> None:
    miniature.shard(tmp_path / "a.tar", members)
    assert said in refusal(tmp_path)


def test_a_compressed_shard_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz") as shard:
        shard.addfile(member("0.wav"))
    assert "not a whole, plain tar" in refusal(tmp_path)


def test_hidden_files_of_a_mac_are_no_samples(tmp_path: Path) -> None:
    miniature.shard(tmp_path / "a.tar", {"._0.wav": b"junk", "0.wav": b"1"})
    assert [item.id for item in read(tmp_path)] == ["a/0"]


def test_a_foreign_index_cannot_name_other_files(tmp_path: Path) -> None:
    miniature.shard(tmp_path / "a.tar", {"0.wav": b"1"})
    read(tmp_path)
    (index,) = (tmp_path / ".extracted").rglob("index.jsonl")
    index.write_text('{"key": "0", "media": {".wav": "../../../etc/passwd"}, "texts": {}}\n')
    assert "delete the folder" in refusal(tmp_path)


# ---------------------------------------------------------------- pickles


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_are_read_in_every_protocol(protocol: int, tmp_path: Path) -> None:
    value = {"a": "caf\u00e9 " * 100, "b": ["x", 1, 2.5, None, True, 2**70], "c": {"d": ["x", "a"]}, "e": []}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value, protocol))
    assert read_plain(tmp_path / "a.pkl") == value


def test_a_long_text_in_several_places_is_read(tmp_path: Path) -> None:
    long = "a" * 200_000  # written outside the frames of the protocol
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([long, long, b"b", b"b"], 4))
    assert read_plain(tmp_path / "a.pkl") == [long, long, b"b", b"b"]


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (f"{self.__dict__['path']}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_runs_something_is_refused_and_not_run(protocol: int, tmp_path: Path) -> None:
    bomb = Bomb()
    bomb.__dict__["path"] = str(tmp_path / "made")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": bomb}, protocol))
    with pytest.raises(UserError, match="more than plain data"):
        read_plain(tmp_path / "a.pkl")
    assert not (tmp_path / "made").exists()


def doubled(depth: int) -> list[object]:
    value: list[object] = ["x"]
    for _ in range(depth):
        value = [value, value]
    return value


def hidden(put: bytes) -> bytes:
    """2^24 leaves; each list is remembered by ``put`` behind another instruction than the one that made it."""
    raw = b"\x80\x02]X\x01\x00\x00\x00x" + put + b"q\x00"
    for k in range(24):
        again = b"h" + bytes([k])
        raw += b"]" + again + b"a" + again + b"a" + b"q" + bytes([k + 1])
    return raw + b"."


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (pickle.dumps(OrderedDict(a=1)), "more than plain data"),
        (pickle.dumps((1, 2)), "more than plain data"),
        (pickle.dumps(doubled(60)), "in several places"),
        (hidden(b"a"), "in several places"),  # APPEND
        (hidden(b"0"), "in several places"),  # POP
        (hidden(b"0q\x01h\x010"), "in several places"),
        (b"\x80\x02]X\x01\x00\x00\x00xq\x000q\x00h\x00.", "in several places"),  # an index that is used again
        (b"\x80\x02]r" + struct.pack("<I", 0x7FFFFFFF) + b".", "index 2147483647"),
        (b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"x", "not a readable pickle"),
        (b"\x80\x04}", "not a readable pickle"),
        (b"hello", "not a readable pickle|more than plain data"),
        (b"", "not a readable pickle"),
    ],
)
def test_a_hostile_or_broken_pickle_is_refused(raw: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(raw)
    with pytest.raises(UserError, match=said) as caught:
        read_plain(tmp_path / "a.pkl")
    assert str(tmp_path / "a.pkl") in str(caught.value)
