"""From a prompt to an expression: text rules, tokens, and which of them tell motion."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import PromptError
from pipeline.models.motion_words import MotionTagger, marked_tokens, motion_spans
from pipeline.models.samwise_clip import Expression
from pipeline.models.tokenizers import Tokenizer, check_length, normalize_expression
from pipeline.ticks import Prompt

MotionPool = Literal["first", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpressionReader:
    """How a segmenter reads prompts.

    Attributes:
        tokenizer, max_tokens: of its text encoder.
        normalize_text: lower case and single spaces first.
        motion_tagger: who finds motion words the caller did not give; None for no motion prompt.
        motion_pool: which marked tokens make the motion prompt. "first" is what the reference does with one
            expression at a time; "all" averages them.
    """

    tokenizer: Tokenizer
    max_tokens: int
    normalize_text: bool
    motion_tagger: MotionTagger | None
    motion_pool: MotionPool

    def read_all(self, prompts: Sequence[Prompt]) -> list[Expression]:
        """One expression per prompt, in order.

        Raises:
            PromptError: no prompts, an object asked for twice, or a prompt that `read` refuses.
        """
        if not prompts:
            raise PromptError("no prompts: give at least one expression per video.")
        object_ids = [prompt.object_id for prompt in prompts]
        twice = sorted({i for i in object_ids if object_ids.count(i) > 1})
        if twice:
            raise PromptError(f"object_id {twice} given to several prompts. Number the expressions of a video apart.")
        return [self.read(prompt) for prompt in prompts]

    def read(self, prompt: Prompt) -> Expression:
        """The expression of one prompt.

        Raises:
            PromptError: it has no text, or points, box or mask beside it, or too many tokens, or motion words
                that its text does not contain.
        """
        if prompt.points or prompt.box is not None or prompt.mask is not None:
            raise PromptError(
                f"object {prompt.object_id}: SAMWISE takes text alone; points, boxes and masks are for 'mosam'."
            )
        if prompt.text is None or not prompt.text.strip():
            raise PromptError(f"object {prompt.object_id}: the expression is empty. Say what to look for.")
        text = normalize_expression(prompt.text) if self.normalize_text else prompt.text
        tokenized = check_length(self.tokenizer(text), max_tokens=self.max_tokens)
        motion: tuple[int, ...] = ()
        if self.motion_tagger is not None:
            spans = motion_spans(text, given=prompt.motion_words, tagger=self.motion_tagger)
            motion = marked_tokens(tokenized, spans)
        return Expression(
            object_id=prompt.object_id,
            token_ids=tokenized.ids,
            motion_tokens=motion[:1] if self.motion_pool == "first" else motion,
        )
