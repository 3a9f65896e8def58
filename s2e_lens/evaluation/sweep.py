"""Sweeps: many edits, steering strengths and controls on the validation split, and what is reported on the test split."""

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from tqdm import tqdm

from s2e_lens.behaviors import Behavior
from s2e_lens.behaviors.behavior import read_neutral
from s2e_lens.behaviors.tokens import hash_examples
from s2e_lens.errors import ExamplesError, PlanError
from s2e_lens.evaluation.logprobs import NeutralText
from s2e_lens.evaluation.measure import Items, Meter, Questions, Split, left_out, tokenize_questions
from s2e_lens.evaluation.metrics import response_margin
from s2e_lens.evaluation.settings import EDIT, RANDOM_COMPONENTS, Bench, Grid, Setting, steering_settings
from s2e_lens.evaluation.store import Record, SweepStore
from s2e_lens.evaluation.tradeoff import Tolerance, best_within, pareto
from s2e_lens.models import LensModel
from s2e_lens.models.fingerprint import hash_tensors
from s2e_lens.models.generation import SAMPLING
from s2e_lens.results import SITES, library_versions

STRENGTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5)
CONTROL_SEEDS = (0, 1, 2)
AT_ONCE = 32
"""Conditions that are made at a time."""


@dataclass(frozen=True)
class Plan:
    """What a sweep compares."""

    grid: Grid
    """Edits to try, or the bounds of a search."""
    strengths: tuple[float, ...] = STRENGTHS
    trials: int | None = None
    """Search with Optuna for so many trials, instead of trying every edit of the grid."""
    tolerance: Tolerance = Tolerance()
    control_seeds: tuple[int, ...] = CONTROL_SEEDS
    seed: int = 0
    truncate: bool = False

    def describe(self) -> dict[str, Any]:
        """As JSON holds it."""
        return dataclasses.asdict(self)


