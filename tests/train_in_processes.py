"""Run by test_trainer under torchrun: one small training, in as many processes as torchrun starts."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from training_material import CONFIG, material, small_options

from musictagger.models.backbone import Backbone
from musictagger.models.registry import build
from musictagger.progress import Progress
from musictagger.training.distributed import joined
from musictagger.training.trainer import Trainer

torch.manual_seed(0)
torch.set_num_threads(1)
with joined(torch.device("cpu")) as device:
    backbone = build("fcn", 3, {**CONFIG, "batch_norm": False, "input_norm": False}, ())
    assert isinstance(backbone, Backbone)
    options = small_options(
        epochs=3, batch_size=7, lr=1e-4, time_masks=1, time_mask_columns=4, gain_db=3, l2={"cnn": 1e-4}
    )
    Trainer(backbone, material(24), options, Path(sys.argv[1]), device, Progress()).fit()
