"""Single files (`from_single_file`) that are not here, where no weights are wanted: a built-in architecture
stands in, as the file itself would say what it holds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from diffprof.model.callsite import asked_at
from diffprof.model.pipeline import replaced
from diffprof.model.recording import Unseen
from diffprof.targets.builtin import BuiltinInfo, builtin_targets, folded

_OF_FILES = (
    *("config", "original_config", "original_config_file", "scheduler_type", "load_safety_checker"),
    *("num_in_channels", "image_size", "extract_ema", "local_dir", "local_dir_use_symlinks"),
)
"""Arguments that `from_pretrained` does not have."""

_NAMED = "pretrained_model_link_or_path_or_dict"
"""A model's first argument; a pipeline's, `pretrained_model_link_or_path`, is given by its place."""

Load = Callable[..., object]


class _Loaded(Protocol):
    """A class of models or pipelines."""

    __name__: str

    def from_pretrained(self, name: str, /, **kwargs: object) -> object: ...


@contextmanager
def single_files_stand_in(unseen: list[Unseen]) -> Iterator[None]:
    """Inside, `from_single_file` of one that is not on this machine loads the checkpoint that `config` names,
    or a built-in one of the same class, which `unseen` then tells."""
    from diffusers.loaders.single_file import FromSingleFileMixin
    from diffusers.loaders.single_file_model import FromOriginalModelMixin

    with ExitStack() as undo:
        for owner in (FromSingleFileMixin, FromOriginalModelMixin):
            load = vars(owner)["from_single_file"].__func__
            undo.enter_context(replaced(owner, "from_single_file", classmethod(_or_stand_in(load, unseen))))
        yield


def _or_stand_in(load: Load, unseen: list[Unseen]) -> Load:
    @functools.wraps(load)
    def from_single_file(cls: _Loaded, *args: object, **kwargs: object) -> object:
        file = next(iter(args), kwargs.get(_NAMED, ""))
        config = kwargs.get("config")
        found = (str(config), {}, "its `config`") if config else _built_in(cls, str(file))
        if not isinstance(file, str | Path) or Path(file).is_file() or found is None:
            return load(cls, *args, **kwargs)
        checkpoint, where, name = found
        unseen.append(
            Unseen(
                what=f"the file {Path(file).name}, for which {name} stands in",
                why="it is not on this machine, and without its weights nothing says what it holds",
                site=asked_at(),
                kind="left-out",
            )
        )
        asked = {
            key: value for key, value in kwargs.items() if key not in _OF_FILES and key[:10] != "pretrained"
        }
        return cls.from_pretrained(checkpoint, **{**where, **asked})

    return from_single_file


def _built_in(cls: _Loaded, file: str) -> tuple[str, dict[str, str], str] | None:
    """The checkpoint of a built-in architecture, the place in it, and what to call it: of pipelines of this
    class the one that the file is named after, else the first; of those with a part of this class only the
    one that it is named after, as parts of a class differ in more than weights."""
    named = cls.__name__
    pipelines = [info for info in builtin_targets() if info.pipeline == named]
    if pipelines:
        info = next(iter(_named_in(file, pipelines)), pipelines[0])
        return info.source, {}, f"the built-in {info.name}"
    parts = {
        info.name: (info, part)
        for info in builtin_targets()
        for part, spec in info.components.items()
        if spec is not None and spec.cls.rpartition(".")[2] == named
    }
    for info in _named_in(file, [info for info, _ in parts.values()]):
        part = parts[info.name][1]
        return info.source, {"subfolder": part}, f"{part} of the built-in {info.name}"
    return None


def _named_in(file: str, infos: Sequence[BuiltinInfo]) -> list[BuiltinInfo]:
    """Those whose name, or that of whose checkpoint, is in the file's; the one with most of it first."""

    def most(info: BuiltinInfo) -> int:
        names = (folded(each) for each in (info.name, info.source.rpartition("/")[2]))
        return max((len(name) for name in names if name in folded(file)), default=0)

    return sorted(filter(most, infos), key=most, reverse=True)
