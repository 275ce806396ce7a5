"""Embeds made-up clips with a new tiny model, by the system's library."""

import numpy as np

import cavmae

random = np.random.default_rng(1)
model = cavmae.Model(cavmae.Config("tiny"))
found = model.embed(
    audio=random.standard_normal((2, 128, 128), np.float32),
    image=random.standard_normal((2, 3, 64, 64), np.float32),
)
assert found.audio.shape == found.visual.shape == (2, 32)
np.testing.assert_allclose(np.linalg.norm(found.audio, axis=1), 1, rtol=1e-5)
print(cavmae.build_info())
