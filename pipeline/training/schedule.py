"""Learning rate over steps: constant, multi-step, cosine or polynomial, each after an optional warm-up."""

import math
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

ScheduleKind = Literal["constant", "multistep", "cosine", "poly"]


class ScheduleConfig(BaseModel):
    """What the learning rate is multiplied by at each step; a pure function of the step, so a resume cannot drift.

    Attributes:
        kind: "multistep" multiplies by gamma at each milestone; "cosine" and "poly" fall to final_factor at the end.
        warmup_steps: the factor rises linearly from 1 / (warmup_steps + 1); the kind's own curve begins after it.
        warmup_factor: the factor at step 0 in its place, if set, rising to 1 at step warmup_steps.
        horizon_steps: where "cosine" and "poly" reach their end, if not at the training's last step; not before it.
        milestones: steps counted from 0, for "multistep".
        power: of "poly".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ScheduleKind = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    milestones: tuple[int, ...] = ()
    gamma: float = Field(default=0.1, gt=0, le=1)
    final_factor: float = Field(default=0.0, ge=0, le=1)
    power: float = Field(default=0.9, gt=0)
    warmup_factor: float | None = Field(default=None, gt=0, le=1)
    horizon_steps: int | None = Field(default=None, ge=1)

    @model_serializer(mode="wrap")
    def _without_unset(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is not set, so that a recipe that does not use it compares equal to one that never had it."""
        values: dict[str, Any] = dump(self)
        return {key: value for key, value in values.items() if value is not None}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.kind == "multistep") != bool(self.milestones) or sorted(set(self.milestones)) != [*self.milestones]:
            raise ValueError(
                f"milestones {self.milestones} for a {self.kind!r} schedule: 'multistep' needs rising ones, "
                "the others take none."
            )
        return self


def learning_rate_factor(schedule: ScheduleConfig, step: int, *, num_steps: int) -> float:
    """Factor of the base learning rate for the update that step `step`, counted from 0, makes.

    Source of the cosine: Loshchilov and Hutter, SGDR, ICLR 2017, equation 5, without restarts.
    """
    if step < schedule.warmup_steps:
        if schedule.warmup_factor is not None:
            return schedule.warmup_factor + (1 - schedule.warmup_factor) * step / schedule.warmup_steps
        return (step + 1) / (schedule.warmup_steps + 1)
    if schedule.kind == "multistep":
        return schedule.gamma ** sum(step >= milestone for milestone in schedule.milestones)
    if schedule.kind == "constant":
        return 1.0
    last = max(num_steps, schedule.horizon_steps or num_steps)
    done = (step - schedule.warmup_steps) / max(1, last - schedule.warmup_steps)
    shape = (1 + math.cos(math.pi * done)) / 2 if schedule.kind == "cosine" else (1 - done) ** schedule.power
    return schedule.final_factor + (1 - schedule.final_factor) * shape
