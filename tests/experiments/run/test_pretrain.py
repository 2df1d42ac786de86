"""Two-stage experiments end to end: stop after a kind, start from one, share what is pre-trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import yaml

PRETRAIN = {"n_updates": 20, "batch_size": 8, "num_warmup_steps": 2, "log_every": 10, "checkpoint_every": 10,
            "collapse_variance": 0}  # fmt: skip


@pytest.fixture(scope="module")
def experiment(
    small: Path, with_histories: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Scratch, fine-tuned and frozen, warm start and auxiliary loss; and a root that has the histories."""
    folder = tmp_path_factory.mktemp("two-stage")
    settings = yaml.safe_load(small.read_text(encoding="utf-8"))
    settings["name"] = "stages2"
    settings["base"]["pretrain"] = PRETRAIN
    settings["base"]["train"] |= {"n_updates": 20, "log_every": 10, "validate_every": 0}
    settings["base"]["evaluation"] = {"n_episodes": 2, "n_rollouts": 2}
    modes = [{"enabled": False}, {"enabled": True}, {"enabled": True, "freeze": True}]
    settings["arms"] = [
        {"name": "C", "grid": {"pretrain": modes}},
        {"name": "warm", "set": {"train.init_from_ad": "stage"}},
        {"name": "auxiliary", "set": {"train.reconstruction_weight": 0.1}},
        {"name": "AD", "set": {"model.kind": "ad"}},
    ]
    file = folder / "two.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return file, with_histories(folder / "runs")


def done(root: Path) -> dict[str, int]:
    names = [path.parent.name.partition("-")[0] for path in (root / "stages").glob("*/DONE")]
    return {kind: names.count(kind) for kind in sorted(set(names))}


def test_two_stages(cad, experiment):
    file, root = experiment
    early = cad("run", file, "--root", root, "--inline", "--from", "train")
    assert early.returncode == 1
    assert "cannot start from train" in early.stderr and "pretrain-" in early.stderr
    wrong = cad("run", file, "--root", root, "--from", "train", "--until", "pretrain")
    assert wrong.returncode == 2 and "--from train comes after --until pretrain" in wrong.stderr
    assert done(root) == {"histories": 1}

    shown = cad("run", file, "--root", root, "--until", "pretrain", "--dry-run").stdout
    assert "2 stages" in shown and "train-" not in shown.replace("pretrain-", "")
    first = cad("run", file, "--root", root, "--inline", "--until", "pretrain", "--no-report")
    assert first.returncode == 0, first.stderr
    assert done(root) == {"histories": 1, "pretrain": 1}

    encoder = next((root / "stages").glob("pretrain-*/encoder.safetensors"))
    alone = cad("pretrain", *overrides(file), "--root", root)
    assert alone.returncode == 0, alone.stderr
    assert str(encoder.parent) in alone.stdout.replace("\n", "")
    assert done(root) == {"histories": 1, "pretrain": 1}

    second = cad("run", file, "--root", root, "--inline", "--from", "train", "--no-figures")
    assert second.returncode == 0, second.stderr
    # Six cells; the AD arm's training is the warm start's, too.
    assert done(root) == {"evaluate": 6, "histories": 1, "pretrain": 1, "train": 6}
    report = json.loads((root / "stages2" / "report" / "report.json").read_text())
    assert [cell["status"] for cell in report["cells"]] == ["done"] * 6
    # What a training started from is part of its cost, although cells share it.
    scratch, tuned, frozen, warm, _, ad = report["cells"]
    assert [cell["updates"] for cell in report["cells"]] == [20, 40, 40, 40, 20, 20]
    assert all(cell["core_minutes"] > cell["train_seconds"] / 60 for cell in (tuned, frozen, warm))
    assert scratch["core_minutes"] == pytest.approx(scratch["train_seconds"] / 60)
    assert warm["core_minutes"] == pytest.approx((warm["train_seconds"] + ad["train_seconds"]) / 60)
    assert warm["supervised_actions"] == scratch["supervised_actions"] + ad["supervised_actions"]
    assert {"loss", "accuracy"} < set(report["tables"]["pretraining"]["columns"])
    assert "pretraining" in [figure["name"] for figure in report["figures"]]

    record = json.loads((root / "stages2" / "experiment.json").read_text())
    trained = [
        safetensors.torch.load_file(
            root / "stages" / [s for s in cell["stages"] if s.startswith("train")][-1] / "model.safetensors"
        )
        for cell in record["cells"]
    ]
    start = safetensors.torch.load_file(encoder)
    assert not any(name.startswith(("reconstruction", "decoder")) for name in start)
    scratch, tuned, frozen, _, auxiliary, _ = trained
    assert all((frozen[name] == tensor).all() for name, tensor in start.items())
    assert all((tuned[name] != tensor).any() for name, tensor in start.items() if "blocks" in name)
    assert scratch.keys() == auxiliary.keys() == frozen.keys()
    assert any((scratch[name] != auxiliary[name]).any() for name in scratch)


def overrides(file: Path) -> list[str]:
    base = yaml.safe_load(file.read_text())["base"]
    return [f"{section}={json.dumps(values)}" for section, values in base.items()]


def test_a_path_by_hand_gives_what_the_stage_gives(cad, experiment):
    file, root = experiment
    done = cad("run", file, "--root", root, "--inline", "--until", "train", "--no-report")
    assert done.returncode == 0, done.stderr
    encoder = next((root / "stages").glob("pretrain-*/encoder.safetensors"))
    by_hand = cad(
        "train", *overrides(file), f"train.pretrained_encoder_path={encoder}", "train.freeze_encoder=true",
        "--root", root, "--device", "cpu",
    )  # fmt: skip
    assert by_hand.returncode == 0, by_hand.stderr
    record = json.loads((root / "stages2" / "experiment.json").read_text())
    automatic = next(s for s in record["cells"][2]["stages"] if s.startswith("train"))
    folder = next(
        path for path in (root / "stages").glob("train-*")
        if path.name in by_hand.stdout.replace("\n", "") and path.name != automatic
    )  # fmt: skip
    a, b = (
        safetensors.torch.load_file(path / "model.safetensors")
        for path in (folder, root / "stages" / automatic)
    )
    assert all((a[name] == b[name]).all() for name in a)

    wrong = cad(
        "train", *overrides(file), f"train.pretrained_encoder_path={encoder}", "model.n_latent=3",
        "--root", root, "--device", "cpu",
    )  # fmt: skip
    assert wrong.returncode == 1
    assert "model.n_latent is 2 there and 3 here" in wrong.stderr and "Traceback" not in wrong.stderr
