"""Build a pipeline from its configuration files, without weights: shapes only, or random values."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from diffprof.model.errors import DiffprofError, TargetError, UsageError
from diffprof.model.pipeline import replaced
from diffprof.targets.adapters import add_adapters
from diffprof.targets.load_arguments import LEFT_AS_IS, OF_WEIGHTS, QUANTIZED_PACKAGES, WHERE, Loading
from diffprof.targets.stand_ins import StandInProcessor, supply

SEED = 0

TOKENIZER_SETTINGS = {
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json"),
    *("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json"),
    *("chat_template.json", "chat_template.jinja", "generation_config.json"),
}
"""Files of a tokenizer or a processor that hold no vocabulary."""

DTYPES = {"fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp32": "float32", "float": "float32"}


def parse_dtype(name: str) -> torch.dtype:
    """`float16`, `fp16`, `torch.bfloat16`, ... . Raises UsageError for anything else."""
    plain = name.lower().removeprefix("torch.")
    dtype = getattr(torch, DTYPES.get(plain, plain), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point or dtype.itemsize < 2:
        raise UsageError(
            f"There is no dtype {name!r} to run a pipeline in.", "Use float32, float16 or bfloat16."
        )
    return dtype


def read_index(folder: Path) -> dict[str, Any]:
    """A checkpoint's `model_index.json`. Raises UsageError where there is none or it can't be read."""
    file = folder / "model_index.json"
    try:
        index = json.loads(file.read_text())
    except FileNotFoundError:
        raise UsageError(
            f"{str(folder)!r} is not a diffusers checkpoint: it has no model_index.json.",
            "Name a folder that a pipeline's save_pretrained wrote, or use a factory file.py:function.",
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{str(file)!r} can't be read: {error}.", "Download or save the checkpoint again."
        ) from error
    if not isinstance(index, dict) or "_class_name" not in index:
        raise UsageError(f"{str(file)!r} names no pipeline class.", "Download or save the checkpoint again.")
    return index


def assemble(
    folders: Sequence[Path],
    *,
    empty: bool,
    dtype: torch.dtype | Mapping[str, torch.dtype] | None = None,
    device: torch.device | None = None,
    cls: Any = None,
    given: Mapping[str, Any] | None = None,
) -> Any:
    """The pipeline described by the configuration files in `folders` (a later one stands in for components
    that the earlier lack).

    empty: parameters are on `meta`, buffers are real; else seeded random values on `device`. dtype: what
    `from_pretrained` would be given, or by component with a `default`. cls: another class than the
    checkpoint's; given: components that are there already, by name. Raises TargetError for a missing file or
    an unknown class.
    """
    index = read_index(folders[0])
    cls = cls or pipeline_class(index["_class_name"], folders[0])
    accepted = inspect.signature(cls.__init__).parameters
    parts: dict[str, object] = {name: part for name, part in (given or {}).items() if name in accepted}
    with random_values(device) if not empty else weightless():
        for name, entry in index.items():
            if name.startswith("_") or name not in accepted or name in parts:
                continue
            if isinstance(entry, list | tuple):
                library, class_name = entry
                parts[name] = (
                    None
                    if class_name is None
                    else component(name, library, class_name, folders, index, _of_component(dtype, name))
                )
            else:
                parts[name] = entry
        parts |= _not_listed(cls, parts, folders[0])
        # A pipeline may make models of those that it is given.
        pipe = cls(**parts)
        add_adapters(pipe, index.get("_adapters", {}))
        supply(index.get("_missing", {}))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _not_listed(cls: Any, parts: Mapping[str, Any], folder: Path) -> dict[str, None]:
    """Optional components that the checkpoint does not list. Raises TargetError for one that is needed."""
    accepted = inspect.signature(cls.__init__).parameters
    missing = [
        name
        for name, parameter in accepted.items()
        if name not in parts and name != "self" and parameter.default is inspect.Parameter.empty
    ]
    for name in missing:
        if name not in getattr(cls, "_optional_components", ()):
            raise TargetError(
                f"{cls.__name__} needs {name!r}, which the checkpoint {str(folder)!r} does not list.",
                "Save the checkpoint again with this version of diffusers.",
            )
    return dict.fromkeys(missing)


def _of_component(dtype: torch.dtype | Mapping[str, torch.dtype] | None, name: str) -> torch.dtype | None:
    if isinstance(dtype, Mapping):
        return dtype.get(name, dtype.get("default", torch.float32))
    return dtype


def pipeline_class(name: Any, folder: Path) -> object:
    """The class of diffusers that `_class_name` names. Raises TargetError where it has none of that name."""
    import diffusers

    cls = getattr(diffusers, name, None) if isinstance(name, str) else None
    if cls is None:
        shown = name if isinstance(name, str) else name[-1]
        raise TargetError(
            f"The pipeline class {shown!r} of {str(folder)!r} is not in diffusers {diffusers.__version__}.",
            "Build it in a factory, and scan file.py:function.",
        )
    return cls


def component(
    name: str,
    library: str,
    class_name: str,
    folders: Sequence[Path],
    index: dict[str, object],
    dtype: torch.dtype | None,
) -> object:
    """One component, built from its configuration under `folders`."""
    folder = _folder_of(name, folders)
    if library == "transformers" and "Tokenizer" in class_name:
        if folder is not None and _has_vocabulary(folder):
            return _loaded(name, component_class(name, library, class_name), folder)
        return _stand_in(name, folder, folders, index)
    if folder is None:
        raise _missing(name, folders[0] / name)
    cls = component_class(name, library, class_name)
    if library == "transformers" and hasattr(cls, "get_attributes") and not _has_vocabulary(folder):
        # A processor of pictures and words.
        words = _stand_in("tokenizer", _folder_of("tokenizer", folders), folders, index)
        return StandInProcessor(folder, words)
    # transformers' Auto classes stand for modules and are none.
    if not (inspect.isclass(cls) and (issubclass(cls, torch.nn.Module) or hasattr(cls, "_model_mapping"))):
        return _loaded(name, cls, folder)
    if not (folder / "config.json").is_file():
        raise _missing(name, folder / "config.json")
    try:
        return model_of(cls, str(folder), dtype)
    except DiffprofError:
        raise
    except Exception as error:
        raise TargetError(
            f"{name} ({class_name}) can't be built from {str(folder / 'config.json')!r}: {_line(error)}.",
            "Check that the checkpoint was made for this version of diffusers and transformers.",
        ) from error


def _folder_of(name: str, folders: Sequence[Path]) -> Path | None:
    return next((f / name for f in folders if (f / name).is_dir()), None)


def _has_vocabulary(folder: Path) -> bool:
    return any(file.name not in TOKENIZER_SETTINGS for file in folder.iterdir())


def model_of(
    cls: Any,
    name: str,
    dtype: torch.dtype | None,
    *,
    where: Mapping[str, Any] = MappingProxyType({}),
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> object:
    """A model as loading it in `dtype` leaves it, built from its configuration in a folder or on the hub.

    dtype: None is the configuration's own, else the default one. where: `subfolder`, `revision`, ... .
    changes: entries that stand in for those of the configuration.
    """
    if not (hasattr(cls, "load_config") or _in_transformers(cls)):
        # Several models in one, which loads each of them.
        with built_instead():
            return cls.from_pretrained(name, dtype=dtype, **where)
    if hasattr(cls, "load_config"):
        with _default_dtype(dtype):
            model = cls.from_config(cls.load_config(name, **where), **changes)
    else:
        config = changes.get("config") or _transformers_config(cls, name, where, changes)
        dtype = dtype or getattr(config, "dtype", None)
        with _default_dtype(dtype):
            model = cls(config) if hasattr(cls, "_from_config") else cls.from_config(config)
    model.eval()
    if dtype is not None:
        cast(model, dtype)
    return model


@contextmanager
def built_instead(
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
    then: Callable[[object, Loading], object] = lambda model, loading: model,
) -> Iterator[None]:
    """Inside, loading a model builds it from its configuration instead, each within a context of `around`;
    what `then` makes of it is given back."""
    from diffusers import ModelMixin
    from transformers import PreTrainedModel

    def from_pretrained(
        cls: object, pretrained_model_name_or_path: object, *args: Any, **kwargs: Any
    ) -> object:
        name = str(pretrained_model_name_or_path)
        where = {key: kwargs[key] for key in WHERE if kwargs.get(key) is not None}
        changes = _configured(cls, kwargs)
        loading = Loading(cls, kwargs, honoured=set(changes))
        with around():
            model = model_of(cls, name, loading.dtype(), where=where, changes=changes)
        return then(model, loading)

    owners = ModelMixin, PreTrainedModel
    before = [vars(owner)["from_pretrained"] for owner in owners]
    try:
        for owner in owners:
            owner.from_pretrained = classmethod(from_pretrained)
        yield
    finally:
        for owner, original in zip(owners, before, strict=True):
            owner.from_pretrained = original


def _configured(cls: Any, kwargs: Mapping[str, Any]) -> dict[str, object]:
    """The arguments of loading that stand in for entries of the configuration."""
    if hasattr(cls, "load_config"):
        return {name: kwargs[name] for name in inspect.signature(cls.__init__).parameters if name in kwargs}
    known = set(dir(cls.config_class())) if getattr(cls, "config_class", None) else set()
    taken = (known - OF_WEIGHTS - {"quantization_config"}) | {"config", "attn_implementation"}
    return {name: value for name, value in kwargs.items() if name in taken and value is not None}


def _transformers_config(
    cls: object, name: str, where: Mapping[str, object], changes: Mapping[str, object]
) -> object:
    from transformers import AutoConfig

    source = getattr(cls, "config_class", None) or AutoConfig
    return source.from_pretrained(name, **where, **changes)


def _in_transformers(cls: object) -> bool:
    """Models and Auto classes of transformers, or made on them."""
    return hasattr(cls, "config_class") or cls.__module__.startswith("transformers.")


@contextmanager
def _default_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    """Loading makes a model, its buffers too, under the dtype that is asked for."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype or before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def component_class(name: str, library: str, class_name: str) -> object:
    """The class of an entry `[library, class]` of model_index.json."""
    import diffusers.pipelines

    try:
        module = getattr(diffusers.pipelines, library, None) or importlib.import_module(library)
        return getattr(module, class_name)
    except (ImportError, AttributeError, TypeError) as error:
        raise TargetError(
            f"{class_name}, the class of {name!r}, can't be imported from {library!r}: {_line(error)}.",
            "Install what it needs, or build the pipeline in a factory and scan file.py:function.",
        ) from error


