"""Fine-tunes a pretrained model to tell classes, evaluates it on clips that it has not seen, and saves it.

    python3 finetune.py MODEL TRAIN.json VAL.json LABELS.csv OUT.safetensors [--recipe R] [--epochs N] [--batch B] [--lr R]

MODEL: of this library, or the authors' .pth. The paper's recipes are finetune-as20k, finetune-as2m, finetune-vggsound.
"""

from __future__ import annotations

import argparse

import numpy as np

import cavmae

parser = argparse.ArgumentParser(description="fine-tunes a model to tell classes")
for name in ("model", "train", "val", "labels", "out"):
    parser.add_argument(name)
parser.add_argument("--recipe", help="its keys; else the model's own, with sigmoids")
parser.add_argument("--epochs", type=int, help="as many as the recipe says")
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--lr", type=float, help="as the recipe says")
args = parser.parse_args()

# %% A head for the classes of the labels file in the decoder's place
pretrained = cavmae.load(args.model)
classes = cavmae.Loader(pretrained.config.for_evaluation(), args.train, args.labels).classes
config = pretrained.config.copy(recipe=args.recipe, classes=classes, batch=args.batch)
config.update({key: value for key, value in (("epochs", args.epochs), ("lr", args.lr)) if value is not None})
loader = cavmae.Loader(config, args.train, args.labels)
config.milestone_unit = len(loader)  # a recipe's milestones are epochs
model = pretrained.adapt(config)
print(f"{model}: {model.load_report.matched} parameters taken over, {model.load_report.missing} new")

# %% Training. Parts of the model can learn at other rates: optimizer.group("blocks_a.", lr_factor=0.1)
optimizer = cavmae.Optimizer(model, config)
trainer = cavmae.Trainer(model, config, optimizer)
for epoch in range(config.epochs):
    losses = [trainer.step(batch).loss for batch in loader]
    print(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}, next lr {optimizer.lr:g}")
model.save(args.out)

# %% Evaluation: scores over all pictures of each clip, whose sound is encoded once
scores, targets = [], []
for batch in cavmae.Loader(config.for_evaluation(frame=-3), args.val, args.labels):
    scores.append(model.embed(batch, outputs="scores").scores)
    targets.append(batch.labels.copy())  # a batch is the loader's, until the next one
metrics = cavmae.classification_metrics(np.concatenate(scores), np.concatenate(targets))
print(f"mAP {metrics.mean_average_precision:.4f} over {metrics.scored_classes} classes")
if config.loss == "ce":  # one class a clip
    accuracy = cavmae.top1_accuracy(np.concatenate(scores), np.concatenate(targets).argmax(axis=1))
    print(f"accuracy {accuracy:.4f}")
