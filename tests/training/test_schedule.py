"""Learning-rate curves against closed forms."""

import math

import pytest
from pydantic import ValidationError

from pipeline.training.schedule import ScheduleConfig, learning_rate_factor


def factors(schedule: ScheduleConfig, num_steps: int) -> list[float]:
    return [learning_rate_factor(schedule, step, num_steps=num_steps) for step in range(num_steps)]


def test_multistep_drops_at_each_milestone() -> None:
    schedule = ScheduleConfig(kind="multistep", milestones=(2, 4), gamma=0.5)
    assert factors(schedule, 6) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def test_warm_up_rises_linearly_and_never_stands_at_zero() -> None:
    assert factors(ScheduleConfig(warmup_steps=3), 5) == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_cosine_is_half_way_down_in_the_middle_of_what_follows_the_warm_up() -> None:
    schedule = ScheduleConfig(kind="cosine", warmup_steps=10, final_factor=0.2)
    assert learning_rate_factor(schedule, 10, num_steps=110) == 1.0
    assert learning_rate_factor(schedule, 60, num_steps=110) == pytest.approx(0.6)
    assert learning_rate_factor(schedule, 35, num_steps=110) == pytest.approx(0.2 + 0.4 * (1 + math.sqrt(0.5)))
    assert learning_rate_factor(schedule, 109, num_steps=110) == pytest.approx(0.2, abs=1e-3)


def test_poly_falls_by_its_power() -> None:
    schedule = ScheduleConfig(kind="poly", power=2.0)
    assert factors(schedule, 4) == pytest.approx([1.0, 0.5625, 0.25, 0.0625])


@pytest.mark.parametrize(
    "fields", [{"kind": "multistep"}, {"milestones": (5,)}, {"kind": "multistep", "milestones": (5, 3)}]
)
def test_milestones_that_do_not_fit_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="milestones"):
        ScheduleConfig.model_validate(fields)


def test_a_warm_up_may_begin_at_a_given_factor_and_a_curve_end_beyond_the_training() -> None:
    schedule = ScheduleConfig(kind="poly", power=2.0, warmup_steps=2, warmup_factor=0.5, horizon_steps=12)
    assert factors(schedule, 7) == pytest.approx([0.5, 0.75, 1.0, 0.81, 0.64, 0.49, 0.36])


def test_settings_that_are_not_used_are_not_in_the_recipe() -> None:
    assert "warmup_factor" not in ScheduleConfig().model_dump(mode="json")
    used = ScheduleConfig(warmup_steps=1, warmup_factor=0.1)
    assert ScheduleConfig.model_validate(used.model_dump(mode="json")) == used
