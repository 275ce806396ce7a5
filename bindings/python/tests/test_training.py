"""Training: golden cases, checkpoints, outputs, loaders."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import CLASSES, close, fill_by_hash, golden_cases, golden_config

import cavmae


def take_golden_steps(path, context, kind):
    """The model and trainer after a case's steps, and the results."""
    file = cavmae.SafetensorsFile(path, context=context)
    config = golden_config(file, context)
    batch = {"audio": file["input.audio"], "image": file["input.image"]}
    config.batch = batch["audio"].shape[0]
    if kind == "pretrain":
        batch.update(mask_a=file["input.mask_a"], mask_v=file["input.mask_v"])
        if config.modalities != "av":
            unused = {"a": ("image", "mask_v"), "v": ("audio", "mask_a")}[config.modalities]
            batch = {name: value for name, value in batch.items() if name not in unused}
            config.contrast_weight = 0
        for letter in "av":
            mask = file[f"input.mask_{letter}"].numpy()
            config[f"mask_ratio_{letter}"] = 1 - ((mask[0] == 0).sum() + 0.5) / mask.shape[1]
    else:
        batch["labels"] = file["input.labels"]
    model = cavmae.Model(config)
    fill_by_hash(model)
    trainer = cavmae.Trainer(model, config)
    yield file, model, trainer
    for _ in range(json.loads(file.metadata("options")).get("steps", 1)):
        yield trainer.step(batch)


def check_golden(path, context, kind, outputs):
    steps = take_golden_steps(path, context, kind)
    file, model, trainer = next(steps)
    first = next(steps)
    assert first.loss == pytest.approx(file["expect.loss"].numpy().item(), rel=1e-5)
    for name in outputs:
        if f"expect.{name}" in file:
            assert close(trainer.output(name), file[f"expect.{name}"].numpy(), 1e-5), name
    gradients = [name[5:] for name in file if name.startswith("grad.")]
    assert gradients
    for name in gradients:
        if not name.endswith("attn.qkv.bias"):  # whose key third is rounding alone
            assert close(trainer.gradient(name), file[f"grad.{name}"].numpy(), 1e-4), name
    for number, result in enumerate(steps, 2):
        assert result.updated and result.step == number
        assert result.loss == pytest.approx(file[f"step.{number}.loss"].numpy().item(), rel=1e-4)


@pytest.mark.parametrize("path", golden_cases("pretrain"), ids=lambda path: path.stem)
def test_golden_pretraining(path, context):
    check_golden(path, context, "pretrain", ("pred_a", "pred_v", "pooled_a", "pooled_v"))


@pytest.mark.parametrize("path", golden_cases("finetune"), ids=lambda path: path.stem)
def test_golden_finetuning(path, context):
    check_golden(path, context, "finetune", ("logits",))


def test_steps_and_results(model, config, clips):
    optimizer = cavmae.Optimizer(model, config)
    optimizer.group("decoder", lr_factor=0.0)
    with pytest.raises(cavmae.NotFound, match="nothing"):
        optimizer.group("nothing")
    trainer = cavmae.Trainer(model, config, optimizer)
    before = {name: array.copy() for name, array in model.parameters.items()}
    result = trainer.step(clips)
    assert result.updated and result.step == 1 and result.lr == pytest.approx(1e-3) and result.pairs == 4
    assert result.loss == pytest.approx(result.loss_mae + result.loss_c)
    assert optimizer.updates == 1 and trainer.result() == result
    changed = {name for name, array in model.parameters.items() if not np.array_equal(array, before[name])}
    assert "blocks_a.0.norm1.weight" in changed and not any(name.startswith("decoder") for name in changed)
    assert trainer.step(clips, wait=False) is None and trainer.result().step == 2
    with pytest.raises(cavmae.StateError, match="before the first step"):
        optimizer.group("decoder")
    with pytest.raises(cavmae.NotFound):
        trainer.output("logits")
    with pytest.raises(ValueError, match="no output"):
        trainer.output("everything")
    assert trainer.output("mask_a").dtype == np.uint8 and trainer.output("mask_a").sum() == 4 * 48
    with pytest.raises(cavmae.StateError):
        trainer.finetune_step(clips)


def test_masks_are_taken_and_checked(model, config, clips):
    trainer = cavmae.Trainer(model, config)
    mask = np.zeros((4, 64), bool)
    mask[:, 16:] = True
    trainer.pretrain_step(clips, mask_a=mask)
    np.testing.assert_array_equal(trainer.output("mask_a"), mask)
    with pytest.raises(ValueError, match="mask_a has 252 elements, and the clips 256 audio tokens"):
        trainer.pretrain_step(clips, mask_a=mask[:, 1:].copy())
    with pytest.raises(ValueError, match="mask_v has 15 tokens"):
        trainer.pretrain_step(clips, mask_v=np.zeros((4, 15), np.uint8))


def test_evaluation_draws_the_same_masks(model, config, clips):
    trainer = cavmae.Trainer(model, config, evaluate_only=True)
    first, again, other = (trainer.evaluate(clips, number) for number in (0, 0, 1))
    assert first.loss == again.loss != other.loss and not first.updated
    with pytest.raises(cavmae.StateError):
        trainer.step(clips)


def test_a_failed_step_leaves_parameters(model, config, clips):
    trainer = cavmae.Trainer(model, config)
    before = model.parameters["modality_a"].copy()
    with pytest.raises(cavmae.NotFinite, match="step"):
        trainer.step(audio=np.full_like(clips["audio"], np.inf), image=clips["image"])
    np.testing.assert_array_equal(model.parameters["modality_a"], before)
    assert trainer.step(clips).step == 1


