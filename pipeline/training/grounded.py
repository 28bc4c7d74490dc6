"""First stage of the tiny model's training: words to things, on short clips, every frame by itself."""

# Axes: C clips, T frames, F = C*T, E expressions of a clip, B = C*E, G = B*T rows, H W image.

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.samwise_checkpoint import checkpoint_tensors
from pipeline.models.samwise_network import FusedClip, SamwiseNetwork
from pipeline.models.tokenizers import ClosedVocabularyTokenizer
from pipeline.synth.clip import Clip, sample_clip
from pipeline.synth.config import ClipConfig
from pipeline.training.gradients import BatchLosses
from pipeline.training.grounded_clips import GroundedBatch, grounded_batch
from pipeline.training.grounded_losses import HelperHeads, expression_loss, foreground_loss, helper_losses, word_loss
from pipeline.training.mask_losses import RowScores, row_losses, row_metrics
from pipeline.training.tiny_stages import ReferStage

_UNTRAINED = "token_type_embeddings"


class GroundedModule(nn.Module):
    """The network and the heads that help to train it."""

    def __init__(self, network: SamwiseNetwork) -> None:
        super().__init__()
        self.network = network
        self.helpers = HelperHeads(network.architecture.adapter_width)


class GroundedLearner(ABC):
    """What the stages of the tiny model share: generated clips, trained names, the model written.

    Args:
        network: with grounded fusion; every part is trained but the memory encoder's head, which has its own stage.
        seed: of the clips; item i of the endless order is clip i of the training split.
    """

    def __init__(self, network: SamwiseNetwork, *, seed: int, num_threads: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._module = GroundedModule(network).to(network.core.device).eval()
        self._network = network
        self._seed = seed
        self._tokenizer = ClosedVocabularyTokenizer(network.architecture.vocabulary)
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="clips") if num_threads else None
        self._coming: dict[tuple[str, int], Future[Clip]] = {}
        self._trained = self._choose()

    @property
    def module(self) -> nn.Module:
        return self._module

    @property
    def network(self) -> SamwiseNetwork:
        return self._network

    def trained(self) -> Mapping[str, nn.Parameter]:
        """Parameters to train by name; `network.` and `helpers.`."""
        return self._trained

    def trained_buffers(self) -> Mapping[str, Tensor]:
        """None: grounded fusion has no batch norm."""
        return {}

    @abstractmethod
    def losses(self, positions: Sequence[int]) -> BatchLosses:
        """Draw the clips at these positions and run them; each stage in its own way."""

    @abstractmethod
    def look_ahead(self, positions: Sequence[int]) -> None:
        """Begin to draw the clips at these positions."""

    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """The stage's settings."""

    def is_trained(self, name: str) -> bool:
        """Whether this stage trains the parameter."""
        return _UNTRAINED not in name and not name.startswith("network.cme.")

    def model_content(self) -> dict[str, Any]:
        """The whole network in SAMWISE's layout, with the architecture beside it."""
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in checkpoint_tensors(self._network).items()}
        return {"model": tensors, "architecture": self._network.architecture.model_dump(mode="json")}

    def close(self) -> None:
        """Stop drawing ahead."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._coming.clear()

    def draw(self, config: ClipConfig, items: Sequence[int]) -> GroundedBatch:
        """Clips of the training split, on the network's device."""
        clips = []
        for item in items:
            coming = self._coming.pop((config.name, item), None)
            clips.append(self._sample(config, item) if coming is None else coming.result())
        return grounded_batch(clips, self._tokenizer).to(self._network.core.device)

    def announce(self, config: ClipConfig, items: Sequence[int]) -> None:
        """Begin to draw these."""
        if self._pool is not None:
            for item in items:
                if (config.name, item) not in self._coming:
                    self._coming[config.name, item] = self._pool.submit(self._sample, config, item)

    def _sample(self, config: ClipConfig, item: int) -> Clip:
        return sample_clip(config, self._seed, "train", item)

    def _choose(self) -> dict[str, nn.Parameter]:
        chosen = {}
        for name, parameter in self._module.named_parameters():
            parameter.requires_grad_(self.is_trained(name))
            if parameter.requires_grad:
                chosen[name] = parameter
        return chosen


