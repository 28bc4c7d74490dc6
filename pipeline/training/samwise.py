"""SAMWISE's own training: frozen SAM2 and text encoder, adapters between them, clips frame by frame, CME labels."""

# Axes: B clips, T frames, L text tokens, S prompt tokens, E decoder width, C memory channels, R rows (clip, frame) on
# which the CME was questioned, H W the padded batch, h w the tensor's own grid.

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import ConfigError
from pipeline.models.conditional_memory import is_evaluation_due
from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.mask_decoding import MaskOutput
from pipeline.models.memory import MemoryBank, MemoryEntry, MemorySelection
from pipeline.models.samwise_checkpoint import checkpoint_tensors
from pipeline.models.samwise_network import FusedClip, SamwiseNetwork
from pipeline.models.text_encoder import PAD_ID
from pipeline.models.tokenizers import Tokenizer, check_length
from pipeline.training.clips import ClipBatch, ClipSource, SampleReader, collate
from pipeline.training.gradients import BatchLosses, RatioLoss
from pipeline.training.losses import (
    CME_CLASS_WEIGHTS,
    IGNORED,
    SIZE_MULTIPLE,
    cme_labels,
    dice_loss,
    focal_loss,
    match_sizes,
)
from pipeline.training.samwise_recipes import DropoutPlace, SamwiseTraining

TRAINED_PARTS = ("adapters.", "cme.", "project_text.")
"""Officially: names that contain `adapter`, `conditional_memory_encoder` or `project_text`."""

_NO_TOKEN_TYPES = "token_type_embeddings"


def trained_parameters(network: SamwiseNetwork, trained: Literal["adapters", "all"]) -> dict[str, nn.Parameter]:
    """The parameters to train by our names; every other one is frozen by this call.

    With the official sizes these are 5,235,906, and 4,907,458 without `project_text`, as the paper counts.
    """
    chosen: dict[str, nn.Parameter] = {}
    for name, parameter in network.named_parameters():
        # RoBERTa's one token type is zero and has no place in the official layout: it stays so.
        is_trained = (trained == "all" and _NO_TOKEN_TYPES not in name) or name.startswith(TRAINED_PARTS)
        parameter.requires_grad_(is_trained)
        if is_trained:
            chosen[name] = parameter
    return chosen


def set_mode(network: SamwiseNetwork, *, dropout: DropoutPlace, freeze_batch_norm: bool) -> None:
    """Put each part into training or evaluation mode, which decides dropout and batch norm and nothing else here."""
    network.train(dropout != "none")
    if dropout == "trained":
        network.core.eval()
        network.text_encoder.eval()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(not freeze_batch_norm)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipOutput:
    """A batch of clips, segmented.

    Attributes:
        mask_logits_BTHW: at the padded batch's size; masks of objects out of view are not painted out.
        decisions_R2, labels_R: what the CME said and should have said, or None where it was not questioned.
    """

    mask_logits_BTHW: Tensor
    decisions_R2: Tensor | None
    labels_R: Tensor | None


def segment_clips(network: SamwiseNetwork, batch: ClipBatch, training: SamwiseTraining) -> ClipOutput:
    """Clips through the whole network, each frame reading what the frames before it left.

    The frames of a clip come one after the other, each clip with its own, at first empty, memory; clips of a batch
    advance side by side. The CME is questioned on the frames on which it would be if it never switched, and its
    answer is scored, not followed.
    """
    side, num_frames = network.architecture.sam2.image_size, batch.num_frames
    height, width = batch.images_FCHW.shape[-2:]
    square_F3HW = F.pad(batch.images_FCHW, (0, side - width, 0, side - height))
    fused = network.fuse(
        network.encode_prefix(square_F3HW),
        batch.token_ids_BL,
        num_frames=num_frames,
        keep_BL=None if bool(batch.keep_BL.all()) else batch.keep_BL,
        mask_text_padding=training.mask_text_padding,
    )
    run = _ClipRun(network, fused, num_clips=len(batch.sample_ids), num_frames=num_frames, size=(height, width))
    for frame in range(num_frames):
        is_due = training.cme and is_evaluation_due(frame, 0, window=training.cme_decision_window)
        run.advance(frame, question_memory=is_due and network.cme is not None)
    return run.output()


