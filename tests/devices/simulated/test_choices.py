"""Experts that are chosen by unknown scores: each is chosen equally often, and runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.resources import files

import pytest
import torch
from diffusers import HiDreamImageTransformer2DModel
from torch import nn

from diffprof.devices.simulated import is_known, place
from diffprof.devices.simulated.forward_replay import replaying
from diffprof.scanning.scan import scan_target
from diffprof.targets import Options
from tests.devices.simulated.conftest import Recorder

EXPERTS, ACTIVE, TOKENS, WIDTH = 8, 2, 24, 16

Split = Callable[[torch.Tensor], Iterator[tuple[int, torch.Tensor]]]


def by_bincount(chosen: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """HiDream's form."""
    flat = chosen.view(-1)
    tokens = flat.argsort() // ACTIVE
    ends = flat.bincount().cpu().numpy().cumsum(0)
    for n, end in enumerate(ends):
        begin = 0 if n == 0 else ends[n - 1]
        if begin != end:
            yield n, tokens[begin:end]


def by_scattered_counts(chosen: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """DeepSeek's form."""
    counts = chosen.new_zeros((chosen.shape[0], EXPERTS))
    counts.scatter_(1, chosen, 1)
    order, begin = chosen.view(-1).argsort(), 0
    for n, count in enumerate(counts.sum(dim=0).tolist()):
        if count:
            yield n, order[begin : begin + count] // ACTIVE
        begin += count


def by_mask(chosen: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Mixtral's form, with a class that no token is in."""
    mask = nn.functional.one_hot(chosen, EXPERTS + 1).permute(2, 1, 0)
    for hit in torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero():
        yield int(hit[0]), torch.where(mask[hit[0]])[1]


def by_question(chosen: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    for n in range(EXPERTS):
        mask = (chosen == n).any(dim=-1)
        if mask.any():
            yield n, torch.arange(len(chosen), device=chosen.device)[mask]


class Mixture(nn.Module):
    """Linear experts, of which each token goes through the best few."""

    def __init__(self, split: Split) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(EXPERTS))
        self.split = split
        self.rows: Counter[int] = Counter()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen = self.gate(x).softmax(dim=-1).topk(ACTIVE, dim=-1, sorted=False)[1]
        out = torch.zeros_like(x)
        for n, tokens in self.split(chosen):
            y = self.experts[n](x[tokens])
            self.rows[n] += len(y)
            out.index_add_(0, tokens, y)
        return out


@pytest.mark.parametrize("split", [by_bincount, by_scattered_counts, by_mask, by_question])
def test_every_expert_gets_as_many_tokens(split: Split, sim: torch.device, recorder: Recorder) -> None:
    mixture = Mixture(split)
    place(mixture, values="unknown")
    out = mixture(place(torch.ones(TOKENS, WIDTH), values="unknown"))
    assert mixture.rows == dict.fromkeys(range(EXPERTS), TOKENS * ACTIVE // EXPERTS)
    assert not is_known(out)
    assert not any(wait.known for wait in recorder.waits)
    if split is not by_question:
        assert recorder.waits[0].assumed == f"indices spread evenly over {EXPERTS}"


def test_what_is_rounded_sums_up(sim: torch.device) -> None:
    best = place(torch.ones(19, 8), values="unknown").argmax(dim=-1)
    assert best.bincount(minlength=9).tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 0]


def test_of_few_choices_nothing_is_guessed(sim: torch.device, recorder: Recorder) -> None:
    """Tokens of a language model: no value is more likely than others."""
    token = place(torch.ones(1, 100), values="unknown").argmax(dim=-1)
    assert token.tolist() == [0]
    assert recorder.waits[0].assumed == "zeros"


def test_what_is_overwritten_is_not_guessed(sim: torch.device) -> None:
    chosen = place(torch.ones(16, 4), values="unknown").argmax(dim=-1)
    chosen.add_(1)
    assert chosen.bincount().tolist() == [0, 4, 4, 4, 4]
    chosen.mul_(place(torch.ones(16).long(), values="unknown"))
    assert chosen.tolist() == [0] * 16


class Chosen(nn.Module):
    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        return scores.argmax(dim=-1)


def test_what_a_forward_returns_is_guessed_each_time(sim: torch.device, recorder: Recorder) -> None:
    module = Chosen()
    with replaying([module], recorder):
        for _ in range(4):
            chosen = module(place(torch.ones(16, 4), values="unknown"))
            assert chosen.bincount().tolist() == [4] * 4


def flops_of_hidream(net: nn.Module, image: int, text: int, activated: float) -> float:
    """Operations of a forward of one sample: two for every weight of a linear layer and token that goes
    through it, and four for every pair of tokens and element of width in the attention."""
    found = 0.0
    for name, part in net.named_modules():
        if not isinstance(part, nn.Linear):
            continue
        tokens = image
        if "_t." in f"{name}.":
            tokens = text
        elif "single_stream_blocks" in name:
            tokens = image + text
        if "caption_projection" in name:
            tokens = text // 3  # each of the three is as long: T5's, Llama's last layer and the block's own
        elif "adaLN" in name or "_embedder" in name:
            tokens = 1
        if ".experts." in name:
            tokens = round(tokens * activated)
        found += 2 * part.weight.numel() * tokens
    layers = sum(hasattr(part, "attn1") for part in net.modules())
    return found + layers * 4 * (image + text) ** 2 * net.inner_dim


@pytest.mark.nightly
def test_hidream_does_the_arithmetic_of_its_active_experts() -> None:
    steps, samples = 2, 2  # with and without the prompt
    recording = scan_target("hidream", device="sim:h100", options=Options(steps=steps)).recording
    text = files("diffprof.targets").joinpath("architectures", "hidream.json").read_text()
    config = json.loads(text)["components"]["transformer"]["config"]
    with torch.device("meta"):
        net = HiDreamImageTransformer2DModel(**config)
    routed = {
        name for name, part in net.named_modules() if ".experts." in name and isinstance(part, nn.Linear)
    }
    rows = [row for row in recording.kernels if (row.module or "").startswith("transformer.")]
    ran = {row.module.removeprefix("transformer.") for row in rows if row.device_us > 0}
    assert len(routed) == net.config.num_routed_experts * 3 * (
        net.config.num_layers + net.config.num_single_layers
    )
    assert routed <= ran
    (tokens,) = {row.queries for row in recording.attention if row.component == "transformer"}
    image = (1024 // 8 // net.config.patch_size) ** 2
    activated = net.config.num_activated_experts / net.config.num_routed_experts
    expected = steps * samples * flops_of_hidream(net, image, tokens - image, activated)
    assert sum(row.flops for row in rows) == pytest.approx(expected, rel=0.03)
