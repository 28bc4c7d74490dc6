"""A small SegFormer trained from random weights on labelled frames, and saved as a folder that transformers reads."""

# Axes: B frames, C classes, H W the network's input, h w its output grid.

import logging
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.engine.load_model import chosen_device
from pipeline.io.storage import Store, open_store
from pipeline.models.semantic_networks import resized
from pipeline.training.gradients import BatchLosses
from pipeline.training.loop import LoopConfig, TrainingResult, train
from pipeline.training.schedule import ScheduleConfig
from pipeline.training.semantic_sources import VOID, LabelledFrame, SemanticSource, open_source
from pipeline.training.workers import Workers

logger = logging.getLogger(__name__)

MODEL_FOLDER = "model"

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
"""Of ImageNet, as SegFormer's own processor has them."""


class NetworkTraining(BaseModel):
    """What the network is and how it is trained. Sizes are ours: SegFormer's own smallest has 3.7 M parameters.

    Attributes:
        height, width: frames are resized to this, here and wherever the saved network is used.
        hidden_sizes, num_heads, depths, decoder_size: of the four stages and the all-MLP head (Xie et al., SegFormer,
            arXiv 2105.15203).
        flip: share of frames that are mirrored.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = Field(default=64, ge=32)
    width: int = Field(default=96, ge=32)
    hidden_sizes: tuple[int, int, int, int] = (16, 32, 48, 64)
    num_heads: tuple[int, int, int, int] = (1, 2, 3, 4)
    depths: tuple[int, int, int, int] = (1, 1, 1, 1)
    decoder_size: int = Field(default=64, ge=8)
    flip: float = Field(default=0.5, ge=0, le=1)
    loop: LoopConfig = LoopConfig(
        num_steps=500,
        batch_size=8,
        learning_rate=2e-3,
        weight_decay=0.01,
        decay_vectors=False,
        schedule=ScheduleConfig(kind="poly", warmup_steps=30),
        checkpoint_every=250,
    )


class NetworkSettings(BaseModel):
    """All that one worker of the training is built from; travels as JSON.

    Attributes:
        data: see `open_source`.
        output: store URI or folder for checkpoints, logs and the network.
        num_threads: that draw frames ahead of time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = "streets"
    output: str
    resume: bool = False
    device: str = "auto"
    num_threads: int = Field(default=0, ge=0)
    torch_threads: int | None = Field(default=None, ge=1)
    network: NetworkTraining = NetworkTraining()


