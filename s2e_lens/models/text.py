"""From text to token ids: chat templates, BOS, and the span of a response, each decided once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from s2e_lens.errors import ExamplesError, ModelError

Message = Mapping[str, str]
Prompt = str | Sequence[Message]

THINK, END_THINK = "<think>", "</think>"
"""What reasoning stands between, in an answer."""


@dataclass(frozen=True)
class TextCodec:
    """A tokenizer with its conventions made explicit.

    Prompts go through the chat template where there is one (``use_chat_template``); special tokens are then the
    template's own. Plain text gets the tokens that the tokenizer puts in front of a text (BOS), once.
    """

    tokenizer: Any
    use_chat_template: bool = True
    generation_eos: tuple[int, ...] = ()

    @property
    def has_chat_template(self) -> bool:
        """Whether prompts are rendered by a chat template."""
        return self.use_chat_template and bool(getattr(self.tokenizer, "chat_template", None))

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end a generated answer."""
        own = self.tokenizer.eos_token_id
        return tuple(sorted({*self.generation_eos, *([own] if own is not None else [])}))

    @property
    def pad_id(self) -> int:
        """The id that fills masked positions (it is never read)."""
        if self.tokenizer.pad_token_id is not None:
            return self.tokenizer.pad_token_id
        return self.eos_ids[0] if self.eos_ids else 0

    @cached_property
    def prefix_ids(self) -> list[int]:
        """What the tokenizer puts in front of a plain text, such as BOS."""
        bare = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        full = self.tokenizer("a")["input_ids"]
        width = len(bare)
        return next((full[:i] for i in range(len(full) - width + 1) if full[i : i + width] == bare), [])

    def render(self, prompt: Prompt) -> str:
        """The text that the model reads for a prompt, up to where its answer begins.

        Where the chat template has no system turn, what it would say stands at the head of the first user turn.

        Raises:
            ExamplesError: for a list of messages where there is no chat template, or that the template refuses.
        """
        if not self.has_chat_template:
            if isinstance(prompt, str):
                return prompt
            raise ExamplesError(
                "the prompt is a list of messages, but this tokenizer has no chat template (or it is turned off). "
                "Write the prompt as one string."
            )
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
        if messages and messages[0]["role"] == "system" and not self.has_system_turn:
            messages = _without_system_turn(messages)
        return self._apply_template(messages)

    def _apply_template(self, messages: list[dict[str, str]]) -> str:
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # the template is a program of the model's author
            raise ExamplesError(f"the model's chat template refuses the prompt: {error}") from error

    @cached_property
    def has_system_turn(self) -> bool:
        """Whether the chat template shows a system turn: some refuse one, and some pass over it in silence."""
        probe = "s2e-lens-probe"
        try:
            return probe in self._apply_template([{"role": "system", "content": probe}, {"role": "user", "content": "a"}])
        except ExamplesError:
            return False

    def _prefix(self, text: str) -> list[int]:
        bos = self.tokenizer.bos_token
        if self.has_chat_template or (bos and text.startswith(bos)):
            return []
        return self.prefix_ids

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The tokens from which the model generates an answer to a prompt."""
        text = self.render(prompt)
        return [*self._prefix(text), *self.tokenizer(text, add_special_tokens=False)["input_ids"]]

    def text_ids(self, text: str) -> list[int]:
        """The tokens of a running text, with what the tokenizer puts in front of it and no template."""
        bos = self.tokenizer.bos_token
        prefix = [] if bos and text.startswith(bos) else self.prefix_ids
        return [*prefix, *self.tokenizer(text, add_special_tokens=False)["input_ids"]]

    def example_ids(self, prompt: Prompt, response: str) -> tuple[list[int], int]:
        """Token ids of prompt + response and the index of the first response token.

        The whole text is tokenised once and the border is read off the character offsets. What lies before it is
        then compared with :meth:`prompt_ids`, so that a measured response follows the very tokens it is generated from.
        Where the chat template opens the reasoning itself, a response that begins with ``<think>`` does not open it again.

        Raises:
            ExamplesError: if a token spans the border, or the response has no token.
            ModelError: if the tokenizer gives no offsets (a "slow" one).
        """
        if not getattr(self.tokenizer, "is_fast", False):
            raise ModelError("spans need a fast tokenizer (tokenizer.json); this one gives no character offsets.")
        head = self.render(prompt)
        if head.rstrip().endswith(THINK):
            response = response.removeprefix(THINK)
        encoded = self.tokenizer(head + response, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        border = next((i for i, (_, end) in enumerate(offsets) if end > len(head)), len(ids))
        prefix = self._prefix(head)
        if border == len(ids):
            raise ExamplesError(f"the response {response!r} has no token: its span is empty.")
        if [*prefix, *ids[:border]] != self.prompt_ids(prompt):
            begin, end = offsets[border]
            raise ExamplesError(
                f"the end of the prompt and the beginning of the response share the token {(head + response)[begin:end]!r}: "
                "an answer would be generated from other tokens than those measured. Let the prompt end before the space "
                "and the response begin with it."
            )
        return [*prefix, *ids], len(prefix) + border

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)


def _without_system_turn(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    system, *rest = messages
    if not rest or rest[0]["role"] != "user":
        raise ExamplesError("the model's chat template has no system turn, and no user turn follows that could take its text.")
    return [{"role": "user", "content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]]
