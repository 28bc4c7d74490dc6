"""Gradients of one step over all workers and micro-batches: equal to those of one worker with the whole batch."""

# G clips of the global batch are split evenly over W workers and M micro-batches.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pipeline.training.workers import Workers


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioLoss:
    """A loss that is a ratio of sums over the whole global batch, such as a weighted mean over some of its rows.

    Attributes:
        numerator: scalar with a gradient, or 0.
        denominator: scalar without one; where the sum over the global batch is 0, so is the loss.
    """

    numerator: Tensor
    denominator: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLosses:
    """What a micro-batch of clips gives.

    Attributes:
        means: losses that are means over its clips, by name; they are added up.
        ratios: losses whose normaliser spans the global batch, by name; they are added to the others. Like the means
            they are there in every micro-batch, 0 / 0 where one has nothing to say.
        metrics: means over its clips that only the log shows, by name.
        sample_ids: its clips, for error messages.
    """

    means: Mapping[str, Tensor]
    ratios: Mapping[str, RatioLoss] = field(default_factory=dict)
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    sample_ids: tuple[str, ...] = ()


class GradientSum:
    """Adds up micro-batches into `.grad` of the parameters, then over the workers.

    A mean of micro-batches' means is the mean of the whole; a ratio is not, so its numerator's gradient is kept apart
    and divided at the end. The exchange is one sum of all gradients, not DistributedDataParallel: that would wrap
    the module, want every parameter used in every step, and know nothing of ratios. What is trained here is a few
    million parameters, so overlapping the exchange with the backward pass would gain little.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, num_micro_batches: int, workers: Workers) -> None:
        self._parameters = list(parameters)
        self._workers = workers
        self._share = 1 / (num_micro_batches * workers.num_workers)
        self._sums: dict[str, Tensor] = {}
        self._ratio_gradients: dict[str, list[Tensor]] = {}
        self._loss_names: set[str] = set()
        for parameter in self._parameters:
            parameter.grad = None

    def add(self, losses: BatchLosses) -> None:
        """Backward pass of one micro-batch."""
        self._loss_names |= {*losses.means, *losses.ratios}
        for name, ratio in losses.ratios.items():
            self._add_ratio(name, ratio)
        total = torch.stack(list(losses.means.values())).sum() * self._share
        if total.requires_grad:
            torch.autograd.backward(total)
        for name, value in (*losses.means.items(), *losses.metrics.items()):
            self._note(name, value * self._share)

    def finish(self) -> dict[str, float]:
        """Sum over the workers; gradients are then in `.grad`, zero where a parameter was not used.

        Returns:
            Every loss and metric by name, over the global batch, and "loss", their total without the metrics.
        """
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        ratio_gradients = [gradient for group in self._ratio_gradients.values() for gradient in group]
        self._workers.sum_in_place([*gradients, *ratio_gradients, *self._sums.values()])
        values = {name: value for name, value in self._sums.items() if not name.startswith(_DENOMINATOR)}
        for name, group in self._ratio_gradients.items():
            denominator = self._sums[_DENOMINATOR + name]
            # Nothing to divide by means nothing was asked: no loss.
            scale = torch.where(denominator > 0, 1 / denominator.clamp(min=1e-12), 0.0)
            values[name] = values[name] * scale
            for gradient, part in zip(gradients, group, strict=True):
                gradient.add_(part * scale)
        values["loss"] = torch.stack([values[name] for name in sorted(self._loss_names)]).sum()
        return {name: float(value) for name, value in values.items()}

    def _add_ratio(self, name: str, ratio: RatioLoss) -> None:
        group = self._ratio_gradients.setdefault(name, [torch.zeros_like(p) for p in self._parameters])
        if ratio.numerator.requires_grad:
            found = torch.autograd.grad(ratio.numerator, self._parameters, retain_graph=True, allow_unused=True)
            for kept, gradient in zip(group, found, strict=True):
                if gradient is not None:
                    kept.add_(gradient)
        self._note(name, ratio.numerator)
        self._note(_DENOMINATOR + name, ratio.denominator)

    def _note(self, name: str, value: Tensor) -> None:
        value = value.detach().float()
        self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()


_DENOMINATOR = "denominator of "
