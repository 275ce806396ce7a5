"""Trains on a folder of clips, finds pictures by sound, and draws what was found, where it sounds and what was painted.

    python3 search_and_draw.py DATA OUT.png [--model MODEL] [--epochs N] [--preset P]

DATA: a folder of videos, or a manifest (`cavmae-scenes --out scenes` makes one: scenes/train.json). With --model
nothing is trained. Cells begin with "# %%", as editors with notebooks know them.
"""

# %% What is wanted
from __future__ import annotations

import argparse
from typing import Any

import matplotlib

matplotlib.use("Agg")  # a file, no window

import matplotlib.pyplot as plt
import numpy as np

import cavmae

parser = argparse.ArgumentParser(description="trains on clips, finds pictures by sound, and draws")
parser.add_argument("data", help="a folder of videos, or a manifest")
parser.add_argument("out", help="the picture")
parser.add_argument("--model", help="embed with this one instead of training")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--preset", default="tiny", help="base or tiny (tiny)")
parser.add_argument("--queries", type=int, default=3, help="sounds to search for (3)")
args = parser.parse_args()

# %% A model: read, or trained
losses: list[float] = []
if args.model:
    model = cavmae.load(args.model)
    config = model.config
else:
    config = cavmae.Config(args.preset, batch=8, drop_last=0, lr=1e-3, norm_pix_loss=0, broken="skip")
    model = cavmae.Model(config)
    trainer = cavmae.Trainer(model, config)
    loader = cavmae.Loader(config, args.data)
    for epoch in range(args.epochs):
        losses += [trainer.step(batch).loss for batch in loader]
        print(f"epoch {epoch + 1}: loss {losses[-1]:.4f}")

# %% Embeddings of all clips, in the manifest's order
gallery = cavmae.Loader(config.for_evaluation(batch=16, broken="error"), args.data)
rows = [model.embed(batch, outputs=("audio", "visual")) for batch in gallery]
audio, visual = np.concatenate([row.audio for row in rows]), np.concatenate([row.visual for row in rows])
ids = [gallery.item(number).id for number in range(gallery.count)]
print(cavmae.retrieval_metrics(audio, visual))

# %% Pictures that go with a sound
index = cavmae.Index(visual, names=ids)
queries = np.linspace(0, len(ids) - 1, min(args.queries, len(ids))).astype(int)
found = [index.search(audio[query], k=4) for query in queries]

# %% What is heard and seen of a clip
clips = cavmae.Loader(config.for_evaluation(batch=1, broken="error"), args.data)


def clip(number: int) -> cavmae.Batch:
    clips.seek(number)
    batch = clips.next()
    assert batch is not None
    return batch.copy()


def picture(batch: cavmae.Batch) -> "np.ndarray[Any, Any]":
    """[H, W, 3] in [0, 1]"""
    mean, std = (np.array(str(config[f"image_{name}"]).split(","), float) for name in ("mean", "std"))
    return np.asarray(np.clip(batch.image[0].transpose(1, 2, 0) * std + mean, 0, 1))


# %% The drawing
figure, axes = plt.subplots(len(queries) + 1, 6, figsize=(13, 2.3 * (len(queries) + 1)), squeeze=False)
for line, (query, matches) in enumerate(zip(queries, found)):
    one = clip(int(query))
    axes[line, 0].imshow(one.audio[0].T, origin="lower", aspect="auto", cmap="magma")
    axes[line, 0].set_title(f"sound of {ids[query]}", fontsize=8)
    for place, match in enumerate(matches, 1):
        axes[line, place].imshow(picture(clip(match.id)))
        right = " (its own)" if match.id == query else ""
        axes[line, place].set_title(f"{match.name}: {match.score:.2f}{right}", fontsize=8)
    heat = cavmae.heatmap_resize(model.localize(one)[0], config.image_size, config.image_size)
    axes[line, 5].imshow(picture(one))
    axes[line, 5].imshow(heat, alpha=0.5, cmap="inferno")
    axes[line, 5].set_title("where it sounds", fontsize=8)

last = axes[-1]
last[0].plot(losses or [0])
last[0].set_title("loss", fontsize=8)
if model.config.decoder:
    one = clip(int(queries[0]))
    painted = model.inpaint(one)
    side = config.image_size // config.patch_size
    hidden = np.kron(painted.mask_v[0].reshape(side, side), np.ones((config.patch_size, config.patch_size)))
    last[1].imshow(picture(one) * (1 - hidden[..., None]))
    last[1].set_title("seen", fontsize=8)
    last[2].imshow(np.clip(painted.image_pasted[0].transpose(1, 2, 0), 0, 1))
    last[2].set_title(f"painted, error {painted.error_v:.2f}", fontsize=8)
    last[3].imshow(painted.audio_pasted[0].T, origin="lower", aspect="auto", cmap="magma")
    last[3].set_title(f"sound painted, error {painted.error_a:.2f}", fontsize=8)
last[4].imshow(audio @ visual.T, cmap="viridis")
last[4].set_title("sound against picture", fontsize=8)
for axis in axes.flat:
    if axis is not last[0]:
        axis.axis("off")
figure.tight_layout()
figure.savefig(args.out, dpi=90)
print(f"{args.out}: {len(queries)} searches among {len(ids)} clips")