@dataclass(slots=True)
class _ClipRun:
    """Clips of a batch on their way from frame to frame."""

    network: SamwiseNetwork
    fused: FusedClip
    num_clips: int = field(kw_only=True)
    num_frames: int = field(kw_only=True)
    size: tuple[int, int] = field(kw_only=True)
    banks: list[MemoryBank] = field(init=False)
    logits: list[Tensor] = field(default_factory=list, init=False)
    decisions: list[Tensor] = field(default_factory=list, init=False)
    labels: list[Tensor] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.banks = [MemoryBank() for _ in range(self.num_clips)]

    def advance(self, frame: int, *, question_memory: bool) -> None:
        """One frame of every clip."""
        network, prompt_BSE = self.network, self.fused.prompt_BSE
        features = self.fused.features.rows([clip * self.num_frames + frame for clip in range(self.num_clips)])
        selections = self._selections(frame)
        output = network.segment(features, selections, prompt_BSE, gate_absent=False)
        logits_B1HW = network.core.enlarge(output.low_res_logits_R1hw)
        self.logits.append(self._cut(logits_B1HW))
        if question_memory:
            self._question(features, output)
        if frame + 1 < self.num_frames:
            self._remember(frame, features, output, logits_B1HW)

    def output(self) -> ClipOutput:
        """What all frames gave; the CME's rows frame by frame."""
        return ClipOutput(
            mask_logits_BTHW=torch.stack(self.logits, dim=1),
            decisions_R2=torch.cat(self.decisions) if self.decisions else None,
            labels_R=torch.cat(self.labels) if self.labels else None,
        )

    def _selections(self, frame: int) -> list[MemorySelection]:
        return [self.network.memory_policy.select(bank, frame) for bank in self.banks]

    def _cut(self, logits_B1HW: Tensor) -> Tensor:
        height, width = self.size
        return logits_B1HW[:, 0, :height, :width]

    def _question(self, features: ImageFeatures, output: MaskOutput) -> None:
        assert self.network.cme is not None
        # Nothing of the memory-less decode is trained: the CME reads it detached, and labels have no gradient.
        with torch.no_grad():
            alone = self.network.segment_without_memory(features, self.fused.prompt_BSE, gate_absent=False)
            alone_BHW = self._cut(self.network.core.enlarge(alone.low_res_logits_R1hw))
            labels_B = cme_labels(self.logits[-1], alone_BHW, alone.object_score_R1[:, 0])
        self.decisions.append(self.network.cme(output.object_pointer_RD, alone.early_token_RD))
        self.labels.append(labels_B)

    def _remember(self, frame: int, features: ImageFeatures, output: MaskOutput, logits_B1HW: Tensor) -> None:
        memory_BChw = self.network.remember(features, logits_B1HW, output.object_score_R1)
        told = torch.stack([output.object_score_R1[:, 0], output.predicted_iou_R], dim=1).detach().float().tolist()
        for clip, (bank, (score, iou)) in enumerate(zip(self.banks, told, strict=True)):
            bank.add(
                MemoryEntry(
                    frame_index=frame,
                    pointer_D=output.object_pointer_RD[clip],
                    features_Chw=memory_BChw[clip],
                    object_score=score,
                    predicted_iou=iou,
                )
            )
            bank.forget(self.network.memory_policy.horizon)


def clip_losses(output: ClipOutput, batch: ClipBatch, training: SamwiseTraining) -> BatchLosses:
    """Focal and dice loss of whole clips, and the CME's cross-entropy over all frames on which it was questioned."""
    logits_BTHW, targets_BTHW = match_sizes(output.mask_logits_BTHW, batch.targets_BTHW)
    means = {
        "focal": training.focal_weight * focal_loss(logits_BTHW, targets_BTHW),
        "dice": training.dice_weight * dice_loss(logits_BTHW, targets_BTHW),
    }
    ratios: dict[str, RatioLoss] = {}
    if output.decisions_R2 is not None and output.labels_R is not None:
        ratios["cme"] = _cme_ratio(output.decisions_R2, output.labels_R, training.cme_weight)
    with torch.no_grad():
        metrics = {"train_j": _mean_j(logits_BTHW > 0, targets_BTHW > 0)}
    return BatchLosses(means=means, ratios=ratios, metrics=metrics, sample_ids=batch.sample_ids)


