"""Which pictures of a video are taken, and what is said of one that cannot be read."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from videos import SPEC, film, levels

from polymnia.data import video
from polymnia.data.media import MediaError
from polymnia.data.video import all_frames, check_video, decode_frames, frame_count, middle_frame
from polymnia.types import ImageSpec, UserError, VideoFile

KINDS = (".mp4", ".mov", ".mkv", ".webm", ".avi")
RAMP = [10 * k for k in range(20)]  # picture k of two seconds at ten a second has the grey level 10 k


@pytest.fixture(scope="module")
def ramps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("ramps")
    return {kind: film(folder / f"ramp{kind}", RAMP) for kind in KINDS}


def at(fps: float) -> ImageSpec:
    return ImageSpec(SPEC.size, SPEC.channels, fps=float(fps))


def taken(source: VideoFile, fps: float) -> list[int]:
    return [level // 10 for level in levels(decode_frames(source, at(fps)))]


# --- which frames


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("start", "seconds", "fps", "wanted"),
    [
        (0.0, None, 10, list(range(20))),
        (0.0, None, 20, [k // 2 for k in range(40)]),
        (0.0, None, 5, [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]),  # the middle is where one picture follows another
        (0.0, None, 2.5, [2, 6, 10, 14, 18]),
        (0.0, None, 1, [5, 15]),
        (0.5, 1.0, 2, [7, 12]),
        (1.2, 0.5, 10, [12, 13, 14, 15, 16]),
        (0.3, 0.4, 1, [5]),  # less than half a frame is still one, the one in the middle
        (1.0, 1.2, 10, [*range(10, 20), 19, 19]),  # the last picture stays on screen for a moment
    ],
)
def test_frames_are_those_shown_in_the_middle_of_equal_parts(
    ramps: dict[str, Path], kind: str, start: float, seconds: float | None, fps: float, wanted: list[int]
):
    source = VideoFile(ramps[kind], start, seconds)
    assert taken(source, fps) == wanted
    assert frame_count(source, float(fps)) == check_video(source, at(fps)) == len(wanted)


def test_ten_seconds_at_thirty_frames_a_second_are_three_hundred_frames_each_once(tmp_path: Path):
    shades = [10 * (k * 7 % 23) for k in range(300)]
    path = film(tmp_path / "a.mp4", shades, 30)
    assert levels(decode_frames(VideoFile(path), at(30))) == shades
    assert levels(decode_frames(VideoFile(path, 0.0, 10.0), at(1))) == shades[15::30]


def test_a_picture_is_shown_until_the_next_one_however_long_that_takes(tmp_path: Path):
    path = film(tmp_path / "a.mp4", [0, 100, 200], times=[0, 1, 10])  # at 0, 0.1 and 1.0 seconds
    assert levels(decode_frames(VideoFile(path, 0.0, 1.1), at(10))) == [0, *[100] * 9, 200]


def test_the_middle_frame_is_the_one_in_the_middle_of_the_stretch(ramps: dict[str, Path]):
    for source, wanted in ((VideoFile(ramps[".mp4"]), 10), (VideoFile(ramps[".mkv"], 0.5, 0.5), 7)):
        assert levels(middle_frame(source, SPEC)[None]) == [10 * wanted]
        assert np.array_equal(middle_frame(source, SPEC), decode_frames(source, at(0.1))[0])


@pytest.mark.parametrize("kind", KINDS)
def test_frames_in_pieces_are_the_frames_of_the_whole(ramps: dict[str, Path], kind: str, monkeypatch):
    source = VideoFile(ramps[kind], 0.1, 1.8)
    whole = decode_frames(source, at(10))
    assert whole.shape == (18, 1, 8, 8) and np.array_equal(whole, decode_frames(source, at(10)))
    for first in range(18):
        assert np.array_equal(decode_frames(source, at(10), first, 4), whole[first : first + 4])
    monkeypatch.setattr(video, "PART_BYTES", 5 * 8 * 8)  # five frames
    pieces = list(all_frames([source, VideoFile(ramps[".mp4"], 1.0), source], at(10), threads=2))
    assert [n for n, _ in pieces] == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert [len(p) for _, p in pieces] == [5, 5, 5, 3, 5, 5, 5, 5, 5, 3]
    for n in (0, 2):
        assert np.array_equal(np.concatenate([p for owner, p in pieces if owner == n]), whole)


def test_frames_are_fitted_as_pictures_are(tmp_path: Path):
    halves = np.zeros((16, 48, 3), np.uint8)
    halves[:, :16], halves[:, 16:32, 0], halves[:, 32:] = 90, 200, 90  # a red square between grey ones
    path = film(tmp_path / "a.mp4", [halves] * 5)
    frames = decode_frames(VideoFile(path), ImageSpec(8, 3, fps=10.0))
    assert frames.shape == (5, 3, 8, 8) and frames.dtype == np.uint8
    np.testing.assert_allclose(frames[:, 0].mean(), 200, atol=4)
    assert frames[:, 1:].mean() < 8
    grey = decode_frames(VideoFile(path), ImageSpec(8, 1, fps=10.0))
    np.testing.assert_allclose(grey.mean(), 0.299 * 200, atol=4)


@pytest.mark.parametrize("turn", [0, 90, 180, -90])
def test_a_video_that_was_filmed_sideways_stands_upright(tmp_path: Path, turn: int):
    upright = np.zeros((32, 32, 3), np.uint8)
    upright[:16, :16] = 200  # bright at the top left
    stored = np.rot90(upright, -turn // 90)
    path = film(tmp_path / "a.mp4", [stored] * 3, turn=turn)
    frame = middle_frame(VideoFile(path), ImageSpec(8, 1))[0]
    corners = {"top left": frame[1, 1], "top right": frame[1, 6], "low left": frame[6, 1], "low right": frame[6, 6]}
    assert [name for name, level in corners.items() if level > 100] == ["top left"]


# --- faults


def refused(path: Path, why: str, **stretch: float) -> None:
    """Every way to read says the same, with the file's name."""
    source = VideoFile(path, **stretch)
    for read in (lambda: frame_count(source, 1.0), lambda: check_video(source, SPEC)):
        with pytest.raises(MediaError, match=why) as caught:
            read()
        assert caught.value.path == path
    for decode in (decode_frames, middle_frame):
        with pytest.raises(MediaError, match=why):
            decode(source, SPEC)


