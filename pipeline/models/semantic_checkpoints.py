"""Semantic networks of the transformers library by folder: which families there are, and loading without surprises."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from pipeline.errors import WeightsError
from pipeline.models.semantic_networks import TransformersNetwork

Family = Literal["pixels", "queries"]

UNSUPPORTED = {
    "videomt": "it labels clips, its queries going from frame to frame, and here frames are labelled one by one",
}
"""Model types of the two families that cannot be used, and why."""


def families() -> dict[str, Family]:
    """Model type to family, as the installed transformers has them."""
    from transformers.models.auto import modeling_auto

    found: dict[str, Family] = dict.fromkeys(modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES, "pixels")
    found |= dict.fromkeys(modeling_auto.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES, "queries")
    return {name: family for name, family in found.items() if name not in UNSUPPORTED and name != "detr"}


def load_network(folder: str | Path, device: torch.device, *, name: str | None = None) -> TransformersNetwork:
    """The network in a folder as `save_pretrained` writes it: config.json, weights, preprocessor_config.json.

    Raises:
        WeightsError: no such folder, a type that is not supported, tensors that are missing or do not fit, or a
            library that the type needs and that is not there.
    """
    name = name or Path(folder).name
    config = _read_config(Path(folder), name)
    family = family_of(str(config.model_type), name)
    auto = _auto_model(family)
    model, loading = _told(
        name,
        lambda: auto.from_pretrained(
            folder, config=config, local_files_only=True, output_loading_info=True, dtype=torch.float32
        ),
    )
    _refuse_gaps(loading, name)
    processor = _told(name, lambda: _read_processor(Path(folder), config))
    return TransformersNetwork(name, model.to(device).eval(), processor, family, device)


def family_of(model_type: str, name: str) -> Family:
    """Which output a model type gives.

    Raises:
        WeightsError: it is not supported; names those that are.
    """
    known = families()
    if model_type in known:
        return known[model_type]
    reason = f": {UNSUPPORTED[model_type]}" if model_type in UNSUPPORTED else ""
    raise WeightsError(
        f"network {name!r} is of type {model_type!r}, which gives no semantic labels here{reason}. "
        f"Supported: {', '.join(sorted(known))}."
    )


def _read_config(folder: Path, name: str) -> Any:
    if not (folder / "config.json").is_file():
        raise WeightsError(
            f"network {name!r}: no config.json in {folder}. Give the folder that save_pretrained wrote, or hf:ORG/NAME."
        )
    from transformers import AutoConfig

    return _told(name, lambda: AutoConfig.from_pretrained(folder, local_files_only=True))


def _auto_model(family: Family) -> Any:
    import transformers

    if family == "pixels":
        return transformers.AutoModelForSemanticSegmentation
    return transformers.AutoModelForUniversalSegmentation


def _read_processor(folder: Path, config: Any) -> Any:
    import transformers

    # By the folder's own word, never by model type: checkpoints reuse each other's (UperNet those of Segformer).
    if config.model_type != "oneformer":
        return transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    # OneFormer's reads a task as text beside the picture; class_info_file names a file on a hub that only panoptic
    # post-processing needs.
    pictures = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True, class_info_file=None)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return transformers.OneFormerProcessor(pictures, tokenizer, task_seq_length=config.task_seq_len)


def _told(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    # The library raises what its parts raise: OSError, ValueError, KeyError, RuntimeError, safetensors' own.
    except ImportError as error:
        lines = str(error).strip().splitlines() or [""]
        raise WeightsError(f"network {name!r} needs a library that is not installed: {lines[0]}") from error
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise WeightsError(f"network {name!r} cannot be loaded: {type(error).__name__}: {lines[0]}") from error


def _refuse_gaps(loading: Mapping[str, Any], name: str) -> None:
    """The library fills missing tensors with random numbers and only warns; such a network labels at random."""
    missing = sorted(map(str, loading.get("missing_keys") or ()))
    mismatched = sorted(str(key) for key in loading.get("mismatched_keys") or ())
    if missing or mismatched:
        raise WeightsError(
            f"network {name!r}: {len(missing)} tensors are missing ({', '.join(missing[:5])}), {len(mismatched)} do "
            f"not fit ({', '.join(mismatched[:5])}). Give a checkpoint whose semantic head was trained."
        )
