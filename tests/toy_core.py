"""A stand-in for SAM2 whose arithmetic can be followed by eye: colour codes, one softmax over memory, drawn logits.

It answers the calls of `pipeline.models.sam2_core.Sam2Core`, so that memory policies, motion prompts and arbitration
run on it as they run on SAM2, without weights. Nothing in it is learned, and nothing in it knows the truth:

* a pixel's feature is its colour on a lattice of soft bins, plus noise;
* a memory token is a cell's feature and the share of it that was inside the mask; an absent object leaves zeros;
* reading memory is one softmax over all kept tokens, by likeness and by distance on the grid;
* prompts shift the logits, by points, box or mask logits: down away from them, up where a pixel looks like what they
  name, since a prompt names the thing at a place and not the place; predicted IoU is the mean of |2p - 1|;
* the object score says whether what was found looks like what is remembered. Object pointers are stored, not read.

Axes: B images, R rows, D code channels packed into the model's, K candidates, T prompt tokens, N cells of a frame,
M memory tokens, h w the tensor's grid (stride 16 for features, 4 for logits).
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.letterbox import MEAN, STD
from pipeline.models.mask_decoding import ABSENT_LOGIT, DecoderPrompts, MaskCandidates, MaskOutput, shrink, take
from pipeline.models.memory import MemoryRead, MemorySelection
from pipeline.models.sam2_variants import Sam2Config
from tests.toy_decoding import CODE, SHARE, VIEWS, candidates

BIN_WIDTH = 0.2
LIKENESS = 16.0
"""How sharply attention prefers tokens that look alike."""
NEAR_CELLS = 1.6
"""How far, in cells, an object is expected to have gone since it was remembered."""
FAR_LOG = -7.0
"""Log-prior of tokens far away: an object that is nowhere near can still be found by its looks alone."""
FRAMES_KEPT = 64
"""Encoded frames that are remembered: a benchmark runs ten variants on the same clip, and codes are a third of it."""
TOY_CONFIG = Sam2Config(
    embed_dim=16,
    num_heads=1,
    stages=(1, 1, 1, 1),
    global_att_blocks=(),
    window_spec=(8, 4, 4, 4),
    d_model=256,
    mem_dim=32,
    image_size=512,
    num_multimask_outputs=3,
)
"""Sizes only: no module is built from it."""


class ToyCore(nn.Module):
    """Sam2Core's calls without weights.

    Args:
        noise: standard deviation of what is added to every code, a fixed function of the image.
    """

    def __init__(self, config: Sam2Config = TOY_CONFIG, *, noise: float = 0.06) -> None:
        super().__init__()
        self.config = config
        self.noise = noise
        self._encoded: OrderedDict[bytes, ImageFeatures] = OrderedDict()
        self.register_buffer("bins_3D", _bins(), persistent=False)
        self.register_buffer("prior_NN", _distance_prior(config.grid), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.prior_NN.device

    def encode_image(self, images_B3HW: Tensor) -> ImageFeatures:
        """Codes at stride 4 (in the place of `high_res[0]`) and their means at stride 16.

        A single image's answer is kept, by its pixels, and given again.
        """
        if len(images_B3HW) > 1:
            return self._encode(images_B3HW)
        key = hashlib.blake2b(images_B3HW.cpu().contiguous().numpy().tobytes(), digest_size=16).digest()
        if key not in self._encoded:
            self._encoded[key] = self._encode(images_B3HW)
        self._encoded.move_to_end(key)
        if len(self._encoded) > FRAMES_KEPT:
            self._encoded.popitem(last=False)
        return self._encoded[key]

    def _encode(self, images_B3HW: Tensor) -> ImageFeatures:
        mean, std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (MEAN, STD))
        rgb_B3hw = F.avg_pool2d(images_B3HW.float() * std + mean, 4)
        red, green, blue = rgb_B3hw.unbind(1)
        seen_B3hw = torch.stack([red - green, (red + green) / 2 - blue, (red + green + blue) / 3], dim=1)
        code_BDhw = self._codes(seen_B3hw)
        code_BDhw = code_BDhw + self.noise * torch.stack([_noise(image, code_BDhw.shape[1:]) for image in rgb_B3hw])
        fine_BDhw = F.normalize(code_BDhw, dim=1)
        coarse_BDhw = F.pad(F.avg_pool2d(fine_BDhw, 4), (0, 0, 0, 0, 0, self.config.d_model - CODE))
        middle_BDhw = F.avg_pool2d(fine_BDhw[:, :1], 2)
        return ImageFeatures(
            high_res=(fine_BDhw, middle_BDhw), map_BDhw=coarse_BDhw, pos_BDhw=torch.zeros_like(coarse_BDhw)
        )

    def _codes(self, seen_B3hw: Tensor) -> Tensor:
        """How near each pixel is to each bin, (B, D, h, w): by axis first, since a Gaussian is a product of axes."""
        near = []
        for axis in range(3):
            levels, place_D = self.bins_3D[axis].unique(return_inverse=True)
            gap_Blhw = seen_B3hw[:, axis, None] - levels[:, None, None]
            near.append(torch.exp(-gap_Blhw.square() / (2 * BIN_WIDTH**2))[:, place_D])
        return near[0] * near[1] * near[2]

    def attend(self, features: ImageFeatures, selections: Sequence[MemorySelection]) -> Tensor:
        """What memory says: the same in every cell, mean codes of the background and of the object in each frame read
        (`VIEWS` of them at most, the newest); and each cell's own share of object. Nothing read: a share of -1."""
        if len(features) != len(selections):
            raise ValueError(f"{len(features)} rows of features but {len(selections)} selections; expected as many.")
        return torch.stack([self._read(m, s) for m, s in zip(features.map_BDhw, selections, strict=True)])

    def _read(self, map_Dhw: Tensor, selection: MemorySelection) -> Tensor:
        out_Dhw = torch.zeros_like(map_Dhw)
        out_Dhw[SHARE] = -1.0
        if selection.is_empty:
            return out_Dhw
        query_ND = LIKENESS * F.normalize(map_Dhw[:CODE].flatten(1).T, dim=1)
        total_N1, inside_N1 = torch.zeros(len(query_ND), 1), torch.zeros(len(query_ND), 1)
        other_D, views_VD = torch.zeros(CODE), []
        for read in sorted(selection.frames, key=lambda read: -read.entry.frame_index):
            token_CM, prior_NM = self._tokens(read)
            share_M, code_DM = token_CM[CODE], token_CM[:CODE]
            weight_NM = torch.addmm(prior_NM, query_ND, F.normalize(code_DM, dim=0)).exp_()
            # Both sums of the softmax in one pass over its weights.
            sums_N2 = weight_NM @ torch.stack([torch.ones_like(share_M), share_M], dim=1)
            total_N1 += sums_N2[:, :1]
            inside_N1 += sums_N2[:, 1:]
            other_D += code_DM @ (1 - share_M).square()
            views_VD.append(code_DM @ share_M.square())
        codes_VD = F.normalize(torch.stack([other_D, *views_VD[:VIEWS]]), dim=1)
        out_Dhw[: codes_VD.numel()] = codes_VD.flatten()[:, None, None]
        out_Dhw[SHARE] = (inside_N1 / total_N1).view(map_Dhw.shape[1:])
        return out_Dhw

    def _tokens(self, read: MemoryRead) -> tuple[Tensor, Tensor]:
        """Memory tokens (C, M) of a frame, dropped ones left out, and the log-prior of reading each (N, M).

        The prior is lowered by the greatest likeness, so that no exponential overflows.
        """
        assert read.entry.features_Chw is not None, "a read entry has features"
        token_CM, prior_NM = read.entry.features_Chw.float().flatten(1), self.prior_NN
        if read.weight is not None:
            prior_NM = prior_NM + read.weight.float().flatten().log()
        if read.keep is not None:
            kept = read.keep.flatten()
            token_CM, prior_NM = token_CM[:, kept], prior_NM[:, kept]
        return token_CM, prior_NM

    def encode_prompts(
        self,
        num_rows: int,
        *,
        points_RP2: Tensor | None = None,
        labels_RP: Tensor | None = None,
        boxes_R4: Tensor | None = None,
        mask_logits_R1hw: Tensor | None = None,
        extra_RTD: Tensor | None = None,
    ) -> DecoderPrompts:
        """Tokens that carry (x, y) as shares of the square and the label as they are; mask logits folded 4 x 4."""
        if (points_RP2 is None) != (labels_RP is None) or extra_RTD is not None:
            raise ValueError("points_RP2 and labels_RP belong together, and this core reads no further tokens.")
        rows: list[Tensor] = []
        if boxes_R4 is not None:
            corners = torch.tensor([2.0, 3.0], device=self.device).expand(num_rows, 2)
            rows.append(torch.cat([boxes_R4.float().view(num_rows, 2, 2), corners[..., None]], dim=2))
        if points_RP2 is not None and labels_RP is not None:
            rows.append(torch.cat([points_RP2.float(), labels_RP.float()[..., None]], dim=2))
        if not rows:
            rows.append(torch.tensor([0.0, 0.0, -1.0], device=self.device).expand(num_rows, 1, 3))
        known_RT3 = torch.cat(rows, dim=1)
        sparse_RTD = F.pad(known_RT3, (0, self.config.d_model - 3))
        sparse_RTD[:, :, :2] /= self.config.image_size
        side = 4 * self.config.grid
        dense_RDhw = torch.zeros(num_rows, self.config.d_model, self.config.grid, self.config.grid, device=self.device)
        if mask_logits_R1hw is not None:
            dense_RDhw[:, :16] = F.pixel_unshuffle(shrink(mask_logits_R1hw.float(), (side, side)), 4)
        return DecoderPrompts(sparse_RTD=sparse_RTD, dense_RDhw=dense_RDhw)

    def decode(
        self,
        pix_RDhw: Tensor,
        high_res: Sequence[Tensor],
        prompts: DecoderPrompts,
        *,
        multimask: bool,
        gate_absent: bool = True,
    ) -> MaskOutput:
        candidates = self.decode_candidates(pix_RDhw, high_res, prompts, multimask=multimask, gate_absent=gate_absent)
        return self.choose(candidates, candidates.predicted_iou_RK.argmax(dim=1))

    def decode_candidates(
        self,
        pix_RDhw: Tensor,
        high_res: Sequence[Tensor],
        prompts: DecoderPrompts,
        *,
        multimask: bool,
        gate_absent: bool = True,
    ) -> MaskCandidates:
        """The strongest connected part, all parts, the second strongest; or only the first."""
        rows = [
            candidates(pix_Dhw, fine_Dhw, sparse_TD, dense_Dhw)
            for pix_Dhw, fine_Dhw, sparse_TD, dense_Dhw in zip(
                pix_RDhw, high_res[0], prompts.sparse_RTD, prompts.dense_RDhw, strict=True
            )
        ]
        logits_RKhw, score_R1 = torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])[:, None]
        logits_RKhw = logits_RKhw if multimask else logits_RKhw[:, :1]
        iou_RK = _certainty(logits_RKhw)
        inside_RKhw = (logits_RKhw > 0).float()
        code_RKD = torch.einsum("rkhw,rdhw->rkd", inside_RKhw, high_res[0])
        tokens_RKD = F.pad(F.normalize(code_RKD, dim=2), (0, self.config.d_model - CODE))
        if gate_absent:
            logits_RKhw = torch.where(score_R1[:, :, None, None] > 0, logits_RKhw, ABSENT_LOGIT)
        return MaskCandidates(
            logits_RKhw=logits_RKhw,
            predicted_iou_RK=iou_RK,
            tokens_RKD=tokens_RKD,
            object_score_R1=score_R1,
            early_token_RD=tokens_RKD[:, 0],
        )

    def choose(self, candidates: MaskCandidates, index_R: Tensor) -> MaskOutput:
        logits_R1hw, iou_R, token_RD = take(candidates, index_R)
        return MaskOutput(
            low_res_logits_R1hw=logits_R1hw,
            predicted_iou_R=iou_R,
            object_score_R1=candidates.object_score_R1,
            object_pointer_RD=token_RD * (candidates.object_score_R1 > 0),
            early_token_RD=candidates.early_token_RD,
        )

    def take_mask(self, features: ImageFeatures, mask_R1HW: Tensor) -> MaskOutput:
        side = 4 * self.config.grid
        present_R1 = mask_R1HW.flatten(1).any(dim=1, keepdim=True).float()
        pointer_RD = torch.zeros(len(features), self.config.d_model, device=self.device)
        return MaskOutput(
            low_res_logits_R1hw=shrink(mask_R1HW.float() * 20 - 10, (side, side)),
            predicted_iou_R=torch.ones(len(features), device=self.device),
            object_score_R1=present_R1 * 20 - 10,
            object_pointer_RD=pointer_RD,
            early_token_RD=pointer_RD,
        )

    def enlarge(self, low_res_logits_R1hw: Tensor) -> Tensor:
        side = self.config.image_size
        return F.interpolate(low_res_logits_R1hw, size=(side, side), mode="bilinear", align_corners=False)

    def encode_memory(
        self,
        features: ImageFeatures,
        mask_logits_R1HW: Tensor,
        object_score_R1: Tensor,
        *,
        is_mask_from_points: bool,
    ) -> Tensor:
        """Each cell's code, and the share of it inside the mask: 0 everywhere if the object is absent."""
        inside_R1hw = F.adaptive_avg_pool2d(mask_logits_R1HW.float().sigmoid(), self.config.grid)
        inside_R1hw = inside_R1hw * (object_score_R1[:, :, None, None] > 0)
        packed_RChw = torch.cat([features.map_BDhw[:, :CODE], inside_R1hw], dim=1)
        return F.pad(packed_RChw, (0, 0, 0, 0, 0, self.config.mem_dim - CODE - 1))


