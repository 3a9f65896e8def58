"""What a model does with a text, read in terms of directions, edits, heads and neurons."""

from s2e_lens.readout.ablations import AblationEffect, TokenChange, ablation_effect
from s2e_lens.readout.effects import LogitEffects, logit_effects
from s2e_lens.readout.logits import LogitLens, Scales, TokenLens, component_tokens, direct_logits, logit_lens, measure_scales
from s2e_lens.readout.texts import NextTokens, activations, firings, next_tokens, projections
from s2e_lens.readout.tokens import TokenValue, token_id, token_strings, visible

__all__ = [
    "AblationEffect",
    "LogitEffects",
    "LogitLens",
    "NextTokens",
    "Scales",
    "TokenChange",
    "TokenLens",
    "TokenValue",
    "ablation_effect",
    "activations",
    "component_tokens",
    "direct_logits",
    "firings",
    "logit_effects",
    "logit_lens",
    "measure_scales",
    "next_tokens",
    "projections",
    "token_id",
    "token_strings",
    "visible",
]
