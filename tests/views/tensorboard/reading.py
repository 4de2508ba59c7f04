"""Reads event files back as TensorBoard does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata


def accumulated(path: Path) -> EventAccumulator:
    """The events of a folder."""
    found = EventAccumulator(str(path), size_guidance={"tensors": 0})
    found.Reload()
    return found


def tags(path: Path, plugin: str) -> set[str]:
    """The tags that a plugin shows."""
    try:
        return set(accumulated(path).PluginTagToContent(plugin))
    except KeyError:
        return set()


def scalars(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) of each point."""
    found = accumulated(path)
    return {
        tag: [(event.step, event.tensor_proto.float_val[0]) for event in found.Tensors(tag)]
        for tag in tags(path, "scalars")
    }


def texts(path: Path) -> dict[str, str]:
    found = accumulated(path)
    return {
        tag: found.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in found.PluginTagToContent("text")
    }


def hparams(path: Path) -> dict[str, Any]:
    """A row of the hparams table."""
    content = accumulated(path).PluginTagToContent("hparams")[metadata.SESSION_START_INFO_TAG]
    start = metadata.parse_session_start_info_plugin_data(content)
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
