"""Text encoders beside transformers' own forward passes."""

import pytest
import torch

from pipeline.models.text_encoder import (
    PAD_ID,
    ClipTextEncoder,
    RobertaTextEncoder,
    TextEncoderConfig,
    build_text_encoder,
)

ROBERTA = TextEncoderConfig(
    vocabulary_size=60, width=32, num_layers=5, num_heads=4, feedforward_width=48, max_positions=20
)
CLIP = TextEncoderConfig(
    kind="clip",
    vocabulary_size=60,
    width=32,
    num_layers=3,
    num_heads=4,
    feedforward_width=48,
    max_positions=12,
    end_id=59,
)


@pytest.mark.parametrize("cuts", [(5,), (2, 5), (1, 2, 3, 4, 5), (0, 5, 5)])
def test_roberta_layer_by_layer_is_transformers_roberta_at_once(cuts: tuple[int, ...]) -> None:
    encoder = RobertaTextEncoder(ROBERTA).eval()
    token_ids = torch.tensor([[0, 7, 8, 9, 2], [0, 30, 2, PAD_ID, PAD_ID]])
    keep = token_ids != PAD_ID
    text, done = encoder.embed(token_ids), 0
    for stop in cuts:
        text = encoder.run_layers(text, start=done, stop=stop, keep_BL=keep)
        done = stop
    wanted = encoder.roberta(input_ids=token_ids, attention_mask=keep.long()).last_hidden_state
    torch.testing.assert_close(text[keep], wanted[keep], rtol=0, atol=1e-6)
    torch.testing.assert_close(encoder.sentence(encoder.finish(text), token_ids), wanted[:, 0], rtol=0, atol=1e-6)


def test_padding_changes_no_other_token_of_roberta() -> None:
    encoder = RobertaTextEncoder(ROBERTA).eval()
    short, padded = torch.tensor([[0, 30, 31, 2]]), torch.tensor([[0, 30, 31, 2, PAD_ID, PAD_ID]])
    alone = encoder.run_layers(encoder.embed(short), start=0, stop=5)
    beside = encoder.run_layers(encoder.embed(padded), start=0, stop=5, keep_BL=padded != PAD_ID)
    torch.testing.assert_close(beside[:, :4], alone, rtol=0, atol=1e-6)
    assert bool((encoder.embed(padded)[:, 4:] == 0).all())


def test_clip_layer_by_layer_is_transformers_clip_at_once() -> None:
    encoder = ClipTextEncoder(CLIP).eval()
    token_ids = torch.tensor([[58, 7, 8, 9, 59], [58, 30, 59, 59, 59]])
    text = encoder.run_layers(encoder.embed(token_ids), start=0, stop=2)
    text = encoder.run_layers(text, start=2, stop=3)
    wanted = encoder.clip(input_ids=token_ids)
    torch.testing.assert_close(encoder.finish(text), wanted.last_hidden_state, rtol=0, atol=1e-6)
    sentence = encoder.sentence(encoder.finish(text), token_ids)
    torch.testing.assert_close(sentence, wanted.pooler_output, rtol=0, atol=1e-6)


def test_a_clip_token_does_not_read_what_stands_behind_it() -> None:
    encoder = ClipTextEncoder(CLIP).eval()
    one, other = torch.tensor([[58, 7, 8, 9, 59]]), torch.tensor([[58, 7, 8, 20, 59]])
    runs = [encoder.run_layers(encoder.embed(ids), start=0, stop=3) for ids in (one, other)]
    torch.testing.assert_close(runs[0][:, :3], runs[1][:, :3], rtol=0, atol=1e-6)
    assert not torch.allclose(runs[0][:, 3], runs[1][:, 3])


def test_the_longest_text_is_512_tokens_for_roberta_and_77_for_clip() -> None:
    assert TextEncoderConfig().max_tokens == 512
    assert CLIP.model_copy(update={"max_positions": 77}).max_tokens == 77
    encoder = RobertaTextEncoder(ROBERTA).eval()
    longest = torch.full((1, ROBERTA.max_tokens), 5)
    assert encoder.embed(longest).shape == (1, 18, 32)
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        encoder.embed(torch.full((1, ROBERTA.max_tokens + 1), 5))


def test_the_config_decides_which_encoder_is_built() -> None:
    assert isinstance(build_text_encoder(ROBERTA), RobertaTextEncoder)
    assert isinstance(build_text_encoder(CLIP), ClipTextEncoder)


@pytest.mark.parametrize(
    "changes", [{"num_heads": 5}, {"end_id": 3}, {"kind": "clip"}, {"heads": 4}, {"num_layers": 0}]
)
def test_numbers_that_do_not_fit_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        TextEncoderConfig(**{**ROBERTA.model_dump(), **changes})  # type: ignore[arg-type]