class Sweep:
    """One behaviour of one model: measures settings, writes each as it is finished, and knows what is finished."""

    def __init__(
        self,
        bench: Bench,
        behavior: Behavior,
        plan: Plan,
        store: SweepStore | None = None,
        *,
        share: bool | None = None,
        progress: bool = False,
    ):
        """Sweep ``behavior``; without a store, results are kept in memory. ``share``: see :class:`Meter`."""
        self.bench, self.behavior, self.plan, self.store = bench, behavior, plan, store
        self._share, self._progress = share, progress
        self._meters: dict[tuple[Split, str | None], Meter] = {}
        self._memory: dict[tuple[str, Split], Record] = {}
        self._text: NeutralText | None = None

    @property
    def sign(self) -> int:
        """1 if more of the attribute is better, else -1."""
        return -1 if self.behavior.attribute and not self.behavior.attribute.higher_is_better else 1

    def meter(self, split: Split, system: str | None = None) -> Meter:
        """What measures on a split, made once."""
        if (split, system) not in self._meters:
            asked = self.questions(split, system)
            if self._text is None:
                self._text = NeutralText(self.bench.model, neutral_of(self.behavior))
            self._meters[split, system] = Meter(self.bench.model, asked, self._text, share=self._share)
        return self._meters[split, system]

    def questions(self, split: Split, system: str | None = None) -> Questions:
        """The questions of a split."""
        return tokenize_questions(
            self.bench.model, self.behavior, split, system=system, truncate=self.plan.truncate, seed=self.plan.seed
        )

    def get(self, setting: Setting, split: Split) -> Record | None:
        """A finished setting."""
        return self.store.get(setting, split) if self.store else self._memory.get((setting.key, split))

    def on(self, split: Split) -> list[Record]:
        """Everything that is finished on a split."""
        return self.store.on(split) if self.store else [r for (_, where), r in self._memory.items() if where == split]

    def measure(self, settings: Sequence[Setting], split: Split) -> list[Record]:
        """Measure settings on a split, but for those that are finished; each is on disk before the next begins.

        (Settings that share forward passes are finished, and written, at once.)
        """
        missing = [each for each in settings if self.get(each, split) is None]
        with tqdm(
            total=len(settings),
            initial=len(settings) - len(missing),
            desc=f"{self.behavior.name}, {split}",
            unit="setting",
            disable=not self._progress,
        ) as bar:
            for setting, items in self._measured(missing, split):
                record = Record(setting, split, self.bench.describe(setting), items)
                if self.store:
                    self.store.add(record)
                else:
                    self._memory[setting.key, split] = record
                bar.update()
        return [record for each in settings if (record := self.get(each, split)) is not None]

    def _measured(self, settings: Sequence[Setting], split: Split) -> Iterator[tuple[Setting, Items]]:
        plain = [each for each in settings if each.method != "system prompt"]
        meter = self.meter(split)
        for begin in range(0, len(plain), AT_ONCE):  # conditions hold tensors: no more of them than needed
            some = plain[begin : begin + AT_ONCE]
            conditions = [self.bench.condition(each) for each in some]
            yield from zip(some, meter.measure(conditions, labels=[each.label for each in some]), strict=True)
        for setting in settings:
            if setting.method == "system prompt":
                found: list[Items] = []
                with left_out("the system prompt"):
                    asked = self.meter(split, setting.options["system"])
                    found += asked.measure([self.bench.condition(setting)], labels=[setting.label])
                yield from ((setting, items) for items in found)

    @property
    def way(self) -> str:
        """Which way of measuring was faster here, in words; empty where only one was tried."""
        return next((note for meter in self._meters.values() if (note := progress_note(meter))), "")

    # -- the stages of a sweep ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """Everything: all settings on the validation split; base, steering, Pareto set and controls on the test split."""
        self.select_on_validation()
        self.report_on_test()

    def curve(self) -> list[Setting]:
        """The unedited model and steering, weakest first."""
        return [Setting("base"), *steering_settings(self.plan.strengths)]

    def select_on_validation(self) -> None:
        """Measure base, steering and edits on the validation split."""
        self.measure(self.curve(), "validation")
        if self.plan.trials is None:
            self.measure(self.plan.grid.settings(self.bench), "validation")
        else:
            from s2e_lens.evaluation.search import search

            search(self)

    def points(self, records: Sequence[Record]) -> list[tuple[float, float]]:
        """(attribute, utility) of records, signed so that higher is better in both."""
        return signed_points(records, self.sign)

    def chosen(self) -> Record:
        """See :func:`choose_record`."""
        return choose_record(self.on("validation"), self.sign, self.plan.tolerance)

    def pareto(self) -> list[Record]:
        """The edits of the validation split that no other edit beats in attribute and utility."""
        tried = [each for each in self.on("validation") if each.setting.method == EDIT]
        return [tried[i] for i in pareto(self.points(tried))]

    def controls(self, chosen: Setting) -> list[Setting]:
        """The chosen edit's λ on random components; random directions of the steering vectors' norm; ablation; system prompt."""
        found = [Setting(how, {**chosen.options, "seed": seed}) for how in RANDOM_COMPONENTS for seed in self.plan.control_seeds]
        best = self._best_strength()
        found += [Setting("random direction", {"strength": best, "seed": seed}) for seed in self.plan.control_seeds]
        found.append(Setting("ablation"))
        if self.bench.system is not None and self.bench.model.text.has_chat_template:
            found.append(Setting("system prompt", {"system": self.bench.system}))
        return found

    def _best_strength(self) -> float:
        """The strength of the best attribute within the tolerance on the validation split; the weakest if none improves it."""
        steering = [each for each in self.on("validation") if each.setting.method == "steering" and each.setting.everywhere]
        base = self.get(Setting("base"), "validation")
        if base is None or not steering:
            return min(self.plan.strengths, key=abs)
        index = best_record(steering, base, self.sign, self.plan.tolerance)
        return float(steering[index].setting.options["strength"]) if index is not None else min(self.plan.strengths, key=abs)

    def report_on_test(self) -> None:
        """Measure on the test split what was selected on the validation split: nothing here is chosen on test questions.

        An edit of some layers is also compared with steering of these layers alone: whatever it gains by leaving others out,
        steering could gain as well.
        """
        chosen = self.chosen().setting
        edits = list({each.key: each for each in (chosen, *(record.setting for record in self.pareto()))}.values())
        same_layers = (
            steering_settings(self.plan.strengths, layers=chosen.options["layers"]) if chosen.options.get("layers") else []
        )
        self.measure([*self.curve(), *edits, *same_layers, *self.controls(chosen)], "test")


def signed_points(records: Sequence[Record], sign: int) -> list[tuple[float, float]]:
    """(attribute, utility) of records, higher being better in both."""
    return [(sign * float(each.items.attribute.mean()), each.items.utility) for each in records]


def best_record(records: Sequence[Record], base: Record, sign: int, tolerance: Tolerance) -> int | None:
    """Index of the best attribute among records that cost no more than the tolerance allows, or None."""
    allowed = [tolerance.allows(each.items, base.items) for each in records]
    return best_within(signed_points(records, sign), signed_points([base], sign)[0], allowed)


def choose_record(validation: Sequence[Record], sign: int, tolerance: Tolerance) -> Record:
    """The edit of the best attribute on the validation split that costs no more than the tolerance allows there.

    If none of them improves the attribute, the one of the smallest update.

    Raises:
        PlanError: if no edit, or not the unedited model, is finished.
    """
    tried = [each for each in validation if each.setting.method == EDIT]
    base = [each for each in validation if each.setting.method == "base"]
    if not tried or not base:
        raise PlanError(
            "no edit was measured on the validation split yet: nothing can be chosen. Let the sweep go on (--resume)."
        )
    index = best_record(tried, base[0], sign, tolerance)
    return tried[index] if index is not None else min(tried, key=lambda each: each.about["update_norm"])


