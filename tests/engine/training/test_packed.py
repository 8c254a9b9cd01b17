"""Packed training data: what goes in comes out, within the size asked for."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from engine.errors import ConfigError, DatasetError
from engine.training.packed import CODINGS, context, is_packed, pack, read_packed
from engine.training.pairs import PairMaker
from engine.training.settings import AugmentConfig
from engine.training.sources import Clip, Pool, Still
from tests.engine.training.data import COLOUR, TINY, picture, small_pool

AUGMENT = AugmentConfig(groups={"coco": 0.5, "video": 0.5})


def shards(folder):
    return sorted(folder.glob("shard-*.safetensors"))


def test_a_pool_comes_back(tmp_path):
    pool = small_pool()
    clip = pool.clips["video"][0]
    second = Clip(clip.frames, np.where(np.arange(6)[:, None] % 2, np.nan, clip.boxes + 5))  # another track of the same frames
    pool = Pool(pool.stills, {"video": [clip, second]})
    assert pack(pool, tmp_path, TINY, AUGMENT, 4.0, 4.0) == CODINGS[0]
    found = read_packed(tmp_path)
    assert found.in_memory
    assert found.describe() == pool.describe()
    for still in found.stills["coco"]:  # each box is still where the object is
        x, y, w, h = still.boxes[0].round().astype(int)
        assert np.abs(still.image[y + 2 : y + h - 2, x + 2 : x + w - 2].astype(int) - COLOUR).mean() < 12
        assert np.abs(still.image[: max(y - 3, 1)].astype(int) - COLOUR).mean() > 60
    assert [int(still.classes[0]) for still in found.stills["coco"]] == [0, 1, 0, 1]
    tracks = found.clips["video"]
    assert tracks[0].frames is tracks[1].frames
    for one, other in zip(tracks, pool.clips["video"], strict=True):
        assert np.allclose(one.boxes, other.boxes, equal_nan=True, atol=1e-4)
        assert one.times.tolist() == list(range(6))
    PairMaker(found, TINY, AUGMENT, 0).batch(0, 4)


def test_packing_is_deterministic_and_within_its_limits(tmp_path):
    pool = small_pool(stills=12)
    rng = np.random.default_rng(0)
    noisy = [rng.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in range(12)]  # pictures that compress badly
    pool = Pool({"coco": [Still(noisy, i, pool.stills["coco"][i].boxes, np.zeros(1, int)) for i in range(12)]}, pool.clips)
    for name in ("a", "b"):
        coding = pack(pool, tmp_path / name, TINY, AUGMENT, 0.8, 0.2)
    assert coding != CODINGS[0]
    assert len(shards(tmp_path / "a")) > 2
    assert all(path.stat().st_size <= 0.2 * 2**20 for path in shards(tmp_path / "a"))
    assert sum(path.stat().st_size for path in shards(tmp_path / "a")) <= 0.8 * 2**20
    for one, other in zip(shards(tmp_path / "a"), shards(tmp_path / "b"), strict=True):
        assert one.read_bytes() == other.read_bytes()
    makers = [PairMaker(read_packed(tmp_path / name), TINY, AUGMENT, 3) for name in ("a", "b")]
    assert torch.equal(makers[0].batch(2, 4).search, makers[1].batch(2, 4).search)


def test_left_out_frames_keep_their_numbers(tmp_path):
    track = np.array([[60 + 10 * t, 80, 50, 40] for t in range(7)], float)
    pool = Pool({}, {"video": [Clip([picture(box) for box in track], track)]})
    coding = next(coding for coding in CODINGS if coding.step > 1)
    limit = next(mb for mb in np.arange(0.02, 0.5, 0.004) if _fits(pool, tmp_path / f"{mb:.3f}", mb, coding))
    (clip,) = read_packed(tmp_path / f"{limit:.3f}").clips["video"]
    assert clip.times.tolist() == list(range(0, 7, coding.step))
    assert np.allclose(clip.boxes, track[clip.times])


def _fits(pool, folder, limit, coding):
    try:
        return pack(pool, folder, TINY, AUGMENT, limit, limit) == coding
    except ConfigError:
        return False


def test_the_context_holds_nearly_every_search_region():
    box = np.array([[300.0, 200, 40, 30]])
    x1, y1, x2, y2 = context(box, TINY, AUGMENT, (480, 640, 3))
    pool = Pool({"coco": [Still([np.zeros((480, 640, 3), np.uint8)], 0, box, np.zeros(1, int))]}, {})
    maker = PairMaker(pool, TINY, AugmentConfig(rotation=0, aspect=0, fill=0, composite=0), 0)
    inside = []
    for index in range(300):
        matrix = maker.recipe(index).search.layers[0].matrix
        corners = np.array([[0, 0], [128, 128]]) - matrix[:, 2]
        low, high = np.linalg.solve(matrix[:, :2], corners.T).T
        inside.append((low >= (x1 - 2, y1 - 2)).all() and (high <= (x2 + 2, y2 + 2)).all())
    assert np.mean(inside) > 0.95
    assert context(np.array([[0.0, 0, 600, 400]]), TINY, AUGMENT, (480, 640, 3)) == (0, 0, 640, 480)


def test_bad_calls_and_bad_shards(tmp_path):
    pool = small_pool()
    with pytest.raises(ConfigError, match=r"smallest coding needs about .* the limit is 0.001 MiB"):
        pack(pool, tmp_path, TINY, AUGMENT, 0.001, 0.001)
    with pytest.raises(ConfigError, match="got 3 and 2 MiB"):
        pack(pool, tmp_path, TINY, AUGMENT, 2, 3)
    assert not is_packed(tmp_path)
    pack(pool, tmp_path, TINY, AUGMENT, 4, 0.02)
    files = shards(tmp_path)
    assert len(files) > 2
    with pytest.raises(ConfigError, match="holds shards already"):
        pack(pool, tmp_path, TINY, AUGMENT, 4, 4)
    content = files[1].read_bytes()
    files[1].unlink()
    with pytest.raises(DatasetError, match=r"missing are \[1\]"):
        read_packed(tmp_path)
    files[1].write_bytes(content[:-10])
    with pytest.raises(DatasetError, match="cannot be read as a shard"):
        read_packed(tmp_path)
    save_file(load_file(files[0]), files[1])
    with pytest.raises(DatasetError, match="expected a shard of format"):
        read_packed(tmp_path)
