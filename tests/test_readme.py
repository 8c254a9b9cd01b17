"""The examples in the README run as they stand; features name the tests that prove them; links of the documents lead somewhere."""

import ast
import re

import av
import numpy as np
import pytest

from engine.weights import DEFAULT_MODEL, shipped_path
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
FEATURES = [line.split("|") for line in (REPOSITORY / "docs" / "features.md").read_text().splitlines() if line.startswith("|")]
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md"), *(REPOSITORY / "csrc").rglob("*.md")])


@pytest.fixture
def clip(tmp_path, monkeypatch):
    """Eight frames of 320 x 240 as clip.mp4 in the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    background = rng.integers(0, 256, (240, 320, 3), np.uint8)
    with av.open("clip.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for index in range(8):
            image = background.copy()
            image[80:140, 100 + index : 140 + index] = (0, 0, 255)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "bgr24")))
        container.mux(stream.encode())


def test_there_are_examples():
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_runs(example, clip, capsys):
    assert shipped_path(DEFAULT_MODEL).is_file(), "the examples use the shipped weights"
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.count("TRACKING") + printed.count("UNCERTAIN") + printed.count("LOST") == (7 if "Tracker" in example else 0)
    assert "Tracker" in example or "torch.Size([1, 12, 720, 64])" in printed


def _exists(name):
    """Whether `file.py::function` is a test of ours."""
    file, _, function = name.partition("::")
    path = REPOSITORY / "tests" / file
    return path.is_file() and any(isinstance(node, ast.FunctionDef) and node.name == function for node in ast.parse(path.read_text()).body)


@pytest.mark.parametrize("cells", FEATURES[2:], ids=lambda cells: cells[1].strip())
def test_each_feature_names_a_test_that_there_is(cells):
    named = re.findall(r"`([\w/]+\.py::test_\w+)`", cells[2])
    assert named
    assert [name for name in named if not _exists(name)] == []
    assert len(cells) == len(FEATURES[0])


def test_others_are_described_with_their_source():
    assert all(re.search(r"\]\(https://", cell) for cell in FEATURES[0][3:-1])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_somewhere(document):
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http", "#"))]
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_results_that_the_documents_name_are_there():
    """A figure in a document has its file; `<device>` and `*` stand for many."""
    named = {name for path in DOCUMENTS for name in re.findall(r"`(benchmarks/results/[\w./-]+)`", path.read_text())}
    assert named
    assert sorted(name for name in named if not (REPOSITORY / name).exists()) == []
