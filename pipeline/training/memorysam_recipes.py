"""Recipes of MemorySAM's training: what is trained, on which modalities, for how long; the released ones by name."""

from collections.abc import Callable
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.errors import ConfigError
from pipeline.io.importers.mcubes import MCUBES_FILES
from pipeline.ticks import RGB
from pipeline.training.loop import LoopConfig
from pipeline.training.memorysam_augment import Augmentation
from pipeline.training.prototypes import MOMENTUM, REFERENCE_WEIGHT, SpmmMode
from pipeline.training.schedule import ScheduleConfig

WARMUP_EPOCHS = 10

TrainedParts = Literal["lora", "all"]


class MemorySamTraining(BaseModel):
    """What is trained, on which modalities, for how long; the defaults are the released ones.

    Source: Liao et al., MemorySAM, arXiv 2503.06700, and its released training code.

    Attributes:
        modalities: in the order of the memory.
        modality_drop: probability with which each is left out of a batch; the reference drops none.
        trained: "lora" trains adapters, mask decoder (but its IoU and object score heads) and SAM2's memory
            embeddings; "all" every part that can learn, for small models without pre-trained ones.
        train_memory: with "lora", memory attention and memory encoder too. The first public code froze them, and
            loses six points on DELIVER by it.
        use_memory: modalities read those before them.
        dropout: of memory attention, as SAM2 trains it.
        spmm: how prototypes are kept: "reference" as the published code, "masked" over present classes and all
            workers, "off" not at all.
        spmm_weight: of the prototype loss; None is 65536 for "reference", which undoes its second division by the
            pixel count, and 1 for "masked".
        spmm_momentum: share of the running prototypes that a step keeps.
        augmentation: of the scenes.
        epochs: length in epochs of the data, with the released schedule over them in place of `loop.schedule`; None:
            `loop.num_steps`.
        loop: the rest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modalities: tuple[str, ...] = (RGB, "hha", "event", "lidar")
    modality_drop: float = Field(default=0.0, ge=0, lt=1)
    trained: TrainedParts = "lora"
    train_memory: bool = True
    use_memory: bool = True
    dropout: bool = True
    spmm: SpmmMode = "reference"
    spmm_weight: float | None = Field(default=None, ge=0)
    spmm_momentum: float = Field(default=MOMENTUM, ge=0, lt=1)
    augmentation: Augmentation = Augmentation()
    epochs: int | None = Field(default=None, ge=1)
    loop: LoopConfig = LoopConfig()

    @property
    def prototype_weight(self) -> float:
        """Of the prototype loss."""
        if self.spmm_weight is not None:
            return self.spmm_weight
        return REFERENCE_WEIGHT if self.spmm == "reference" else 1.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise ValueError(f"modalities {list(self.modalities)}: expected at least one, none of them twice.")
        return self

    def for_items(self, num_items: int | None) -> Self:
        """The same with its epochs turned into steps and their schedule.

        Raises:
            ConfigError: epochs of a source without end, or of one smaller than a batch.
        """
        if self.epochs is None:
            return self
        if num_items is None:
            raise ConfigError(f"epochs {self.epochs} of data without end: give loop.num_steps instead of epochs.")
        if num_items < self.loop.batch_size:
            raise ConfigError(f"{num_items} scenes are fewer than one batch of {self.loop.batch_size}.")
        schedule, num_steps = reference_schedule(epochs=self.epochs, steps_per_epoch=num_items // self.loop.batch_size)
        loop = LoopConfig.model_validate(
            {**self.loop.model_dump(), "num_steps": num_steps, "schedule": schedule.model_dump()}
        )
        return self.model_copy(update={"epochs": None, "loop": loop})


def reference_schedule(*, epochs: int, steps_per_epoch: int) -> tuple[ScheduleConfig, int]:
    """The released schedule and its number of steps: ten epochs up from a tenth, then down by a power of 0.9.

    It would end one epoch after the training does.
    """
    schedule = ScheduleConfig(
        kind="poly",
        power=0.9,
        warmup_steps=WARMUP_EPOCHS * steps_per_epoch,
        warmup_factor=0.1,
        horizon_steps=(epochs + 1) * steps_per_epoch,
    )
    return schedule, epochs * steps_per_epoch


def deliver() -> MemorySamTraining:
    """DELIVER with all four modalities: 200 epochs at an effective batch of 16, as four workers of 4."""
    return MemorySamTraining(epochs=200, loop=_released_loop(learning_rate=6e-4))


def mcubes() -> MemorySamTraining:
    """MCubeS with all four modalities: 500 epochs at an effective batch of 16, with its own loader's augmentation.

    That loader resizes polarisation and infrared without antialiasing; here rgb too.
    """
    return MemorySamTraining(
        modalities=tuple(MCUBES_FILES),
        augmentation=Augmentation(jitter=0.0, blur=0.5, blurred=(RGB, "nir"), blur_sigma=(0.0, 1.0), antialias=False),
        epochs=500,
        loop=_released_loop(learning_rate=3.5e-4),
    )


def _released_loop(*, learning_rate: float) -> LoopConfig:
    return LoopConfig(
        batch_size=16,
        learning_rate=learning_rate,
        weight_decay=0.01,
        decay_vectors=False,
        clip_norm=None,
        allow_tf32=False,
        seed=3407,
    )


def streets() -> MemorySamTraining:
    """A small model from random weights on generated streets, every part trained; how the released one was made.

    A modality of a scene is blank with probability 0.25: with so few steps modalities hardly begin to read what others
    left in memory, unless some scenes show them nothing else to go by.
    """
    loop = LoopConfig(
        num_steps=2000,
        batch_size=8,
        learning_rate=1e-3,
        betas=(0.9, 0.98),
        weight_decay=0.02,
        decay_vectors=False,
        schedule=ScheduleConfig(kind="poly", warmup_steps=50, warmup_factor=0.1),
        ema_decay=0.99,
    )
    return MemorySamTraining(
        modality_drop=0.1,
        trained="all",
        dropout=False,
        spmm="masked",
        augmentation=Augmentation(jitter=0.0, blur=0.0, scale=(0.75, 1.5), blank=0.25),
        loop=loop,
    )


PRESETS: dict[str, Callable[[], MemorySamTraining]] = {"deliver": deliver, "mcubes": mcubes, "streets": streets}
"""By the kind of data they belong to; "deliver" and "mcubes" are the released recipes."""
