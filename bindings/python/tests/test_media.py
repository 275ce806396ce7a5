"""FFmpeg's programs in the plug-in's place, and what is said where neither is there."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest
from conftest import CLIP, MEDIA, run_python, write_sound

import cavmae

needs_programs = pytest.mark.skipif(not shutil.which("ffmpeg") or not shutil.which("ffprobe"), reason="no ffmpeg")

TIMES = [0.0, 0.35, 1.5, 99.0]
# Where the two differ, and README.md says so: opus's end, JPEG's pixels, Exif.
DIFFERENT = {"both.webm": {"audio"}, "picture.jpg": {"frames"}, "turned.jpg": {"probe", "frames"}}


def outcome(function, *arguments, **options):
    try:
        return function(*arguments, **options)
    except cavmae.CavmaeError as error:
        return type(error)


@pytest.fixture(scope="module")
def programs():
    context = cavmae.Context(threads=1)
    context.set_decoder(cavmae.FFmpegPrograms())
    return context


@needs_programs
@pytest.mark.parametrize("path", sorted(set(MEDIA.iterdir()) - {MEDIA / "README.md"}), ids=lambda path: path.name)
def test_programs_are_like_the_plugin(path, context, programs):
    for media in (path, path.read_bytes()) if path == CLIP else (path,):
        got = {
            name: [outcome(function, media, *more, context=which) for which in (context, programs)]
            for name, function, more in (
                ("probe", cavmae.media_probe, ()),
                ("audio", cavmae.media_audio, ()),
                ("frames", cavmae.media_frames, (TIMES,)),
            )
        }
        different = DIFFERENT.get(path.name, set())
        if "probe" not in different:
            plugin, program = got["probe"]
            assert program.seconds == pytest.approx(plugin.seconds, abs=1e-5)
            for name in ("audio_channels", "audio_rate", "width", "height", "still"):
                assert getattr(program, name) == getattr(plugin, name), name
        for name, close in (("audio", 1e-6), ("frames", 0)):
            plugin, program = got[name]
            if isinstance(plugin, type) or isinstance(program, type):
                assert plugin is program
            elif name not in different:
                if name == "audio":
                    assert plugin[1] == program[1]
                    plugin, program = plugin[0], program[0]
                np.testing.assert_allclose(program.astype(float), plugin.astype(float), rtol=0, atol=close)


@needs_programs
def test_programs_take_the_plugins_place(data, model, tmp_path):
    said = []
    # A folder without plug-ins.
    context = cavmae.Context(
        threads=1, plugin_dir=tmp_path, log_level="info", log=lambda level, text: said.append((level, text))
    )
    model.save(tmp_path / "model")
    other = cavmae.load(tmp_path / "model", context=context)
    for kind in ("audio", "visual"):
        got, wanted = (getattr(one.embed_file(CLIP), kind) for one in (other, model))
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert [text for level, text in said if "decoded by the program ffmpeg: plug-in libcavmae-media.so" in text]
    two = [{"video_id": name, "wav": str(data / f"{name}.wav"), "video_path": str(data)} for name in ("clip0", "clip1")]
    (tmp_path / "two.json").write_text(json.dumps({"data": two}))
    config = cavmae.Config("tiny", batch=2, context=cavmae.Context(1, plugin_dir=tmp_path), queue=1)
    assert cavmae.Loader(config, tmp_path / "two.json").next().audio.shape == (2, 128, 128)
    config = cavmae.Config("tiny", context=cavmae.Context(1, plugin_dir=tmp_path))
    assert cavmae.pack(config, tmp_path / "two.json", tmp_path / "pack").clips == 2


@needs_programs
def test_programs_say_what_is_wrong(programs, tmp_path, monkeypatch):
    for media, kind, words in (
        (tmp_path / "nothing.mp4", cavmae.FileError, "nothing.mp4: "),
        (tmp_path, cavmae.FileError, "it is no file"),
        (__file__, cavmae.FormatError, "test_media.py: "),
        (b"", cavmae.FormatError, "memory: no media file"),
        (b"words", cavmae.FormatError, "memory: "),
    ):
        for function in (cavmae.media_probe, cavmae.media_audio, lambda *a, **k: cavmae.media_frames(*a, [0], **k)):
            with pytest.raises(kind, match=words):
                function(media, context=programs)
    monkeypatch.chdir(tmp_path)
    for name in ("-i tone.wav", "pipe:tone.wav"):  # neither an option nor a protocol
        write_sound(tmp_path / name, 440)
        assert cavmae.media_audio(name, context=programs)[1] == 16000
    with pytest.raises(cavmae.MediaError, match="no pictures"):
        cavmae.media_frames("-i tone.wav", [0], context=programs)
    with pytest.raises(cavmae.MediaError, match="no sound"):
        cavmae.media_audio(MEDIA / "picture.png", context=programs)


NEITHER = """
import cavmae, numpy as np
model = cavmae.Model(cavmae.Config("tiny", context=cavmae.Context(threads=1, plugin_dir="/nowhere")))
print(model.embed(audio=np.ones((1, 128, 128), np.float32)))
try:
    model.embed_file("tone.wav")
except cavmae.BackendError as error:
    print(error)
try:
    cavmae.FFmpegPrograms()
except cavmae.BackendError as error:
    print(error)
"""


def test_without_either_it_says_what_to_install():
    done = run_python(NEITHER, PATH="/nowhere")
    assert (done.stderr, done.returncode) == ("", 0)
    embedded, file, programs = done.stdout.splitlines()
    assert embedded == "Embedding(audio=(1, 32))"
    assert "libcavmae-media.so cannot be loaded" in file and "apt install ffmpeg" in file and "set_decoder" in file
    assert "there are no programs ffmpeg and ffprobe" in programs


def test_a_decoder_of_ones_own_is_left_alone(model, tmp_path):
    """Nobody looks for another one."""

    class Silence(cavmae.Decoder):
        def probe(self, source):
            return cavmae.MediaInfo(audio_channels=1, audio_rate=16000, seconds=1.0)

        def audio(self, source):
            return np.zeros((16000, 1), np.float32), 16000

    context = cavmae.Context(threads=1, plugin_dir=tmp_path)
    context.set_decoder(Silence())
    sound, rate = cavmae.media_audio(CLIP, context=context)
    assert rate == 16000 and not sound.any()


def test_messages_of_the_package_follow_the_level(caplog):
    with caplog.at_level(logging.DEBUG, "cavmae"):
        cavmae.Context(threads=1)._tell(30, "quiet")
        cavmae.Context(threads=1, log_level="info")._tell(30, "heard")
    assert [record.getMessage() for record in caplog.records] == ["heard"]
