"""Models and embeddings: golden cases, files, windows, threads, cancellation."""

from __future__ import annotations

import signal
import threading
import time

import numpy as np
import pytest
from conftest import CASES, CLIP, MEDIA, close, fill_by_hash, golden_cases, golden_config, write_sound

import cavmae


@pytest.mark.parametrize("path", golden_cases("features"), ids=lambda path: path.stem)
def test_golden_features(path, context):
    file = cavmae.SafetensorsFile(path, context=context)
    model = cavmae.Model(golden_config(file, context))
    fill_by_hash(model)
    names = {
        "audio": "embed_a",
        "visual": "embed_v",
        "joint": "embed_av",
        "audio_tokens": "tokens_a",
        "visual_tokens": "tokens_v",
        "joint_tokens": "tokens_av",
    }
    batch = {"audio": file["input.audio"], "image": file["input.image"]}  # Tensors: by DLPack
    got = model.embed(batch, outputs=tuple(names)).arrays()
    for output, name in names.items():
        assert close(got[output], file[f"expect.{name}"].numpy(), 3e-6), output


def test_golden_features_are_there():
    assert golden_cases("features") and golden_cases("pretrain") and golden_cases("metrics")


def test_outputs_follow_the_input(model, clips):
    both = model.embed(clips)
    assert (both.audio.shape, both.visual.shape, both.joint.shape) == ((4, 32), (4, 32), (4, 32))
    assert both.scores is None and both.audio.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(both.visual, axis=1), 1, rtol=1e-6)
    sound = model.embed(audio=clips["audio"])
    assert sound.visual is None and sound.joint is None
    np.testing.assert_array_equal(sound.audio, both.audio)
    alone = model.embed(image=clips["image"][2:3])  # a clip's company does not matter
    np.testing.assert_array_equal(alone.visual, both.visual[2:3])


