"""At most how much: the token bounds a hold is made of.

Under `admission: expected` a bound is an estimate at a safe quantile, learned where enough answers have told
(`calibration`), else one of the figures below; under `strict` it cannot be exceeded, and nothing learned goes into it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ext_proc.dialects.interface import RequestFacts
from ext_proc.exchange.calibration import NOTHING, Learned
from ext_proc.exchange.errors import UnboundedError

HOLD_BYTES_PER_TOKEN_MILLI = 2_500
"""Bytes of prompt per token that a hold assumes, in thousandths. English runs near 4.2, code near 3, Chinese in UTF-8
near 2.5; the dearest of the common ones keeps a hold above the charge without strangling small budgets."""

CHARGE_BYTES_PER_TOKEN_MILLI = 4_000
"""Bytes of generated text per token that an estimated charge assumes, in thousandths: the middle, not the safe end,
because a charge is to be near the invoice."""

EXTERNAL_INPUT_TOKENS = 2_000
"""What one image, file or stored prompt outside the body is held at: a high-detail image is 1,100 to 1,600 tokens."""

TOKENS_PER_SECOND = 60
"""How fast a model is assumed to have written, where a request was cut before a byte of its answer came back."""


@dataclass(frozen=True, slots=True)
class InputBound:
    """Input tokens, and what they were computed from: prompt bytes at so many bytes per token, rounded up, what the
    provider adds, and a figure for each part outside the body. `window`: the model's context window bounded them;
    `learned`: the bytes per token are those of earlier requests.
    """

    tokens: int
    prompt_bytes: int
    bytes_per_token_milli: int
    overhead_tokens: int
    external_inputs: int
    window: bool = False
    learned: bool = False


@dataclass(frozen=True, slots=True)
class TokenBounds:
    """Input tokens, and the output tokens a grant may lie between (both times `choices`).

    `output_learned`: the most is how long earlier answers got.
    """

    input: InputBound
    output_min: int
    output_max: int
    output_learned: bool = False

    @property
    def input_tokens(self) -> int:
        """At most how many tokens the model reads."""
        return self.input.tokens


def tokens_of(size_bytes: int, bytes_per_token_milli: int) -> int:
    """Bytes to tokens, rounded up."""
    return -(-size_bytes * 1_000 // bytes_per_token_milli)


def bound(
    facts: RequestFacts,
    *,
    strict: bool,
    default_output_tokens: int,
    min_output_tokens: int | None,
    context_window: int | None,
    learned: Learned = NOTHING,
) -> TokenBounds:
    """Bound one request. `min_output_tokens` None means the output may not be shrunk.

    `learned` is what is known of the target; its output, for requests that nothing limits, comes before the default.
    Raises UnboundedError under `strict` where the prompt refers to content outside the body and the window is unknown.
    """
    known = NOTHING if strict else learned
    output_learned = facts.output_limit is None and known.output_tokens is not None
    unlimited = known.output_tokens or default_output_tokens
    output_per_choice = unlimited if facts.output_limit is None else facts.output_limit
    output_max = output_per_choice * facts.choices
    output_min = output_max if min_output_tokens is None else min(min_output_tokens * facts.choices, output_max)
    input_bound = _input_bound(facts, known.hold_bytes_per_token_milli, strict=strict, context_window=context_window)
    return TokenBounds(input_bound, output_min, output_max, output_learned)


def _input_bound(
    facts: RequestFacts, learned_milli: int | None, *, strict: bool, context_window: int | None
) -> InputBound:
    # A byte-level BPE never yields more tokens than bytes.
    bytes_per_token_milli = 1_000 if strict else learned_milli or HOLD_BYTES_PER_TOKEN_MILLI
    tokens = tokens_of(facts.prompt_bytes, bytes_per_token_milli) + facts.overhead_tokens
    window = False
    if not strict:
        tokens += facts.external_inputs * EXTERNAL_INPUT_TOKENS
    elif facts.external_inputs or (context_window is not None and context_window < tokens):
        if context_window is None:
            raise UnboundedError
        tokens, window = context_window, True
    return InputBound(
        tokens,
        facts.prompt_bytes,
        bytes_per_token_milli,
        facts.overhead_tokens,
        facts.external_inputs,
        window,
        learned_milli is not None,
    )
