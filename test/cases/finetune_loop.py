"""Writes finetune_loop.safetensors: the reference's fine-tuning loop (traintest_ft.py), two epochs of it on the oracle.

  /usr/bin/python3 finetune_loop.py ORACLE_DIRECTORY OUT.safetensors

Twelve clips in an order that is given for each epoch, with SpecAugment's masks and mixed, smoothed labels of that
epoch; BCE-with-logits; torch.optim.Adam with the reference's betas, weight decay and a faster head; MultiStepLR after
each epoch; after each epoch the logits of the clean clips and their mAP, and at the end the mean of both epochs' parameters.
Computed in float64 from float32 inputs; parameters follow oracle.fill_by_hash.

Metadata: "kind", and "settings", in the library's keys. Tensors, E epochs, N clips, S steps, C classes:
  input.audio [N, T, F]   input.image [N, 3, H, W]   input.targets [N, C] 0 or 1
  input.order [E, N]      clip of each place; batches follow one another
  input.freq_mask, input.time_mask [E, N, 2]   of each clip: first bin or frame, how many
  input.labels [E, N, C]  of each clip
  input.fill              what masks put in: 0 before normalising
  expect.loss [S]   expect.lr [S] of the base   expect.logits [E, N, C]   expect.map [E]
  param.NAME after the last epoch   average.NAME of both epochs"""
import sys

import numpy as np
import torch
from sklearn.metrics import average_precision_score

sys.path.insert(0, sys.argv[1])
import oracle as o

EPOCHS, CLIPS, BATCH, CLASSES = 2, 12, 4, 5
LR, HEAD_LR, BETAS, EPS, DECAY, GAMMA = 1e-3, 10, (0.95, 0.999), 1e-8, 5e-7, 0.5
FREQ_MASK, TIME_MASK, SMOOTHING = 12, 20, 0.1
KEPT = ("mlp_head", "norm.", "modality_", "pos_embed_", "blocks_u.0.norm1.", "blocks_u.0.norm2.",
        "blocks_u.0.attn.proj", "blocks_v.0.mlp.fc1.bias", "patch_embed_v.proj.bias")

cfg = o.Config(image_size=32, audio_frames=48, mel_bins=64, embed_dim=32, num_heads=4, modality_depth=2, joint_depth=1,
               decoder_dim=16, decoder_heads=4, decoder_depth=2, num_classes=CLASSES, trainable_pos=True)
settings = dict(image_size=cfg.image_size, audio_frames=cfg.audio_frames, mel_bins=cfg.mel_bins,
                embed_dim=cfg.embed_dim, num_heads=cfg.num_heads, modality_depth=cfg.modality_depth,
                joint_depth=cfg.joint_depth, trainable_pos=1, classes=CLASSES, loss="bce", mode="multimodal", optimizer="adam", lr=LR,
                head_lr_factor=HEAD_LR, beta1=BETAS[0], beta2=BETAS[1], adam_eps=EPS, weight_decay=DECAY,
                schedule="multistep", milestones=1, milestone_unit=CLIPS // BATCH, gamma=GAMMA, batch=BATCH)

rng = np.random.default_rng(20230501)
float32 = lambda x: torch.from_numpy(np.asarray(x, dtype=np.float32))
targets = float32(rng.random((CLIPS, CLASSES)) < 0.3)
targets[0], targets[1] = 1, 0                       # every class has both
prototypes = rng.standard_normal((CLASSES, 2, 64))  # what classes sound and look like: there is something to learn
sound = np.einsum("nc,cf->nf", targets, prototypes[:, 0])[:, None]
sound = sound + rng.standard_normal((CLIPS, cfg.audio_frames, cfg.mel_bins))
picture = np.tile(np.einsum("nc,cf->nf", targets, prototypes[:, 1]).reshape(CLIPS, 1, 8, 8), (1, 3, 4, 4))
picture = picture + rng.standard_normal((CLIPS, 3, cfg.image_size, cfg.image_size))
t = {"input.audio": float32(sound), "input.image": float32(picture), "input.targets": targets,
     "input.order": torch.from_numpy(np.stack([rng.permutation(CLIPS) for _ in range(EPOCHS)])),
     "input.fill": float32((0 + 5.081) / 4.4849)}


def band(size, most):  # torchaudio's FrequencyMasking and TimeMasking: fewer than `most`, anywhere
    width = rng.integers(0, most, (EPOCHS, CLIPS))
    return torch.from_numpy(np.stack([rng.integers(0, size - width + 1), width], -1).astype(np.int64))


t["input.freq_mask"], t["input.time_mask"] = band(cfg.mel_bins, FREQ_MASK), band(cfg.audio_frames, TIME_MASK)
smooth = targets * (1 - SMOOTHING) + (1 - targets) * SMOOTHING / CLASSES
labels = []
for _ in range(EPOCHS):
    mixed, other = rng.random(CLIPS) < 0.5, rng.integers(0, CLIPS, CLIPS)
    share = float32(rng.beta(10, 10, CLIPS))[:, None]
    both = SMOOTHING / CLASSES + (1 - SMOOTHING) * (share * targets + (1 - share) * targets[other])
    labels.append(torch.where(torch.from_numpy(mixed)[:, None], both, smooth))
t["input.labels"] = torch.stack(labels).float()

model = o.CAVMAE(cfg)
o.fill_by_hash(model)
model = model.double()
audio, image, y = t["input.audio"].double(), t["input.image"].double(), t["input.labels"].double()
head = [p for name, p in model.named_parameters() if name.startswith("mlp_head")]
base = [p for name, p in model.named_parameters() if not name.startswith("mlp_head")]
adam = torch.optim.Adam([{"params": base, "lr": LR}, {"params": head, "lr": LR * HEAD_LR}], weight_decay=DECAY,
                        betas=BETAS, eps=EPS)
scheduler = torch.optim.lr_scheduler.MultiStepLR(adam, [1], gamma=GAMMA)
loss_fn = torch.nn.BCEWithLogitsLoss()


def augmented(epoch, clips):
    x = audio[clips].clone()
    for i, clip in enumerate(clips.tolist()):
        f, ft = t["input.freq_mask"][epoch, clip].tolist()
        s, st = t["input.time_mask"][epoch, clip].tolist()
        x[i, :, f:f + ft] = t["input.fill"].double()
        x[i, s:s + st] = t["input.fill"].double()
    return x


losses, rates, logits, maps, checkpoints = [], [], [], [], []
for epoch in range(EPOCHS):
    for clips in t["input.order"][epoch].split(BATCH):
        rates.append(adam.param_groups[0]["lr"])
        loss = loss_fn(model.logits(augmented(epoch, clips), image[clips]), y[epoch, clips])
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    with torch.no_grad():
        z = model.logits(audio, image)
    logits.append(z)
    maps.append(np.mean([average_precision_score(targets[:, c], torch.sigmoid(z)[:, c]) for c in range(CLASSES)]))
    checkpoints.append({name: p.detach().clone() for name, p in model.state_dict().items()})
    scheduler.step()

t.update({"expect.loss": float32(losses), "expect.lr": float32(rates), "expect.logits": torch.stack(logits).float(),
          "expect.map": float32(maps)})
for name, last in checkpoints[-1].items():
    if name.startswith(KEPT):
        t["param." + name] = last.float()
        t["average." + name] = (sum(c[name] for c in checkpoints) / EPOCHS).float()
o.save_safetensors(sys.argv[2], t, {"kind": "finetune_loop",
                                    "settings": " ".join(f"{k}={v}" for k, v in settings.items())})
print("losses", losses, "rates", rates, "mAP", maps)