def _loaded(name: str, cls: Any, folder: Path) -> object:
    """A part that is small and has no weights: scheduler, tokenizer, processor."""
    try:
        return cls.from_pretrained(str(folder))
    except Exception as error:
        raise TargetError(
            f"{name} ({cls.__name__}) can't be loaded from {str(folder)!r}: {_line(error)}.",
            "Check that its files are complete.",
        ) from error


def _stand_in(name: str, folder: Path | None, folders: Sequence[Path], index: dict[str, object]) -> Any:
    from diffprof.targets.tokenizer import StandInTokenizer

    settings = _json(folder / "tokenizer_config.json") if folder is not None else {}
    encoder = name.replace("tokenizer", "text_encoder")
    held = next((_json(f / encoder / "config.json") for f in folders if (f / encoder).is_dir()), {})
    return StandInTokenizer(settings, held.get("text_config") or held)


def _json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError):
        return {}


def _missing(name: str, path: Path) -> TargetError:
    return TargetError(
        f"The component {name!r} is missing: there is no {str(path)!r}.",
        "Download or save the checkpoint again; every component of model_index.json needs its folder.",
    )


def _line(error: BaseException) -> str:
    """The first line of an error, with its type."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0].rstrip('.')}" if text else type(error).__name__


def cast(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Give parameters and persistent buffers `dtype`, but for what the model keeps in float32."""
    kept = _kept_in_float32(model, dtype)
    for path, module in model.named_modules():
        inside = bool(kept) and bool(kept.intersection(path.split(".")))
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None or not tensor.is_floating_point():
                continue
            wanted = torch.float32 if inside or name in kept else dtype
            if tensor.dtype != wanted and name not in module._non_persistent_buffers_set:
                tensor.data = tensor.data.to(wanted)


