"""MemorySAM's own training: the modalities of a scene one after the other, scored on the mean of their labels."""

# Axes: M modalities, B scenes, K classes, P channels of the stride-4 features, S the model's square.

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from pipeline.models.memorysam_checkpoint import checkpoint_tensors
from pipeline.models.memorysam_network import MemorySamNetwork, SceneOutput
from pipeline.models.semantic_heads import enlarge_logits
from pipeline.training.gradients import BatchLosses
from pipeline.training.memorysam_data import MultimodalBatch, SceneReader
from pipeline.training.memorysam_losses import ohem_cross_entropy, pixel_accuracy
from pipeline.training.memorysam_recipes import MemorySamTraining, TrainedParts
from pipeline.training.memorysam_scenes import MultimodalSource
from pipeline.training.prototypes import PrototypeMemory, class_sums, masked_step, reference_step
from pipeline.training.workers import Workers

_MODEL = "core.model."
_ADAPTERS = (".linear_a_q.", ".linear_b_q.", ".linear_a_v.", ".linear_b_v.")
_DECODER = f"{_MODEL}sam_mask_decoder."
_NEVER_LEARN = (f"{_DECODER}iou_prediction_head.", f"{_DECODER}pred_obj_score_head.")
"""An argmax and a threshold read these: no gradient reaches them, and weight decay would only shrink them."""

_MEMORY = (f"{_MODEL}memory_attention.", f"{_MODEL}memory_encoder.")
_EMBEDDINGS = tuple(
    _MODEL + name for name in ("maskmem_tpos_enc", "no_mem_embed", "no_mem_pos_enc", "no_obj_ptr", "mask_downsample.")
)


def trained_parameters(
    network: MemorySamNetwork, trained: TrainedParts, *, train_memory: bool = True
) -> dict[str, nn.Parameter]:
    """The parameters to train by our names; every other one is frozen by this call.

    With "lora" and the published sizes these are 14,499,697, and 7,192,785 with the memory frozen.
    """
    chosen: dict[str, nn.Parameter] = {}
    for name, parameter in network.named_parameters():
        is_trained = trained == "all" or _belongs_to_lora(name, train_memory)
        is_trained = is_trained and not name.startswith(_NEVER_LEARN)
        parameter.requires_grad_(is_trained)
        if is_trained:
            chosen[name] = parameter
    return chosen


def _belongs_to_lora(name: str, train_memory: bool) -> bool:
    if name.startswith(_MEMORY):
        return train_memory
    return name.startswith((_DECODER, *_EMBEDDINGS)) or any(mark in name for mark in _ADAPTERS)


class MemorySamLearner:
    """MemorySAM as the training loop sees it.

    Attributes:
        source: where scenes come from.

    Args:
        network: on its device; this freezes what is not trained and sets its mode.
        workers: who trains together; "masked" prototypes are summed over them.
        num_threads: that draw scenes ahead of time.
    """

    def __init__(
        self,
        network: MemorySamNetwork,
        source: MultimodalSource,
        training: MemorySamTraining,
        *,
        workers: Workers | None = None,
        num_threads: int = 0,
    ) -> None:
        sam2 = network.architecture.sam2
        self.source = source
        self._network = network
        self._training = training
        self._workers = workers or Workers()
        self._prototypes = PrototypeMemory(sam2.num_multimask_outputs, sam2.d_model // 8).to(network.core.device)
        self._module = nn.ModuleDict({"network": network, "prototypes": self._prototypes})
        self._trained = trained_parameters(network, training.trained, train_memory=training.train_memory)
        network.train(training.dropout)
        self._reader = SceneReader(
            source,
            modalities=training.modalities,
            augmentation=training.augmentation,
            image_size=sam2.image_size,
            seed=training.loop.seed,
            num_threads=num_threads,
        )

    @property
    def network(self) -> MemorySamNetwork:
        """What is trained, without the prototypes."""
        return self._network

    @property
    def module(self) -> nn.Module:
        return self._module

    def trained(self) -> Mapping[str, nn.Parameter]:
        """Parameters to train, by the network's names."""
        return self._trained

    def trained_buffers(self) -> Mapping[str, Tensor]:
        """The running prototypes.

        After each step the loop takes their mean over the workers, and a checkpoint holds them. Departs from the
        reference, where each worker keeps its own and a resume begins with zeros.
        """
        return {f"prototypes.{name}": buffer for name, buffer in self._prototypes.named_buffers()}

    def batch(self, positions: Sequence[int]) -> MultimodalBatch:
        """The scenes at these positions of the endless order, on the network's device."""
        return self._reader.read(positions, device=self._network.core.device, drop=self._training.modality_drop)

    def losses(self, positions: Sequence[int]) -> BatchLosses:
        """Draw and segment the scenes at these positions."""
        batch = self.batch(positions)
        output = self._network(batch.images_MB3SS, use_memory=self._training.use_memory)
        side = batch.labels_BSS.shape[-1]
        logits_BKSS = enlarge_logits(output.logits_BKhw, (side, side))
        means = {"ohem": ohem_cross_entropy(logits_BKSS, batch.labels_BSS)}
        if self._training.spmm != "off":
            means["prototypes"] = self._training.prototype_weight * self._prototype_loss(output, batch)
        with torch.no_grad():
            accuracy = pixel_accuracy(logits_BKSS, batch.labels_BSS)
            gated = torch.stack([(m.object_score_R1 <= 0).float().mean() for m in output.modalities]).mean()
        metrics = {"pixel_accuracy": accuracy, "gated": gated}
        return BatchLosses(means=means, metrics=metrics, sample_ids=batch.sample_ids)

    def look_ahead(self, positions: Sequence[int]) -> None:
        """Begin to draw the scenes at these positions."""
        self._reader.look_ahead(positions)

    def model_content(self) -> dict[str, Any]:
        """The whole network in the reference's layout, with the architecture beside it; no prototypes."""
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in checkpoint_tensors(self._network).items()}
        return {"model": tensors, "architecture": self._network.architecture.model_dump(mode="json")}

    def recipe(self) -> dict[str, Any]:
        """The training's settings and a digest of every frozen weight."""
        own = self._training.model_dump(mode="json", exclude={"loop", "epochs"})
        return {**own, "frozen_weights": _digest(self._network, set(self._trained))}

    def close(self) -> None:
        """Stop drawing ahead."""
        self._reader.close()

    def _prototype_loss(self, output: SceneOutput, batch: MultimodalBatch) -> Tensor:
        """One step of the prototype memory, which moves; unweighted."""
        memory, momentum = self._prototypes, self._training.spmm_momentum
        with torch.autocast(output.features_BPhw.device.type, enabled=False):
            sums = class_sums(output.features_BPhw, batch.labels_BSS, num_classes=memory.global_KP.shape[0])
            if self._training.spmm == "reference":
                step = reference_step(sums, memory.global_KP, memory.seen_K, momentum=momentum)
            else:
                step = masked_step(
                    sums,
                    memory.global_KP,
                    memory.seen_K,
                    momentum=momentum,
                    num_workers=self._workers.num_workers,
                    sum_over_workers=self._workers.sum_in_place,
                )
        memory.accept(step)
        return step.loss


def _digest(network: MemorySamNetwork, trained: set[str]) -> str:
    """Of all parameters that are not trained."""
    digest = hashlib.sha256()
    for name, parameter in network.named_parameters():
        if name not in trained:
            digest.update(name.encode())
            digest.update(cast(Any, parameter.detach().float().cpu().contiguous().numpy()))
    return digest.hexdigest()[:32]
