"""Which operation makes the CPU wait for the device, under which condition, why, and where that is decided.

One table, for the simulated device and for real CUDA tensors alike. Keys are op names without namespace and
overload. Sources are paths in the PyTorch repository, with the function that decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from .observer import BlockingKind

Condition = Callable[[tuple, dict[str, Any]], bool]

ASSIGNS_ON_DEVICE: bool = torch.__version__ >= "2.15"
"""Whether `x[...] = number` on CUDA fills on the device, and leaves a 0-d integer index of x there.

Before 2.15 the number becomes a CPU tensor that is copied, and the index is read back. Decided in
aten/src/ATen/TensorIndexing.h: set_item, canKeepScalarIndexOnDevice;
https://github.com/pytorch/pytorch/pull/189105, https://github.com/pytorch/pytorch/pull/188330.
"""


@dataclass(frozen=True, slots=True)
class Wait:
    """One reason to wait. waits: how often within one call. when: condition on the arguments, None: always.

    value_only: the result's shape doesn't depend on the value that is waited for.
    """

    kind: BlockingKind
    reason: str
    source: str
    waits: int = 1
    when: Condition | None = None
    value_only: bool = False

    def applies(self, args: tuple, kwargs: dict[str, object]) -> bool:
        """Whether the condition holds for a call."""
        return self.when is None or self.when(args, kwargs)


def _given(position: int, name: str) -> Condition:
    def check(args: tuple, kwargs: dict[str, object]) -> bool:
        value = args[position] if len(args) > position else kwargs.get(name)
        return value is not None

    return check


def _absent(position: int, name: str) -> Condition:
    given = _given(position, name)
    return lambda args, kwargs: not given(args, kwargs)


def _device_value(position: int, name: str) -> Condition:
    """The argument is a tensor that isn't on the CPU."""

    def check(args: tuple, kwargs: dict[str, object]) -> bool:
        value = args[position] if len(args) > position else kwargs.get(name)
        return getattr(getattr(value, "device", None), "type", "cpu") != "cpu"

    return check


def _has_elements(args: tuple, kwargs: dict[str, object]) -> bool:
    """There is something to count: the CUDA kernels answer for an empty tensor on the CPU."""
    return bool(args[0].numel())


def _compares(args: tuple, kwargs: dict[str, object]) -> bool:
    """`equal` comes to the elements: of the same size, not empty, and not one view of one memory."""
    one, other = args[0], args[1]
    if one.shape != other.shape or not one.numel():
        return False
    same = (one.data_ptr(), one.dtype, one.stride()) == (other.data_ptr(), other.dtype, other.stride())
    return not same or one.is_conj() != other.is_conj() or one.is_neg() != other.is_neg()


def _histogram_range_open(args: tuple, kwargs: dict[str, object]) -> bool:
    low = args[2] if len(args) > 2 else kwargs.get("min", 0)
    high = args[3] if len(args) > 3 else kwargs.get("max", 0)
    return low == high and _has_elements(args, kwargs)


_K = BlockingKind
_COUNT = "how many elements the result has is known only on the device, and the host has to allocate it"
_CHECK = "the library's error code is read back to raise an error on the host"

