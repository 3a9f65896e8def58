"""Norms as a linear map and a scale: what is needed to follow a write through them with the scale held fixed."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from s2e_lens.errors import ModelError

_LARGE, _SMALL, _TOLERANCE = 1e3, 1e-3, 1e-4


@dataclass(frozen=True, eq=False)
class Norm:
    """N(x) = linear(x) / scale(x) + bias, for an RMSNorm or a LayerNorm, in float32.

    ``linear`` multiplies by the gain γ, after taking the mean away if ``centred`` (LayerNorm); ``scale`` is the root mean
    square of what is left, the only part that is not linear. Held fixed, a write w passes the norm as linear(w) / scale.
    """

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    centred: bool
    eps: float

    def linear(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """γ ⊙ x, or γ ⊙ (x - mean(x))."""
        return self.gain.to(x.device) * self._kept(x)

    def scale(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, " *batch"]:
        """sqrt(mean(x²) + eps), of the centred x in a LayerNorm."""
        return (self._kept(x).square().mean(dim=-1) + self.eps).sqrt()

    def _kept(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        x = x.float()
        return x - x.mean(dim=-1, keepdim=True) if self.centred else x


def norm_of(module: nn.Module, d_model: int) -> Norm:
    """The norm that a module computes, found by asking it: families store γ under other names, and as 1 + weight (Gemma).

    Raises:
        ModelError: if the module is neither an RMSNorm nor a LayerNorm, or its weights are offloaded.
    """
    if any(parameter.device.type == "meta" for parameter in module.parameters()):
        raise ModelError("the weights of a norm are offloaded (on the meta device): load the model whole to read logits off it.")
    own: nn.Module = copy.deepcopy(module).float().cpu()
    with torch.no_grad():
        found = _probe(own, d_model)
        sample = torch.randn(4, d_model, generator=torch.Generator().manual_seed(0)) + 0.5
        want = own(sample)
        got = found.linear(sample) / found.scale(sample)[:, None] + found.bias
    if not torch.allclose(got, want, rtol=_TOLERANCE, atol=_TOLERANCE * float(want.abs().max())):
        raise ModelError(f"{type(module).__name__} is neither an RMSNorm nor a LayerNorm: what it does to a write is not known.")
    return found


def _probe(norm: Callable[[Tensor], Tensor], d_model: int) -> Norm:
    """Gain, bias, centring and eps from the answers to a vector of mean 0, to its opposite and to a constant."""
    up, down = (d_model + 1) // 2, d_model // 2
    pattern = torch.cat([torch.ones(up), torch.full((down,), -up / down)])
    pattern = pattern / pattern.square().mean().sqrt()
    bias = (norm(_LARGE * pattern) + norm(-_LARGE * pattern)) / 2
    gain = (norm(_LARGE * pattern) - bias) / pattern
    constant = norm(torch.full((d_model,), _LARGE)) - bias
    centred = bool(constant.abs().max() < _TOLERANCE * gain.abs().max())
    answer = (norm(_SMALL * pattern) - bias).norm() / (gain * pattern).norm()
    eps = max(0.0, _SMALL**2 * (float(answer) ** -2 - 1)) if answer > 0 else 0.0
    return Norm(gain, bias, centred, eps)
