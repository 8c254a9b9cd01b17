"""The Triton kernels on a CUDA device: the same cases as in the interpreter, and a frame's steps in one CUDA graph."""

from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

import esat_kernels
from tests.kernels.test_regions import frame_of
from tests.kernels.triton_cases import *  # noqa: F403
from tests.kernels.triton_frame_cases import *  # noqa: F403
from tests.kernels.triton_head_cases import *  # noqa: F403
from tests.kernels.triton_meeting_cases import *  # noqa: F403
from tests.kernels.triton_product_cases import *  # noqa: F403
from tests.kernels.triton_promise_cases import *  # noqa: F403

pytestmark = pytest.mark.gpu


def _frame(buffer, frame_size, boxes, weight, window, backend):
    """A network of one layer: crop, product, elimination, scatter, maps made of the first channels, next boxes."""
    patches = torch.empty(1, 64, 768, dtype=torch.bfloat16, device="cuda")
    regions = esat_kernels.crop_regions(buffer, frame_size, boxes, 4.0, 128, patches, backend=backend)
    tokens = esat_kernels.linear(patches[0], weight, norm_eps=1e-6, activation="gelu", backend=backend)[None]
    kept, tokens, _ = esat_kernels.eliminate_tokens(tokens[:, 8:, 0].float(), 40, tokens, tokens.float(), 8, backend=backend)
    tokens = esat_kernels.scatter_tokens(tokens[:, 8:], kept, 64, backend=backend)
    score, size, offset = (tokens[:, :, first : first + n].mT.reshape(1, n, 8, 8) for first, n in ((0, 1), (1, 2), (3, 2)))
    return esat_kernels.advance_boxes(score, size.sigmoid(), offset, window, regions, boxes, frame_size, backend=backend)


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_one_graph_serves_frames_of_any_size(backend):
    torch.use_deterministic_algorithms(False)  # PyTorch's deterministic scatter copies from the host, which no graph can hold
    weight = torch.randn(128, 768, device="cuda", dtype=torch.bfloat16) * 768**-0.5
    window = torch.rand(8, 8, device="cuda")
    buffer = torch.zeros(3 * 240 * 320, dtype=torch.uint8, device="cuda")
    frame_size = torch.tensor([240, 320], dtype=torch.int32, device="cuda")
    boxes = torch.tensor([[10.0, 20.0, 30.0, 40.0]], dtype=torch.float64, device="cuda")
    start = boxes.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        _frame(buffer, frame_size, boxes, weight, window, backend)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        record = _frame(buffer, frame_size, boxes, weight, window, backend)
    for height, width in ((240, 320), (60, 81), (33, 1)):
        pixels = torch.from_numpy(frame_of(height, width)).flatten().cuda()
        buffer[: pixels.numel()] = pixels
        frame_size.copy_(torch.tensor([height, width], dtype=torch.int32))
        boxes.copy_(start)
        graph.replay()
        graph.replay()  # the second frame starts from the first one's box
        expected_boxes = start.clone()
        for _ in range(2):
            expected = _frame(buffer, frame_size, expected_boxes, weight, window, backend)
        assert torch.equal(record, expected)
        assert torch.equal(boxes, expected_boxes)
