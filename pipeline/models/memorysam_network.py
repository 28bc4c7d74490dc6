"""The MemorySAM network: the modalities of a scene as frames of one SAM2 memory, K class masks for each."""

# Axes: M modalities, B scenes, R rows (one modality of one scene), K classes, D decoder channels, C memory channels,
# P channels of the stride-4 features, H W the model's square, h w the tensor's own grid.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.lora import add_lora, fold_lora
from pipeline.models.memory import MemoryEntry, MemoryRead, MemorySelection, PointerRead
from pipeline.models.memorysam_architecture import MemorySamArchitecture
from pipeline.models.sam2_core import Sam2Core, build_sam2
from pipeline.models.semantic_heads import fuse_modalities


@dataclass(frozen=True, slots=True, kw_only=True)
class ModalityOutput:
    """One modality per row, segmented.

    Attributes:
        logits_RKhw: float32 class logits at stride 4; one constant where the object score is not above 0.
        predicted_iou_RK: of each class mask.
        best_R: class whose mask is remembered: that of the best predicted IoU.
        object_score_R1: not above 0 means that the row says nothing ("gated").
        pointer_RD: object pointer of the remembered mask.
        conditioned_RDhw: features after memory attention.
    """

    logits_RKhw: Tensor
    predicted_iou_RK: Tensor
    best_R: Tensor
    object_score_R1: Tensor
    pointer_RD: Tensor
    conditioned_RDhw: Tensor

    @property
    def best_logits_R1hw(self) -> Tensor:
        """The mask that is remembered."""
        rows = torch.arange(self.best_R.shape[0], device=self.best_R.device)
        return self.logits_RKhw[rows, self.best_R].unsqueeze(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneOutput:
    """Scenes with all their modalities.

    Attributes:
        logits_BKhw: mean of the modalities' class logits, stride 4.
        features_BPhw: mean of their stride-4 features ahead of any memory: what prototypes are made of.
        modalities: each modality's own output, in order.
        memories: memory features (B, C, h, w) that each but the last left behind.
    """

    logits_BKhw: Tensor
    features_BPhw: Tensor
    modalities: tuple[ModalityOutput, ...]
    memories: tuple[Tensor, ...]


class MemorySamNetwork(nn.Module):
    """Weights and the calls that use them; nothing of any scene is kept.

    Source: Liao et al., MemorySAM, arXiv 2503.06700.

    Attributes:
        core: SAM2 with K mask candidates, and adapters in its encoder if the architecture has any.
        is_folded: the adapters are part of the projections; such a network is not trained or saved.
    """

    def __init__(self, architecture: MemorySamArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.core: Sam2Core = build_sam2(architecture.sam2)
        self.is_folded = False
        if architecture.lora_rank:
            add_lora(self._trunk, rank=architecture.lora_rank)

    @property
    def _trunk(self) -> Any:
        return self.core.model.image_encoder.trunk

    def fold_adapters(self) -> float:
        """Fold the adapters into the encoder for inference; returns and raises as `lora.fold_lora` does."""
        worst = fold_lora(self._trunk)
        self.is_folded = True
        return worst

    def encode(self, images_B3HW: Tensor) -> ImageFeatures:
        """Features of normalised images; every modality goes through the same weights."""
        return self.core.encode_image(images_B3HW)

    def segment(self, features: ImageFeatures, memories: Sequence[Sequence[MemoryEntry]]) -> ModalityOutput:
        """Segment one modality per row without a prompt.

        The decoder runs in float32 whatever surrounds it: where every class is off by -1024, half precision would
        leave nothing of the averaged logits.

        Args:
            memories: per row, what the scene's earlier modalities left behind; rows of equal number share a batch.
        """
        selections = [self.select(entries) for entries in memories]
        conditioned_RDhw = self.core.attend(features, selections)
        with torch.autocast(conditioned_RDhw.device.type, enabled=False):
            fine, middle = features.high_res
            candidates = self.core.decode_candidates(
                conditioned_RDhw.float(),
                (fine.float(), middle.float()),
                self.core.encode_prompts(len(features)),
                multimask=True,
            )
            best_R = candidates.predicted_iou_RK.argmax(dim=1)
            chosen = self.core.choose(candidates, best_R)
        return ModalityOutput(
            logits_RKhw=candidates.logits_RKhw,
            predicted_iou_RK=candidates.predicted_iou_RK,
            best_R=best_R,
            object_score_R1=candidates.object_score_R1,
            pointer_RD=chosen.object_pointer_RD,
            conditioned_RDhw=conditioned_RDhw,
        )

    def select(self, entries: Sequence[MemoryEntry]) -> MemorySelection:
        """All earlier modalities, each as SAM2 reads a conditioning frame: one row of the temporal table serves all.

        So they are an unordered set, and no number of them is too many.
        """
        row = self.architecture.sam2.num_maskmem - 1
        last = len(entries)
        return MemorySelection(
            frames=tuple(MemoryRead(entry=entry, temporal_position=row) for entry in entries),
            pointers=tuple(PointerRead(entry=e, time_difference=last - place) for place, e in enumerate(entries)),
            max_time_difference=max(1, self.architecture.sam2.max_obj_ptrs_in_encoder - 1),
        )

    def remember(self, features: ImageFeatures, output: ModalityOutput) -> Tensor:
        """Memory features (R, C, h, w) from raw features and the one remembered mask at the model's image size."""
        mask_R1HW = self.core.enlarge(output.best_logits_R1hw)
        return self.core.encode_memory(features, mask_R1HW, output.object_score_R1, is_mask_from_points=False)

    def forward(self, images_MB3HW: Tensor, *, use_memory: bool = True) -> SceneOutput:
        """Scenes of equally many modalities, all encoded as one batch, then segmented in order.

        Args:
            images_MB3HW: normalised, square at the model's size; the first axis is the order of the memory.
            use_memory: otherwise no modality hears of the others but in the mean.
        """
        num_modalities, num_scenes = images_MB3HW.shape[:2]
        features = self.encode(images_MB3HW.flatten(0, 1))
        entries: list[list[MemoryEntry]] = [[] for _ in range(num_scenes)]
        outputs: list[ModalityOutput] = []
        memories: list[Tensor] = []
        for place in range(num_modalities):
            own = features.rows(range(place * num_scenes, (place + 1) * num_scenes))
            output = self.segment(own, entries)
            outputs.append(output)
            if use_memory and place + 1 < num_modalities:
                memories.append(self.remember(own, output))
                for scene, entry in enumerate(memory_entries(output, memories[-1], place=place)):
                    entries[scene].append(entry)
        fine = features.high_res[0].float()
        return SceneOutput(
            logits_BKhw=fuse_modalities(torch.stack([output.logits_RKhw for output in outputs])),
            features_BPhw=fine.view(num_modalities, num_scenes, *fine.shape[1:]).mean(dim=0),
            modalities=tuple(outputs),
            memories=tuple(memories),
        )


def memory_entries(output: ModalityOutput, memory_RChw: Tensor, *, place: int) -> list[MemoryEntry]:
    """What each row leaves behind, as entries of the memory."""
    rows = torch.arange(output.best_R.shape[0], device=output.best_R.device)
    told = torch.stack([output.object_score_R1[:, 0], output.predicted_iou_RK[rows, output.best_R]], dim=1)
    return [
        MemoryEntry(
            frame_index=place,
            pointer_D=output.pointer_RD[row],
            features_Chw=memory_RChw[row],
            object_score=score,
            predicted_iou=iou,
            is_conditioning=True,
        )
        for row, (score, iou) in enumerate(told.detach().float().tolist())
    ]
