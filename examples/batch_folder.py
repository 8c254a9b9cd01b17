"""Follow one object in each of many videos, several at a time, with Ray: `python examples/batch_folder.py targets.csv boxes/`.

targets.csv has a line `video,x,y,w,h` for each video; paths are relative to it. Needs the extra: `pip install esat-engine[ray]`.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import ray

import engine
from engine.video import Reader, open_source


@ray.remote(num_cpus=1)
class Worker:
    """One process with one tracker; Ray gives it one video after the other."""

    def __init__(self, model: str) -> None:
        self._tracker = engine.Tracker(model)

    def follow(self, video: Path, box: list[float], target: Path) -> str:
        lines = [",".join(map(str, box))]
        try:
            with Reader(open_source(video)) as frames:
                for frame in frames:
                    if frame.index == 0:
                        self._tracker.init(frame.image, box)
                    else:
                        lines.append(",".join(f"{value:.2f}" for value in self._tracker.update(frame.image).box))
        except engine.EsatError as error:
            return f"{video.name}: {error}"
        target.write_text("\n".join(lines) + "\n")
        return f"{video.name}: {len(lines)} boxes in {target}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="esat-s-256")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()

    folder, out = arguments.targets.parent.resolve(), arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with arguments.targets.open(newline="") as file:
        rows = [(folder / row[0], [float(value) for value in row[1:5]]) for row in csv.reader(file) if row]
    ray.init(num_cpus=arguments.workers, include_dashboard=False, log_to_driver=False)
    pool = ray.util.ActorPool([Worker.remote(arguments.model) for _ in range(arguments.workers)])
    jobs = [(video, box, out / f"{video.stem}.txt") for video, box in rows]
    for line in pool.map_unordered(lambda worker, job: worker.follow.remote(*job), jobs):
        print(line)
    ray.shutdown()


if __name__ == "__main__":
    main()
