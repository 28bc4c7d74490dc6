"""From a model's name to weights in memory and a segmenter on a device; checkpoints are read without running code."""

import argparse
import inspect
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_type_hints

import torch
from pydantic import BaseModel, ValidationError
from safetensors.torch import load_file

from pipeline.errors import ConfigError, WeightsError
from pipeline.io.weights import ResolvedModel
from pipeline.io.weights_registry import CALIBRATION, CHECKPOINT
from pipeline.segmenter import ModelSpec, Segmenter, segmenter_factory

_WRAPPERS = ("model", "model_state_dict")
"""Keys under which training code keeps a model's tensors beside an optimizer's."""

SAFE_GLOBALS: list[Any] = [argparse.Namespace]
"""Classes beside tensors that a checkpoint may hold: training code of this family pickles its arguments."""


def load_model(resolved: ResolvedModel, *, seed: int = 0) -> ModelSpec:
    """A model whose files are on this machine, as a method's factory receives it.

    Args:
        resolved: without a checkpoint it stands for seeded random weights.
        seed: of random weights.

    Raises:
        WeightsError: a file cannot be read safely, or holds no tensors.
    """
    checkpoint = resolved.files.get(CHECKPOINT)
    return ModelSpec(
        name=resolved.name,
        architecture=dict(resolved.architecture),
        architecture_name=resolved.architecture_name,
        tensors=None if checkpoint is None else read_tensors(checkpoint),
        seed=seed,
        tokenizer_dir=resolved.tokenizer_dir,
        calibration=_read_json(resolved.files[CALIBRATION]) if CALIBRATION in resolved.files else None,
    )


def build_segmenter(method: str, config: Mapping[str, Any], model: ModelSpec, device: str) -> Segmenter:
    """A registered method with its weights on a device.

    Args:
        config: the method's own, as plain values.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        ConfigError: the method is unknown, its config is refused, or there is no such device.
        WeightsError: the weights do not fit the method.
    """
    factory = segmenter_factory(method)
    segmenter: Segmenter = factory(read_config(factory, config), model, chosen_device(device))
    return segmenter


def read_config(factory: Callable[..., Segmenter], config: Mapping[str, Any]) -> Any:
    """Plain values as the config class that a factory's first parameter is annotated with; otherwise as they are.

    Raises:
        ConfigError: an unknown key, or a value that is refused.
    """
    parameter = next(iter(inspect.signature(factory).parameters))
    config_class = get_type_hints(factory).get(parameter)
    if not (isinstance(config_class, type) and issubclass(config_class, BaseModel)):
        return config
    try:
        return config_class.model_validate(config)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, found['loc']))}: {found['msg']} (got {found['input']!r})" for found in error.errors()
        ]
        raise ConfigError(f"method config: {'; '.join(problems)}") from error


def chosen_device(device: str) -> str:
    """The device to run on: "auto" is CUDA where there is one, else the CPU.

    Raises:
        ConfigError: CUDA was asked for and there is none; a run is never moved to the CPU in silence.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu" and not device.startswith("cuda"):
        raise ConfigError(f"device {device!r}: expected auto, cpu, cuda or cuda:N.")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"device {device!r}: no CUDA device can be seen here (torch {torch.__version__}). "
            "Run on a machine with a GPU and a CUDA build of torch, or say device cpu."
        )
    return device


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, by name, on the CPU.

    Reads safetensors, zipped and legacy PyTorch files; {"model": tensors, ...} is unwrapped, and so is
    "model_state_dict". Only tensors, plain values and SAFE_GLOBALS are unpickled, so a file cannot run code.

    Raises:
        WeightsError: the file is damaged, is none of these, or holds no tensors.
    """
    with _told_as_weights_error(file):
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            # Mapped, a file's pages are shared by the workers of a node and read only where a tensor is used.
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    return _named_tensors(content, file)


def _read_json(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file}: cannot be read as JSON: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{file}: {type(content).__name__}; expected an object, as `--calibrate` writes it.")
    return content


def _named_tensors(content: Any, file: Path) -> dict[str, torch.Tensor]:
    inner = content
    if isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPERS if key in content), content)
    if isinstance(inner, Mapping):
        tensors = {str(name): value for name, value in inner.items() if isinstance(value, torch.Tensor)}
        if tensors:
            return tensors
    came = f"keys {sorted(map(str, content))[:5]}" if isinstance(content, Mapping) else type(content).__name__
    raise WeightsError(
        f'{file}: {came}; expected tensors by name, bare or under "model". Give a checkpoint of the model itself.'
    )


@contextmanager
def _told_as_weights_error(file: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise WeightsError(f"{file}: no such file.") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{file}: refused to unpickle: {_first_line(error)} Expected tensors and plain values alone. Convert the "
            "file to safetensors on a machine where you trust it."
        ) from error
    # A damaged file makes the unpickler stumble in any way.
    except Exception as error:
        raise WeightsError(
            f"{file}: cannot be read as a checkpoint: {type(error).__name__}: {_first_line(error)} "
            "Expected .safetensors, or what torch.save writes. The file may be cut short: fetch it again."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
