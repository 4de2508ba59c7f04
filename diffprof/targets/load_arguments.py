"""What the arguments of `from_pretrained` mean where no weights are loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

CUDA = re.compile(r"cuda(:\d+)?")

WHERE = ("subfolder", "revision", "cache_dir", "token", "local_files_only")
"""They say where a configuration is."""

OF_WEIGHTS = frozenset(
    {
        *("variant", "use_safetensors", "low_cpu_mem_usage", "use_flashpack", "flashpack_kwargs"),
        *(
            "disable_mmap",
            "offload_state_dict",
            "offload_folder",
            "offload_buffers",
            "ignore_mismatched_sizes",
        ),
        *("weights_only", "state_dict", "key_mapping", "use_onnx", "provider", "sess_options"),
        *("provider_options", "tqdm_class", "force_download", "resume_download", "proxies", "mirror"),
        *("custom_revision", "trust_remote_code", "from_flax", "from_tf", "output_loading_info"),
        *("torch_dtype", "dtype", "max_memory", "generation_config", "adapter_kwargs", "_commit_hash"),
        *("_from_auto", "_from_pipeline", "use_auth_token", "safety_checker_kwargs"),
    }
)
"""They say how files of weights are found and read, or are looked at elsewhere here: without weights they
change nothing."""

UNQUANTIZED = "without weights there is nothing to quantize. Times and memory are those of the model as it is"
LEFT_AS_IS = "_quantization_left_out"
"""An attribute of models and layers that were to be quantized."""
QUANTIZED_PACKAGES = ("torchao.", "torch.ao.nn.quantized", "bitsandbytes.", "optimum.quanto.", "gguf")
"""Packages whose tensors and modules hold quantized weights."""


@dataclass
class Loading:
    """One call of `from_pretrained`. cls: what is loaded; honoured: names that are taken care of."""

    cls: Any
    kwargs: Mapping[str, object]
    honoured: set[str]

    def dtype(self) -> torch.dtype | None:
        """What a model would be loaded in; None: what its configuration says, for classes that look there."""
        named = self._named()
        if named in (None, "auto"):
            return None if hasattr(self.cls, "config_class") else torch.float32
        return _dtype(named)

    def dtypes(self) -> torch.dtype | dict[str, torch.dtype]:
        """What a pipeline's components would be loaded in, by name with a `default` where they differ."""
        named = self._named()
        if isinstance(named, Mapping):
            return {name: _dtype(value) for name, value in named.items()}
        return _dtype(named)

    def _named(self) -> object:
        return self.kwargs.get("dtype") or self.kwargs.get("torch_dtype")

    def left_as_is(self, loaded: object) -> Iterator[torch.nn.Module]:
        """Models of what was loaded that the user asked to be quantized."""
        asked = self.kwargs.get("quantization_config")
        if asked is None:
            return
        if isinstance(loaded, torch.nn.Module):
            yield loaded
            return
        named = getattr(asked, "components_to_quantize", None) or getattr(asked, "quant_mapping", None) or ()
        for name in (named,) if isinstance(named, str) else named:
            if isinstance(model := getattr(loaded, name, None), torch.nn.Module):
                yield model

    def not_honoured(self) -> dict[str, str]:
        """Arguments that would have made a difference, with what was done instead."""
        found = {}
        for name, value in self.kwargs.items():
            if value is None or value is False or name in {*WHERE, *OF_WEIGHTS, *self.honoured}:
                continue
            if name == "device_map":
                if not (everywhere(value) or nowhere(value)):
                    found[name] = "what was loaded is on the CPU until it is moved"
            elif name == "quantization_config":
                found[name] = UNQUANTIZED
            else:
                found[name] = "the build from a configuration does not know it"
        return found


def _dtype(named: object) -> torch.dtype:
    from diffprof.targets.construct import parse_dtype

    if isinstance(named, torch.dtype):
        return named
    return parse_dtype(named) if isinstance(named, str) and named != "auto" else torch.float32


def everywhere(device_map: object) -> bool:
    """Whether a device map, or a device, puts all of a model on the one GPU there is. `auto` and `balanced`
    do where it has room."""
    if isinstance(device_map, Mapping):
        return bool(device_map) and all(map(everywhere, device_map.values()))
    if isinstance(device_map, torch.device):
        return device_map.type not in ("cpu", "meta")
    if isinstance(device_map, str):
        spread = ("auto", "balanced", "balanced_low_0", "sequential")
        return device_map in spread or CUDA.fullmatch(device_map) is not None
    return device_map == 0 and not isinstance(device_map, bool)


def nowhere(device_map: object) -> bool:
    """Whether it leaves all of a model on the CPU."""
    if isinstance(device_map, Mapping):
        return all(map(nowhere, device_map.values()))
    return str(device_map) == "cpu"
