"""Tiny randomly initialised semantic networks of each supported type, saved as a checkpoint folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf

LABELS = {0: "sky", 1: "road", 2: "car"}
TORCH_SEED = 6
GAIN = 6.0
_LETTERS = list(enumerate("abcdefghijklmnopqrstuvwxyz"))

_SWIN = {
    "image_size": 32,
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 1, 1],
    "window_size": 2,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
_VIT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16}


def _segformer() -> Any:
    return tf.SegformerForSemanticSegmentation(
        tf.SegformerConfig(
            num_encoder_blocks=4,
            depths=[1, 1, 1, 1],
            hidden_sizes=[8, 8, 8, 8],
            num_attention_heads=[1, 1, 1, 1],
            decoder_hidden_size=8,
            id2label=LABELS,
        )
    )


def _upernet() -> Any:
    backbone = tf.ConvNextConfig(
        hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    return tf.UperNetForSemanticSegmentation(
        tf.UperNetConfig(
            backbone_config=backbone, hidden_size=8, use_auxiliary_head=False, pool_scales=[1, 2], id2label=LABELS
        )
    )


def _beit() -> Any:
    config = tf.BeitConfig(
        image_size=32,
        patch_size=8,
        out_indices=[1, 2, 3, 4],
        pool_scales=[1, 2],
        use_auxiliary_head=False,
        id2label=LABELS,
        **_VIT,
    )
    return tf.BeitForSemanticSegmentation(config)


def _dpt() -> Any:
    config = tf.DPTConfig(
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        use_auxiliary_head=False,
        is_hybrid=False,
        id2label=LABELS,
        **_VIT,
    )
    return tf.DPTForSemanticSegmentation(config)


def _mask2former() -> Any:
    config = tf.Mask2FormerConfig(
        backbone_config=tf.SwinConfig(**_SWIN),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        num_queries=5,
        id2label=LABELS,
    )
    return tf.Mask2FormerForUniversalSegmentation(config)


def _maskformer() -> Any:
    decoder = tf.DetrConfig(
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=5,
        num_labels=len(LABELS),
    )
    config = tf.MaskFormerConfig(
        backbone_config=tf.SwinConfig(**_SWIN),
        decoder_config=decoder,
        fpn_feature_size=32,
        mask_feature_size=32,
        id2label=LABELS,
    )
    return tf.MaskFormerForInstanceSegmentation(config)


def _oneformer() -> Any:
    config = tf.OneFormerConfig(
        backbone_config=tf.SwinConfig(**_SWIN),
        conv_dim=32,
        mask_dim=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        query_dec_layers=1,
        num_attention_heads=2,
        dim_feedforward=16,
        num_queries=5,
        text_encoder_width=16,
        text_encoder_num_layers=1,
        text_encoder_vocab_size=49408,
        task_seq_len=12,
        is_training=False,
        id2label=LABELS,
    )
    return tf.OneFormerForUniversalSegmentation(config)


def _eomt() -> Any:
    config = tf.EomtConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=64,
        patch_size=8,
        num_register_tokens=1,
        num_queries=5,
        num_blocks=1,
        num_upscale_blocks=1,
        id2label=LABELS,
    )
    return tf.EomtForUniversalSegmentation(config)


PIXELS: dict[str, tuple[Callable[[], Any], str]] = {
    "segformer": (_segformer, "SegformerImageProcessor"),
    "upernet": (_upernet, "SegformerImageProcessor"),
    "beit": (_beit, "BeitImageProcessor"),
    "dpt": (_dpt, "DPTImageProcessor"),
}
QUERIES: dict[str, tuple[Callable[[], Any], str]] = {
    "mask2former": (_mask2former, "Mask2FormerImageProcessor"),
    "maskformer": (_maskformer, "MaskFormerImageProcessor"),
    "oneformer": (_oneformer, "OneFormerImageProcessor"),
    "eomt": (_eomt, "EomtImageProcessor"),
}


def save_network(model_type: str, folder: Path, *, side: int = 64) -> Path:
    """A seeded random network of that type and its processor, as `save_pretrained` writes them."""
    build, processor = (PIXELS | QUERIES)[model_type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(TORCH_SEED)
        model = build().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                # Freshly initialised heads are nearly constant; then any post-processing would pass.
                if parameter.ndim > 1:
                    parameter.copy_(torch.randn(parameter.shape) * (GAIN / parameter[0].numel()) ** 0.5)
    model.save_pretrained(folder)
    size: dict[str, int | None] = {"height": side, "width": side}
    options: dict[str, Any] = {}
    if model_type == "eomt":
        size, options = {"shortest_edge": side, "longest_edge": None}, {"do_split_image": True}
    elif model_type == "oneformer":
        vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, **{f"{letter}</w>": 2 + n for n, letter in _LETTERS}}
        tf.CLIPTokenizer(vocab=vocabulary | {letter: 40 + n for n, letter in _LETTERS}, merges=[]).save_pretrained(
            folder
        )
    getattr(tf, processor)(size=size, **options).save_pretrained(folder)
    return folder
