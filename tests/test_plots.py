"""Every kind of figure from files, and the command ``plot``."""

import dataclasses
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from s2e_lens.attribution import attribute, contrast
from s2e_lens.cli import plot as command
from s2e_lens.errors import PlanError, S2EError, StorageError
from s2e_lens.models import LensModel
from s2e_lens.pipeline.plots import KINDS, Asked, Inputs, plot, read_inputs
from s2e_lens.readout import projections
from s2e_lens.results import Attribution, Directions, Edit
from s2e_lens.storage import save
from s2e_lens.visualizers import View
from tests.helpers import tiny_directions, tiny_edit
from tests.test_cli import done, s2e
from tests.test_cli_sweeps import checkpoint, options  # noqa: F401
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def model() -> LensModel:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def folder(model: LensModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the steps write, as the folder of a run has it."""
    out = tmp_path_factory.mktemp("made") / "kindness"
    directions = tiny_directions(model)
    save(directions, out / "directions.safetensors")
    save(attribute(model, directions), out / "attribution.safetensors")
    save(tiny_edit(model), out / "edit.safetensors")
    return out


@pytest.fixture(scope="module")
def sweep(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    out = tmp_path_factory.mktemp("swept") / "mine"
    done("sweep", *options(checkpoint, out))
    return out


def heatmap(figure: Any) -> go.Heatmap:
    return next(each for each in figure.data if isinstance(each, go.Heatmap))


def test_the_command_knows_every_kind_and_no_other() -> None:
    assert get_args(command.Kind) == tuple(KINDS)


def test_files_are_called_by_their_name_or_by_their_folder(folder: Path, tmp_path: Path) -> None:
    found = read_inputs([folder])
    assert [list(each) for each in (found.directions, found.edits, found.attributions, found.sweeps)] == [["kindness"]] * 3 + [[]]
    copy = tmp_path / "stronger.safetensors"
    copy.write_bytes((folder / "edit.safetensors").read_bytes())
    assert list(read_inputs([folder, copy]).edits) == ["kindness", "stronger"]
    assert list(read_inputs([folder.parent]).edits) == ["kindness"], "the folder of a run of several behaviours"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda here: here / "nothing", "is not there"),
        (lambda here: here, "holds no .safetensors file and no sweep"),
        (lambda here: (here / "x.safetensors", (here / "x.safetensors").write_bytes(b"not one"))[0], "x.safetensors"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(StorageError, match=message):
        read_inputs([make(tmp_path)])


def test_two_results_of_one_name_are_refused(folder: Path) -> None:
    with pytest.raises(StorageError, match="both called 'kindness'"):
        read_inputs([folder, folder])


def test_heads_are_those_of_the_file_with_the_edited_ones_marked(folder: Path) -> None:
    inputs = read_inputs([folder])
    (figure,) = plot("heads", inputs).values()
    scores, lam = inputs.attributions["kindness"].heads, inputs.edits["kindness"].attn[0].lam
    np.testing.assert_array_equal(heatmap(figure).z, scores.numpy())
    marks = next(each for each in figure.data if isinstance(each, go.Scatter))
    assert len(marks.x) == int((lam != 0).sum()) > 0
    (alone,) = plot("heads", Inputs(edits=inputs.edits)).values()
    np.testing.assert_array_equal(heatmap(alone).z, lam.numpy())


def test_a_sum_of_edits_shows_the_sum_of_lambda(folder: Path) -> None:
    edit: Edit = read_inputs([folder]).edits["kindness"]
    (figure,) = plot("heads", Inputs(edits={"sum": edit + 0.5 * edit})).values()
    torch.testing.assert_close(torch.as_tensor(heatmap(figure).z), 1.5 * edit.attn[0].lam)


def test_scores_come_from_directions_with_a_model(model: LensModel, folder: Path) -> None:
    inputs = read_inputs([folder / "directions.safetensors"])
    with pytest.raises(PlanError, match="directions with --model"):
        plot("heads", inputs)
    (figure,) = plot("heads", inputs, Asked(model=model, score="contrast")).values()
    want = attribute(model, inputs.directions["kindness"], score=contrast)
    np.testing.assert_array_equal(heatmap(figure).z, want.heads.numpy())


@pytest.mark.parametrize("kind", ["heads", "neurons", "curves", "bins", "distribution", "dose", "geometry"])
def test_kinds_that_need_files_alone(folder: Path, kind: str) -> None:
    inputs = read_inputs([folder])
    figures = plot(kind, inputs)
    assert figures
    assert all(isinstance(figure, go.Figure) and figure.data for figure in figures.values())
    with pytest.raises(PlanError, match="needs"):
        plot(kind, Inputs())


def test_several_behaviours_are_compared(folder: Path, model: LensModel) -> None:
    directions: Directions = read_inputs([folder]).directions["kindness"]
    turned = dataclasses.replace(directions, attn=directions.mlp)
    assert "geometry_behaviors" in plot("geometry", Inputs(directions={"one": directions, "other": turned}))
    assert "geometry_behaviors" not in plot("geometry", Inputs(directions={"one": directions}))


def test_which_scores_belong_to_an_edit_must_be_clear(folder: Path) -> None:
    found = read_inputs([folder])
    attribution: Attribution = found.attributions["kindness"]
    two = dataclasses.replace(found, attributions={"a": attribution, "b": attribution})
    with pytest.raises(PlanError, match="which scores belong to the edit 'kindness'"):
        plot("dose", two)


@pytest.mark.parametrize("kind", ["tradeoff", "changes"])
def test_kinds_of_a_sweep(sweep: Path, kind: str) -> None:
    (name,) = plot(kind, read_inputs([sweep]))
    assert name == f"{kind}_mine"
    with pytest.raises(PlanError, match="the folder of a sweep"):
        plot(kind, Inputs())


@pytest.mark.parametrize("kind", ["lens", "effects", "next", "projections", "firings", "attention", "activations"])
def test_kinds_that_run_the_model(model: LensModel, folder: Path, kind: str) -> None:
    inputs = read_inputs([folder])
    figures = plot(
        kind, inputs, Asked(model=model, prompt="w5 w6 w7", response=" w9 w10", tokens=("w5",) if kind == "effects" else ())
    )
    assert figures
    assert all(isinstance(figure, go.Figure | View) for figure in figures.values())
    with pytest.raises(PlanError, match="give --model"):
        plot(kind, inputs, Asked(prompt="w5 w6"))


def test_the_text_of_a_view_is_the_prompt_with_the_models_own_answer(model: LensModel, folder: Path) -> None:
    inputs = read_inputs([folder])
    prompt = model.text.prompt_ids("w5 w6 w7")
    ids = [*prompt, *model.generate([prompt], max_new_tokens=48)[0]]
    view: Any = plot("projections", inputs, Asked(model=model, prompt="w5 w6 w7", layers=(1,)))["projections_kindness_mlp"]
    want = projections(model, ids, inputs.directions["kindness"])["mlp"][1]
    shown = np.ravel(np.array(view.props["values"], dtype=np.float64))
    assert len(shown) == len(ids)
    np.testing.assert_allclose(shown, want.numpy(), rtol=1e-3, atol=1e-3)


def test_a_text_is_asked_for_where_one_is_needed(model: LensModel, folder: Path) -> None:
    with pytest.raises(PlanError, match="give --prompt"):
        plot("attention", read_inputs([folder]), Asked(model=model))
    with pytest.raises(PlanError, match="are those of heads"):
        plot("attention", read_inputs([folder]), Asked(model=model, prompt="w5", components=("L0N1",)))
    with pytest.raises(S2EError, match="L9H9"):
        plot("attention", read_inputs([folder]), Asked(model=model, prompt="w5", components=("L9H9",)))


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(PlanError, match="there is no figure 'pie'.*heads, neurons"):
        plot("pie", Inputs())


def test_the_command_writes_figures_and_names_them(folder: Path, tmp_path: Path) -> None:
    said = done("plot", "heads", folder, "--out", tmp_path / "figures")
    assert re.search(r"heads_kindness\.html", said)
    assert (tmp_path / "figures" / "heads_kindness.html").read_text(encoding="utf-8").count("plotly") > 1
    refused = s2e("plot", "tradeoff", folder, "--out", tmp_path / "none")
    assert (refused.status, "the folder of a sweep" in refused.err) == (1, True)
    assert not (tmp_path / "none").exists()
