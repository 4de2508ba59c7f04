"""Pipeline classes from files of a checkpoint, of the user, or of the community."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffprof.model.errors import TargetError


def pipeline_class_of(cls: Any, folder: Path, kwargs: Mapping[str, object]) -> Any:
    """The class that `cls.from_pretrained(folder, **kwargs)` makes an instance of, as diffusers chooses it.

    Raises TargetError where it can't be had.
    """
    from diffusers.pipelines import pipeline_loading_utils as diffusers_loading

    from diffprof.targets.construct import pipeline_class, read_index

    index = read_index(folder)
    asked = kwargs.get("custom_pipeline")
    try:
        custom, class_name = diffusers_loading._resolve_custom_pipeline_and_cls(folder, index, asked)
        if custom is None and not kwargs.get("load_connected_pipeline"):
            return (
                cls if cls.__name__ != "DiffusionPipeline" else pipeline_class(index["_class_name"], folder)
            )
        choose = diffusers_loading._get_pipeline_class
        given = {
            "config": index,
            "load_connected_pipeline": kwargs.get("load_connected_pipeline") or False,
            "custom_pipeline": custom,
            "class_name": class_name,
            "cache_dir": kwargs.get("cache_dir"),
            "revision": kwargs.get("custom_revision"),
            "trust_remote_code": kwargs.get("trust_remote_code") or False,
        }
        known = inspect.signature(choose).parameters
        return choose(cls, **{name: value for name, value in given.items() if name in known})
    except TargetError:
        raise
    except Exception as error:
        text = str(error).strip().splitlines()
        asks = "trust_remote_code" in str(error)
        raise TargetError(
            f"The pipeline class that custom_pipeline={asked!r} names can't be loaded: "
            f"{type(error).__name__}{': ' + text[0] if text else ''}",
            "diffusers asks for trust_remote_code=True in that call, in a scan and outside."
            if asks
            else "Give the path of its file, or import the class and call its own from_pretrained.",
        ) from error
