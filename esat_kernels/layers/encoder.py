"""A transformer's layers around its attention: rows are shared out among the threads, sums and residuals are float32 (csrc/layers/encoder.h)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from esat_kernels import _native
from esat_kernels._native import address
from esat_kernels.linear.native import kernels
from esat_kernels.linear.packing import TILE_ROWS, PackedProduct, huge_zeros, packed_shape, padded


@dataclasses.dataclass
class PackedLayer:
    """One layer's products. Gain and bias of each LayerNorm are folded into the weight and the bias behind it."""

    qkv: PackedProduct  # [3 dim, dim]
    projection: PackedProduct  # [dim, dim]
    mlp_in: PackedProduct  # [hidden, dim]
    mlp_out: PackedProduct  # [dim, hidden]

    @classmethod
    def of(
        cls,
        qkv: tuple[Tensor, Tensor],
        projection: tuple[Tensor, Tensor],
        mlp_in: tuple[Tensor, Tensor],
        mlp_out: tuple[Tensor, Tensor],
        dtype: torch.dtype,
        int8: bool = False,
    ) -> PackedLayer:
        """From float32 weights [N, K] and biases [N], for activations in float32 or bfloat16.

        int8: all but the projection in int8, within the limits of this processor's products. NotImplementedError where it has none.
        """
        if not int8:
            return cls(*(PackedProduct.of(*product, dtype) for product in (qkv, projection, mlp_in, mlp_out)))
        (hidden, dim), limit = mlp_in[0].shape, kernels(dtype, int8=True).int8_pair_limit
        wide, narrow = (PackedProduct.int8(*product, dim, limit) for product in (qkv, mlp_in))
        last = PackedProduct.int8(*mlp_out, _native.library().hidden_part(hidden), limit)
        return cls(wide, PackedProduct.of(*projection, dtype), narrow, last)

    def products(self) -> tuple[PackedProduct, ...]:
        """In the order in which they are computed."""
        return self.qkv, self.projection, self.mlp_in, self.mlp_out