WAITS: Mapping[str, Wait] = MappingProxyType(
    {
        # one value on the CPU
        "_local_scalar_dense": Wait(
            _K.VALUE_READ,
            "the host needs the value: the copy is followed by a stream synchronize",
            "aten/src/ATen/native/cuda/CUDAScalar.cu: _local_scalar_dense_cuda (memcpy_and_sync)",
        ),
        "equal": Wait(
            _K.VALUE_READ,
            "the comparison's result is read back as a bool",
            "aten/src/ATen/native/cuda/Equal.cpp: cuda_equal (eq(...).all().item())",
            when=_compares,
        ),
        "masked_fill_": Wait(
            _K.VALUE_READ,
            "a fill value that is a device tensor is read back",
            "aten/src/ATen/native/cuda/Indexing.cu: masked_fill__cuda (value.item())",
            when=_device_value(2, "value"),
            value_only=True,
        ),
        "masked_fill": Wait(
            _K.VALUE_READ,
            "a fill value that is a device tensor is read back",
            "aten/src/ATen/native/cuda/Indexing.cu: masked_fill__cuda (value.item())",
            when=_device_value(2, "value"),
            value_only=True,
        ),
        "index_fill_": Wait(
            _K.VALUE_READ,
            "a fill value that is a device tensor is read back",
            "aten/src/ATen/native/TensorAdvancedIndexing.cpp: index_fill_ (source.item())",
            when=_device_value(3, "value"),
            value_only=True,
        ),
        "index_fill": Wait(
            _K.VALUE_READ,
            "a fill value that is a device tensor is read back",
            "aten/src/ATen/native/TensorAdvancedIndexing.cpp: index_fill_ (source.item())",
            when=_device_value(3, "value"),
            value_only=True,
        ),
        # results whose shape depends on data
        "nonzero": Wait(
            _K.DATA_DEPENDENT_SHAPE,
            _COUNT,
            "aten/src/ATen/native/cuda/Nonzero.cu: nonzero_cuda_out_impl (memcpy_and_sync of the count)",
        ),
        "masked_select": Wait(
            _K.DATA_DEPENDENT_SHAPE,
            _COUNT,
            "aten/src/ATen/native/cuda/IndexKernel.cpp: masked_select_out_cuda_impl (index, thus nonzero)",
        ),
        "index": Wait(
            _K.DATA_DEPENDENT_SHAPE,
            "a mask is turned into indices first: " + _COUNT,
            "aten/src/ATen/native/IndexingUtils.h: expandTensors (nonzero)",
        ),
        "index_put_": Wait(
            _K.DATA_DEPENDENT_SHAPE,
            "a mask is turned into indices first, unless one CPU number is assigned (masked_fill)",
            "aten/src/ATen/native/TensorAdvancedIndexing.cpp: _index_put_impl_, and IndexingUtils.h: "
            "expandTensors (nonzero)",
        ),
        "_unique2": Wait(
            _K.DATA_DEPENDENT_SHAPE,
            _COUNT,
            "aten/src/ATen/native/cuda/UniqueCub.cu: compute_unique (length.item())",
            when=_has_elements,
        ),
        "_unique": Wait(
            _K.DATA_DEPENDENT_SHAPE,
            _COUNT,
            "aten/src/ATen/native/cuda/UniqueCub.cu: compute_unique (length.item())",
            when=_has_elements,
        ),
        "unique_dim": Wait(
            _K.DATA_DEPENDENT_SHAPE,
            _COUNT,
            "aten/src/ATen/native/cuda/Unique.cu: compute_unique (thrust::unique, to the host)",
            when=_has_elements,
        ),
        "unique_consecutive": Wait(
            _K.DATA_DEPENDENT_SHAPE,
            _COUNT,
            "aten/src/ATen/native/cuda/UniqueCub.cu: compute_unique (length.item())",
            when=_has_elements,
        ),
        "unique_dim_consecutive": Wait(
            _K.DATA_DEPENDENT_SHAPE,
            _COUNT,
            "aten/src/ATen/native/cuda/Unique.cu: compute_unique (thrust::unique, to the host)",
            when=_has_elements,
        ),
        "repeat_interleave": Wait(
            _K.DATA_DEPENDENT_SHAPE,
            "without output_size, the sum of the repeats and a check of their sign are read back",
            "aten/src/ATen/native/Repeat.h: repeat_interleave_common (cumsum[-1].item(), all().item())",
            waits=2,
            when=_absent(1, "output_size"),
        ),
        "bincount": Wait(
            _K.DATA_DEPENDENT_SHAPE,
            "the smallest and the largest value are read back to check and to size the result",
            "aten/src/ATen/native/cuda/SummaryOps.cu: _bincount_cuda_template (min().cpu(), max().item())",
            waits=2,
            when=_has_elements,
        ),
        # library calls that look at an error code or check their input
        "_linalg_check_errors": Wait(
            _K.LIBRARY_CHECK,
            _CHECK,
            "aten/src/ATen/native/BatchLinearAlgebra.cpp: _linalg_check_errors (infos.any().item())",
            value_only=True,
        ),
        "_linalg_svd": Wait(
            _K.LIBRARY_CHECK,
            _CHECK,
            "aten/src/ATen/native/BatchLinearAlgebra.cpp: _linalg_svd (_linalg_check_errors)",
            value_only=True,
        ),
        "_linalg_eigh": Wait(
            _K.LIBRARY_CHECK,
            _CHECK,
            "aten/src/ATen/native/BatchLinearAlgebra.cpp: _linalg_eigh (_linalg_check_errors)",
            value_only=True,
        ),
        "linalg_eig": Wait(
            _K.LIBRARY_CHECK,
            _CHECK + "; before CUDA 12.8 MAGMA computes it on the CPU",
            "aten/src/ATen/native/BatchLinearAlgebra.cpp: linalg_eig_out (_linalg_check_errors); "
            "cuda/linalg/BatchLinearAlgebra.cpp: linalg_eig_kernel (cuSOLVER 11.7.2 or MAGMA)",
            value_only=True,
        ),
        "normal": Wait(
            _K.LIBRARY_CHECK,
            "a tensor of standard deviations is checked for negative ones on the host, twice",
            "aten/src/ATen/native/DistributionTemplates.h: CHECK_NORMAL_TENSOR_STD (std.min().ge(0).item())",
            waits=2,
            value_only=True,
        ),
        "histc": Wait(
            _K.LIBRARY_CHECK,
            "without a range, the smallest and largest value are read back",
            "aten/src/ATen/native/cuda/SummaryOps.cu: _histc_cuda_template (min().cpu(), max().cpu())",
            waits=2,
            when=_histogram_range_open,
            value_only=True,
        ),
    }
)

