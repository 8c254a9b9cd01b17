"""The structure that DESIGN.md draws: which way imports go, what stays optional, which names are public."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGES = ("esat_kernels", "engine", "conformance", "benchmarks")

# Optional packages: imported inside functions only, so that the base installation works without them.
OPTIONAL = {
    "triton",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "nncf",
    "ncnn",
    "ray",
    "fastapi",
    "uvicorn",
    "prometheus_client",
    "got10k",
    "vot",
    "cvat_sdk",
}
# Packages that exist for an optional package may import it at their top; who uses them imports them inside functions.
BUILT_OF = {"layers": ("linear",)}  # operations that are made of others
_NATIVE = sorted(path.parent.name for path in (REPOSITORY / "csrc").glob("*/bindings_*.cpp"))
OPERATIONS = tuple(sorted((*_NATIVE, "head")))  # `head` has kernels for GPUs alone: the CPU's are among the `layers`
FOR_AN_EXTRA = ("engine/serve/", *(f"esat_kernels/{operation}/triton_" for operation in OPERATIONS))


def _native_sources(folder: str = ".") -> list[Path]:
    return [path for path in (REPOSITORY / "csrc" / folder).rglob("*.*") if path.suffix in {".h", ".cpp", ".cu", ".cuh"}]


def _modules(package: str) -> list[Path]:
    return sorted((REPOSITORY / package).rglob("*.py"))


def _imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Full names of the modules that a file imports, `from a import b` as `a` and `a.b`; not those under `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text())
    hidden = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; name the module in full"
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _name(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def _imported_modules(path: Path, modules: Collection[str]) -> set[str]:
    """Those of `modules` that a file imports; `from a import b` is `a.b` where that is a module, else `a`."""
    names = _imports(path)
    parts = {name: [other for other in names if other.rpartition(".")[0] == name] for name in names & set(modules)}
    return {name for name, found in parts.items() if not found or not set(modules).issuperset(found)} - {_name(path)}


def _circles(imported: Mapping[str, set[str]]) -> set[frozenset[str]]:
    """Groups of modules of which each reaches each."""
    reached = {name: set(found) for name, found in imported.items()}
    for _ in imported:
        grown = {name: found.union(*(reached.get(other, set()) for other in found)) for name, found in reached.items()}
        if grown == reached:
            break
        reached = grown
    return {frozenset(other for other in reached[name] if name in reached.get(other, ())) for name in reached if name in reached[name]}


def _offenders(files: list[Path], forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(REPOSITORY)} imports {name}"
        for path in files
        for name in sorted(_imports(path))
        if any(name == prefix or name.startswith(f"{prefix}.") for prefix in forbidden)
    ]


def test_kernels_know_nothing_of_the_engine():
    assert _offenders(_modules("esat_kernels"), ("engine", "conformance", "benchmarks", "tests")) == []


def test_the_engine_knows_nothing_of_what_checks_and_measures_it():
    assert _offenders(_modules("engine"), ("conformance", "benchmarks", "tests")) == []
    assert _offenders(_modules("conformance"), ("benchmarks", "tests")) == []


def test_only_the_command_line_knows_the_command_line():
    files = [path for path in _modules("engine") if "cli" not in path.parts and path.name != "__main__.py"]
    assert _offenders(files, ("engine.cli", "typer")) == []


def test_backends_of_one_operation_do_not_know_each_other():
    for operation in OPERATIONS:
        folder = REPOSITORY / "esat_kernels" / operation
        backends = [name for name in ("reference", "native", "triton", "cuda") if (folder / f"{name}.py").exists()]
        for name in backends:
            others = tuple(f"esat_kernels.{operation}.{other}" for other in (*backends, "api", "library") if other != name)
            assert _offenders([folder / f"{name}.py"], others) == []


def test_operations_do_not_know_each_other():
    for operation in OPERATIONS:
        others = tuple(f"esat_kernels.{other}" for other in OPERATIONS if other not in (operation, *BUILT_OF.get(operation, ())))
        assert _offenders(_modules(f"esat_kernels/{operation}"), others) == []


def test_video_and_metrics_do_without_pytorch():
    files = [*_modules("engine/video"), *(REPOSITORY / "engine/evaluation").glob("metrics*.py")]
    assert _offenders(files, ("torch", "esat_kernels", "engine.tracking", "engine.runners", "engine.model")) == []


def test_data_sets_know_nothing_of_those_who_use_them():
    assert (
        _offenders(_modules("engine/datasets"), ("torch", "engine.evaluation", "engine.training", "engine.tracking", "engine.runners"))
        == []
    )


def test_modules_of_evaluation_and_data_sets_do_not_import_each_other_in_a_circle():
    files = [path for folder in ("evaluation", "datasets") for path in _modules(f"engine/{folder}") if path.name != "__init__.py"]
    names = {".".join(path.relative_to(REPOSITORY).with_suffix("").parts): path for path in files}
    imported = {name: (_imports(path) & set(names)) - {name} for name, path in names.items()}
    while leaves := [name for name in imported if not imported[name] & set(imported)]:
        for name in leaves:
            del imported[name]
    assert imported == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_optional_packages_are_imported_where_they_are_used(package):
    offenders = [
        f"{path.relative_to(REPOSITORY)} imports {name}"
        for path in _modules(package)
        if not str(path.relative_to(REPOSITORY)).startswith(FOR_AN_EXTRA)
        for name in sorted(_imports(path, top_level_only=True))
        if name.split(".")[0] in OPTIONAL
    ]
    assert offenders == []


def test_the_base_packages_import_without_any_optional_one():
    blocked = ";".join(f"sys.modules[{name!r}] = None" for name in sorted(OPTIONAL))
    code = f"import sys;{blocked};import engine, esat_kernels, engine.cli.app"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY, timeout=120)


def test_native_sources_are_named_after_what_they_hold_and_the_set_they_are_for():
    """`<op>_cpu.cpp` and `<op>_cpu_<set>.cpp`: the suffix selects the compiler's flags, so that a file of another name is compiled without."""
    lists = re.findall(r"set\(ESAT_(?:X86|ARM)_SETS (.*)\)", (REPOSITORY / "CMakeLists.txt").read_text())
    sets = ["portable", *" ".join(lists).split()]
    assert {"avx2", "neon"} < set(sets)
    for path in (REPOSITORY / "csrc").glob("*/*.cpp"):
        if path.parent.name != "common" and path.stem != f"bindings_{path.parent.name}":
            assert re.fullmatch(rf"\w+_cpu(_({'|'.join(sets)}))?", path.stem), path.relative_to(REPOSITORY)


