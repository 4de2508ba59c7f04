"""Advice on graph breaks and recompiles: source to be written by hand. Shown, never run."""

from __future__ import annotations

from collections.abc import Sequence

from diffprof.model.finding import Finding
from diffprof.model.fix import Code, Write
from diffprof.model.plain import clean
from diffprof.model.recording import Recording


def written(text: str) -> Write:
    """Source to be written by hand, with the places of the findings above it."""

    def code(recording: Recording, findings: Sequence[Finding]) -> Code:
        places = dict.fromkeys(
            f"# {clean(f.site.file)}:{f.site.line}, in {clean(f.site.function)}"
            for f in findings
            if f.site is not None
        )
        return Code(optimize="\n".join([*places, text.strip("\n")]))

    return code


ADVICE: tuple[tuple[str, str, str, str], ...] = (
    (
        "branch-as-where",
        "Compute both sides of the branch and take one",
        """
# if y.sum() > 0:
#     y = y + 1
y = torch.where(y.sum() > 0, y + 1, y)
""",
        "`torch.where` keeps the choice on the device; `torch.cond` where a side is expensive.",
    ),
    (
        "tuples-in-source",
        "Ask the model for a tuple",
        """
# noise = self.unet(latents, t, encoder_hidden_states=embeds).sample
noise = self.unet(latents, t, encoder_hidden_states=embeds, return_dict=False)[0]
""",
        "The same tensor, without the object around it.",
    ),
    (
        "torch-for-numpy",
        "Compute with torch what goes through numpy",
        """
# y = np.clip(x.numpy(), 0.0, 1.0)
y = torch.clamp(x, 0.0, 1.0)
""",
        "numpy works on host memory; what does not depend on the tensors is computed before the call.",
    ),
    (
        "call-outside",
        "Make the call before the compiled part, and pass its result in",
        """
# return x * (zlib.crc32(b"key") % 7)
KEY = zlib.crc32(b"key") % 7  # once, at import
return x * KEY
""",
        "Where the call needs tensors: `torch.library.custom_op` makes it an operator of the graph.",
    ),
    (
        "compile-inside",
        "Compile what is below the disabled function",
        """
# pipe.unet.compile(fullgraph=True)
pipe.unet.compile_repeated_blocks(fullgraph=True)
""",
        "The function stays plain Python, between graphs that are whole.",
    ),
    (
        "hook-outside",
        "Take the hook off, or compile the blocks inside of its module",
        """
handle = module.register_forward_hook(hook)
handle.remove()  # before compiling
# or, with the hook on the model and graphs below it:
pipe.unet.compile_repeated_blocks(fullgraph=True)
""",
        "A hook on the whole model stays outside of what is compiled block by block.",
    ),
    (
        "one-type-of-weights",
        "Keep the weights in one type, or quantize them",
        """
# pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
pipe.unet.to(torch.bfloat16)
# or, as small as before, and whole under torch.compile:
from torchao.quantization import Float8WeightOnlyConfig, quantize_
quantize_(pipe.unet, Float8WeightOnlyConfig(set_inductor_config=False))
""",
        "Layerwise casting changes the weights of every layer around every call, where torchao's weights are "
        "made larger inside the graph. Its hooks can't be taken off: load the model without them.",
    ),
    (
        "mark-by-hand",
        "Mark the dimensions that change, before the first call",
        """
torch._dynamo.mark_dynamic(latents, 2)  # height
torch._dynamo.mark_dynamic(latents, 3)  # width
""",
        "One version for all sizes; a model that fixes a size raises instead of compiling again.",
    ),
    (
        "number-outside",
        "Keep the number a 0-d tensor, or out of the compiled part",
        """
# self.sigma = self.sigma / 2  # a Python float, burnt into the graph
self.sigma = torch.tensor(4.0)
self.sigma.div_(2)
""",
        "A tensor's value is no part of the graph.",
    ),
    (
        "same-object",
        "Make the object once, and use the same one in every call",
        """
STYLE = Style()  # at module level, or in __init__
pipe(prompt, style=STYLE)
""",
        "Guards ask whether it is the same object, or one of the same type, not whether it is equal.",
    ),
)
"""Key, title, text, why."""
