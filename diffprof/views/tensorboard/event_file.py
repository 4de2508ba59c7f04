"""TensorBoard's event files, written without PyTorch and under names that stay the same.

The form is TensorBoard's own: records of `Event` messages; every summary is a tensor with the metadata of the
plugin that shows it (https://github.com/tensorflow/tensorboard, tensorboard/plugins/*/metadata.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from diffprof.model.plain import clean

FILE_VERSION = "brain.Event:2"

Value = bool | float | str


class EventFile:
    """Collects the events of one run of TensorBoard. at: wall time of all of them, seconds since 1970."""

    def __init__(self, at: float) -> None:
        self._at = at
        self._buffer = BytesIO()
        self._records = RecordWriter(self._buffer)
        self._write(file_version=FILE_VERSION)

    def data(self) -> bytes:
        """The file's content; the same for the same calls."""
        return self._buffer.getvalue()

    def scalar(self, tag: str, value: float, step: int = 0, *, about: str = "") -> None:
        """One point of a curve. about: markdown, shown beside it."""
        tensor = tensor_pb2.TensorProto(
            dtype=types_pb2.DT_FLOAT, float_val=[value], tensor_shape=tensor_shape_pb2.TensorShapeProto()
        )
        metadata = scalar_metadata.create_summary_metadata("", about)
        self._summary(tag, tensor, _of_class(metadata, summary_pb2.DATA_CLASS_SCALAR), step)

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        """A text that TensorBoard renders as markdown."""
        tensor = _strings([markdown.encode("utf-8", "backslashreplace")], ())
        metadata = text_metadata.create_summary_metadata("", "")
        self._summary(tag, tensor, _of_class(metadata, summary_pb2.DATA_CLASS_TENSOR), step)

    def image(self, tag: str, png: bytes, size: tuple[int, int], step: int = 0, *, about: str = "") -> None:
        """A picture. size: width and height in pixels."""
        parts = [str(size[0]).encode(), str(size[1]).encode(), png]
        metadata = image_metadata.create_summary_metadata(
            display_name="", description=about, converted_to_tensor=True
        )
        metadata = _of_class(metadata, summary_pb2.DATA_CLASS_BLOB_SEQUENCE)
        self._summary(tag, _strings(parts, (len(parts),)), metadata, step)

    def histogram(
        self, tag: str, buckets: Sequence[tuple[float, float, float]], step: int = 0, *, about: str = ""
    ) -> None:
        """buckets: (left edge, right edge, count), ascending."""
        tensor = tensor_pb2.TensorProto(
            dtype=types_pb2.DT_DOUBLE,
            double_val=[figure for bucket in buckets for figure in bucket],
            tensor_shape=_shape((len(buckets), 3)),
        )
        metadata = histogram_metadata.create_summary_metadata("", about)
        self._summary(tag, tensor, _of_class(metadata, summary_pb2.DATA_CLASS_TENSOR), step)

    def hparams_columns(self, hparams: Sequence[str], metrics: Mapping[str, str]) -> None:
        """The columns of the hparams table, in this order. metrics: tag of a scalar -> heading."""
        experiment = api_pb2.Experiment(
            hparam_infos=[api_pb2.HParamInfo(name=name) for name in hparams],
            metric_infos=[
                api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), display_name=heading)
                for tag, heading in metrics.items()
            ],
        )
        self._hparams(
            hparams_metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment)
        )

    def hparams_row(self, group: str, hparams: Mapping[str, Value]) -> None:
        """This run is a row of the hparams table. group: unique among the rows."""
        start = plugin_data_pb2.SessionStartInfo(group_name=clean(group), start_time_secs=self._at)
        for name, value in hparams.items():
            if isinstance(value, bool):
                start.hparams[name].bool_value = value
            elif isinstance(value, int | float):
                start.hparams[name].number_value = value
            else:
                start.hparams[name].string_value = clean(value)
        self._hparams(
            hparams_metadata.SESSION_START_INFO_TAG,
            plugin_data_pb2.HParamsPluginData(session_start_info=start),
        )
        end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=self._at)
        self._hparams(
            hparams_metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end)
        )

    def _hparams(self, tag: str, data: object) -> None:
        metadata = hparams_metadata.create_summary_metadata(data)
        metadata = _of_class(metadata, summary_pb2.DATA_CLASS_TENSOR)
        self._summary(tag, hparams_metadata.NULL_TENSOR, metadata, 0)

    def _summary(self, tag: str, tensor: object, metadata: object, step: int) -> None:
        value = summary_pb2.Summary.Value(tag=clean(tag), tensor=tensor, metadata=metadata)
        self._write(step=step, summary=summary_pb2.Summary(value=[value]))

    def _write(self, **fields: object) -> None:
        event = event_pb2.Event(wall_time=self._at, **fields)
        # Map fields have no order of their own: without this the same row gives different bytes.
        self._records.write(event.SerializeToString(deterministic=True))


def _of_class(metadata: Any, data_class: int) -> object:
    metadata.data_class = data_class
    return metadata


def _shape(sizes: Sequence[int]) -> object:
    dims = [tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in sizes]
    return tensor_shape_pb2.TensorShapeProto(dim=dims)


def _strings(parts: Sequence[bytes], shape: Sequence[int]) -> object:
    return tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=parts, tensor_shape=_shape(shape))
