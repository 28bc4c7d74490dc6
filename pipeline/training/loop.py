"""The training loop: a number of steps over positions in an endless order of samples, alone or with other workers."""

import contextlib
import logging
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from pipeline.errors import ConfigError, MasklakeError
from pipeline.io.storage import Store
from pipeline.training.checkpoints import Checkpoint, check_same_recipe, has_checkpoint, load_latest, save_checkpoint
from pipeline.training.gradients import BatchLosses, GradientSum
from pipeline.training.schedule import ScheduleConfig, learning_rate_factor
from pipeline.training.training_log import TrainingLog
from pipeline.training.workers import Workers

logger = logging.getLogger(__name__)


class NonFiniteLoss(MasklakeError):
    """A loss or gradient became infinite or not a number; no weight was changed by that step."""


class LoopConfig(BaseModel):
    """How long, how fast and how often; what is trained is the learner's business.

    Attributes:
        num_steps: updates of the weights.
        batch_size: clips per update, over all workers and micro-batches.
        micro_batch_size: clips that one worker runs at a time; None for its whole share of the batch.
        learning_rate, betas, weight_decay: of AdamW.
        decay_vectors: weight decay also shrinks parameters of one axis: biases and the scales of norms.
        clip_norm: greatest norm of the gradient over all parameters; None does not clip.
        ema_decay: exponential moving average of the weights, which is then what a checkpoint's "model" holds; the
            first steps use (1 + step) / (10 + step) if that is less. None for none.
        rate_factors: beginnings of parameter names, each with what the learning rate is multiplied by there; the
            longest that fits counts.
        precision: "bf16" is autocast on CUDA, an error elsewhere; losses are float32 always.
        allow_tf32: on CUDA.
        seed: of the order of samples, what is drawn for each, and dropout.
        checkpoint_every, keep_last, log_every: in steps; checkpoints kept; steps between log lines.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_steps: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=4, ge=1)
    micro_batch_size: int | None = Field(default=None, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.0, ge=0)
    decay_vectors: bool = True
    clip_norm: float | None = Field(default=1.0, gt=0)
    schedule: ScheduleConfig = ScheduleConfig()
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    rate_factors: dict[str, float] = {}
    precision: Literal["fp32", "bf16"] = "fp32"
    allow_tf32: bool = True
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    checkpoint_every: int = Field(default=1000, ge=1)
    keep_last: int = Field(default=2, ge=1)
    log_every: int = Field(default=50, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of micro_batch_size {self.micro_batch_size}")
        return self

    def recipe(self) -> dict[str, Any]:
        """What must not change on a resume: all that shapes the curve, not how it is cut or told."""
        told_only = {"checkpoint_every", "keep_last", "log_every", "micro_batch_size"}
        if self.decay_vectors:
            told_only.add("decay_vectors")
        recipe: dict[str, Any] = self.model_dump(mode="json", exclude=told_only)
        return recipe


class Learner(Protocol):
    """What is trained. Its losses are a function of weights, positions and torch's random state alone."""

    @property
    def module(self) -> nn.Module:
        """Everything; buffers that training moves are among its own."""
        ...

    def trained(self) -> Mapping[str, nn.Parameter]:
        """Parameters to train by name; all others stay as they are."""
        ...

    def trained_buffers(self) -> Mapping[str, Tensor]:
        """Buffers that training moves (batch norm statistics) by name."""
        ...

    def losses(self, positions: Sequence[int]) -> BatchLosses:
        """Draw the samples at these positions and run them."""
        ...

    def look_ahead(self, positions: Sequence[int]) -> None:
        """These positions will be asked for soon."""
        ...

    def model_content(self) -> dict[str, Any]:
        """The weights as a user of the model reads them, for the checkpoint: {"model": tensors, ...}."""
        ...

    def recipe(self) -> dict[str, Any]:
        """What must be equal for a resume, beside the loop's own."""
        ...


@dataclass(slots=True, kw_only=True)
class TrainingResult:
    """How it went: steps done, and the scalars of each step that this call ran, by step counted from 0."""

    num_steps: int
    scalars: dict[int, dict[str, float]] = field(default_factory=dict)


