"""The package as a whole: what it exports, and which way its imports point."""

import ast
from pathlib import Path

import pytest

import s2e_lens

ROOT = Path(s2e_lens.__file__).parent
LAYERS = (
    "cli",
    "app",
    "pipeline",
    "visualizers",
    "export",
    "readout",
    "evaluation",
    "steering",
    "editor",
    "effects",
    "attribution",
    "directions",
    "activations",
    "behaviors",
    "models",
    "demo",
    "storage",
    "results",
    "precision",
    "errors",
    "_version",
)
"""From the top down: a module imports from its own layer and from those below it."""


def imports(path: Path) -> list[tuple[str, int]]:
    """Every module that a file imports, also inside functions, with its line."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def upward(layer: str, imported: list[tuple[str, int]]) -> list[tuple[str, int]]:
    mine = LAYERS.index(layer)
    inside = [(name.split("."), line) for name, line in imported if name.startswith("s2e_lens.")]
    return [(".".join(parts), line) for parts, line in inside if LAYERS.index(parts[1]) < mine]


def sources() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        layer = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if layer not in {"__init__", "__main__"}:
            found.append((layer, path))
    return found


def test_every_module_has_a_layer() -> None:
    assert {layer for layer, _ in sources()} == set(LAYERS)


@pytest.mark.parametrize(("layer", "path"), sources(), ids=lambda value: value.stem if isinstance(value, Path) else value)
def test_imports_point_downwards(layer: str, path: Path) -> None:
    assert upward(layer, imports(path)) == []


def test_an_upward_import_would_be_found() -> None:
    assert upward("editor", [("s2e_lens.cli.main", 3), ("s2e_lens.results.Edit", 4), ("torch", 5)]) == [("s2e_lens.cli.main", 3)]


def test_only_models_imports_transformer_lens() -> None:
    users = {layer for layer, path in sources() for name, _ in imports(path) if name.split(".")[0] == "transformer_lens"}
    assert users == {"models"}


def test_the_public_names_are_these() -> None:
    assert sorted(s2e_lens.__all__) == [
        "Behavior",
        "__version__",
        "attribute",
        "collect_means",
        "edit_as_hooks",
        "edited",
        "explore",
        "find_directions",
        "load",
        "load_model",
        "plan_edit",
        "prepare_edit",
        "read_examples",
        "run",
        "save",
        "steered",
        "tokenize_examples",
    ]
    assert all(getattr(s2e_lens, name) is not None for name in s2e_lens.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = s2e_lens.nothing


def test_the_package_has_no_assert() -> None:
    """Users' errors are our exceptions; ``python -O`` would drop an assert."""
    found = [
        (path.name, node.lineno)
        for _, path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert)
    ]
    assert found == []