class ReferLearner(GroundedLearner):
    """Short clips, three expressions each; no memory."""

    def __init__(self, network: SamwiseNetwork, stage: ReferStage, *, num_threads: int = 0) -> None:
        self._stage = stage
        super().__init__(network, seed=stage.loop.seed, num_threads=num_threads)

    def is_trained(self, name: str) -> bool:
        """All but the memory encoder's head, and the detail stem before its stage."""
        return super().is_trained(name) and (self._stage.trains_detail or not name.startswith("network.detail."))

    def losses(self, positions: Sequence[int]) -> BatchLosses:
        """Draw the clips at these positions, segment every frame of every expression by itself."""
        batch = self.draw(*self._chosen(positions))
        ground_FKhw, fused = fuse_batch(self._network, batch)
        scores = memory_less_scores(self._network, fused, batch)
        assert fused.evidence is not None
        assert self._network.grounding is not None
        means = {
            **row_losses(scores, presence_weight=self._stage.presence_weight),
            "words": word_loss(fused.evidence, batch),
            "expression": expression_loss(fused.evidence, batch),
            "foreground": foreground_loss(self._network.grounding.words.foreground(ground_FKhw), batch),
            **helper_losses(self._module.helpers, ground_FKhw, batch, texture_weight=self._stage.texture_weight),
        }
        return BatchLosses(means=means, metrics=row_metrics(scores), sample_ids=batch.sample_ids)

    def look_ahead(self, positions: Sequence[int]) -> None:
        """Begin to draw the clips at these positions."""
        self.announce(*self._chosen(positions))

    def recipe(self) -> dict[str, Any]:
        """The stage's settings."""
        return self._stage.model_dump(mode="json", exclude={"loop"})

    def _chosen(self, positions: Sequence[int]) -> tuple[ClipConfig, Sequence[int]]:
        """Early steps take every clip with few frames, later ones every second clip with twice as many."""
        stage = self._stage
        is_early = positions[0] < stage.num_early_steps * stage.loop.batch_size
        return (stage.early_clips, positions) if is_early else (stage.late_clips, positions[::2])


def fuse_batch(
    network: SamwiseNetwork, batch: GroundedBatch, *, with_motion_prompt: bool = False
) -> tuple[Tensor, FusedClip]:
    """The grounding map of the clips (F rows) and every expression's view of its clip (G rows)."""
    num_frames = batch.num_frames
    clips = network.relate(network.encode_prefix(batch.images_F3HW), num_frames=num_frames)
    rows = [
        clip * num_frames + frame
        for clip in range(batch.num_clips)
        for _ in range(batch.num_expressions)
        for frame in range(num_frames)
    ]
    fused = network.fuse_related(
        clips.rows(rows),
        batch.token_ids_BL,
        num_frames=num_frames,
        keep_BL=batch.keep_BL,
        motion_BL=batch.motion_BL if with_motion_prompt else None,
    )
    return clips.maps[-1], fused


def memory_less_scores(network: SamwiseNetwork, fused: FusedClip, batch: GroundedBatch) -> RowScores:
    """Every row decoded by itself."""
    prompt_GSE = fused.prompt_BSE.repeat_interleave(batch.num_frames, dim=0)
    output = network.segment_without_memory(fused.features, prompt_GSE, gate_absent=False)
    return RowScores(
        logits_RKHW=network.core.enlarge(output.low_res_logits_R1hw),
        predicted_iou_RK=output.predicted_iou_R[:, None],
        object_score_R=output.object_score_R1[:, 0],
        targets_RHW=batch.targets_BTHW.flatten(0, 1),
    )