def test_tokens_frames_and_lengths(model, clips):
    tokens = model.embed(clips, outputs=("audio_tokens", "visual_tokens", "joint_tokens"))
    assert tokens.audio_tokens.shape == (4, 64, 32) and tokens.visual_tokens.shape == (4, 16, 32)
    assert tokens.joint_tokens.shape == (4, 80, 32)
    image = np.repeat(clips["image"][:, None], 3, axis=1)
    framed = model.embed(audio=clips["audio"], image=image, outputs=("audio", "visual", "joint", "joint_tokens"))
    assert framed.audio.shape == (4, 32) and framed.visual.shape == (4, 3, 32) and framed.joint.shape == (4, 3, 32)
    assert framed.joint_tokens.shape == (4, 3, 80, 32)
    np.testing.assert_array_equal(framed.joint_tokens[:, 1], tokens.joint_tokens)
    lengths = np.array([32, 128, 64, 16], np.int32)
    flat = np.concatenate([clip[:frames] for clip, frames in zip(clips["audio"], lengths)])
    uneven = model.embed(
        audio=flat, image=clips["image"], audio_frames=lengths, outputs=("audio", "joint_tokens", "audio_tokens")
    )
    assert uneven.audio_tokens.shape == (lengths.sum() // 16 * 8, 32)
    assert uneven.joint_tokens.shape == (lengths.sum() // 16 * 8 + 4 * 16, 32)
    np.testing.assert_array_equal(uneven.audio[1], model.embed(audio=clips["audio"]).audio[1])


def test_raw_inputs_are_prepared_on_the_way(model):
    random = np.random.default_rng(3)
    pcm = random.integers(-8000, 8000, (2, 20000), np.int16)
    pixels = random.integers(0, 255, (2, 80, 100, 3), np.uint8)
    raw = model.embed(pcm=pcm, pixels=pixels)
    config = model.config
    audio = np.stack([cavmae.prepare_audio(config, row.astype(np.float32) / 32768, 16000) for row in pcm])
    image = np.stack([cavmae.prepare_image(config, picture) for picture in pixels])
    prepared = model.embed(audio=audio, image=image)
    np.testing.assert_array_equal(raw.joint, prepared.joint)


def test_arguments_are_checked_by_name(model, clips):
    with pytest.raises(TypeError, match="audio must be float32, not float64"):
        model.embed(audio=clips["audio"].astype(np.float64))
    with pytest.raises(ValueError, match="image must be C-contiguous"):
        model.embed(image=clips["image"].transpose(0, 1, 3, 2))
    with pytest.raises(ValueError, match="image must have 4 or 5 dimensions, not 3"):
        model.embed(image=clips["image"][0])
    with pytest.raises(ValueError, match="audio has 64 mel bins, and the model 128"):
        model.embed(audio=np.zeros((1, 128, 64), np.float32))
    with pytest.raises(ValueError, match="audio has 64 frames a clip"):
        model.embed(audio=np.zeros((1, 64, 128), np.float32))
    with pytest.raises(ValueError, match=r"image has pictures of \(3, 32, 32\)"):
        model.embed(image=np.zeros((1, 3, 32, 32), np.float32))
    with pytest.raises(ValueError, match="image is of 2 clips, and the batch of 4"):
        model.embed(audio=clips["audio"], image=clips["image"][:2])
    with pytest.raises(ValueError, match="audio_frames adds up to 48 frames, and audio has 64"):
        model.embed(audio=np.zeros((64, 128), np.float32), audio_frames=[32, 16])
    with pytest.raises(ValueError, match="no output 'sound'"):
        model.embed(clips, outputs=("sound",))
    with pytest.raises(ValueError, match="head"):
        model.embed(clips, outputs=("scores",))
    with pytest.raises(ValueError, match="no mode"):
        model.embed(clips, mode="both")
    with pytest.raises(ValueError, match="nothing to embed"):
        model.embed()
    with pytest.raises(cavmae.ArgumentError, match="image is NULL"):
        model.embed(audio=clips["audio"], outputs=("visual",))
    with pytest.raises(cavmae.NotFinite, match="not finite"):
        model.embed(audio=np.full((1, 128, 128), np.nan, np.float32))


def test_scores_of_a_head(model, clips):
    tuned = model.adapt(classes=5, loss="ce")
    assert tuned.classes == 5 and tuned.load_report.missing > 0 and tuned.load_report.unexpected > 0
    e = tuned.embed(clips, outputs=("logits", "scores", "features"))
    np.testing.assert_allclose(e.scores.sum(axis=1), 1, rtol=1e-5)
    image = np.repeat(clips["image"][:, None], 2, axis=1)
    framed = tuned.embed(audio=clips["audio"], image=image, outputs=("logits", "scores"), average="logits")
    assert framed.logits.shape == (4, 2, 5) and framed.scores.shape == (4, 5)
    heard = tuned.embed(audio=clips["audio"], image=image, outputs=("logits", "features"), mode="audioonly")
    assert heard.logits.shape == (4, 5) and heard.features.shape == (4, 32)
    wide = model.adapt(classes=5, head_input="concat").embed(clips, outputs=("features", "logits"))
    assert wide.features.shape == (4, 64)


def test_models_of_one_modality(context, clips):
    heard = cavmae.Model(cavmae.Config("tiny", modalities="a", contrast_weight=0, context=context))
    e = heard.embed(clips)
    assert e.audio.shape == (4, 32) and e.visual is None and e.joint is None
    with pytest.raises(cavmae.ArgumentError, match="visual"):
        heard.embed(clips, outputs=("visual",))


# ---- Loading and saving


def test_save_and_load(model, clips, tmp_path):
    model.save(tmp_path / "model.safetensors")
    again = cavmae.load(tmp_path / "model.safetensors", context=model.context)
    assert again.load_report.matched == len(model.parameters) and again.config == model.config
    np.testing.assert_array_equal(again.embed(clips).joint, model.embed(clips).joint)


def test_load_errors_name_the_file(tmp_path, context):
    with pytest.raises(OSError, match="nothing.safetensors") as caught:
        cavmae.load(tmp_path / "nothing.safetensors", context=context)
    assert isinstance(caught.value, cavmae.FileError) and caught.value.status == -4
    (tmp_path / "bad.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(cavmae.FormatError, match="bad.safetensors"):
        cavmae.load(tmp_path / "bad.safetensors", context=context)


def test_vision_mae_and_mismatch(context, model, tmp_path):
    adapted = cavmae.load(CASES / "vision_mae_float16.pth", context=context)
    assert adapted.load_report.missing > 0 and adapted.load_report.matched > 0
    model.save(tmp_path / "model.safetensors")
    file = cavmae.SafetensorsFile(tmp_path / "model.safetensors", context=context)
    fewer = {name: file[name] for name in list(file)[1:]}
    metadata = {"cavmae.config": file.metadata("cavmae.config")}
    cavmae.save_safetensors(tmp_path / "fewer.safetensors", fewer, metadata, context=context)
    with pytest.raises(cavmae.MismatchError, match="fewer.safetensors") as mismatch:
        cavmae.load(tmp_path / "fewer.safetensors", context=context)
    assert mismatch.value.load_report.missing == 1
    assert cavmae.load(tmp_path / "fewer.safetensors", allow_missing=True, context=context).load_report.missing == 1


def test_parameters_are_views(model):
    name = "blocks_a.0.norm1.weight"
    view = model.parameters[name]
    assert name in model.parameters and "nothing" not in model.parameters
    assert len(list(model.parameters)) == len(model.parameters) == len(dict(model.parameters))
    with pytest.raises(ValueError):
        view[0] = 2
    model.parameters[name] = np.full(32, 3, np.float32)
    assert model.parameters[name][5] == 3
    with pytest.raises(cavmae.NotFound, match="nothing"):
        model.parameters["nothing"]
    with pytest.raises(ValueError, match=r"has the shape \(32,\)"):
        model.parameters[name] = np.zeros(31, np.float32)
    total = sum(array.size for array in model.parameters.values())
    assert model.elements() == total > model.elements(trainable=True) > 0


def test_average_and_bfloat16(model, context, clips, tmp_path):
    other = cavmae.Model(model.config.copy(seed=9))
    for number, one in enumerate((model, other)):
        one.save(tmp_path / f"{number}.safetensors")
    out = tmp_path / "mean.safetensors"
    cavmae.average_models([tmp_path / "0.safetensors", tmp_path / "1.safetensors"], out, context=context)
    mean, name = cavmae.load(out, context=context), "modality_a"
    np.testing.assert_allclose(
        mean.parameters[name], (model.parameters[name] + other.parameters[name]) / 2, rtol=1e-6, atol=1e-9
    )
    exact = model.embed(clips).audio
    narrow = model.set_dtype("bfloat16").embed(clips).audio
    assert 1e-6 < np.abs(exact - narrow).max() < 0.05
    with pytest.raises(ValueError, match="dtype"):
        model.set_dtype("float99")


# ---- Files


def test_files_and_bytes(model):
    e = model.embed_file(CLIP)
    assert e.audio.shape == (32,) and e.joint.shape == (32,) and repr(e).startswith("Embedding(audio=(32,)")
    same = model.embed_file(CLIP.read_bytes())
    np.testing.assert_array_equal(same.joint, e.joint)
    assert model.embed_file(CLIP, frames=3).visual.shape == (3, 32)


def test_a_file_without_a_track_lacks_what_needs_it(model, tmp_path):
    write_sound(tmp_path / "tone.wav", 440)
    sound = model.embed_file(tmp_path / "tone.wav")
    assert sound.audio is not None and sound.visual is None and sound.joint is None
    assert model.embed_file(MEDIA / "picture.jpg").audio is None
    with pytest.raises(cavmae.MediaError, match="tone.wav"):
        model.embed_file(tmp_path / "tone.wav", outputs=("visual",))
    with pytest.raises(cavmae.FileError, match="missing.mp4"):
        model.embed_file("missing.mp4")
    with pytest.raises(cavmae.FormatError):
        model.embed_file(b"")
    with pytest.raises(TypeError, match="media must be a path"):
        model.embed_file(7)


def test_many_files(model, tmp_path):
    write_sound(tmp_path / "tone.wav", 440)
    paths = [CLIP, MEDIA / "both.webm", tmp_path / "tone.wav"]
    seen = []
    e = model.embed_files(paths, progress=lambda what, done, total: seen.append((done, total)), skip_broken=True)
    assert e.paths == tuple(paths[:2]) and len(e) == 2 and e.joint.shape == (2, 32)
    assert list(e.failed) == [paths[2]] and seen[-1] == (3, 3)
    np.testing.assert_array_equal(e.visual[0], model.embed_file(CLIP).visual)
    with pytest.raises(cavmae.MediaError, match=r"tone.wav.*outputs=\('audio',\)"):
        model.embed_files(paths)
    with pytest.raises(TypeError, match="a list of files"):
        model.embed_files("clip.mp4")
    assert model.embed_files(paths, outputs=("audio",)).audio.shape == (3, 32)
    assert model.embed_files([]).audio.shape == (0, 32)


def test_windows(model):
    seconds = cavmae.media_probe(CLIP).seconds
    windows = model.embed_windows(CLIP, window=0.5)
    assert len(windows) == len(windows.audio) > 1 and windows.end[-1] == pytest.approx(seconds, abs=0.1)
    one_by_one = []
    model.embed_windows(CLIP, window=0.5, each=lambda start, end, e: one_by_one.append((start, e.audio)))
    np.testing.assert_array_equal(np.stack([row for _, row in one_by_one]), windows.audio)
    pooled = model.embed_windows(CLIP, window=0.5, pool=True)
    mean = windows.audio.mean(axis=0)
    np.testing.assert_allclose(pooled.audio, mean / np.linalg.norm(mean), rtol=1e-5, atol=1e-6)

    def fails(start, end, e):
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        model.embed_windows(CLIP, window=0.5, each=fails)


# ---- Threads and cancellation


def test_four_threads_embed_at_once(model, clips):
    expected = model.embed(clips).joint
    wrong = []

    def work():
        for _ in range(10):
            if not np.array_equal(model.embed(clips).joint, expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong


def many(clips, times):
    return {name: np.tile(array, (times, *[1] * (array.ndim - 1))) for name, array in clips.items()}


def test_the_gil_is_released(config):
    """In a call without callbacks, in which nothing else would give it up."""
    counted, done = [0], threading.Event()

    def count():
        while not done.is_set():
            counted[0] += 1
            time.sleep(0.001)

    other = threading.Thread(target=count)
    other.start()
    before = counted[0]
    cavmae.resample(config, np.zeros((44100 * 60, 2), np.float32), 44100)
    during = counted[0] - before
    done.set()
    other.join()
    assert during > 20


def test_cancel(clips):
    wanted = []
    context = cavmae.Context(threads=1, cancel=lambda: wanted)
    model = cavmae.Model(cavmae.Config("tiny", context=context))
    assert model.embed(clips)
    wanted.append("to stop")
    with pytest.raises(cavmae.Cancelled) as caught:
        model.embed(clips)
    assert caught.value.status == -11


def test_exceptions_come_out_of_callbacks(clips):
    class Special(Exception):
        pass

    def raises(*arguments):
        raise Special("from a callback")

    for name in ("cancel", "progress"):
        context = cavmae.Context(threads=1, **{name: raises})
        with pytest.raises(Special, match="from a callback"):
            model = cavmae.Model(cavmae.Config("tiny", context=context))
            model.embed(clips)
    quiet = cavmae.Model(cavmae.Config("tiny", context=cavmae.Context(threads=1)))
    with pytest.raises(Special):
        quiet.embed(clips, progress=raises)
    assert quiet.embed(clips).audio is not None  # nothing is left over


def test_progress(clips):
    told = []
    context = cavmae.Context(threads=1, progress=lambda *what: told.append(what))
    model = cavmae.Model(cavmae.Config("tiny", context=context))
    model.embed(clips)
    assert told[-1] == ("clips embedded", 4, 4)
    mine = []
    told.clear()
    model.embed(clips, progress=lambda *what: mine.append(what))
    assert mine and not told


def test_messages_go_to_logging(caplog, tmp_path, context):
    levels = []
    loud = cavmae.Context(threads=1, log=lambda level, text: levels.append((level, text)), log_level="debug")
    cavmae.load(CASES / "vision_mae_float16.pth", allow_missing=True, allow_unexpected=True, context=loud)
    assert any(level == 30 for level, _ in levels)
    with caplog.at_level("DEBUG", logger="cavmae"):
        named = cavmae.Context(threads=1, log_level="info")
        cavmae.load(CASES / "vision_mae_float16.pth", allow_missing=True, allow_unexpected=True, context=named)
    assert caplog.records and caplog.records[0].levelname == "INFO"
    with pytest.raises(ValueError, match="log_level"):
        cavmae.Context(log_level="loud")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers")
def test_ctrl_c_ends_a_long_call(model, clips):
    batch = many(clips, 2000)

    def interrupt():
        time.sleep(0.2)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        while time.monotonic() < began + 30:
            model.embed(batch)
    assert time.monotonic() - began < 5
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert model.embed(clips).audio is not None


def test_a_handler_that_does_not_raise_lets_the_call_go_on(model, clips):
    heard = []
    before = signal.signal(signal.SIGALRM, lambda *what: heard.append(what))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        expected = model.embed(clips).joint
        got = model.embed(many(clips, 200)).joint
        assert heard and np.array_equal(got[:4], expected)
    finally:
        signal.signal(signal.SIGALRM, before)
