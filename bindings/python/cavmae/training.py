"""Training: optimizers and trainers."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Optional, overload

import numpy as np

from . import _records as r
from ._abi import optimizer as optimizer_pointer
from ._abi import tensor as tensor_pointer
from ._abi import trainer as trainer_pointer
from ._calls import call
from ._handles import Handle, made
from ._library import library
from .batch import Batch, BatchLike, as_batch
from .config import Config
from .context import Path
from .model import Model
from .tensor import Tensor

if TYPE_CHECKING:
    from .data import Loader

OUTPUTS = ("pred_a", "pred_v", "pooled_a", "pooled_v", "mask_a", "mask_v", "logits", "features")


@dataclass(frozen=True)
class StepResult:
    """What came of a step or evaluation.

    updated: parameters changed (not while accumulating, or evaluating). step: batches taken so far.
    loss: loss_mae + loss_c, or of a model with a head that of key loss. loss_mae: mae_weight * both modalities'.
    accuracy: of the contrastive match among `pairs`, or of the head. grad_norm, lr: of this update; 0 without one.
    """

    updated: bool
    step: int
    loss: float
    loss_mae: float
    loss_mae_a: float
    loss_mae_v: float
    loss_c: float
    accuracy: float
    grad_norm: float
    lr: float
    pairs: int


def _result_of(record: Any) -> StepResult:
    values = {name: getattr(record, name) for name in StepResult.__dataclass_fields__}
    return StepResult(**{**values, "updated": bool(record.updated)})


class Optimizer(Handle):
    """Adam's moments, schedule and update count. config None: the model's."""

    _pointer_type = optimizer_pointer
    _free = "cavmae_optimizer_free"

    def __init__(self, model: Model, config: Optional[Config] = None) -> None:
        config = config or model.config
        self.model, self.config = model, config
        self._adopt(made(optimizer_pointer, library().cavmae_optimizer_create, model._handle, config._handle))

    def group(self, prefix: str, lr_factor: float = 1.0, weight_decay: Optional[float] = None) -> "Optimizer":
        """Parameters whose names start so get lr * lr_factor (0: frozen) and a weight decay of their own (None: the
        configuration's). The last call that fits a name counts; before the first step."""
        decay = float(self.config["weight_decay"]) if weight_decay is None else weight_decay
        call(library().cavmae_optimizer_group, self._handle, prefix.encode(), lr_factor, decay)
        return self

    @property
    def updates(self) -> int:
        """Taken so far."""
        return int(library().cavmae_optimizer_updates(self._handle))

    @property
    def lr(self) -> float:
        """Of the next update."""
        return float(library().cavmae_optimizer_lr(self._handle))

    def __repr__(self) -> str:
        return "Optimizer(closed)" if self.closed else f"<Optimizer, {self.updates} updates, lr {self.lr:g}>"


class Trainer(Handle):
    """Takes steps with batches of up to ``config.batch`` clips::

        config = cavmae.Config("base", batch=16, lr=1e-4)
        trainer = cavmae.Trainer(cavmae.Model(config), config)
        for batch in cavmae.Loader(config, "train.json"):
            print(trainer.step(batch).loss)

    optimizer None: a new one; evaluate_only: none, and no memory for gradients. Groups of parameters are set with an
    optimizer that is made first.
    """

    _pointer_type = trainer_pointer
    _free = "cavmae_trainer_free"

    def __init__(
        self,
        model: Model,
        config: Optional[Config] = None,
        optimizer: Optional[Optimizer] = None,
        *,
        evaluate_only: bool = False,
    ) -> None:
        config = config or model.config
        if evaluate_only and optimizer is not None:
            raise ValueError("a trainer that only evaluates has no optimizer")
        if optimizer is None and not evaluate_only:
            optimizer = Optimizer(model, config)
        self.model, self.config, self.optimizer = model, config, optimizer
        self._last: Any = None  # a step that is not waited for may still read its batch
        handle = None if optimizer is None else optimizer._handle
        self._adopt(made(trainer_pointer, library().cavmae_trainer_create, model._handle, handle, config._handle))

    # ---- Steps

    @overload
    def step(
        self, batch: Optional[BatchLike] = None, *, wait: Literal[True] = True, **fields: Any
    ) -> StepResult: ...
    @overload
    def step(self, batch: Optional[BatchLike] = None, *, wait: bool, **fields: Any) -> Optional[StepResult]: ...
    def step(self, batch: Optional[BatchLike] = None, *, wait: bool = True, **fields: Any) -> Optional[StepResult]:
        """Trains on one batch: finetune_step of a model with a head, pretrain_step of one without."""
        take = self.finetune_step if self.model.classes else self.pretrain_step
        return take(batch, wait=wait, **fields)

    def evaluate(self, batch: Optional[BatchLike] = None, number: int = 0, **fields: Any) -> StepResult:
        """finetune_evaluate of a model with a head, pretrain_evaluate of one without."""
        if self.model.classes:
            return self.finetune_evaluate(batch, **fields)
        return self.pretrain_evaluate(batch, number, **fields)

    @overload
    def pretrain_step(
        self, batch: Optional[BatchLike] = None, *, wait: Literal[True] = True, **fields: Any
    ) -> StepResult: ...
    @overload
    def pretrain_step(
        self, batch: Optional[BatchLike] = None, *, wait: bool, **fields: Any
    ) -> Optional[StepResult]: ...
    def pretrain_step(
        self, batch: Optional[BatchLike] = None, *, wait: bool = True, **fields: Any
    ) -> Optional[StepResult]:
        """One batch: masks, forward, backward, and each `accumulate`-th time an update.

        NotFinite names the step and the tensor. After any failure parameters are as they were. wait False: a GPU's step
        is not waited for, and gives None; its failure is told by the next call, its result by ``result()``.
        """
        return self._take(library().cavmae_pretrain_step, batch, fields, (), wait)

    @overload
    def finetune_step(
        self, batch: Optional[BatchLike] = None, *, wait: Literal[True] = True, **fields: Any
    ) -> StepResult: ...
    @overload
    def finetune_step(
        self, batch: Optional[BatchLike] = None, *, wait: bool, **fields: Any
    ) -> Optional[StepResult]: ...
    def finetune_step(
        self, batch: Optional[BatchLike] = None, *, wait: bool = True, **fields: Any
    ) -> Optional[StepResult]:
        """The same for a model with a head, on a batch with labels."""
        return self._take(library().cavmae_finetune_step, batch, fields, (), wait)

    def pretrain_evaluate(self, batch: Optional[BatchLike] = None, number: int = 0, **fields: Any) -> StepResult:
        """Forward only, with masks drawn for this number: the same number, the same masks."""
        result = self._take(library().cavmae_pretrain_evaluate, batch, fields, (number,), True)
        assert result is not None
        return result

    def finetune_evaluate(self, batch: Optional[BatchLike] = None, **fields: Any) -> StepResult:
        """Forward only, on a batch with labels."""
        result = self._take(library().cavmae_finetune_evaluate, batch, fields, (), True)
        assert result is not None
        return result

    def _take(self, function: Any, batch: Any, fields: Any, more: Any, wait: bool) -> Optional[StepResult]:
        clips: Batch = as_batch(batch, fields)
        record = clips._record(self.model._values, self.model.context)
        result = r.new(r.cavmae_step_result)
        try:
            call(function, self._handle, ctypes.byref(record), *more, ctypes.byref(result) if wait else None)
        finally:
            self._last = None if wait else (self._last, clips, record)[1:]
        return _result_of(result) if wait else None

    def result(self, wait: bool = True) -> StepResult:
        """Of the last step whose outcome is known; with wait of the last one taken."""
        record = r.new(r.cavmae_step_result)
        call(library().cavmae_trainer_result, self._handle, int(wait), ctypes.byref(record))
        return _result_of(record)

    # ---- What a step left

    def output(self, name: str) -> "np.ndarray[Any, Any]":
        """A copy of what the last step or evaluation computed, B clips, La and Lv tokens, patches of p x p:

        "pred_a" float32 [B, La, p*p], "pred_v" [B, Lv, p*p*C] predicted patches; "pooled_a", "pooled_v" [B, D] what
        the contrastive loss compares; "mask_a", "mask_v" uint8 [B, La], [B, Lv]; "logits" [B, classes]; "features"
        [B, width].
        NotFound where it did not compute that.
        """
        if name not in OUTPUTS:
            raise ValueError(f"there is no output {name!r}; there are {', '.join(OUTPUTS)}")
        number = r.constant(f"OUT_{name.upper()}")
        return Tensor(made(tensor_pointer, library().cavmae_trainer_output, self._handle, number)).numpy()

    def gradient(self, name: str) -> "np.ndarray[Any, Any]":
        """A copy of a parameter's gradient as the last step left it. NotFound: there is none."""
        return Tensor(made(tensor_pointer, library().cavmae_trainer_gradient, self._handle, name.encode())).numpy()

    # ---- Checkpoints

    def save(self, path: Path, loader: "Optional[Loader]" = None) -> None:
        """Writes a checkpoint: a model file that also holds optimizer, step and the loader's place. Atomic."""
        handle = None if loader is None else loader._handle
        call(library().cavmae_checkpoint_save, self._handle, handle, os.fsencode(path))

    def load(self, path: Path, loader: "Optional[Loader]" = None) -> "Trainer":
        """Goes on from a checkpoint, bit for bit with the same configuration and data."""
        handle = None if loader is None else loader._handle
        if loader is not None:
            loader._turn += 1
        call(library().cavmae_checkpoint_load, self._handle, handle, os.fsencode(path))
        return self

    def __repr__(self) -> str:
        return "Trainer(closed)" if self.closed else f"<Trainer of {self.model!r}, {self.result(False).step} steps>"
