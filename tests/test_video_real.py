"""Two real videos: their frames and sound, twice the same."""

from __future__ import annotations

import numpy as np
import pytest
from clips import peak_hertz
from PIL import Image
from real import DATA

from polymnia.data.media import audio_length, decode_audio
from polymnia.data.video import check_video, decode_frames, middle_frame
from polymnia.types import AudioFile, ImageSpec, VideoFile

VIDEOS = DATA / "av_video2"
BUNNY, NASA = VIDEOS / "big_buck_bunny_small.mp4", VIDEOS / "nasa_13013.mp4"
pytestmark = pytest.mark.skipif(not VIDEOS.exists(), reason="the real videos are not beside this checkout")


@pytest.mark.parametrize(("path", "seconds", "pictures"), [(BUNNY, 5.28, 132), (NASA, 13.013, 390)])
def test_real_videos_have_the_frames_that_their_headers_say(path, seconds: float, pictures: int):
    rate = pictures / seconds
    source, spec = VideoFile(path), ImageSpec(16, 3, fps=rate)
    frames = decode_frames(source, spec)
    assert len(frames) == check_video(source, spec) == pictures
    assert np.array_equal(frames, decode_frames(source, spec))
    slow = decode_frames(source, ImageSpec(16, 3, fps=1.0))
    assert len(slow) == round(seconds) and slow.std() > 10
    part = decode_frames(VideoFile(path, 2.0, 3.0), ImageSpec(16, 3, fps=1.0))
    apart = np.abs(part.astype(int) - frames[[round(t * rate - 0.5) for t in (2.5, 3.5, 4.5)]]).mean(axis=(1, 2, 3))
    assert apart.max() < 8  # the same picture or the next one
    assert middle_frame(source, spec).shape == (3, 16, 16)


@pytest.mark.parametrize(("path", "seconds"), [(BUNNY, 5.312), (NASA, 13.056)])
def test_real_videos_have_the_sound_that_their_headers_say(path, seconds: float):
    source = AudioFile(path)
    x = decode_audio(source, 32000)
    assert audio_length(source) == pytest.approx(seconds, abs=1e-3) and len(x) == round(seconds * 32000)
    assert np.array_equal(x, decode_audio(source, 32000)) and x.std() > 1e-3
    np.testing.assert_allclose(decode_audio(AudioFile(path, 2.0, 1.0), 32000), x[64000:96000], atol=1e-4)


def test_of_two_languages_and_sizes_the_larger_is_taken():
    """The file has a picture of 320 pixels with mono sound at 8 kHz, and one of 480 with stereo sound at 16 kHz."""
    x = decode_audio(AudioFile(NASA), 32000)
    spectrum = np.abs(np.fft.rfft(x)) ** 2
    hertz = np.fft.rfftfreq(len(x), 1 / 32000)
    assert 1e-6 < spectrum[hertz > 4200].sum() / spectrum.sum() < 0.5  # more than 8 kHz can hold
    assert peak_hertz(x, 32000) < 4000
    frame = decode_frames(VideoFile(NASA), ImageSpec(270, 3, fps=0.1))[0]
    blurred = Image.fromarray(frame.transpose(1, 2, 0)).resize((180, 180)).resize((270, 270))
    assert np.abs(frame.transpose(1, 2, 0) - np.asarray(blurred, int)).mean() > 0.5  # it has details of its own size
