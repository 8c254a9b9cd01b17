"""Labels against cases worked out by hand."""

import math

import torch

from engine.training import labels

BOX = torch.tensor([[0.5, 0.25, 0.5, 0.25]])  # cx, cy, w, h: columns 4 to 12 and rows 2 to 6 of a 16 x 16 grid


def test_absolute_labels_of_search_tokens_are_their_own_index():
    assert torch.equal(labels.absolute_labels(BOX, 8, 16)[0, 64:], torch.arange(256))


def test_absolute_labels_of_template_tokens_lie_over_the_box():
    template = labels.absolute_labels(BOX, 8, 16)[0, :64].view(8, 8)
    columns = [4, 5, 6, 7, 8, 9, 10, 11]  # eight template columns over eight search columns
    rows = [2, 2, 3, 3, 4, 4, 5, 5]  # eight template rows over four search rows
    assert template.tolist() == [[16 * row + column for column in columns] for row in rows]


def test_absolute_labels_outside_the_region_are_clamped():
    template = labels.absolute_labels(torch.tensor([[1.0, 0.0, 0.5, 0.5]]), 2, 4)[0, :4]
    assert template.tolist() == [3, 3, 3, 3]  # columns 3 and beyond, rows before 0 and 0


def test_positive_labels_count_the_cells_whose_centre_lies_in_the_box():
    positive = labels.positive_labels(BOX, 8, 16)
    assert positive.shape == (1, 320)
    assert positive[0, :64].eq(1).all()
    inside = torch.zeros(16, 16, dtype=torch.long)
    inside[2:6, 4:12] = 1
    assert torch.equal(positive[0, 64:].view(16, 16), inside)


def test_eliminated_search_tokens_are_ignored_and_template_tokens_never():
    positive = labels.positive_labels(BOX, 8, 16)
    first, last = torch.arange(100)[None], torch.tensor([[36, 40, 255]])
    kept = labels.ignore_eliminated(positive, [first, last], 64)
    assert torch.equal(kept[0, :64], positive[0, :64])
    search = kept[0, 64:]
    assert {int(index): int(search[index]) for index in (search != labels.IGNORED).nonzero()[:, 0]} == {36: 1, 40: 1, 255: 0}
    assert labels.ignore_eliminated(positive, [], 64) is positive


def test_gaussian_radius_is_cornernets():
    def public(height, width, overlap=0.7):  # CornerNet's gaussian_radius, as OSTrack has it
        a1, b1, c1 = 1, height + width, width * height * (1 - overlap) / (1 + overlap)
        r1 = (b1 + math.sqrt(b1**2 - 4 * a1 * c1)) / 2
        a2, b2, c2 = 4, 2 * (height + width), (1 - overlap) * width * height
        r2 = (b2 + math.sqrt(b2**2 - 4 * a2 * c2)) / 2
        a3, b3, c3 = 4 * overlap, -2 * overlap * (height + width), (overlap - 1) * width * height
        r3 = (b3 + math.sqrt(b3**2 - 4 * a3 * c3)) / 2
        return min(r1, r2, r3)

    for height, width in ((1, 1), (4, 8), (16, 3), (7, 7)):
        ours = labels.gaussian_radius(torch.tensor(float(height)), torch.tensor(float(width)))
        assert math.isclose(float(ours), public(height, width), rel_tol=1e-5)


def test_heat_map_is_one_at_the_centre_and_zero_beyond_the_radius():
    heat = labels.heat_map(torch.tensor([[0.53, 0.25, 0.5, 0.25], [0.01, 0.99, 0.01, 0.01]]), 16)
    assert heat.shape == (2, 1, 16, 16)
    assert heat[0, 0, 4, 8] == 1
    assert heat.eq(1).sum() == 2
    assert heat[1].sum() == 1  # a tiny box: its own cell only
    assert heat[1, 0, 15, 0] == 1
    radius = int(labels.gaussian_radius(torch.tensor(4.0), torch.tensor(8.0)))
    assert heat[0, 0, 4, 8 + radius] > 0
    assert heat[0, 0, 4, 8 + radius + 1] == 0
    sigma = (2 * radius + 1) / 6
    assert math.isclose(float(heat[0, 0, 4, 9]), math.exp(-1 / (2 * sigma**2)), rel_tol=1e-5)
