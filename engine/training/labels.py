"""Training targets from boxes: the centre heat map (CornerNet) and the labels of the position loss (section 3.2, figure 3).

Boxes are [B, 4] as cx, cy, w, h over the search region's side. Grids are numbered row by row.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MIN_OVERLAP = 0.7  # CornerNet: corners within the radius still give a box with this IoU
IGNORED = -100  # cross_entropy's default ignore_index


def gaussian_radius(height: Tensor, width: Tensor, min_overlap: float = _MIN_OVERLAP) -> Tensor:
    """CornerNet's radius in cells for boxes of `height` x `width` cells, as public code computes it (its known slip in the roots included)."""
    total = height + width
    area = height * width
    c1 = area * (1 - min_overlap) / (1 + min_overlap)
    r1 = (total + (total**2 - 4 * c1).clamp(min=0).sqrt()) / 2
    r2 = (2 * total + (4 * total**2 - 16 * (1 - min_overlap) * area).clamp(min=0).sqrt()) / 2
    b3 = -2 * min_overlap * total
    r3 = (b3 + (b3**2 - 16 * min_overlap * (min_overlap - 1) * area).clamp(min=0).sqrt()) / 2
    return torch.minimum(torch.minimum(r1, r2), r3)


def heat_map(boxes: Tensor, grid: int) -> Tensor:
    """[B, 4] -> [B, 1, grid, grid]: 1 at the cell of the centre, a Gaussian of sigma (2 r + 1) / 6 within r cells of it, 0 elsewhere."""
    cells = boxes.float() * grid
    centre = cells[:, :2].floor().clamp(0, grid - 1)
    radius = gaussian_radius(cells[:, 3].ceil(), cells[:, 2].ceil()).clamp(min=0).floor()[:, None]
    sigma = (2 * radius + 1) / 6
    axis = torch.arange(grid, device=boxes.device, dtype=torch.float32)
    near_x, near_y = ((axis - centre[:, index, None]) for index in (0, 1))
    profile_x = torch.exp(-(near_x**2) / (2 * sigma**2)) * (near_x.abs() <= radius)
    profile_y = torch.exp(-(near_y**2) / (2 * sigma**2)) * (near_y.abs() <= radius)
    return (profile_y[:, :, None] * profile_x[:, None, :]).unsqueeze(1)


def absolute_labels(boxes: Tensor, template_grid: int, search_grid: int) -> Tensor:
    """Class of each position feature, template tokens first: int64 [B, template_grid^2 + search_grid^2] in [0, search_grid^2).

    A search token's class is its own index. A template token's is the index of the search cell that contains its centre when the template grid
    is laid over the box (clamped to the region).
    """
    batch = boxes.shape[0]
    steps = (torch.arange(template_grid, device=boxes.device) + 0.5) / template_grid - 0.5
    x = boxes[:, 0, None] + steps * boxes[:, 2, None]
    y = boxes[:, 1, None] + steps * boxes[:, 3, None]
    column, row = ((value * search_grid).floor().long().clamp(0, search_grid - 1) for value in (x, y))
    template = (row[:, :, None] * search_grid + column[:, None, :]).flatten(1)
    search = torch.arange(search_grid**2, device=boxes.device).expand(batch, -1)
    return torch.cat([template, search], 1)


def positive_labels(boxes: Tensor, template_grid: int, search_grid: int) -> Tensor:
    """1 for template tokens and search tokens whose centre lies in the box, else 0: int64 [B, template_grid^2 + search_grid^2]."""
    batch = boxes.shape[0]
    axis = (torch.arange(search_grid, device=boxes.device) + 0.5) / search_grid
    inside_x = (axis - boxes[:, 0, None]).abs() < boxes[:, 2, None] / 2
    inside_y = (axis - boxes[:, 1, None]).abs() < boxes[:, 3, None] / 2
    search = (inside_y[:, :, None] & inside_x[:, None, :]).flatten(1).long()
    return torch.cat([torch.ones(batch, template_grid**2, dtype=torch.long, device=boxes.device), search], 1)


def ignore_eliminated(labels: Tensor, survivors: list[Tensor], num_template: int) -> Tensor:
    """Labels with IGNORED at the search tokens that candidate elimination removed: their features are zeros and have nothing to learn."""
    if not survivors:
        return labels
    search = torch.full_like(labels[:, num_template:], IGNORED)
    kept = survivors[-1]
    search.scatter_(1, kept, labels[:, num_template:].gather(1, kept))
    return torch.cat([labels[:, :num_template], search], 1)
