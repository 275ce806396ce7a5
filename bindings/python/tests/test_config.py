"""Config, and the errors that everything shares."""

from __future__ import annotations

import pytest

import cavmae


def test_keyword_arguments_attributes_and_items(context):
    config = cavmae.Config("tiny", batch=3, lr=1e-3, mask_mode_a="time", milestones=[10, 20], context=context)
    assert (config.batch, config.lr, config.mask_mode_a, config.milestones) == (3, 1e-3, "time", "10,20")
    config.batch = 5
    config["lr"] = "0.25"
    config.update(shuffle=False, image_mean=(0.5, 0.25, 0.125))
    assert (config["batch"], config["lr"], config.shuffle, config.image_mean) == (5, 0.25, 0, "0.5,0.25,0.125")
    assert set(config) == set(config.keys()) and len(config) >= 90 and "batch" in config and "batches" not in config
    assert {"batch", "lr", "check"} <= set(dir(config))


def test_types_are_pythons(config):
    assert type(config.batch) is int and type(config.lr) is float and type(config.mode) is str


def test_unknown_keys_say_what_is_near(config):
    with pytest.raises(AttributeError, match="is it .*mask_ratio_a"):
        config.mask_ratio = 0.5
    with pytest.raises(AttributeError, match="no key 'batchs'; is it batch"):
        config.batchs
    with pytest.raises(KeyError, match="no key"):
        config["nothing"]
    with pytest.raises(cavmae.NotFound):
        cavmae.Config("tiny", nonsense=1)


def test_ranges_are_the_librarys(config):
    with pytest.raises(ValueError, match="patch_size") as caught:
        config.patch_size = 0
    assert isinstance(caught.value, cavmae.ArgumentError) and caught.value.status == -1
    with pytest.raises(cavmae.ArgumentError, match="mask_mode_a"):
        config.mask_mode_a = "diagonal"
    with pytest.raises(OverflowError):
        config.batch = 2**70
    with pytest.raises(TypeError, match="lr is a number"):
        config.lr = object()
    with pytest.raises(cavmae.ArgumentError):
        config.batch = 1.5
    config.embed_dim = 36
    config.num_heads = 7
    with pytest.raises((cavmae.ShapeError, cavmae.ArgumentError), match="num_heads|embed_dim"):
        config.check()


def test_presets_and_recipes(context):
    assert cavmae.Config(context=context).embed_dim == 768
    with pytest.raises(cavmae.NotFound):
        cavmae.Config("huge", context=context)
    config = cavmae.Config("base", recipe="finetune-vggsound", classes=309, context=context)
    assert config.trainable_pos == 1 and config.loss == "ce"
    with pytest.raises(cavmae.NotFound, match="pretrain-paper"):
        config.apply("pretrain-nothing")


def test_data_for_evaluation(config):
    recipe = config.copy(recipe="finetune-as20k", classes=3)
    assert recipe.mixup == 0.5 and recipe.classes == 3 and config.mixup == 0
    plain = recipe.for_evaluation(batch=2)
    changed = {name for name in plain if plain[name] != recipe[name]}
    off = {"shuffle", "drop_last", "noise", "roll", "freq_mask", "time_mask", "mixup", "label_smoothing"}
    assert changed == off | {"frame", "batch"} and plain.frame == -1 and not any(plain[name] for name in off)
    assert recipe.for_evaluation(frame=-3).frame == -3
    balanced = config.copy(recipe="finetune-vggsound", shuffle_pairs=1).for_evaluation()
    assert not balanced.balanced and not balanced.shuffle_pairs


def test_copies_and_equality(config):
    other = config.copy(batch=7)
    assert (config.batch, other.batch) == (4, 7)
    assert config == config.copy() and config != other and config != "config"
    with pytest.raises(TypeError):
        del config["batch"]


def test_repr_and_descriptions(config):
    config.mask_mode_v = "frequency"
    assert repr(config) == "Config('tiny', mask_mode_v='frequency', lr=0.001)"
    modes = "mask_mode_a: unstructured | time | frequency | time_frequency; "
    assert str(config.describe("mask_mode_a")).startswith(modes)
    assert str(config.describe("mlp_ratio")) == (
        "mlp_ratio: float from 0.01 to 64; hidden width is (int)(D * mlp_ratio). 4.0"
    )
    assert "filled up to the first), pictures and labels" in config.describe("mixup").meaning
    assert config.changes() == {"mask_mode_v": "frequency", "lr": 0.001}


def test_every_key_has_a_meaning():
    from cavmae.config import keys

    without = [name for name, info in keys().items() if not info.meaning]
    # These say no more than their names: "lr. 5e-5" has a default, which is the least.
    assert not without
    assert not [name for name, info in keys().items() if "*/" in info.meaning or "  " in info.meaning]


def test_every_key_can_be_read_and_set_to_itself(config):
    for name, value in config.items():
        if value != "":
            config[name] = value
        assert config[name] == value


def test_memory_required(config):
    memory = cavmae.memory_required(config, "pretrain", 4)
    assert memory.total > memory.parameters > 0 and memory.moments == 2 * 4 * memory.elements
    assert cavmae.memory_required(config, "embed", 4).moments == 0
    with pytest.raises(ValueError, match="task"):
        cavmae.memory_required(config, "sleep", 4)


def test_every_status_has_its_exception():
    from cavmae import _errors, _records

    statuses = {value for name, value in _records.CONSTANTS.items() if name.startswith("E_")}
    assert set(_errors.BY_STATUS) == statuses
    assert issubclass(cavmae.OutOfMemory, MemoryError) and issubclass(cavmae.NotFound, KeyError)
    assert str(cavmae.NotFound("a sentence")) == "a sentence"


def test_closed_objects_say_so(config):
    with cavmae.Config("tiny", context=config.context) as other:
        assert other.batch
    with pytest.raises(cavmae.StateError, match="Config is closed"):
        other.batch
    other.close()
    assert repr(other) == "Config(closed)"


def test_objects_are_not_pickled(config):
    import pickle

    with pytest.raises(TypeError, match="save it to a file"):
        pickle.dumps(config)