def test_what_is_no_video_is_said_with_its_reason(tmp_path: Path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("just words " * 100)
    (tmp_path / "folder.mp4").mkdir()
    refused(tmp_path / "gone.mp4", "No such file")
    refused(tmp_path / "empty.mp4", "is empty")
    refused(tmp_path / "text.mp4", "not a readable video: Invalid data")
    refused(tmp_path / "folder.mp4", "is not a regular file")


def test_sound_alone_has_no_pictures(tmp_path: Path):
    for kind in (".m4a", ".mp4", ".mkv"):
        refused(film(tmp_path / f"sound{kind}", sounds=[np.zeros(8000)]), "has no pictures")


@pytest.mark.parametrize("kind", [".mp4", ".mkv", ".avi"])
def test_a_video_that_was_cut_off_is_broken(tmp_path: Path, kind: str):
    noise = np.random.default_rng(0).integers(0, 255, (30, 64, 64, 3), np.uint8)
    data = film(tmp_path / f"a{kind}", noise).read_bytes()
    torn = tmp_path / f"torn{kind}"
    torn.write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match="is cut off: it has no pictures from 1|is not in a video of 1"):
        check_video(VideoFile(torn, 0.0, 3.0), SPEC)
    assert levels(decode_frames(VideoFile(torn, 0.0, 1.0), SPEC))  # the sound part is sound
    torn.write_bytes(data[:40])
    with pytest.raises(MediaError, match="not a readable video|has no pictures"):
        check_video(VideoFile(torn), SPEC)


def test_a_stretch_outside_of_the_video_is_refused(ramps: dict[str, Path]):
    for start, seconds in ((2.0, 0.5), (1.0, 2.0), (-0.5, 1.0), (0.5, 0.0), (0.0, 1e9)):
        refused(ramps[".mp4"], "is not in a video of 2 s", start=start, seconds=seconds)


def test_too_many_pixels_are_refused_before_they_are_decoded(ramps: dict[str, Path], monkeypatch):
    monkeypatch.setattr(video, "MAX_PIXELS", 32 * 16 - 1)
    monkeypatch.setattr(video, "_timed", lambda *_: pytest.fail("decoded"))
    with pytest.raises(MediaError, match="32 x 16 pixels are more than 511"):
        middle_frame(VideoFile(ramps[".mp4"]), SPEC)


def test_a_playlist_that_is_called_a_video_opens_no_other_file(tmp_path: Path, ramps: dict[str, Path]):
    (tmp_path / "private.mp4").write_bytes(ramps[".mp4"].read_bytes())
    (tmp_path / "hls.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nprivate.mp4\n#EXT-X-ENDLIST\n")
    (tmp_path / "concat.mkv").write_text("ffconcat version 1.0\nfile private.mp4\n")
    for name in ("hls.mp4", "concat.mkv"):
        refused(tmp_path / name, "not a readable video")


def test_titles_in_any_encoding_do_no_harm(tmp_path: Path):
    film(tmp_path / "a.mkv", RAMP)
    data = (tmp_path / "a.mkv").read_bytes()
    assert b"Lavf" in data
    (tmp_path / "a.mkv").write_bytes(data.replace(b"Lavf", b"\xff\xfe\xe9\xe8"))
    assert taken(VideoFile(tmp_path / "a.mkv"), 1) == [5, 15]


def test_damage_in_the_middle_ends_in_frames_or_in_a_media_error(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 255, (10, 32, 32, 3), np.uint8)
    for kind in (".mp4", ".mkv", ".avi"):
        data = film(tmp_path / f"a{kind}", noise, sounds=[np.zeros(16000)]).read_bytes()
        rng = np.random.default_rng(1)
        for _ in range(25):
            hurt = bytearray(data)
            for place in rng.integers(0, len(data), 20):
                hurt[place] = rng.integers(256)
            path = tmp_path / f"hurt{kind}"
            path.write_bytes(hurt)
            try:
                check_video(VideoFile(path, 0.0, 1.0), at(5))
            except MediaError:
                continue
            assert decode_frames(VideoFile(path, 0.0, 1.0), at(5)).shape == (5, 1, 8, 8)


def test_without_pyav_the_run_ends_and_says_what_to_install(ramps: dict[str, Path], monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'polymnia\[video\]'") as caught:
        check_video(VideoFile(ramps[".mp4"]), SPEC)
    assert not isinstance(caught.value, MediaError)  # or the store would remember the file as broken