_ASYNC_COPY = (
    "aten/src/ATen/native/cuda/Copy.cu: copy_kernel_cuda (cudaMemcpyAsync); "
    "CUDA Runtime API, API synchronization behavior"
)
H2D = Wait(
    _K.HOST_TO_DEVICE,
    "a copy with non_blocking=False ends in a stream synchronize, also from the host to the device",
    "aten/src/ATen/native/cuda/Copy.cu: copy_kernel_cuda (memcpy_and_sync)",
)
STAGED = Wait(
    _K.STAGED_COPY,
    "non_blocking=True from pageable memory: the driver stages the copy through a pinned buffer first, "
    "and the host waits for that",
    _ASYNC_COPY,
)
D2H = Wait(
    _K.DEVICE_TO_HOST,
    "the host waits for all queued work and then for the copy",
    "aten/src/ATen/native/cuda/Copy.cu: copy_kernel_cuda (memcpy_and_sync)",
)
D2H_PAGEABLE = Wait(
    _K.DEVICE_TO_HOST,
    "non_blocking=True into pageable memory: cudaMemcpyAsync returns once the copy is done",
    _ASYNC_COPY,
)
INDEX_UPLOAD = Wait(
    _K.HOST_TO_DEVICE,
    "an index tensor on the CPU is copied to the device first",
    "aten/src/ATen/native/TensorAdvancedIndexing.cpp: make_info (indice.to(self.device()))",
)
VALUE_UPLOAD = Wait(
    _K.HOST_TO_DEVICE,
    "a 0-d value on the CPU is copied to the device first",
    "aten/src/ATen/native/TensorAdvancedIndexing.cpp: _index_put_impl_ (value.to(self.device()))",
)
SCALAR_ASSIGNED = Wait(
    _K.HOST_TO_DEVICE,
    "a Python number assigned to one element becomes a CPU tensor that is copied to the device",
    "aten/src/ATen/TensorIndexing.h: copy_to (same sizes: dst.copy_(src))",
)
HOST_INDEX = Wait(
    _K.HOST_INDEX,
    "a table on the CPU is indexed by a device tensor: the index is read back",
    "torch/csrc/autograd/python_variable_indexing.cpp: THPVariable_getitem (item() of a 0-d index)",
)
LIST_READ = Wait(
    _K.VALUE_READ,
    "the values are copied to the host",
    "torch/csrc/utils/tensor_list.cpp: tensor_to_list (tensor.cpu())",
)
FROM_SCALARS = Wait(
    _K.TENSOR_FROM_DEVICE_SCALARS,
    "a list with a device scalar in it is made into a tensor on the host: each such element is read back",
    "torch/csrc/utils/tensor_new.cpp: recursive_store (item() of each element)",
)
SAVED = Wait(
    _K.DEVICE_TO_HOST,
    "what is saved or pickled is copied to the host first, and the host waits for the copy",
    "torch/serialization.py: _save (storage.cpu())",
)
PRINTED = Wait(
    _K.VALUE_READ,
    "printing a tensor reads its values, several times",
    "torch/_tensor_str.py: _str_intern",
)
SYNCHRONIZE = Wait(
    _K.SYNCHRONIZE,
    "the program asks to wait",
    "c10/cuda/CUDAFunctions.cpp: device_synchronize; CUDAStream.h and CUDAEvent.h: synchronize",
)
POLLED = Wait(
    _K.SYNCHRONIZE,
    "a loop asks until the device has come to this point, which keeps the CPU from launching more",
    "c10/cuda/CUDAStream.h and CUDAEvent.h: query",
)
CAPTURE_BEGINS = Wait(
    _K.SYNCHRONIZE,
    "a capture of a CUDA graph begins by waiting for all that was launched before",
    "torch/cuda/graphs.py: graph.__enter__ (torch.cuda.synchronize)",
)
FREED = Wait(
    _K.SYNCHRONIZE,
    "the cached memory is given back to the driver: cudaFree waits for the device, and what is allocated "
    "next pays for cudaMalloc again",
    "c10/cuda/CUDACachingAllocator.cpp: emptyCache (release_cached_blocks, cudaFree)",
)

COPIES: Mapping[str, Wait] = MappingProxyType(
    {
        "blocking host to device": H2D,
        "pageable host to device": STAGED,
        "blocking device to host": D2H,
        "device to pageable host": D2H_PAGEABLE,
    }
)
"""The copies that block: a copy with non_blocking=True from or to pinned memory doesn't."""