class NetworkLearner:
    """The network as the training loop sees it."""

    def __init__(
        self, source: SemanticSource, training: NetworkTraining, *, device: torch.device, num_threads: int = 0
    ) -> None:
        self._source, self._training, self._device = source, training, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.loop.seed)
            self._network = small_segformer(training, source.class_names).to(device).train()
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="frames") if num_threads else None
        self._coming: dict[int, Future[LabelledFrame]] = {}

    @property
    def module(self) -> nn.Module:
        return self._network

    def trained(self) -> Mapping[str, nn.Parameter]:
        """Every parameter."""
        return dict(self._network.named_parameters())

    def trained_buffers(self) -> Mapping[str, Tensor]:
        """Batch norm of the head."""
        return {name: buffer for name, buffer in self._network.named_buffers() if buffer.is_floating_point()}

    def losses(self, positions: Sequence[int]) -> BatchLosses:
        """Cross entropy at the network's input size."""
        frames = [self._drawn(position) for position in positions]
        size = (self._training.height, self._training.width)
        pictures_B3HW, labels_BHW = [], []
        for position, frame in zip(positions, frames, strict=True):
            rgb = cv2.resize(frame.rgb, size[::-1], interpolation=cv2.INTER_LINEAR)
            labels = cv2.resize(frame.labels, size[::-1], interpolation=cv2.INTER_NEAREST)
            if np.random.default_rng([self._training.loop.seed, position]).random() < self._training.flip:
                rgb, labels = rgb[:, ::-1], labels[:, ::-1]
            pictures_B3HW.append(torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1))
            labels_BHW.append(torch.from_numpy(np.ascontiguousarray(labels)))
        pixels = as_input(torch.stack(pictures_B3HW).to(self._device))
        truth = torch.stack(labels_BHW).to(self._device).long()
        logits_BCHW = resized(self._network(pixel_values=pixels).logits.float(), size)
        known = truth != VOID
        with torch.no_grad():
            right = (logits_BCHW.argmax(dim=1) == truth)[known].float().sum() / known.sum().clamp(min=1)
        return BatchLosses(
            means={"cross_entropy": _cross_entropy(logits_BCHW, truth)},
            metrics={"pixel_accuracy": right},
            sample_ids=tuple(frame.name for frame in frames),
        )

    def look_ahead(self, positions: Sequence[int]) -> None:
        """Begin to draw these frames."""
        if self._pool is not None:
            for position in positions:
                if position not in self._coming:
                    self._coming[position] = self._pool.submit(self._source.frame, position)

    def model_content(self) -> dict[str, Any]:
        """The weights by transformers' names."""
        return {"model": {name: value.detach().cpu().clone() for name, value in self._network.state_dict().items()}}

    def recipe(self) -> dict[str, Any]:
        """The training's settings and the classes."""
        own = self._training.model_dump(mode="json", exclude={"loop"})
        return {**own, "class_names": list(self._source.class_names)}

    def close(self) -> None:
        """Stop drawing ahead."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def save(self, folder: Path) -> None:
        """Write config.json, the weights and the processor, as `save_pretrained` does."""
        from transformers import SegformerImageProcessor

        model: Any = self._network
        model.save_pretrained(folder)
        size = {"height": self._training.height, "width": self._training.width}
        SegformerImageProcessor(size=size, image_mean=IMAGE_MEAN, image_std=IMAGE_STD).save_pretrained(folder)

    def _drawn(self, position: int) -> LabelledFrame:
        coming = self._coming.pop(position, None)
        return self._source.frame(position) if coming is None else coming.result()


def train_network(settings: NetworkSettings, workers: Workers, *, stop_after: int | None = None) -> TrainingResult:
    """Train as the settings say, as one of the workers; the first one writes.

    Leaves `checkpoints/step-*.pt`, `logs/` and, when every step is done, the folder `model/`, which `--network` of the
    semantic job takes.

    Raises:
        ConfigError, DecodeError, NonFiniteLoss, StorageError: as the data or the loop do.
    """
    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)
    store, loop = open_store(settings.output), settings.network.loop
    learner = NetworkLearner(
        open_source(settings.data, seed=loop.seed),
        settings.network,
        device=torch.device(chosen_device(settings.device)),
        num_threads=settings.num_threads,
    )
    try:
        result = train(learner, loop, store=store, workers=workers, resume=settings.resume, stop_after=stop_after)
    finally:
        learner.close()
    if workers.is_first and result.num_steps == loop.num_steps:
        _write_folder(learner, store)
    workers.wait_for_all()
    return result


def small_segformer(training: NetworkTraining, class_names: Sequence[str]) -> nn.Module:
    """A SegFormer with random weights from torch's generator."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    network: nn.Module = SegformerForSemanticSegmentation(
        SegformerConfig(
            num_encoder_blocks=4,
            depths=list(training.depths),
            hidden_sizes=list(training.hidden_sizes),
            num_attention_heads=list(training.num_heads),
            decoder_hidden_size=training.decoder_size,
            drop_path_rate=0.0,
            classifier_dropout_prob=0.0,
            id2label=dict(enumerate(class_names)),
            label2id={name: number for number, name in enumerate(class_names)},
        )
    )
    return network


def as_input(pictures_B3HW: Tensor) -> Tensor:
    """uint8 pictures as the network takes them."""
    mean, std = (pictures_B3HW.new_tensor(values, dtype=torch.float32) for values in (IMAGE_MEAN, IMAGE_STD))
    return (pictures_B3HW.float() / 255 - mean[:, None, None]) / std[:, None, None]


def _cross_entropy(logits_BCHW: Tensor, truth_BHW: Tensor) -> Tensor:
    """Mean over the pixels whose class is known; 0 where none is."""
    total = F.cross_entropy(logits_BCHW, truth_BHW, ignore_index=VOID, reduction="sum")
    return total / (truth_BHW != VOID).sum().clamp(min=1)


def _write_folder(learner: NetworkLearner, store: Store) -> None:
    with tempfile.TemporaryDirectory() as folder:
        learner.save(Path(folder))
        files = sorted(Path(folder).iterdir(), key=lambda file: file.name == "config.json")
        # config.json last: it says that the folder is whole.
        for file in files:
            store.upload(file, f"{MODEL_FOLDER}/{file.name}")
    logger.info("the network is in %s", store.uri(MODEL_FOLDER))