class SamwiseLearner:
    """SAMWISE as the training loop sees it.

    Attributes:
        source: where clips come from.

    Args:
        network: on its device; this freezes what is not trained and sets its mode.
        tokenizer: of its text encoder.
        num_threads: that draw clips ahead of time.
    """

    def __init__(
        self,
        network: SamwiseNetwork,
        tokenizer: Tokenizer,
        source: ClipSource,
        training: SamwiseTraining,
        *,
        num_threads: int = 0,
    ) -> None:
        side = network.architecture.sam2.image_size
        if side % SIZE_MULTIPLE:
            raise ConfigError(f"image_size {side}: training pads targets to multiples of {SIZE_MULTIPLE}.")
        self._network = network
        self._tokenizer = tokenizer
        self._training = training
        self.source = source
        self._max_tokens = network.architecture.text.max_tokens
        self._pad_id = network.architecture.text.end_id or PAD_ID
        self._trained = trained_parameters(network, training.trained)
        set_mode(network, dropout=training.dropout, freeze_batch_norm=training.freeze_batch_norm)
        self._reader = SampleReader(source, seed=training.loop.seed, long_side_px=side, num_threads=num_threads)

    @property
    def module(self) -> SamwiseNetwork:
        return self._network

    def trained(self) -> Mapping[str, nn.Parameter]:
        """Parameters to train, by our names."""
        return self._trained

    def trained_buffers(self) -> Mapping[str, Tensor]:
        """The adapters' batch norm statistics."""
        return {name: buffer for name, buffer in self._network.named_buffers() if name.startswith("adapters.")}

    def batch(self, positions: Sequence[int]) -> ClipBatch:
        """The clips at these positions of the endless order, on the network's device."""
        samples = self._reader.read(positions)
        tokens = [
            check_length(self._tokenizer(sample.expression), max_tokens=self._max_tokens).ids for sample in samples
        ]
        return collate(samples, tokens, pad_id=self._pad_id).to(self._network.core.device)

    def losses(self, positions: Sequence[int]) -> BatchLosses:
        """Draw and segment the clips at these positions."""
        batch = self.batch(positions)
        return clip_losses(segment_clips(self._network, batch, self._training), batch, self._training)

    def look_ahead(self, positions: Sequence[int]) -> None:
        """Begin to draw the clips at these positions."""
        self._reader.look_ahead(positions)

    def model_content(self) -> dict[str, Any]:
        """The whole network in the official layout, with the architecture beside it."""
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in checkpoint_tensors(self._network).items()}
        return {"model": tensors, "architecture": self._network.architecture.model_dump(mode="json")}

    def recipe(self) -> dict[str, Any]:
        """The training's settings and a digest of every frozen weight."""
        own = self._training.model_dump(mode="json", exclude={"loop", "epochs"})
        return {**own, "frozen_weights": _digest(self._network, set(self._trained))}

    def close(self) -> None:
        """Stop drawing ahead."""
        self._reader.close()


def _cme_ratio(decisions_R2: Tensor, labels_R: Tensor, weight: float) -> RatioLoss:
    """The weighted cross-entropy of `losses.cme_loss`, its mean yet to be taken over the global batch."""
    weights_2 = torch.tensor(CME_CLASS_WEIGHTS, dtype=torch.float32, device=labels_R.device)
    summed = F.cross_entropy(decisions_R2.float(), labels_R, weight=weights_2, ignore_index=IGNORED, reduction="sum")
    asked_R = labels_R != IGNORED
    return RatioLoss(numerator=weight * summed, denominator=(weights_2[labels_R.clamp(min=0)] * asked_R).sum())


def _mean_j(masks_BTHW: Tensor, targets_BTHW: Tensor) -> Tensor:
    """Mean over clips and frames of the masks' IoU, 1 where both are empty."""
    shared = (masks_BTHW & targets_BTHW).flatten(2).sum(-1).float()
    either = (masks_BTHW | targets_BTHW).flatten(2).sum(-1).float()
    return torch.where(either > 0, shared / either.clamp(min=1), 1.0).mean()


def _digest(network: SamwiseNetwork, trained: set[str]) -> str:
    """Of all parameters that are not trained."""
    digest = hashlib.sha256()
    for name, parameter in network.named_parameters():
        if name not in trained:
            digest.update(name.encode())
            digest.update(cast(Any, parameter.detach().float().cpu().contiguous().numpy()))
    return digest.hexdigest()[:32]