def _kept_in_float32(model: torch.nn.Module, dtype: torch.dtype) -> set[str]:
    """Names of modules and parameters. transformers keeps some in float32 for float16 only."""
    strict = getattr(model, "_keep_in_fp32_modules_strict", None)
    names = set(strict or ())
    if strict is None or dtype == torch.float16:
        loose = getattr(model, "_keep_in_fp32_modules", None) or ()
        names |= {loose} if isinstance(loose, str) else set(loose)
    return names


_GIVEN = [False]
"""Whether models get values although `weightless` is open."""


@contextmanager
def random_values(device: torch.device | None) -> Iterator[None]:
    """Models built inside are initialised by themselves, seeded, on `device`; generators end as they were.

    Inside `weightless` too, in which factories and scripts run: their twin has values.
    """
    devices = [device] if device is not None and device.type != "cpu" else []
    with ExitStack() as stack:
        if devices:
            stack.enter_context(torch.random.fork_rng(devices, device_type=devices[0].type))
            stack.enter_context(torch.device(devices[0]))
        else:
            stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(_given(True))
        stack.enter_context(replaced(torch.nn.Module, "to_empty", _filled(torch.nn.Module.to_empty)))
        torch.manual_seed(SEED)
        yield


def _filled(to_empty: Callable[..., torch.nn.Module]) -> Callable[..., torch.nn.Module]:
    """`Module.to_empty`, by which `torch.nn.utils.skip_init` makes layers, and after it no memory as it was
    found: what a layer does not initialise itself is drawn, or one as of a norm, or zero as a bias."""

    def filled(self: torch.nn.Module, *args: object, **kwargs: object) -> torch.nn.Module:
        made = to_empty(self, *args, **kwargs)
        for module in made.modules():
            for name, each in module.named_parameters(recurse=False):
                if each.ndim > 1:
                    torch.nn.init.normal_(each, std=0.02)
                else:
                    torch.nn.init.constant_(each, float("bias" not in name))
            getattr(module, "reset_parameters", int)()
        return made

    return filled


