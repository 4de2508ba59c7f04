"""What TensorBoard is told of: diffprof's profiler, which is loaded where its pages fit what is installed."""

from __future__ import annotations

import logging
from importlib.metadata import PackageNotFoundError

from tensorboard.plugins import base_plugin

from diffprof.views.tensorboard.profiler.version import PLUGIN, another_version

log = logging.getLogger(__name__)


class ProfilerPlugin(base_plugin.TBLoader):
    """Loads the pages, or says why not: whatever TensorBoard has besides is shown all the same."""

    def load(self, context: base_plugin.TBContext) -> base_plugin.TBPlugin | None:
        """The plugin; None where torch-tb-profiler is another than its pages are made for, or missing."""
        try:
            trouble = another_version()
        except PackageNotFoundError:
            trouble = f"{PLUGIN} is not installed, whose pages diffprof changes: there is no profiler."
        if trouble:
            log.warning("%s", trouble)
            return None
        from diffprof.views.tensorboard.profiler.pages import ProfilerPages

        return ProfilerPages(context)
