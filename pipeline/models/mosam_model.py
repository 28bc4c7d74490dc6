"""The SAM2 that tracking runs on: from an official SAM2 checkpoint, or the SAM2 inside a SAMWISE one, or random."""

import logging
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from pipeline.errors import ConfigError, WeightsError
from pipeline.models.mosam_init import random_tracking_core
from pipeline.models.sam2_core import Sam2Core, build_sam2, load_sam2
from pipeline.models.sam2_variants import SAM2_VARIANTS, Sam2Config, infer_variant, predictor_config
from pipeline.models.samwise_architecture import SamwiseArchitecture, read_architecture
from pipeline.models.samwise_checkpoint import load_samwise
from pipeline.models.samwise_init import random_samwise
from pipeline.models.samwise_variants import ARCHITECTURES
from pipeline.models.text_free_core import TextFreeCore
from pipeline.segmenter import ModelSpec

SAMWISE_PREFIX = "sam."
SAMWISE_ONLY = ("sam_prompt_encoder.project_text.", "sam_prompt_encoder.project_motion_prompts.")
"""What SAMWISE adds to SAM2's own tensors, under its prefix."""

logger = logging.getLogger(__name__)


def load_tracking_core(model: ModelSpec, *, image_size: int | None = None) -> Sam2Core:
    """SAM2 as upstream's video predictor runs it, on the CPU, in eval mode.

    Args:
        model: an architecture by name or as plain values, tensors, or both; a SAMWISE gives the SAM2 inside it, one
            with grounded fusion also what that adds to a frame's features without a text.
        image_size: side of the model's square, instead of the architecture's own.

    Raises:
        WeightsError: neither architecture nor tensors, an unknown name, or tensors that do not fit.
        ConfigError: an image size that does not fit the model.
    """
    grounded = _grounded_architecture(model)
    if grounded is not None:
        return _text_free_core(model, grounded, image_size)
    tensors = None if model.tensors is None else sam2_tensors(model.tensors, name=model.name)
    config = _with_image_size(predictor_config(_config_of(model, tensors)), image_size)
    if tensors is None:
        logger.warning("model %r: untrained weights, random with seed %d.", model.name, model.seed)
        return random_tracking_core(config, seed=model.seed)
    core = build_sam2(config, seed=0)
    load_sam2(core, tensors)
    return core


def sam2_tensors(checkpoint: Mapping[str, Any], *, name: str) -> dict[str, Tensor]:
    """SAM2's tensors by official name, out of what a SAM2 or SAMWISE checkpoint file holds.

    Raises:
        WeightsError: there are none.
    """
    held = checkpoint.get("model", checkpoint)
    named = {key.removeprefix("module."): value for key, value in held.items() if isinstance(value, Tensor)}
    inner = {key.removeprefix(SAMWISE_PREFIX): value for key, value in named.items() if key.startswith(SAMWISE_PREFIX)}
    found = inner or named
    if not any(key.startswith("image_encoder.") for key in found):
        raise WeightsError(
            f"model {name!r}: no tensor 'image_encoder.*' among {len(named)}, beginning with {sorted(named)[:3]}. "
            "Tracking needs a SAM2 or a SAMWISE checkpoint."
        )
    counts = (".total_ops", ".total_params")
    return {key: value for key, value in found.items() if not key.startswith(SAMWISE_ONLY) and not key.endswith(counts)}


def _grounded_architecture(model: ModelSpec) -> SamwiseArchitecture | None:
    values = model.architecture or ARCHITECTURES.get(model.architecture_name or "", {})
    return read_architecture(values, name=model.name) if values.get("fusion") == "grounded" else None


def _text_free_core(model: ModelSpec, architecture: SamwiseArchitecture, image_size: int | None) -> Sam2Core:
    config = _with_image_size(predictor_config(architecture.sam2), image_size)
    values = {**architecture.model_dump(), "sam2": config.model_dump(), "short_side_px": config.image_size}
    try:
        architecture = SamwiseArchitecture.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"image_size {image_size} does not fit the model. {error}") from error
    if model.tensors is None:
        logger.warning("model %r: untrained weights, random with seed %d.", model.name, model.seed)
        return TextFreeCore(random_samwise(architecture, seed=model.seed))
    return TextFreeCore(load_samwise(model.tensors, architecture, name=model.name).eval())


def _config_of(model: ModelSpec, tensors: Mapping[str, Any] | None) -> Sam2Config:
    if model.architecture:
        values = model.architecture.get("sam2", model.architecture)
        try:
            return Sam2Config.model_validate(dict(values))
        except ValidationError as error:
            raise WeightsError(f"model {model.name!r}: its architecture is not a SAM2's. {error}") from error
    if model.architecture_name in SAM2_VARIANTS:
        return SAM2_VARIANTS[model.architecture_name]
    if model.architecture_name in ARCHITECTURES:
        return Sam2Config.model_validate(ARCHITECTURES[model.architecture_name]["sam2"])
    if model.architecture_name is not None:
        known = ", ".join(sorted([*SAM2_VARIANTS, *ARCHITECTURES]))
        raise WeightsError(f"model {model.name!r}: no architecture {model.architecture_name!r}; known: {known}.")
    if tensors is None:
        raise WeightsError(f"model {model.name!r} has neither weights nor an architecture. Give one of them.")
    config = SAM2_VARIANTS[infer_variant(tensors)]
    if "no_obj_ptr" not in tensors:
        return config.model_copy(update={"pred_obj_scores": False, "fixed_no_obj_ptr": False})
    return config


def _with_image_size(config: Sam2Config, image_size: int | None) -> Sam2Config:
    if image_size is None or image_size == config.image_size:
        return config
    try:
        return Sam2Config.model_validate({**config.model_dump(), "image_size": image_size})
    except ValidationError as error:
        raise ConfigError(f"image_size {image_size} does not fit the model. {error}") from error
