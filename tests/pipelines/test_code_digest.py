"""Changed code changes the key of the steps that run it, and of no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.code_digest import LEARNING, _closure, code_digest


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """digested.recipe imports digested.model, which imports digested.layer inside a function."""
    folder = tmp_path / "digested"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "recipe.py").write_text("from digested import model\nimport json\n")
    (folder / "model.py").write_text("def build():\n    from digested.layer import layer\n    return layer\n")
    (folder / "layer.py").write_text("layer = 1\n")
    (folder / "other.py").write_text("other = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_only_what_is_imported_counts(package: Path) -> None:
    def digest() -> str:
        return code_digest("digested.recipe", ("digested",))

    before = digest()
    (package / "other.py").write_text("other = 2\n")
    assert digest() == before
    (package / "layer.py").write_text("layer = 2\n")
    assert digest() != before


def test_packages_that_do_not_decide_what_comes_out_do_not_count(package: Path) -> None:
    before = code_digest("digested.recipe", ("digested.model",))
    (package / "layer.py").write_text("layer = 2\n")
    assert code_digest("digested.recipe", ("digested.model",)) == before


def test_a_recipe_depends_on_its_model_and_not_on_other_recipes() -> None:
    digests = {
        name: code_digest(f"recsys.recipes.{name}", LEARNING) for name in ("popularity", "item_knn", "two_tower")
    }
    assert len(set(digests.values())) == 3
    assert digests["two_tower"] != code_digest("recsys.recipes.two_tower", ())


def test_a_retriever_depends_on_what_all_retrievers_are_trained_by() -> None:
    counted = _closure("recsys.recipes.two_tower", LEARNING)
    assert {"recsys.recipes.retriever_recipe", "recsys.train.objective", "recsys.train.batches"} <= counted
    assert "recsys.recipes.mind" not in counted
