"""Search, metrics, inpainting, localisation, front-end, media."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import CLIP, MEDIA, close, golden_cases, golden_config

import cavmae


def test_the_listing_of_the_readme(model, tmp_path):
    paths = [CLIP, MEDIA / "both.webm", MEDIA / "ten_bit.mp4"]
    model.save(tmp_path / "model.safetensors")
    model = cavmae.load(tmp_path / "model.safetensors", context=model.context)
    embeddings = model.embed_files(paths[:2])
    e = model.embed_file(CLIP)
    index = cavmae.Index(embeddings, context=model.context)
    found = index.search(e.audio, k=10)
    assert len(found) == 2 and {match.name for match in found} == set(paths[:2])
    assert found[0].score >= found[1].score and found.ids.shape == (10,) and found.ids[5] == -1
    assert index.search(e.visual, k=1)[0].name == CLIP


def test_search_is_exact(context):
    random = np.random.default_rng(5)
    rows = random.standard_normal((50, 24), np.float32)
    index = cavmae.Index(dim=24, context=context)
    index.add(rows[:20])
    index.add(rows[20:], names=[f"row {number}" for number in range(20, 50)])
    assert len(index) == 50 and index.dim == 24
    matches = index.search(rows, k=3)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    order = np.argsort(-(unit @ unit.T), axis=1)[:, :3]
    np.testing.assert_array_equal(matches.ids, order)
    assert matches[30][0].name == "row 30" and matches[3][0].name is None and len(list(matches)) == 50
    assert "Match(id=30" in repr(matches[30])


def test_index_files_keep_names(context, tmp_path):
    path = tmp_path / "index"
    rows = np.random.default_rng(2).standard_normal((5, 8), np.float32)
    index = cavmae.Index(rows[:3], names=[CLIP, "line\nbreak", 'a "quote" \udce4 \u00e4'], context=context)
    index.add(rows[3:])
    index.save(path)
    again = cavmae.Index.load(path, context=context)
    assert again.names == [str(CLIP), "line\nbreak", 'a "quote" \udce4 \u00e4', None, None]
    np.testing.assert_array_equal(again.search(rows, k=1).ids[:, 0], range(5))
    assert again.search(rows[0], k=2)[0].name == str(CLIP)
    assert set(cavmae.SafetensorsFile(path, context=context)) == {"rows.0"}  # what C's reader wants
    assert [entry.name for entry in tmp_path.iterdir()] == ["index"]
    again.save(path)  # over the file that it is mapped from
    assert cavmae.Index.load(path, context=context).names == again.names
    with pytest.raises(TypeError, match="names are text, numbers, paths or None"):
        cavmae.Index(rows[:1], names=[object()], context=context).save(path)
    assert cavmae.Index.load(path, context=context).names == again.names  # as it was
    with pytest.raises(cavmae.FileError):
        again.save(tmp_path / "nothing" / "index")
    spoken = cavmae.Index(cavmae.Embedding(audio=rows), context=context)
    spoken.save(path)
    loaded = cavmae.Index.load(path, context=context)
    assert loaded.kind == "audio" and loaded.names == []
    loaded.add(cavmae.Embedding(audio=rows, visual=rows * 0))
    assert len(loaded) == 10


def test_index_files_with_wrong_names(context, tmp_path):
    tensors = {"rows.0": np.eye(2, dtype=np.float32)}
    whole = {"cavmae.index": "1", "cavmae.index.dim": "2"}
    for names, complaint in (('["one"]', "not a list of 2 names"), ('{"a": 1}', "not a list"), ("[", "no JSON"), ("[" * 99999, "no JSON")):
        cavmae.save_safetensors(tmp_path / "index", tensors, {**whole, "cavmae.index.names": names}, context=context)
        with pytest.raises(cavmae.FormatError, match=complaint):
            cavmae.Index.load(tmp_path / "index", context=context)
    with pytest.raises(ValueError, match="1 names for 2 rows"):
        cavmae.Index.load(tmp_path / "index", names=["one"], context=context)


def test_matches_are_a_sequence(context):
    index = cavmae.Index(np.eye(4, dtype=np.float32), names="abcd", context=context)
    found = index.search(np.array([0, 3, 2, 1], np.float32), k=10)
    assert [match.name for match in found] == list("bcda") and found[-1].name == "a"
    assert [match.name for match in found[:2]] == ["b", "c"]
    with pytest.raises(IndexError):
        found[4]


def test_index_files_and_errors(context, tmp_path):
    rows = np.eye(4, dtype=np.float32)
    index = cavmae.Index(rows, names="abcd", context=context)
    index.save(tmp_path / "index")
    again = cavmae.Index.load(tmp_path / "index", names="abcd", context=context)
    assert again.search(rows[2], k=1)[0].name == "c" and len(again) == 4
    with pytest.raises(ValueError, match="queries have a width of 3"):
        index.search(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="embeddings have a width of 5"):
        index.add(np.ones((1, 5), np.float32))
    with pytest.raises(ValueError, match="1 names for 4 rows"):
        index.add(rows, names=["one"])
    with pytest.raises(ValueError, match="k must be"):
        index.search(rows, k=0)
    with pytest.raises(cavmae.ArgumentError):
        index.add(np.zeros((1, 4), np.float32))
    with pytest.raises(ValueError, match="dim"):
        cavmae.Index()
    with pytest.raises(ValueError, match="no 'joint'"):
        cavmae.Index(cavmae.Embedding(audio=rows), kind="joint")


@pytest.mark.parametrize("path", golden_cases("metrics"), ids=lambda path: path.stem)
def test_golden_metrics(path, context):
    file = cavmae.SafetensorsFile(path, context=context)
    got = cavmae.classification_metrics(file["input.scores"], file["input.targets"], context=context)
    assert close(got.average_precision, file["expect.average_precision"].numpy(), 1e-6)
    assert close(got.auc, file["expect.auc"].numpy(), 1e-6)
    assert got.mean_average_precision == pytest.approx(float(file["expect.map"].numpy()), abs=1e-6)
    assert got.d_prime == pytest.approx(float(file["expect.dprime"].numpy()), abs=1e-5)
    accuracy = cavmae.top1_accuracy(file["input.scores"], file["input.class"])
    assert accuracy == pytest.approx(float(file["expect.accuracy"].numpy()), abs=1e-6)
    assert cavmae.topk_accuracy(file["input.scores"], file["input.class"], 1, context=context).accuracy == accuracy
    ranks = cavmae.retrieval_from_similarity(file["input.similarity"])
    for name in ("r1", "r5", "r10", "median_rank"):
        assert getattr(ranks, name) == pytest.approx(float(file[f"expect.{name}"].numpy()), abs=1e-6)


def test_metrics_arguments(context):
    scores = np.random.default_rng(0).random((20, 4), np.float32)
    targets = (scores > 0.5).astype(np.float32)
    some = cavmae.classification_metrics(scores, targets, subset=[1, 3], context=context)
    same = cavmae.classification_metrics(scores, targets, subset=[False, True, False, True], context=context)
    assert some.scored_classes == same.scored_classes == 2 and np.isnan(some.auc[0])
    with pytest.raises(ValueError, match="targets must have the shape"):
        cavmae.classification_metrics(scores, targets[:, :3].copy(), context=context)
    with pytest.raises(ValueError, match="subset has a class"):
        cavmae.classification_metrics(scores, targets, subset=[4], context=context)
    with pytest.raises(TypeError, match="target must be int64"):
        cavmae.top1_accuracy(scores, np.zeros(20, np.int32))
    equal = np.ones((10, 8), np.float32)
    assert cavmae.retrieval_metrics(equal, equal, context=context).r1 == 1
    assert cavmae.retrieval_metrics(equal, equal, ties="against_match", context=context).median_rank == 10
    with pytest.raises(ValueError, match="ties"):
        cavmae.retrieval_metrics(equal, equal, ties="maybe", context=context)
    with pytest.raises(ValueError, match="similarity"):
        cavmae.retrieval_from_similarity(scores)


# ---- Painting, finding


def test_inpainting(model, clips):
    painted = model.inpaint(clips, draw=2)
    assert painted.audio.shape == (4, 128, 128) and painted.image.shape == (4, 3, 64, 64)
    assert painted.mask_a.sum() == 4 * 48 and painted.approximate and painted.error_a > 0
    again = model.inpaint(clips, draw=2)
    np.testing.assert_array_equal(again.image_pasted, painted.image_pasted)
    assert not np.array_equal(model.inpaint(clips, draw=3).mask_a, painted.mask_a)
    assert model.inpaint(clips, mask_ratio_a=0.5).mask_a.sum() == 4 * 32
    mask = np.zeros((4, 16), np.uint8)
    mask[:, 3] = 1
    given = model.inpaint(clips, mask_v=mask)
    np.testing.assert_array_equal(given.mask_v, mask)
    with pytest.raises(cavmae.MismatchError):
        model.inpaint(clips, config=cavmae.Config("base", context=model.context))
    with pytest.raises(ValueError, match="audio_frames"):
        model.inpaint({**clips, "audio_frames": [128] * 4})


def test_localisation(model, clips, context):
    heat = model.localize(clips)
    tokens = model.embed(clips, outputs=("audio", "visual_tokens"))
    visual = tokens.visual_tokens / np.linalg.norm(tokens.visual_tokens, axis=-1, keepdims=True)
    np.testing.assert_allclose(heat.reshape(4, -1), (visual * tokens.audio[:, None]).sum(-1), atol=1e-5)
    large = cavmae.heatmap_resize(heat[0], 64, 96)
    assert large.shape == (64, 96) and large.max() <= heat[0].max() + 1e-6
    maps = np.zeros((2, 4, 4), np.float32)
    maps[0, :2, :2] = 1
    maps[1, 2:, 2:] = 1
    boxes = [(0, 0, 32, 32), [(0, 0, 16, 64), (16, 0, 64, 64)]]
    got = cavmae.localization_metrics(maps, boxes, 64, 64, context=context)
    assert got.iou[0] > 0.9 and got.iou[1] < 0.4 and got.success == 0.5
    assert got.mean_iou == pytest.approx(got.iou.mean())
    with pytest.raises(ValueError, match="boxes are of 1 samples"):
        cavmae.localization_metrics(maps, boxes[:1], 64, 64, context=context)
    with pytest.raises(ValueError, match=r"boxes\[0\] must be"):
        cavmae.localization_metrics(maps[:1], [(1, 2, 3)], 64, 64, context=context)


# ---- Front-end and media


@pytest.mark.parametrize("path", golden_cases("audio"), ids=lambda path: path.stem)
def test_golden_sound(path, context):
    file = cavmae.SafetensorsFile(path, context=context)
    config = golden_config(file, context)
    pcm, rate = file["input.pcm"].numpy().reshape(-1), config.sample_rate
    for got, name in (
        (cavmae.fbank(pcm, rate, context=context), "expect.fbank"),
        (cavmae.prepare_audio(config, pcm, rate), "expect.audio"),
    ):
        expected = file[name].numpy()
        assert got.shape == expected.shape and np.abs(got - expected).mean() < 5e-5


@pytest.mark.parametrize("path", golden_cases("image"), ids=lambda path: path.stem)
def test_golden_pictures(path, context):
    file = cavmae.SafetensorsFile(path, context=context)
    config = golden_config(file, context)
    got, expected = cavmae.prepare_image(config, file["input.rgb"]), file["expect.image"].numpy()
    assert got.shape == expected.shape and np.abs(got - expected).mean() < 1e-3


def test_front_end_arguments(config, context):
    assert cavmae.fbank_frames(16000, 16000) == 98 and cavmae.fbank_frames(10, 16000) == 0
    stereo = np.random.default_rng(2).standard_normal((44100, 2)).astype(np.float32) * 0.1
    assert cavmae.resample(config, stereo, 44100).shape == (16000,)
    wide = np.zeros((80, 200, 3), np.uint8)
    wide[:, 50:150] = 200
    cut = wide[:, 50:150]  # rows lie apart, and are not copied
    np.testing.assert_array_equal(cavmae.resize_image(config, cut), cavmae.resize_image(config, cut.copy()))
    assert cavmae.prepare_image(config, cut).shape == (3, 64, 64)
    with pytest.raises(ValueError, match="pixels must have rows"):
        cavmae.prepare_image(config, wide[:, ::2])
    with pytest.raises(ValueError, match=r"pixels must be \[height, width, 3\]"):
        cavmae.prepare_image(config, np.zeros((8, 8, 4), np.uint8))
    with pytest.raises(TypeError, match="pcm must be float32"):
        cavmae.fbank(np.zeros(1000, np.int16), 16000, context=context)
    with pytest.raises(cavmae.ArgumentError):
        cavmae.prepare_audio(config, np.zeros(10, np.float32), 16000)


def test_media(context):
    info = cavmae.media_probe(CLIP, context=context)
    assert info.audio_channels > 0 and info.width > 0 and not info.still and info.seconds > 0
    assert cavmae.media_probe(CLIP.read_bytes(), context=context) == info
    pcm, rate = cavmae.media_audio(CLIP, context=context)
    assert pcm.shape[1] == info.audio_channels and rate == info.audio_rate and pcm.dtype == np.float32
    frames = cavmae.media_frames(CLIP, [0, info.seconds / 2], context=context)
    assert frames.shape == (2, info.height, info.width, 3) and frames.dtype == np.uint8
    assert cavmae.media_probe(MEDIA / "picture.png", context=context).still
    with pytest.raises(cavmae.MediaError):
        cavmae.media_audio(MEDIA / "picture.png", context=context)


class Made(cavmae.Decoder):
    """One second of silence and grey pictures, of any file."""

    def probe(self, source):
        if source == "broken":
            raise cavmae.FormatError("broken: this is no clip")
        if source == "odd":
            raise ZeroDivisionError("a fault of the decoder")
        return cavmae.MediaInfo(1, 16000, 32, 24, False, 1.0, 10.0)

    def audio(self, source):
        return np.zeros((16000, 1), np.float32), 16000

    def frames(self, source, seconds):
        return [np.full((24, 32, 3), int(100 * time), np.uint8) for time in seconds]


def test_a_decoder_in_python():
    context = cavmae.Context(threads=1)
    context.set_decoder(Made())
    assert cavmae.media_probe("anything", context=context).width == 32
    assert cavmae.media_audio(b"bytes", context=context)[0].shape == (16000, 1)
    assert cavmae.media_frames("anything", [0.5, 1], context=context)[1, 0, 0, 0] == 100
    with pytest.raises(cavmae.FormatError, match="broken: this is no clip"):
        cavmae.media_probe("broken", context=context)
    with pytest.raises(cavmae.InternalError, match="a fault of the decoder"):
        cavmae.media_probe("odd", context=context)
    model = cavmae.Model(cavmae.Config("tiny", context=context))
    assert model.embed_file("anything").joint.shape == (32,)
