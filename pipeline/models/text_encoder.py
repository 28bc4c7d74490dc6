"""Text encoders that run layer by layer, so that vision can be mixed in between: RoBERTa and CLIP."""

# Axes: B expressions, L tokens, D text width.

from typing import TYPE_CHECKING, Literal, Protocol, Self, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

# transformers is imported where an encoder is built: with all that it loads it takes as long as the rest of a worker.
if TYPE_CHECKING:
    from transformers import CLIPTextConfig, RobertaConfig

PAD_ID = 1
"""RoBERTa's padding id; positions count on from it. The closed vocabulary uses the same."""

LAYER_NORM_EPS = 1e-5
"""Of both encoders. transformers' RoBERTa default is 1e-12, which costs 2e-4 of accuracy."""


class TextEncoderConfig(BaseModel):
    """Sizes of a text encoder; the defaults are RoBERTa-base.

    Attributes:
        kind: "roberta" reads both ways and is summed up by token 0; "clip" reads forwards and is summed up by
            the end token, after a final layer norm.
        vocabulary_size, max_positions: rows of the two tables. RoBERTa wastes two positions.
        width, num_layers, num_heads, feedforward_width: of the transformer.
        dropout: in training, RoBERTa only.
        end_id: CLIP's end token; None for RoBERTa.

    Raises:
        ValueError: width is no multiple of num_heads; an end_id is missing or too much.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["roberta", "clip"] = "roberta"
    vocabulary_size: int = Field(default=50265, ge=4)
    width: int = Field(default=768, ge=1)
    num_layers: int = Field(default=12, ge=1)
    num_heads: int = Field(default=12, ge=1)
    feedforward_width: int = Field(default=3072, ge=1)
    max_positions: int = Field(default=514, ge=3)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    end_id: int | None = None

    @property
    def max_tokens(self) -> int:
        """Longest text, begin and end tokens included: 512 for RoBERTa, 77 for CLIP."""
        return self.max_positions - (PAD_ID + 1 if self.kind == "roberta" else 0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.num_heads:
            raise ValueError(f"text width {self.width} is not a multiple of num_heads {self.num_heads}.")
        if (self.kind == "clip") != (self.end_id is not None):
            raise ValueError(f"end_id {self.end_id} for kind {self.kind!r}: only CLIP has one, and needs it.")
        return self


class TextEncoder(Protocol):
    """What SAMWISE needs of a text encoder."""

    config: TextEncoderConfig

    def embed(self, token_ids_BL: Tensor) -> Tensor:
        """Token and position embeddings, (B, L, D)."""
        ...

    def run_layers(self, text_BLD: Tensor, *, start: int, stop: int, keep_BL: Tensor | None = None) -> Tensor:
        """Layers [start, stop) in order, (B, L, D); `keep_BL` is False at padding, None when there is none."""
        ...

    def finish(self, text_BLD: Tensor) -> Tensor:
        """What follows the last layer, token by token, (B, L, D)."""
        ...

    def sentence(self, finished_BLD: Tensor, token_ids_BL: Tensor) -> Tensor:
        """Of the finished tokens the one that stands for the whole expression, (B, D)."""
        ...


def build_text_encoder(config: TextEncoderConfig) -> nn.Module:
    """The encoder that a config describes, with fresh weights."""
    return ClipTextEncoder(config) if config.kind == "clip" else RobertaTextEncoder(config)


class RobertaTextEncoder(nn.Module):
    """RoBERTa's layers (transformers) one at a time; padding is neither read nor given a position.

    Source: Liu et al., arXiv 1907.11692; the summary is token 0 without pooling, as SAMWISE uses it.
    """

    def __init__(self, config: TextEncoderConfig) -> None:
        from transformers import RobertaModel

        super().__init__()
        self.config = config
        self.roberta = RobertaModel(_roberta_config(config), add_pooling_layer=False)
        # SAMWISE's RoBERTa has no token types; transformers always adds row 0 of this table.
        self.roberta.embeddings.token_type_embeddings.weight.data.zero_()

    def embed(self, token_ids_BL: Tensor) -> Tensor:
        """Embeddings after their layer norm, (B, L, D); zero at padding."""
        keep_BL1 = (token_ids_BL != PAD_ID).unsqueeze(-1)
        return cast(Tensor, self.roberta.embeddings(input_ids=token_ids_BL) * keep_BL1)

    def run_layers(self, text_BLD: Tensor, *, start: int, stop: int, keep_BL: Tensor | None = None) -> Tensor:
        """Post-norm transformer layers [start, stop); padding is not attended to."""
        mask_B1LL = None if keep_BL is None else _square(keep_BL)
        for layer in self.roberta.encoder.layer[start:stop]:
            text_BLD = _first(layer(text_BLD, mask_B1LL))
        return text_BLD

    def finish(self, text_BLD: Tensor) -> Tensor:
        """Nothing: the layers are post-norm, and SAMWISE uses no pooler."""
        return text_BLD

    def sentence(self, finished_BLD: Tensor, token_ids_BL: Tensor) -> Tensor:
        """Token 0, `<s>`."""
        return finished_BLD[:, 0]


class ClipTextEncoder(nn.Module):
    """CLIP's text tower (transformers) one layer at a time: pre-norm, causal.

    Source: Radford et al., arXiv 2103.00020. No SAMWISE weights with CLIP were published; this one is trained
    by our own recipe.
    """

    def __init__(self, config: TextEncoderConfig) -> None:
        from transformers import CLIPTextModel

        super().__init__()
        self.config = config
        self.clip = CLIPTextModel(_clip_config(config))

    def embed(self, token_ids_BL: Tensor) -> Tensor:
        """Token plus position embeddings, (B, L, D)."""
        return cast(Tensor, self.clip.embeddings(input_ids=token_ids_BL))

    def run_layers(self, text_BLD: Tensor, *, start: int, stop: int, keep_BL: Tensor | None = None) -> Tensor:
        """Pre-norm transformer layers [start, stop); each token reads itself and what stands before it.

        Padding comes last and so is never read; `keep_BL` changes nothing.
        """
        length = text_BLD.shape[1]
        causal_LL = torch.ones(length, length, dtype=torch.bool, device=text_BLD.device).tril()
        mask_B1LL = causal_LL.expand(text_BLD.shape[0], 1, -1, -1)
        for layer in self.clip.encoder.layers[start:stop]:
            text_BLD = _first(layer(text_BLD, mask_B1LL))
        return text_BLD

    def finish(self, text_BLD: Tensor) -> Tensor:
        """The final layer norm."""
        return cast(Tensor, self.clip.final_layer_norm(text_BLD))

    def sentence(self, finished_BLD: Tensor, token_ids_BL: Tensor) -> Tensor:
        """The first end token."""
        end_B = token_ids_BL.eq(self.config.end_id or 0).int().argmax(dim=1)
        rows_B = torch.arange(finished_BLD.shape[0], device=finished_BLD.device)
        return finished_BLD[rows_B, end_B]


def _roberta_config(config: TextEncoderConfig) -> "RobertaConfig":
    from transformers import RobertaConfig

    return RobertaConfig(
        vocab_size=config.vocabulary_size,
        hidden_size=config.width,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=config.feedforward_width,
        hidden_act="gelu",
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        max_position_embeddings=config.max_positions,
        type_vocab_size=1,
        layer_norm_eps=LAYER_NORM_EPS,
        pad_token_id=PAD_ID,
        attn_implementation="sdpa",
    )


def _clip_config(config: TextEncoderConfig) -> "CLIPTextConfig":
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=config.vocabulary_size,
        hidden_size=config.width,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=config.feedforward_width,
        hidden_act="quick_gelu",
        max_position_embeddings=config.max_positions,
        layer_norm_eps=LAYER_NORM_EPS,
        # Unused here; the defaults lie outside a small vocabulary and transformers would complain.
        bos_token_id=0,
        eos_token_id=config.end_id,
        attn_implementation="sdpa",
    )


def _square(keep_BL: Tensor) -> Tensor:
    length = keep_BL.shape[1]
    return keep_BL[:, None, None, :].expand(-1, 1, length, -1)


def _first(layer_output: Tensor | tuple[Tensor, ...]) -> Tensor:
    # transformers 4 wraps a layer's output in a tuple, 5 does not.
    return layer_output[0] if isinstance(layer_output, tuple) else layer_output