class Encoder:
    """Patch embedding, layers around attention, last LayerNorm. Serves one thread at a time, and holds working memory for `tokens` tokens.

    patch: the packed weight [dim, values] of the patch embedding; its dtype is that of all activations. norm: gain and bias of the last
    LayerNorm, float32 [dim]. Tensors of calls are contiguous rows, tokens in whole tiles of TILE_ROWS: those behind `count` mean nothing.
    NotImplementedError where the processor has no such products, ValueError for weights and tensors that do not fit each other.
    """

    def __init__(self, patch: Tensor, layers: Sequence[PackedLayer], norm: tuple[Tensor, Tensor], tokens: int):
        library, dtype = _native.library(), patch.dtype
        int8 = layers[0].qkv.weight.dtype == torch.int8
        self._kernels = kernels(dtype, int8)
        dim, values = packed_shape(patch)
        hidden = packed_shape(layers[0].mlp_in.weight)[0]
        part = library.hidden_part(hidden)
        for layer in layers:
            _check(layer, dim, hidden, part, dtype, int8)
        rows = padded(tokens, TILE_ROWS)
        self._memory = [huge_zeros((rows, dim), torch.uint8 if int8 else dtype), huge_zeros((rows, part), dtype)]
        if int8:
            self._memory += [huge_zeros((rows, part), torch.uint8), *huge_zeros((2, rows, 2), torch.int32)]
        self._native = (library.int8_encoder if int8 else library.encoder)(
            *(self._kernels, dim, hidden, values, patch.data_ptr()),
            [[product.addresses() for product in layer.products()] for layer in layers],
            [memory.data_ptr() for memory in self._memory] + [0] * (5 - len(self._memory)),
        )
        self._norm = [address("encoder", tensor, torch.float32, dim) for tensor in norm]
        self._weights = patch, tuple(layers), tuple(norm)  # whose addresses were taken
        self._dim, self._values, self._dtype, self._depth, self._tokens = dim, values, dtype, len(layers), tokens

    def embed(self, patches: Tensor, position: Tensor, out: Tensor, count: int) -> None:
        """out float32 [N, dim] = position float32 [N, dim], which holds the bias as well, + patches [N, values] times the weight."""
        rows = padded(count, TILE_ROWS)
        self._native.embed(
            address("embed", patches, self._dtype, rows, self._values),
            count,
            address("embed", position, torch.float32, rows, self._dim),
            address("embed", out, torch.float32, rows, self._dim),
        )

    def qkv(self, layer: int, tokens: Tensor, out: Tensor, count: int) -> None:
        """out [N, 3 dim] = LayerNorm(tokens float32 [N, dim]) times the layer's q, k, v."""
        rows = self._rows(layer, count)
        where = address("qkv", tokens, torch.float32, rows, self._dim)
        self._native.qkv(layer, where, count, address("qkv", out, self._dtype, rows, 3 * self._dim))

    def finish_layer(self, layer: int, attended: Tensor, tokens: Tensor, next_qkv: Tensor | None, count: int, first: int = 0) -> None:
        """tokens float32 [N, dim] += projection(attended [N, dim]), tokens += MLP(LayerNorm(tokens)), and next_qkv [N, 3 dim], unless None, of
        the layer behind. Only rows from `first` on, whole tiles."""
        self.plan_finish_layer(layer, attended, tokens, next_qkv, count, first)()

    def plan_finish_layer(
        self, layer: int, attended: Tensor, tokens: Tensor, next_qkv: Tensor | None, count: int, first: int = 0
    ) -> Callable[[], object]:
        """`finish_layer` on memory that is given once: everything is checked here, and each call of the result costs one of the compiled
        library. The result keeps all alive."""
        rows = self._rows(layer, count)
        if next_qkv is not None:
            self._rows(layer + 1, count)
        if not 0 <= first < count or first % TILE_ROWS:
            raise ValueError(f"finish_layer: first must be a multiple of {TILE_ROWS} below {count}, got {first}")
        call = functools.partial(
            self._native.finish_layer,
            layer,
            address("finish_layer", attended, self._dtype, rows, self._dim),
            address("finish_layer", tokens, torch.float32, rows, self._dim),
            first,
            count,
            0 if next_qkv is None else address("finish_layer", next_qkv, self._dtype, rows, 3 * self._dim),
        )
        call.memory = self, attended, tokens, next_qkv  # type: ignore[attr-defined]  # lives as long as the call
        return call

    def normalise(self, tokens: Tensor, places: Tensor, out: Tensor) -> None:
        """Row places[i] of out [N, dim] = last LayerNorm(tokens float32 [n, dim])[i]; places int32 [n] within 0 .. N - 1."""
        count = tokens.size(0)
        if int(places.min()) < 0 or int(places.max()) >= out.size(0):
            raise ValueError(f"normalise: places must lie in [0, {out.size(0)}), got {int(places.min())} to {int(places.max())}")
        self._kernels.normalise_to_rows(
            *(address("normalise", tokens, torch.float32, count, self._dim), count, self._dim, *self._norm),
            *(address("normalise", places, torch.int32, count), address("normalise", out, self._dtype, 0, self._dim)),
        )

    def _rows(self, layer: int, count: int) -> int:
        """`count` in whole tiles."""
        if not (0 <= layer < self._depth and 0 < count <= self._tokens):
            raise ValueError(f"encoder: has {self._depth} layers for {self._tokens} tokens, got layer {layer} for {count}")
        return padded(count, TILE_ROWS)


def _check(layer: PackedLayer, dim: int, hidden: int, part: int, dtype: torch.dtype, int8: bool) -> None:
    shapes = {"qkv": (3 * dim, dim), "projection": (dim, dim), "mlp_in": (hidden, dim), "mlp_out": (dim, hidden)}
    for product, (name, shape) in zip(layer.products(), shapes.items(), strict=True):
        kind = torch.int8 if int8 and name != "projection" else dtype
        parts = shape[1] // (part if name == "mlp_out" else dim)
        numbers: list[tuple[tuple[int, ...], torch.dtype] | None] = [((shape[0],), torch.float32), None, None]
        if kind == torch.int8:
            numbers[1:] = ((shape[0],), torch.float32), ((parts, shape[0]), torch.int32)
        found = packed_shape(product.weight), product.weight.dtype
        others = [None if tensor is None else (tuple(tensor.shape), tensor.dtype) for tensor in product.numbers()]
        if found != (shape, kind) or others != numbers:
            expected = f"{shape} in {kind}, in {parts} parts"
            raise ValueError(
                f"encoder: {name} must be {expected}, got {found[0]} in {found[1]}; bias, scales and sums {numbers}, got {others}"
            )
