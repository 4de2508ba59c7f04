"""Checkpoints whose architecture is built in, where the hub does not give their configurations."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from diffprof.model.callsite import asked_at
from diffprof.model.errors import TargetError
from diffprof.model.pipeline import replaced
from diffprof.model.recording import Unseen
from diffprof.targets.builtin import hub_component, stands_for
from diffprof.targets.construct import component, read_index


class KnownCheckpoints:
    """Built-in configurations in the place of those on the hub, as long as `kept` is open.

    unseen: which stand in for what.
    """

    def __init__(self, kept: ExitStack, unseen: list[Unseen]) -> None:
        self.unseen = unseen
        self._kept = kept
        self._folders: dict[str, Path] = {}

    def folder(self, name: str) -> Path | None:
        """The built-in configurations of a checkpoint on the hub; None where they are not needed, or where it
        is not known."""
        if name in self._folders:
            return self._folders[name]
        alone = None if Path(name).is_dir() else hub_component(name)
        info = None if alone or Path(name).is_dir() else stands_for(name)
        if (alone is None and info is None) or _given(name):
            return None
        if alone is not None:
            part, of = alone
            folder = Path(self._kept.enter_context(TemporaryDirectory(prefix="diffprof-")))
            (folder / part.file).write_text(json.dumps(part.config))
        else:
            assert info is not None
            folder, of = self._kept.enter_context(info.checkpoint()), info.name
        self._folders[name] = folder
        why = f"the hub does not give them here: those of the built-in `{of}` stand in"
        self.unseen.append(Unseen(what=f"configurations of {name}", why=why, site=asked_at()))
        return folder

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, what reads a configuration by a checkpoint's name reads the built-in one."""
        from diffusers import ConfigMixin
        from transformers import AutoTokenizer, PretrainedConfig
        from transformers.feature_extraction_utils import FeatureExtractionMixin
        from transformers.image_processing_base import ImageProcessingMixin
        from transformers.processing_utils import ProcessorMixin
        from transformers.tokenization_utils_base import PreTrainedTokenizerBase

        with ExitStack() as undo:
            for owner, method in (
                (ConfigMixin, "load_config"),
                (PretrainedConfig, "get_config_dict"),
                (ImageProcessingMixin, "get_image_processor_dict"),
                (FeatureExtractionMixin, "get_feature_extractor_dict"),
            ):
                read = self._read_here(vars(owner)[method].__func__)
                undo.enter_context(replaced(owner, method, classmethod(read)))
            for owner in (AutoTokenizer, PreTrainedTokenizerBase, ProcessorMixin):
                load = self._made_here(vars(owner)["from_pretrained"].__func__)
                undo.enter_context(replaced(owner, "from_pretrained", classmethod(load)))
            yield

    def _read_here(self, read: Callable[..., object]) -> Any:
        named = _named_by(read)

        def read_here(cls: object, *args: object, **kwargs: object) -> object:
            name, args = (args[0], args[1:]) if args else (kwargs.pop(named), ())
            return read(cls, self.folder(str(name)) or name, *args, **kwargs)

        return read_here

    def _made_here(self, load: Callable[..., object]) -> Any:
        named = _named_by(load)

        def load_here(cls: Any, *args: Any, **kwargs: Any) -> object:
            folder = self.folder(str(args[0] if args else kwargs[named]))
            if folder is None:
                return load(cls, *args, **kwargs)
            part = kwargs.get("subfolder") or "tokenizer"
            return component(part, "transformers", cls.__name__, [folder], read_index(folder), None)

        return load_here


def _named_by(load: Callable[..., object]) -> str:
    """Its parameter that takes a checkpoint's name: the first after the class."""
    return list(inspect.signature(load).parameters)[1]


@cache
def _given(checkpoint: str) -> bool:
    """Whether the hub, or the cache, gives its configurations."""
    from diffprof.targets.checkpoint import downloaded

    try:
        downloaded(checkpoint, with_weights=False)
    except TargetError:
        return False
    return True
