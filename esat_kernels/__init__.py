"""Kernels of the ESAT tracker: force-directed attention and the small operations around it, each with a PyTorch reference."""

from esat_kernels._backends import backends
from esat_kernels._cuda import about as cuda_library
from esat_kernels._device import verified_backends
from esat_kernels._native import cpu_isa, kernel_table
from esat_kernels._tuned import file as tuned_file
from esat_kernels._tuned import measured
from esat_kernels._tuned import tables as tuned_tables
from esat_kernels.attention.api import fda_attention, fda_attention_with_scores, plan_attention
from esat_kernels.crop.api import crop_patches, crop_regions, crop_resize
from esat_kernels.crop.nv12 import Nv12
from esat_kernels.decode.api import Decoded, advance_boxes, advance_boxes_with_features, decode_maps
from esat_kernels.elimination.api import eliminate_tokens, gather_tokens, plan_elimination, scatter_tokens, select_tokens
from esat_kernels.head.api import head_convolution, head_convolution_with_maps, head_features, head_maps
from esat_kernels.linear.api import centred_memory, group_sums, linear, linear_into, linear_with_squares, meeting_counters
from esat_kernels.linear.api_fp8 import fp8_unsupported, linear_fp8
from esat_kernels.linear.common import Centred
from esat_kernels.linear.fp8 import Scaled, ScaledWeight, scaled_memory, scaled_weight

__all__ = [
    "Centred",
    "Decoded",
    "Nv12",
    "Scaled",
    "ScaledWeight",
    "advance_boxes",
    "advance_boxes_with_features",
    "backends",
    "centred_memory",
    "cpu_isa",
    "crop_patches",
    "crop_regions",
    "crop_resize",
    "cuda_library",
    "decode_maps",
    "eliminate_tokens",
    "fda_attention",
    "fda_attention_with_scores",
    "fp8_unsupported",
    "gather_tokens",
    "group_sums",
    "head_convolution",
    "head_convolution_with_maps",
    "head_features",
    "head_maps",
    "kernel_table",
    "linear",
    "linear_fp8",
    "linear_into",
    "linear_with_squares",
    "measured",
    "meeting_counters",
    "plan_attention",
    "plan_elimination",
    "scaled_memory",
    "scaled_weight",
    "scatter_tokens",
    "select_tokens",
    "tuned_file",
    "tuned_tables",
    "verified_backends",
]