def test_finetuning(model, clips):
    config = model.config.copy(classes=3, loss="bce", batch=4, lr=1e-3)
    tuned = model.adapt(config)
    trainer = cavmae.Trainer(tuned, config)
    labels = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    losses = [trainer.step(clips, labels=labels).loss for _ in range(8)]
    assert losses[-1] < losses[0]
    assert trainer.evaluate(clips, labels=labels).loss < losses[0]
    assert trainer.output("logits").shape == (4, 3)
    with pytest.raises(cavmae.CavmaeError, match="labels"):
        trainer.step(clips)
    with pytest.raises(cavmae.StateError):
        trainer.pretrain_step(clips)
    with pytest.raises(ValueError, match="features has a width of 31"):
        trainer.evaluate(features=np.zeros((4, 31), np.float32), labels=labels)


def test_a_checkpoint_goes_on_bit_for_bit(data, context, tmp_path):
    def begin():
        config = cavmae.Config("tiny", batch=2, lr=1e-3, context=context)
        loader = cavmae.Loader(config, data / "train.json", data / "labels.csv")
        return cavmae.Trainer(cavmae.Model(config), config), loader

    straight, loader = begin()
    losses = [straight.step(loader.next()).loss for _ in range(3)]
    broken_off, other = begin()
    assert broken_off.step(other.next()).loss == losses[0]
    broken_off.save(tmp_path / "checkpoint.safetensors", other)
    resumed, place = begin()
    resumed.load(tmp_path / "checkpoint.safetensors", place)
    assert resumed.result().step == 1 and resumed.optimizer.updates == 1
    assert [resumed.step(place.next()).loss for _ in range(2)] == losses[1:]
    with pytest.raises(cavmae.FileError, match="nothing"):
        resumed.load(tmp_path / "nothing")


# ---- Data


def test_loader(data, context):
    config = cavmae.Config("tiny", batch=3, drop_last=0, shuffle=0, context=context)
    loader = cavmae.Loader(config, data / "train.json", data / "labels.csv")
    assert (loader.count, len(loader), loader.classes, loader.class_names) == (8, 3, 3, CLASSES)
    sizes = []
    for batch in loader:
        assert batch.audio.shape == (len(batch), 128, 128) and batch.image.shape == (len(batch), 3, 64, 64)
        assert batch.labels.shape == (len(batch), 3) and batch.labels.sum() == len(batch)
        assert not batch.audio.flags.writeable
        sizes.append(len(batch))
    assert sizes == [3, 3, 2] and loader.epoch == 0 and loader.broken == 0
    assert next(iter(loader)).samples.tolist() == [0, 1, 2] and loader.epoch == 1
    loader.seek(5)
    assert loader.next().samples.tolist() == [5, 6, 7]
    item = loader.item(4)
    assert item.id == "clip4" and item.labels == (1,) and item.label_weights == (1.0,)
    assert item.audio_path.endswith("clip4.wav")
    with pytest.raises(cavmae.CavmaeError):
        loader.item(8)


def test_a_batch_is_valid_until_the_next(data, context, model):
    config = cavmae.Config("tiny", batch=4, context=context)
    loader = cavmae.Loader(config, data / "train.json")
    first = loader.next()
    kept = first.copy()
    expected = model.embed(first).audio
    loader.next()
    with pytest.raises(cavmae.StateError, match="its loader has gone on"):
        model.embed(first)
    with pytest.raises(cavmae.StateError, match="its loader has gone on"):
        model.embed(first.replace(labels=None))
    np.testing.assert_array_equal(model.embed(kept).audio, expected)


def test_loaders_of_other_forms(data, context):
    native = cavmae.Config("tiny", batch=2, audio_length="native", context=context)
    batch = cavmae.Loader(native, data / "train.json").next()
    assert batch.audio.shape == (batch.audio_frames.sum(), 128) and batch.audio_frames[0] == 160
    every = cavmae.Config("tiny", batch=2, frame=-3, context=context)
    assert cavmae.Loader(every, data / "train.json").next().image.shape == (2, 10, 3, 64, 64)
    with pytest.raises(cavmae.FileError, match="nothing.json"):
        cavmae.Loader(every, data / "nothing.json")


def test_pack(data, context, tmp_path):
    config = cavmae.Config("tiny", batch=4, shuffle=0, context=context)
    told = []
    report = cavmae.pack(
        config, data / "train.json", tmp_path / "pack", data / "labels.csv", progress=lambda *what: told.append(what)
    )
    assert report.clips == 8 and report.broken == 0 and told[-1] == ("packing", 8, 8)
    assert cavmae.pack_info(tmp_path / "pack", context=context) == report
    packed = cavmae.Loader(config, tmp_path / "pack", data / "labels.csv").next()
    plain = cavmae.Loader(config, data / "train.json", data / "labels.csv").next()
    np.testing.assert_array_equal(packed.audio, plain.audio)
    np.testing.assert_array_equal(packed.labels, plain.labels)
    with pytest.raises(cavmae.FormatError):
        cavmae.pack_info(data / "train.json", context=context)


def test_training_over_a_loader(data, context):
    config = cavmae.Config("tiny", batch=4, lr=1e-3, context=context)
    trainer = cavmae.Trainer(cavmae.Model(config), config)
    loader = cavmae.Loader(config, data / "train.json")
    losses = [trainer.step(batch).loss for _ in range(3) for batch in loader]
    assert len(losses) == 6 and losses[-1] < losses[0]
