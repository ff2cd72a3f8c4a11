"""What limits the answers: descriptions that leave out or invent facts, the reader of them, or the number of labels.

    lvad study --config configs/study/label_efficiency.yaml --arms rloo_clip_vote
    python benchmarks/limits.py --study logs/study/label_efficiency --json benchmarks/limits.json
    python benchmarks/limits.py --show benchmarks/limits.json

The linear reader of ``lvad.modules.TextReader`` decides on the test scenes from mended descriptions: false sentences
taken out, facts that were left out added, both, or the true caption in their place. Drawn scenes alone have the facts
that this takes; it is a measurement and no method. A seed chooses the labelled scenes and the policy.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from markdown_tables import markdown
from provenance import provenance
from torch import Tensor
from torchmetrics.functional.classification import multilabel_f1_score

from lvad.data.augment import mirror_batch
from lvad.data.datamodule import BDDOIADataModule
from lvad.data.source import Source
from lvad.data.split_algorithms import stratified_permutation
from lvad.facts import claims, is_true
from lvad.metrics.logistic import fit_logistic
from lvad.objectives.reader_fit import SceneFeatures, label_probabilities
from lvad.policy import HFPolicy, Sampling
from lvad.rewards.text_features import TextFeatures, choose_vocabulary
from lvad.taxonomy import BDD_OIA
from lvad.text import mirror_text

BUDGETS = (25, 50, 100, 200, 800)
PENALTY = 0.2  # as in configs/study/reader.yaml


class Heard(NamedTuple):
    """A scene and what is said of it."""

    texts: list[str]
    caption: str
    facts: Mapping[str, str]
    labels: list[int]


def sentences(text: str) -> list[str]:
    return [part.strip() + "." for part in text.split(".") if part.strip()]


def without_false(scene: Heard) -> list[str]:
    """Every description without the sentences that claim something false."""
    return [
        " ".join(s for s in sentences(text) if all(is_true(claim, scene.facts) for claim in claims(s)))
        for text in scene.texts
    ]


def with_missing(scene: Heard) -> list[str]:
    """Every description, and the sentences of the caption about attributes that it claims nothing true of."""
    found = []
    for text in scene.texts:
        said = {attribute for attribute, value in claims(text) if is_true((attribute, value), scene.facts)}
        missing = [s for s in sentences(scene.caption) if {attribute for attribute, _ in claims(s)} - said]
        found.append(" ".join([text, *missing]))
    return found


MENDS: dict[str, Callable[[Heard], list[str]]] = {
    "as said": lambda scene: scene.texts,
    "false sentences out": without_false,
    "missing facts added": with_missing,
    "both": lambda scene: with_missing(scene._replace(texts=without_false(scene))),
    "true caption": lambda scene: [scene.caption],
}


def hear(model: str, data: BDDOIADataModule, seed: int) -> dict[str, dict[str, Heard]]:
    """Training and test scenes as a policy describes them: 8 samples, and 8 of the mirrored frames, turned back."""
    torch.manual_seed(seed)
    policy = HFPolicy(model, Sampling(max_new_tokens=48), lora=None).eval()
    found: dict[str, dict[str, Heard]] = {}
    for split, loader in (("train", data.train_dataloader()), ("test", data.test_dataloader())):
        found[split] = {}
        for batch in loader:
            with torch.no_grad():
                views = [policy.generate(policy.encode(view), 8).texts for view in (batch, mirror_batch(batch))]
            labels = torch.cat([batch.actions, batch.reasons], 1).tolist()
            for i, name in enumerate(batch.ids):
                texts = [*views[0][i], *map(mirror_text, views[1][i])]
                found[split][name] = Heard(texts, batch.captions[i][-1], batch.facts[i], labels[i])
    return found


def score(train: list[Heard], test: list[Heard], mend: Callable[[Heard], list[str]]) -> dict[str, float]:
    """Macro-F1 of the actions and of the reasons, in percent."""
    said = [mend(scene) for scene in train]
    features = TextFeatures(choose_vocabulary([[*texts, *map(mirror_text, texts)] for texts in said]))

    def means(rows: list[list[str]]) -> Tensor:
        both = [torch.stack([features(row).mean(0), features([*map(mirror_text, row)]).mean(0)]) for row in rows]
        return torch.stack(both, 1)  # float64[2, S, D]

    labels = torch.tensor([scene.labels for scene in train], dtype=torch.float64)
    x, y = means(said).flatten(0, 1), torch.cat([labels, labels[:, list(BDD_OIA.mirrored_labels)]])
    reader = fit_logistic(x, y, torch.ones(len(x), dtype=torch.float64), PENALTY)
    heard = means([mend(scene) for scene in test])
    found = label_probabilities(reader, SceneFeatures(heard.unsqueeze(2), heard))
    wanted = torch.tensor([scene.labels for scene in test])
    parts = {"action": slice(BDD_OIA.num_actions), "reason": slice(BDD_OIA.num_actions, None)}
    return {
        f"{name}_macro_f1": 100 * float(multilabel_f1_score(found[:, p], wanted[:, p], wanted[:, p].shape[1]))
        for name, p in parts.items()
    }


def measure(study: Path, seeds: list[int]) -> dict[str, Any]:
    origin = provenance()
    data = BDDOIADataModule(Source("synthetic", "data/synthetic", num_frames=2), batch_size=50, eval_batch_size=50)
    data.prepare_data()
    data.setup("fit")
    scenes, rows = data.scenes["train"], []
    for seed in seeds:
        (trained,) = (study / "shared" / f"seed-{seed}").glob("rloo-*/model")
        for policy, model in (("captioner", "embedded/vlm"), ("RLOO, untuned CLIP", str(trained))):
            heard = hear(model, data, seed)
            for n in BUDGETS:
                train = [heard["train"][scenes[i].id] for i in stratified_permutation(scenes, seed)[:n]]
                for name, mend in MENDS.items():
                    row = {"policy": policy, "labels": n, "seed": seed, "descriptions": name}
                    rows.append(row | score(train, list(heard["test"].values()), mend))
            print(f"seed {seed}, {policy}: done", flush=True)
    return origin | {"rows": rows}


def table(record: dict[str, Any]) -> str:
    """Action / reason macro-F1 over the number of labels, means of the seeds."""
    rows = record["rows"]

    def cell(policy: str, mend: str, n: int) -> str:
        found = [r for r in rows if (r["policy"], r["descriptions"], r["labels"]) == (policy, mend, n)]
        return " / ".join(
            f"{statistics.mean(r[f'{part}_macro_f1'] for r in found):.1f}" for part in ("action", "reason")
        )

    policies = dict.fromkeys(row["policy"] for row in rows)
    cells = [[policy, mend, *(cell(policy, mend, n) for n in BUDGETS)] for policy in policies for mend in MENDS]
    seeds = len({row["seed"] for row in rows})
    return markdown((f"who describes ({seeds} seeds)", "descriptions", *(f"n = {n}" for n in BUDGETS)), cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path("logs/study/label_efficiency"), help="holds RLOO's models")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--json", type=Path, help="the record")
    parser.add_argument("--show", type=Path, help="only print a record's table")
    args = parser.parse_args()
    record = json.loads(args.show.read_text()) if args.show else measure(args.study, args.seeds)
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    print(table(record))


if __name__ == "__main__":
    main()
