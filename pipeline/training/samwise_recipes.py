"""Recipes of SAMWISE's training: what is trained, on what clips, for how long; the released ones by name."""

from collections.abc import Callable
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.errors import ConfigError
from pipeline.models.samwise_architecture import SamwiseArchitecture
from pipeline.training.clips import ClipSource
from pipeline.training.loop import LoopConfig
from pipeline.training.schedule import ScheduleConfig

DropoutPlace = Literal["all", "trained", "none"]


class SamwiseTraining(BaseModel):
    """What is trained, on what clips, for how long; the defaults fine-tune on videos.

    Source: Cuttano et al., SAMWISE, arXiv 2411.17646, and its released training code.

    Attributes:
        hsa, pred_obj_scores: parts that the network has; pre-training on stills goes without both.
        num_frames: T of a clip.
        cme: score the memory encoder's decisions (its weights are there either way); needs more frames than
            cme_decision_window + 1.
        dropout: "all" lets frozen RoBERTa and memory attention drop too, as the reference does; "trained" only the
            trained parts; "none" nothing.
        freeze_batch_norm: use the adapters' running statistics and leave them as they are; for tiny batches.
        mask_text_padding: vision does not read padded tokens. The reference's training lets it.
        trained: "adapters" is SAMWISE's rule; "all" trains the frozen parts too, for small models without
            pre-trained ones.
        focal_weight, dice_weight, cme_weight: of the losses.
        epochs: length in epochs of the data; None: `loop.num_steps`.
        loop: the rest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hsa: bool = True
    pred_obj_scores: bool = True
    num_frames: int = Field(default=8, ge=1)
    cme: bool = True
    cme_decision_window: int = Field(default=4, ge=1)
    dropout: DropoutPlace = "all"
    freeze_batch_norm: bool = False
    mask_text_padding: bool = False
    trained: Literal["adapters", "all"] = "adapters"
    focal_weight: float = Field(default=1.0, ge=0)
    dice_weight: float = Field(default=1.0, ge=0)
    cme_weight: float = Field(default=1.0, ge=0)
    epochs: int | None = Field(default=None, ge=1)
    loop: LoopConfig = LoopConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.cme and self.num_frames <= self.cme_decision_window + 1:
            raise ValueError(
                f"cme with num_frames {self.num_frames} and cme_decision_window {self.cme_decision_window}: no frame "
                "would be questioned. Take longer clips, a smaller window, or cme=False."
            )
        return self

    def for_source(self, source: ClipSource) -> Self:
        """The same with its epochs turned into steps.

        Raises:
            ConfigError: epochs of a source without end.
        """
        if self.epochs is None:
            return self
        if source.num_items is None:
            raise ConfigError(f"epochs {self.epochs} of data without end: give loop.num_steps instead of epochs.")
        num_steps = max(1, self.epochs * (source.num_items // self.loop.batch_size))
        loop = LoopConfig.model_validate({**self.loop.model_dump(), "num_steps": num_steps})
        return self.model_copy(update={"epochs": None, "loop": loop})


def pretrain() -> SamwiseTraining:
    """Stills of RefCOCO, + and g together: 6 epochs at batch 32, without HSA, object scores and CME labels."""
    loop = LoopConfig(batch_size=32, learning_rate=1e-4, clip_norm=0.1, schedule=_RELEASED_SCHEDULE)
    return SamwiseTraining(hsa=False, pred_obj_scores=False, num_frames=1, cme=False, epochs=6, loop=loop)


def ref_youtube_vos() -> SamwiseTraining:
    """Ref-YouTube-VOS from the pre-trained weights: 4 epochs at batch 4."""
    return SamwiseTraining(epochs=4, loop=_FINE_TUNING)


def mevis() -> SamwiseTraining:
    """MeViS from the pre-trained weights: 1 epoch at batch 4."""
    return SamwiseTraining(epochs=1, loop=_FINE_TUNING)


def shapesref() -> SamwiseTraining:
    """A small model from random weights on generated clips: every part trained, no dropout, cosine schedule."""
    loop = LoopConfig(
        num_steps=2000,
        batch_size=8,
        learning_rate=1e-3,
        betas=(0.9, 0.98),
        weight_decay=0.02,
        schedule=ScheduleConfig(kind="cosine", warmup_steps=80, final_factor=0.03),
        ema_decay=0.998,
    )
    return SamwiseTraining(num_frames=6, trained="all", dropout="none", loop=loop)


_RELEASED_SCHEDULE = ScheduleConfig(kind="multistep", milestones=(60_000,), gamma=0.1)
_FINE_TUNING = LoopConfig(batch_size=4, learning_rate=1e-5, clip_norm=1.0, schedule=_RELEASED_SCHEDULE)

PRESETS: dict[str, Callable[[], SamwiseTraining]] = {
    "pretrain": pretrain,
    "ref_youtube_vos": ref_youtube_vos,
    "mevis": mevis,
    "shapesref": shapesref,
}
"""By name; all but "shapesref" are the released recipes. Source: SAMWISE's training scripts."""


def trained_architecture(architecture: SamwiseArchitecture, training: SamwiseTraining) -> SamwiseArchitecture:
    """The architecture with the parts that a recipe trains."""
    values = architecture.model_dump()
    values["hsa"] = training.hsa
    if not training.pred_obj_scores:
        values["sam2"] |= {"pred_obj_scores": False, "fixed_no_obj_ptr": False}
    return SamwiseArchitecture.model_validate(values)
