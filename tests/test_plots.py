"""Every kind of figure from files, and the command ``plot``."""

import dataclasses
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import plotly.graph_objects as go
import pytest

from s2e_lens.attribution import attribute, contrast
from s2e_lens.cli import plot as command
from s2e_lens.editor import edited
from s2e_lens.errors import PlanError, S2EError, StorageError
from s2e_lens.models import LensModel
from s2e_lens.pipeline.plots import KINDS, Asked, Inputs, plot, read_inputs
from s2e_lens.readout import next_tokens, projections
from s2e_lens.results import Attribution, Directions
from s2e_lens.steering import steered
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


def other(result: Any, **provenance: str) -> Any:
    """The same numbers, said to come from elsewhere."""
    return dataclasses.replace(result, provenance=dataclasses.replace(result.provenance, **provenance))


def marked(figure: Any) -> int:
    return sum(len(each.x) for each in figure.data if isinstance(each, go.Scatter))


@pytest.mark.parametrize("elsewhere", [{"weight_hash": "other"}, {"data_hash": "other"}])
def test_an_edit_of_other_weights_or_examples_is_not_marked_and_gets_no_dose(folder: Path, elsewhere: dict[str, str]) -> None:
    inputs = read_inputs([folder])
    edit = inputs.edits["kindness"]
    assert marked(plot("heads", inputs)["heads_kindness"]) == edit.count("attn")
    for name in ("kindness", "another"):
        foreign = dataclasses.replace(inputs, edits={name: other(edit, **elsewhere)})
        assert marked(plot("heads", foreign)["heads_kindness"]) == 0
        with pytest.raises(PlanError, match=f"no directions among kindness belong to '{name}'"):
            plot("dose", foreign)
    renamed = dataclasses.replace(inputs, edits={"another": edit})
    assert marked(plot("heads", renamed)["heads_kindness"]) == edit.count("attn"), "of another name, but of the same examples"


def test_directions_without_scores_are_not_passed_over(model: LensModel, folder: Path) -> None:
    inputs = read_inputs([folder])
    two = {**inputs.directions, "second": other(inputs.directions["kindness"], data_hash="other")}
    both = dataclasses.replace(inputs, directions=two)
    with pytest.raises(PlanError, match="no scores of second: give --model"):
        plot("heads", both)
    assert set(plot("heads", both, Asked(model=model))) == {"heads_kindness", "heads_second"}


def test_a_sum_along_different_vectors_is_marked_but_its_lambda_is_not_added(model: LensModel, folder: Path) -> None:
    inputs = read_inputs([folder])
    edit = inputs.edits["kindness"]
    (term,) = edit.attn
    against = dataclasses.replace(edit, attn=(dataclasses.replace(term, u=term.u.flip(-1), lam=-term.lam),), mlp=edit.mlp)
    both = dataclasses.replace(inputs, edits={"kindness": edit + against})
    assert marked(plot("heads", both)["heads_kindness"]) == edit.count("attn"), "they do not cancel"
    terms = plot("heads", Inputs(edits={"sum": edit + against}))
    np.testing.assert_array_equal(heatmap(terms["heads_sum_term0"]).z, -heatmap(terms["heads_sum_term1"]).z)
    fired = set(plot("firings", both, Asked(model=model, prompt="w5 w6", top=1)))
    assert {"firings_kindness_term0", "firings_kindness_term1"} < fired
    assert len(fired) == 4, "the whole, and one component, of each"
    turned = dataclasses.replace(edit, mlp=(dataclasses.replace(edit.mlp[0], u=edit.mlp[0].u.flip(-1)),))
    with pytest.raises(PlanError, match="a sum of 2 edits along different vectors"):
        plot("neurons", dataclasses.replace(inputs, edits={"kindness": edit + turned}))