def train(
    learner: Learner,
    config: LoopConfig,
    *,
    store: Store | None = None,
    workers: Workers | None = None,
    resume: bool = False,
    stop_after: int | None = None,
    on_step: Callable[[int, Mapping[str, float]], None] | None = None,
) -> TrainingResult:
    """Train until `config.num_steps`, with a checkpoint every so often and at the end.

    Every worker calls this with an equal learner. On a CPU a resumed training continues bit for bit under an equal
    number of workers and micro-batches; other numbers are allowed and change dropout, batch norm and rounding.

    Args:
        store: where checkpoints and logs go; None keeps none.
        resume: go on from the store's latest checkpoint if there is one.
        stop_after: end, with a checkpoint, after this many steps in all.
        on_step: told each finished step, counted from 0, with its scalars.

    Raises:
        ConfigError: a checkpoint is there and `resume` is False, or was made under another recipe; the batch cannot be
            split evenly; bf16 without CUDA.
        NonFiniteLoss: names the step and the samples.
        WeightsError, StorageError: a checkpoint cannot be read or written.
    """
    workers = workers or Workers()
    state = _State(learner, config, workers)
    if store is not None and resume:
        state.load(load_latest(store))
    elif store is not None and has_checkpoint(store):
        raise ConfigError(f"{store.root_uri} holds a training already. Resume it, or name another output.")
    end = config.num_steps if stop_after is None else min(stop_after, config.num_steps)
    result = TrainingResult(num_steps=state.step)
    with contextlib.ExitStack() as stack:
        log: TrainingLog | None = None
        if store is not None and workers.is_first:
            log = stack.enter_context(
                TrainingLog(store, first_step=state.step, every=config.log_every, num_steps=config.num_steps)
            )
        while state.step < end:
            step = state.step
            scalars = state.advance()
            result.scalars[step] = scalars
            if log is not None:
                log.step(step, scalars)
            if store is not None and (state.step % config.checkpoint_every == 0 or state.step == end):
                if workers.is_first:
                    save_checkpoint(store, state.step, state.content(), keep_last=config.keep_last)
                if log is not None:
                    log.flush()
                workers.wait_for_all()
            if on_step is not None:
                on_step(step, scalars)
    result.num_steps = state.step
    return result