def neutral_of(behavior: Behavior) -> Sequence[str]:
    """A behaviour's neutral text, or the package's."""
    return behavior.neutral or read_neutral()


def manifest(bench: Bench, behavior: Behavior, plan: Plan) -> dict[str, Any]:
    """What a sweep depends on: if any of it changes, results must not be mixed.

    Raises:
        ExamplesError: if the behaviour has no validation examples: there would be nothing to select on.
    """
    if not behavior.validation:
        raise ExamplesError(
            f"{behavior.name} has no validation examples: settings must not be selected on the questions that are reported. "
            "Give the behaviour a validation split."
        )
    splits: tuple[Split, ...] = ("validation", "test")
    asked = {split: tokenize_questions(bench.model, behavior, split, truncate=plan.truncate) for split in splits}
    neutral = [hash_examples_of(bench, neutral_of(behavior))]
    metrics = [behavior.attribute or response_margin, *behavior.also, *(task.metric for task in behavior.utility)]
    return {
        "behavior": behavior.name,
        "model": bench.model.name,
        "weights": bench.model.weight_hash(),
        "generation": generation_settings(bench.model),
        "directions": {
            "data": bench.directions.provenance.data_hash,
            "method": bench.directions.method,
            "vectors": hash_tensors((site, bench.directions[site].vectors) for site in SITES),
        },
        "questions": {
            split: {
                "attribute": hash_examples(found.examples),
                **{f"task {task.name}": hash_examples(items) for task, items in found.tasks},
            }
            for split, found in asked.items()
        },
        "neutral": neutral,
        "attribute": metrics[0].name,
        "metrics": [{"name": each.name, **{name: repr(value) for name, value in each.settings.items()}} for each in metrics],
        "higher_is_better": behavior.attribute.higher_is_better if behavior.attribute else True,
        "system": bench.system,
        "plan": plan.describe(),
        "versions": {name: value for name, value in library_versions().items() if name == "s2e-lens"},
    }


def generation_settings(model: LensModel) -> dict[str, Any]:
    """What the checkpoint says about generating, as far as answers depend on it."""
    own: Any = getattr(model.twin, "generation_config", None)
    found = {name: getattr(own, name, None) for name in (*SAMPLING, "repetition_penalty", "no_repeat_ngram_size")}
    return {**{name: value for name, value in found.items() if value is not None}, "ends": list(model.text.eos_ids)}


def hash_examples_of(bench: Bench, passages: Sequence[str]) -> str:
    """A hash of the tokens of neutral text."""
    digest = hashlib.sha256()
    for passage in passages:
        digest.update(f"{bench.model.text.text_ids(passage)}\n".encode())
    return f"sha256:{digest.hexdigest()[:32]}"


def sweep_frame(records: Sequence[Record]) -> pd.DataFrame:
    """The tidy table: one row per setting and split."""
    rows = []
    for each in records:
        o, items = each.setting.options, each.items
        prompted = each.setting.method == "system prompt"  # neutral text has no prompt: the model is as it is there
        rows.append(
            {
                "method": each.setting.method,
                "setting": each.setting.label,
                "split": each.split,
                "attribute": float(items.attribute.mean()),
                "utility": items.utility,
                "kl": math.nan if prompted else items.kl,
                "perplexity": math.nan if prompted else items.perplexity,
                "degenerate": items.degenerate,
                **{f"task_{name}": float(values.mean()) for name, values in items.tasks.items()},
                **{name: float(values.mean()) for name, values in items.also.items()},
                **{
                    name: o.get(name)
                    for name in ("strength", "score", "rho_attn", "rho_mlp", "alpha", "relative", "scale", "seed")
                },
                **each.about,
                "items": len(items.attribute),
                "seconds": items.seconds,
            }
        )
    frame = pd.DataFrame(rows)
    if len(frame):  # one type per column, also where the first rows have none
        numbers = ("strength", "rho_attn", "rho_mlp", "alpha", "scale", "update_norm", "dose_attn", "dose_mlp", "largest_gain")
        whole = ("heads", "neurons", "seed")
        frame = frame.astype({**dict.fromkeys(numbers, "float64"), **dict.fromkeys(whole, "Int64"), "relative": "boolean"})
    return frame


def progress_note(meter: Meter) -> str:
    """Which way of measuring was faster here, in words."""
    if len(meter.seconds) < 2 or not all(map(math.isfinite, meter.seconds.values())):
        return ""
    way = "several settings in one forward pass" if meter.seconds[True] < meter.seconds[False] else "one setting at a time"
    return f"{way} (shared {meter.seconds[True]:.2f} s, alone {meter.seconds[False]:.2f} s per setting)"