def test_native_operations_do_not_include_each_other():
    for operation in OPERATIONS:
        for path in _native_sources(operation):
            for line in path.read_text().splitlines():
                if line.startswith('#include "'):
                    folder = line.split('"')[1].split("/")[0]
                    allowed = (operation, "common", *BUILT_OF.get(operation, ()))
                    assert folder in allowed or folder not in OPERATIONS, f"{path.relative_to(REPOSITORY)}: {line}"


def test_the_native_library_holds_no_pytorch():
    offenders = [
        str(path.relative_to(REPOSITORY))
        for path in _native_sources()
        if any(name in path.read_text() for name in ("#include <torch", "#include <ATen", "#include <c10"))
    ]
    assert offenders == []


def test_public_names():
    import engine
    import esat_kernels

    for module, names in (
        (esat_kernels, {"fda_attention", "fda_attention_with_scores", "backends"}),
        (engine, {"Tracker", "TrackerConfig", "Result", "build_model", "weights", "EsatError"}),
    ):
        assert names <= set(module.__all__)
        assert all(getattr(module, name).__doc__ for name in module.__all__ if callable(getattr(module, name)))


def test_files_stay_small():
    """One idea a file. The limits lie just above the longest: a prompt to look for the second idea, not a style."""
    limits = {".py": 320, ".h": 450, ".cpp": 450, ".cu": 450, ".cuh": 450}
    sources = [*_native_sources(), *(path for package in PACKAGES for path in _modules(package))]
    assert [f"{path.relative_to(REPOSITORY)}" for path in sources if len(path.read_text().splitlines()) > limits[path.suffix]] == []


def _private(path: Path) -> set[str]:
    """Names of `esat_kernels` with a leading underscore that a file imports, or reaches through an attribute."""
    names = {name for name in _imports(path) if name.startswith("esat_kernels.")}
    names |= {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    return {name for name in names if name.startswith("esat_kernels.") and any(part.startswith("_") for part in name.split("."))}


@pytest.mark.parametrize("package", ["engine", "conformance"])  # benchmarks/gpu tunes and times what lies within
def test_kernels_are_used_by_their_public_names(package):
    assert [f"{path.relative_to(REPOSITORY)}: {name}" for path in _modules(package) for name in sorted(_private(path))] == []


def test_a_private_name_is_seen_however_it_is_reached(tmp_path):
    file = tmp_path / "module.py"
    for code in (
        "from esat_kernels import _native",
        "import esat_kernels._native as n",
        "import esat_kernels\nesat_kernels._native.library()",
    ):
        file.write_text(code)
        assert "esat_kernels._native" in _private(file)
    file.write_text("import esat_kernels\nfrom esat_kernels.linear.packing import pack\nesat_kernels.cpu_isa()\nself._native.library()")
    assert _private(file) == set()


def test_each_operation_has_the_same_folder_in_both_languages():
    assert tuple(sorted(file.parent.name for file in (REPOSITORY / "esat_kernels").glob("*/__init__.py"))) == OPERATIONS
    assert [name for name in _NATIVE if not (REPOSITORY / f"csrc/{name}/bindings_{name}.cpp").exists()] == []


def test_no_module_imports_itself_in_a_circle():
    """By whatever way and at whatever time: what is imported inside a function counts too."""
    files = {_name(path): path for package in PACKAGES for path in _modules(package)}
    imported = {name: _imported_modules(path, files) for name, path in files.items()}
    while leaves := [name for name in imported if not imported[name] & set(imported)]:
        for name in leaves:
            del imported[name]
    assert _circles(imported) == set()