class _State:
    """Weights, optimizer and average on their way through the steps."""

    def __init__(self, learner: Learner, config: LoopConfig, workers: Workers) -> None:
        self.step = 0
        self._learner, self._config, self._workers = learner, config, workers
        self._trained = dict(learner.trained())
        self._buffers = dict(learner.trained_buffers())
        if not self._trained:
            raise ConfigError("nothing to train: no parameter is named. Check what the learner freezes.")
        self._device = next(iter(self._trained.values())).device
        if config.precision == "bf16" and self._device.type != "cuda":
            raise ConfigError(f"precision 'bf16' on {self._device}: mixed precision needs CUDA. Use 'fp32'.")
        self._micro = _micro_batch_size(config, workers)
        self._optimizer = torch.optim.AdamW(
            _rate_groups(self._trained, config),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        self._recipe = {**config.recipe(), **learner.recipe()}
        self._average: dict[str, Tensor] | None = None
        if config.ema_decay is not None:
            self._average = {name: parameter.detach().clone() for name, parameter in self._trained.items()}

    def advance(self) -> dict[str, float]:
        """One update of the weights; its scalars."""
        config, step = self._config, self.step
        gradients = GradientSum(
            list(self._trained.values()),
            num_micro_batches=len(self._micro_batches(step)),
            workers=self._workers,
        )
        bad: list[str] = []
        with _arithmetic(self._device, config):
            for micro, positions in enumerate(self._micro_batches(step)):
                self._learner.look_ahead(self._positions_after(step, micro))
                with _randomness(self._device, (config.seed, step, self._workers.rank, micro)):
                    losses = self._learner.losses(positions)
                    gradients.add(losses)
                if not all(math.isfinite(float(value.detach())) for value in losses.means.values()):
                    bad.extend(losses.sample_ids)
            scalars = gradients.finish()
        scalars |= self._update(step, scalars, bad)
        self.step += 1
        return scalars

    def content(self) -> Checkpoint:
        """All that a resume needs, and the model as its users read it (averaged, if there is an average)."""
        trained = {name: parameter.detach().clone() for name, parameter in self._trained.items()}
        with self._swapped_to_average():
            content = self._learner.model_content()
        return content | {
            "optimizer": self._optimizer.state_dict(),
            "training": {
                "step": self.step,
                # The next position, and with (seed, step) the state of every random generator.
                "position": self.step * self._config.batch_size,
                "parameters": trained,
                "buffers": {name: buffer.detach().clone() for name, buffer in self._buffers.items()},
                "average": self._average,
                "recipe": self._recipe,
            },
        }

    def load(self, content: Checkpoint | None) -> None:
        """Go on from a checkpoint's content; None changes nothing."""
        if content is None:
            return
        training = content.get("training")
        if not isinstance(training, dict):
            raise ConfigError(f"the latest checkpoint holds {sorted(content)}, no training state to resume from.")
        check_same_recipe(training["recipe"], self._recipe)
        with torch.no_grad():
            for own, kept in ((self._trained, training["parameters"]), (self._buffers, training["buffers"])):
                for name, tensor in own.items():
                    tensor.copy_(kept[name])
        self._optimizer.load_state_dict(content["optimizer"])
        if self._average is not None:
            self._average = {name: tensor.to(self._device) for name, tensor in training["average"].items()}
        self.step = int(training["step"])
        logger.info("go on after step %d", self.step)

    def _update(self, step: int, scalars: Mapping[str, float], bad: Sequence[str]) -> dict[str, float]:
        config, parameters = self._config, list(self._trained.values())
        norm = float(nn.utils.clip_grad_norm_(parameters, config.clip_norm or math.inf))
        if not (math.isfinite(norm) and all(math.isfinite(value) for value in scalars.values())):
            where = ", ".join(bad) if bad else "those of another worker, or the backward pass"
            told = ", ".join(f"{name} {value:.4g}" for name, value in scalars.items())
            raise NonFiniteLoss(
                f"step {step}: {told}, gradient norm {norm:.4g}; not finite in samples: {where}. The weights are those "
                "before this step. Lower the learning rate, clip the gradient, or look at these samples."
            )
        factor = learning_rate_factor(config.schedule, step, num_steps=config.num_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * factor * group["rate_factor"]
        self._optimizer.step()
        # Without SyncBatchNorm (CPU) each worker saw its own clips: their statistics are averaged.
        self._workers.mean_in_place([b for b in self._buffers.values() if b.is_floating_point()])
        self._follow(step)
        return {"gradient_norm": norm, "learning_rate": config.learning_rate * factor}

    def _follow(self, step: int) -> None:
        if self._average is None or self._config.ema_decay is None:
            return
        decay = min(self._config.ema_decay, (1 + step) / (10 + step))
        for name, parameter in self._trained.items():
            self._average[name].lerp_(parameter.detach(), 1 - decay)

    @contextlib.contextmanager
    def _swapped_to_average(self) -> Iterator[None]:
        if self._average is None:
            yield
            return
        own = {name: parameter.detach().clone() for name, parameter in self._trained.items()}
        try:
            _copy_into(self._trained, self._average)
            yield
        finally:
            _copy_into(self._trained, own)

    def _micro_batches(self, step: int) -> list[range]:
        """This worker's positions of a step, one range per micro-batch."""
        config, workers = self._config, self._workers
        share = config.batch_size // workers.num_workers
        first = step * config.batch_size + workers.rank * share
        return [range(start, start + self._micro) for start in range(first, first + share, self._micro)]

    def _positions_after(self, step: int, micro: int) -> range:
        batches = self._micro_batches(step)
        return batches[micro + 1] if micro + 1 < len(batches) else self._micro_batches(step + 1)[0]


def _rate_groups(trained: Mapping[str, nn.Parameter], config: LoopConfig) -> list[dict[str, Any]]:
    """Parameters of equal rate factor and weight decay together, in order of first appearance."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        fitting = [prefix for prefix in config.rate_factors if name.startswith(prefix)]
        factor = config.rate_factors[max(fitting, key=len)] if fitting else 1.0
        decay = config.weight_decay if config.decay_vectors or parameter.ndim > 1 else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    return [
        {"params": parameters, "rate_factor": factor, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]


def _micro_batch_size(config: LoopConfig, workers: Workers) -> int:
    share, rest = divmod(config.batch_size, workers.num_workers)
    micro = share if config.micro_batch_size is None else min(config.micro_batch_size, share)
    if rest or share == 0 or share % micro:
        raise ConfigError(
            f"batch_size {config.batch_size} over {workers.num_workers} workers in micro-batches of "
            f"{config.micro_batch_size}: expected an even split. Change one of the three."
        )
    return micro


def _copy_into(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])


@contextlib.contextmanager
def _arithmetic(device: torch.device, config: LoopConfig) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if config.allow_tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = config.allow_tf32
    try:
        # Weights are cast once per step: the cache lives as long as this block.
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=config.precision == "bf16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@contextlib.contextmanager
def _randomness(device: torch.device, name: tuple[int, ...]) -> Iterator[None]:
    """Every generator seeded by (seed, step, rank, micro-batch) inside, and as it was after: nothing to save."""
    words = np.random.SeedSequence(name).generate_state(2, np.uint64)
    python, legacy = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(words[0]) >> 1)
        random.seed(int(words[1]))
        np.random.seed(int(words[1]) & 0xFFFFFFFF)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)