def test_next_tokens_are_those_of_the_edited_and_of_the_steered_model(model: LensModel, folder: Path) -> None:
    inputs = read_inputs([folder])
    asked = Asked(model=model, prompt="w5 w6 w7", strength=3.0)
    ids = model.text.prompt_ids("w5 w6 w7")
    figure: Any = plot("next", inputs, asked)["next_tokens"]
    shown = {bars.name: dict(zip(bars.y, bars.x, strict=True)) for bars in figure.data}
    with edited(model, inputs.edits["kindness"]):
        want = next_tokens(model, ids, top=3)
    with steered(model, inputs.directions["kindness"], 3.0):
        steering = next_tokens(model, ids, top=3)
    for name, found in (("kindness, edited", want), ("kindness, steering 3", steering), ("unedited", next_tokens(model, ids))):
        values = np.array(list(shown[name].values()))
        assert np.isclose(values, found.probabilities.max().item(), atol=1e-6).any(), name


def test_attention_is_that_of_the_heads_that_were_asked_for(model: LensModel, folder: Path) -> None:
    asked = Asked(model=model, prompt="w5 w6 w7", response=" w9", components=("L1H2", "L0H1"))
    views: Any = plot("attention", read_inputs([folder]), asked)
    want = model.attention(model.text.example_ids("w5 w6 w7", " w9")[0])
    assert list(views) == ["attention_L1H2", "attention_L0H1"]
    for view, (layer, head) in zip(views.values(), [(1, 2), (0, 1)], strict=True):
        np.testing.assert_allclose(np.array(view.props["attention"]), want[layer, head].numpy(), atol=1e-3)


def test_top_says_how_many(folder: Path) -> None:
    figure: Any = plot("neurons", read_inputs([folder]), Asked(top=3))["neurons_kindness"]
    assert len(next(each for each in figure.data if isinstance(each, go.Bar)).x) == 3


def test_an_edit_that_changes_nothing_has_no_distribution(folder: Path) -> None:
    with pytest.raises(PlanError, match="there is nothing to draw"):
        plot("distribution", Inputs(edits={"none": 0.0 * read_inputs([folder]).edits["kindness"]}))


def test_scores_come_from_directions_with_a_model(model: LensModel, folder: Path) -> None:
    inputs = read_inputs([folder / "directions.safetensors"])
    with pytest.raises(PlanError, match="no scores of kindness: give --model"):
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
    with pytest.raises(PlanError, match="no scores among a, b belong to 'kindness'"):
        plot("dose", two)


@pytest.mark.parametrize("kind", ["tradeoff", "changes"])
def test_kinds_of_a_sweep(sweep: Path, kind: str) -> None:
    assert list(read_inputs([sweep.parent]).sweeps) == ["mine"], "a folder of sweeps"
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
    view: Any = plot("projections", inputs, Asked(model=model, prompt="w5 w6 w7", layers=(1,)))["projections_kindness_mlp_L1"]
    want = projections(model, ids, inputs.directions["kindness"])["mlp"][1]
    shown = np.ravel(np.array(view.props["values"], dtype=np.float64))
    assert len(shown) == len(ids)
    np.testing.assert_allclose(shown, want.numpy(), rtol=1e-3, atol=1e-3)


def test_a_sweep_is_not_passed_over_where_edits_are_drawn(folder: Path, sweep: Path) -> None:
    with pytest.raises(PlanError, match="the sweeps mine hold no edit file"):
        plot("distribution", read_inputs([folder, sweep]))


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


def test_the_command_writes_figures_and_names_them(folder: Path, checkpoint: Path, tmp_path: Path) -> None:  # noqa: F811
    said = done("plot", "heads", folder, "--out", tmp_path / "figures")
    assert re.search(r"heads_kindness\.html", said)
    assert (tmp_path / "figures" / "heads_kindness.html").read_text(encoding="utf-8").count("plotly") > 1
    done("plot", "attention", folder, "--model", checkpoint / "model", "--prompt", "w5", "--component", "L0H1", "--out", tmp_path)
    assert "L0H1" in (tmp_path / "attention_L0H1.html").read_text(encoding="utf-8")
    refused = s2e("plot", "tradeoff", folder, "--out", tmp_path / "none")
    assert (refused.status, "the folder of a sweep" in refused.err) == (1, True)
    assert not (tmp_path / "none").exists()