def _bins() -> Tensor:
    """Centres of the bins, (3, D), on the axes red - green, yellow - blue, brightness."""
    hues, levels = torch.tensor([-0.45, 0.0, 0.45]), torch.tensor([0.2, 0.5, 0.8])
    return torch.cartesian_prod(hues, hues, levels).T.contiguous()


def _distance_prior(grid: int) -> Tensor:
    """Log-prior (N, N) of reading one cell from another."""
    places = torch.cartesian_prod(torch.arange(grid), torch.arange(grid)).float()
    square = torch.cdist(places, places).square()
    return torch.logaddexp(-square / (2 * NEAR_CELLS**2), torch.tensor(FAR_LOG)) - LIKENESS


def _noise(image_3hw: Tensor, shape: Sequence[int]) -> Tensor:
    """Normal noise that is a function of the image alone, whoever shares the batch."""
    seed = int((image_3hw.double().sum() * 1e6).round().item()) % (1 << 31)
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(tuple(shape), dtype=np.float32))


def _certainty(logits_RKhw: Tensor) -> Tensor:
    """Mean of |2p - 1| over the mask and its rim, (R, K); 0 where there is none."""
    rim = logits_RKhw > -1
    sure = torch.tanh(logits_RKhw / 2).abs() * rim
    return sure.flatten(2).sum(2) / rim.flatten(2).sum(2).clamp(min=1)
