"""The smallest thing that the training loop can train: a linear model with dropout, whose answers can be worked out."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.training.gradients import BatchLosses, RatioLoss

NUM_FEATURES = 3


class LinearLearner:
    """Fits y = x . (1, 2, 3); the sample at a position is drawn from the position alone."""

    def __init__(self, *, dropout: float = 0.0, with_ratio: bool = False, poisoned: int | None = None) -> None:
        self.network = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(NUM_FEATURES, 1, bias=False), nn.BatchNorm1d(1, affine=False, momentum=0.1)
        )
        with torch.no_grad():
            self.network[1].weight.copy_(torch.tensor([[0.5, -0.5, 0.25]]))  # type: ignore[operator]
        self.network[2].eval()
        self.with_ratio = with_ratio
        self.poisoned = poisoned
        self.asked: list[list[int]] = []

    @property
    def module(self) -> nn.Module:
        return self.network

    def trained(self) -> Mapping[str, nn.Parameter]:
        return dict(self.network.named_parameters())

    def trained_buffers(self) -> Mapping[str, Tensor]:
        return dict(self.network.named_buffers())

    def losses(self, positions: Sequence[int]) -> BatchLosses:
        self.asked.append(list(positions))
        inputs = torch.stack([features_at(position) for position in positions])
        if self.poisoned in positions:
            inputs = inputs * torch.inf
        answers = inputs @ torch.tensor([[1.0], [2.0], [3.0]])
        errors = (self.network(inputs) - answers)[:, 0]
        ratios = {}
        if self.with_ratio:
            weights = torch.tensor([float(position % 3) for position in positions])
            ratios["weighted"] = RatioLoss(numerator=(weights * errors.abs()).sum(), denominator=weights.sum())
        names = tuple(f"sample {position}" for position in positions)
        return BatchLosses(means={"square": (errors**2).mean()}, ratios=ratios, sample_ids=names)

    def look_ahead(self, positions: Sequence[int]) -> None:
        del positions

    def model_content(self) -> dict[str, Any]:
        return {"model": {name: tensor.clone() for name, tensor in self.network.state_dict().items()}}

    def recipe(self) -> dict[str, Any]:
        return {"with_ratio": self.with_ratio}


def features_at(position: int) -> Tensor:
    """The input at a position."""
    return torch.randn(NUM_FEATURES, generator=torch.Generator().manual_seed(position))
