"""A small SAM2 of seeded random weights as a checkpoint folder, so that tests do not hang on a registry's model."""

import json
from pathlib import Path

from safetensors.torch import save_file

from pipeline.models.mosam_init import random_tracking_core
from pipeline.models.sam2_variants import Sam2Config
from pipeline.models.samwise_variants import ARCHITECTURES


def save_random_sam2(folder: Path, *, seed: int = 0) -> Path:
    """Write model.safetensors in SAM2's layout and model.json: 64 px, masks that cover about half of a frame."""
    values = ARCHITECTURES["mini"]["sam2"]
    core = random_tracking_core(Sam2Config.model_validate(values), seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in core.model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    card = {"name": f"random-{seed}", "kind": "sam2", "architecture": values, "trained_on": "nothing"}
    (folder / "model.json").write_text(json.dumps(card))
    return folder