@contextmanager
def _given(values: bool) -> Iterator[None]:
    before, _GIVEN[0] = _GIVEN[0], values
    try:
        yield
    finally:
        _GIVEN[0] = before


@contextmanager
def weightless(stand_in: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Iterator[None]:
    """Models built inside have parameters on `meta`, or what `stand_in` makes of them, not initialised;
    buffers are computed as usual.

    Not thread-safe: `torch.nn` is patched while the context is open.
    """
    register = torch.nn.Module.register_parameter
    parameter = torch.nn.Parameter

    def register_parameter(self: torch.nn.Module, name: str, param: object) -> None:
        register(self, name, param)
        if isinstance(param, parameter) and param.device.type != "meta" and not _GIVEN[0]:
            if type(param).__module__.startswith(QUANTIZED_PACKAGES):
                setattr(self, LEFT_AS_IS, True)
            made = param.data.to("meta") if stand_in is None else stand_in(param.data)
            self._parameters[name] = parameter(made, requires_grad=param.requires_grad)

    patches: list[tuple[object, str, object]] = [
        (torch.nn.Module, "register_parameter", register_parameter),
        (torch.nn.Module, "load_state_dict", _loading_what_has_values(torch.nn.Module.load_state_dict)),
    ]
    for module in (torch.nn.init, *_init_importers()):
        for name in vars(torch.nn.init):
            function = vars(module).get(name)
            if name.endswith("_") and not name.startswith("_") and inspect.isfunction(function):
                patches.append((module, name, _unless_parameter(function)))
    models = importlib.import_module("transformers.modeling_utils")
    initialize = models.PreTrainedModel.initialize_weights

    def initialize_weights(self: torch.nn.Module, *args: object, **kwargs: object) -> None:
        if _GIVEN[0]:
            initialize(self, *args, **kwargs)

    patches.append((models.PreTrainedModel, "initialize_weights", initialize_weights))
    # A module's own attribute, so that what was inherited is inherited again after.
    before = [(owner, name, vars(owner)[name]) for owner, name, _ in patches]
    with torch.random.fork_rng(devices=[]), _given(False):
        try:
            for owner, name, value in patches:
                setattr(owner, name, value)
            yield
        finally:
            for owner, name, value in before:
                setattr(owner, name, value)


def _loading_what_has_values(load: Callable[..., object]) -> Callable[..., object]:
    """`load_state_dict` that leaves a tensor as it is where the given one is on `meta`."""

    def load_state_dict(
        self: torch.nn.Module, state_dict: Mapping[str, object], *args: object, **kwargs: object
    ) -> object:
        own = self.state_dict()
        kept = {
            name: own.get(name, tensor) if getattr(tensor, "is_meta", False) else tensor
            for name, tensor in state_dict.items()
        }
        return load(self, kept, *args, **kwargs)

    return load_state_dict


def _init_importers() -> list[object]:
    """Modules of torch.nn that import initialisers by name."""
    return [torch.nn.modules.activation, torch.nn.modules.transformer]


def _unless_parameter(initialiser: Callable[..., object]) -> object:
    def initialise(tensor: torch.Tensor, *args: object, **kwargs: object) -> object:
        if isinstance(tensor, torch.nn.Parameter) and not _GIVEN[0]:
            return tensor
        return initialiser(tensor, *args, **kwargs)

    return initialise
