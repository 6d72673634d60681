"""The repos' own training scripts, with hard views: HVS_CHECKOUTS names the folder that has their clones."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..dropin.photographs import save_photographs

ROOT = Path(__file__).parents[2]
CHECKOUTS = os.environ.get("HVS_CHECKOUTS")
# Small: a ViT-tiny with large patches or a ResNet-18, and nothing random in the network.
MOCO = (
    "DATA/.. -a resnet18 -j 0 --epochs EPOCHS -b BATCH --moco-dim 16 --multiprocessing-distributed --world-size 1 --rank 0 "
    "--dist-url env://"
)
VIT = (
    "--arch vit_tiny --patch_size 32 --out_dim 256 --batch_size_per_gpu BATCH --epochs EPOCHS --data_path DATA --output_dir out "
    "--num_workers 0 --use_fp16 false --warmup_epochs 0 --local_crops_number 2 --saveckp_freq 0"
)


@dataclass(frozen=True)
class Repo:
    """The folder of a repo's clone, its script and what that is started with, and the file and function that our lines go into."""

    folder: str
    heading: str
    script: str
    arguments: str
    file: str
    function: str
    added: int
    before: str = ""  # the line of the function that ours go before; by default its first
    needs: str = ""  # what it imports beside the packages that we need

    @property
    def example(self) -> Path:
        return ROOT / "examples" / f"wrap_{self.folder.lower()}.py"


REPOS = [
    Repo("dino", "DINO", "main_dino.py", f"{VIT} --drop_path_rate 0", "main_dino.py", "train_one_epoch", 3),
    Repo(
        "simsiam",
        "SimSiam",
        "main_simsiam.py",
        "DATA/.. -a resnet18 -j 0 --epochs EPOCHS -b BATCH --dim 64 --pred-dim 16 --multiprocessing-distributed --world-size 1 "
        "--rank 0 --dist-url env://",
        "main_simsiam.py",
        "train",
        3,
    ),
    Repo(
        "SimCLR",
        "SimCLR",
        "run.py",
        "-data DATA -dataset-name stl10 -a resnet18 -j 0 --epochs EPOCHS -b BATCH --disable-cuda --out_dim 32 "
        "--log-every-n-steps 1",
        "simclr.py",
        "train",
        4,
    ),
    Repo(
        "ibot",
        "iBOT",
        "main_ibot.py",
        f"{VIT} --patch_out_dim 256 --warmup_teacher_temp_epochs 0 --drop_path 0",
        "main_ibot.py",
        "train_one_epoch",
        5,
    ),
    Repo("moco", "MoCo", "main_moco.py", f"{MOCO} --moco-k 12 --mlp --aug-plus --moco-t 0.2", "main_moco.py", "train", 3),
    Repo("moco-v3", "MoCo v3", "main_moco.py", f"{MOCO} --moco-mlp-dim 32", "main_moco.py", "train", 4),
    Repo(
        "vicreg",
        "VICReg",
        "main_vicreg.py",
        "--data-dir DATA/.. --exp-dir out --arch resnet34 --mlp 32-32-32 --epochs EPOCHS --batch-size BATCH --num-workers 0 "
        "--device cpu --log-freq-time 0",
        "main_vicreg.py",
        "main",
        3,
        "    for epoch in range(start_epoch",
    ),
    Repo(
        "swav",
        "SwAV",
        "main_swav.py",
        "--data_path DATA --nmb_crops 2 2 --size_crops 64 32 --min_scale_crops 0.14 0.05 --max_scale_crops 1 0.14 --use_fp16 false "
        "--nmb_prototypes 30 --hidden_mlp 64 --feat_dim 16 --epochs EPOCHS --warmup_epochs 0 --batch_size BATCH --workers 0 "
        "--queue_length 0 --base_lr 0.1",
        "main_swav.py",
        "train",
        3,
        needs="pandas",
    ),
    Repo(
        "barlowtwins",
        "Barlow Twins",
        "main.py",
        "DATA/.. --workers 0 --epochs EPOCHS --batch-size BATCH --projector 32-32-32 --print-freq 1",
        "main.py",
        "main_worker",
        3,
        "    for epoch in range(start_epoch",
    ),
]
NAMES = [repo.heading for repo in REPOS]


def documented(repo: Repo) -> list[str]:
    """The lines that examples/README.md tells a user to add."""
    text = (ROOT / "examples" / "README.md").read_text()
    section = text.split(f"\n## {repo.heading}\n")[1].split("\n## ")[0]
    block = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return [line for line in block.group(1).splitlines() if line]


def insert(source: str, function: str, lines: list[str], before: str = "") -> str:
    """The import to the other imports, the rest before the first statement of the function, or before a line of it."""
    tree = ast.parse(source)
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    heads = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == function]
    assert len(heads) == 1
    text = source.splitlines(keepends=True)
    at = heads[0].body[0].lineno - 1
    at = next(number for number in range(at, len(text)) if text[number].startswith(before)) if before else at
    text[at:at] = [f"{line}\n" for line in lines[1:]]
    text.insert(imports[-1].end_lineno or 0, f"{lines[0]}\n")
    return "".join(text)


@pytest.mark.parametrize("repo", REPOS, ids=NAMES)
def test_the_lines_are_as_few_as_promised(repo: Repo) -> None:
    lines = documented(repo)
    assert len(lines) == repo.added and lines[0] == "import hvs_aug"
    ast.parse("\n".join([lines[0], "if True:", *lines[1:]]))
    assert not repo.example.is_file() or len(repo.example.read_text().splitlines()) < 60


def test_insertion_goes_where_the_text_says() -> None:
    source = "import os\nimport sys\n\ndef other():\n    pass\n\ndef train(x):\n    # why\n    y = 1\n    return y\n"
    changed = insert(source, "train", ["import hvs_aug", "    x = 2"])
    assert changed == source.replace("import sys\n", "import sys\nimport hvs_aug\n").replace(
        "    y = 1\n", "    x = 2\n    y = 1\n"
    )


class Runs:
    """One repo's scripts run as processes of their own, each in a folder of its own."""

    def __init__(self, repo: Repo, folder: Path, batch: int, epochs: int, quarters: bool = False) -> None:
        assert CHECKOUTS is not None
        self.repo, self.folder = repo, folder
        self.clone = Path(CHECKOUTS).resolve() / repo.folder
        data = save_photographs(folder / "data" / "train", quarters)
        filled = {"DATA": data, "BATCH": batch, "EPOCHS": epochs}
        self.arguments = re.sub("|".join(filled), lambda found: str(filled[found.group()]), repo.arguments).split()

    def losses(self, name: str, script: Path, *before: str, **overrides: Any) -> list[float]:
        place = self.folder / name
        place.mkdir()
        driver = [sys.executable, str(Path(__file__).with_name("run_script.py")), "losses.json", json.dumps(overrides)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        environment |= {"MASTER_PORT": str(20000 + os.getpid() % 20000)}
        command = [*driver, str(script), *before, *self.arguments]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        return [float.fromhex(value) for value in json.loads((place / "losses.json").read_text())]

    def example(self, name: str, **overrides: Any) -> list[float]:
        """By the script for an untouched clone, where there is one; else by a copy of the clone with the lines in it."""
        if not self.repo.example.is_file():
            return self.edited(name, **overrides)
        return self.losses(name, self.repo.example, "--checkout", str(self.clone), "--", **overrides)

    def edited(self, name: str = "edited", **overrides: Any) -> list[float]:
        copied = self.folder / f"clone-{name}"
        shutil.copytree(self.clone, copied, ignore=shutil.ignore_patterns(".git", "*.png", "*.gif"))
        file = copied / self.repo.file
        file.write_text(insert(file.read_text(), self.repo.function, documented(self.repo), self.repo.before))
        return self.losses(name, copied / self.repo.script, **overrides)


@pytest.fixture(params=REPOS, ids=NAMES)
def repo(request: pytest.FixtureRequest) -> Repo:
    found: Repo = request.param
    if CHECKOUTS is None:
        pytest.skip("HVS_CHECKOUTS names no folder with clones of the repos")
    if not (Path(CHECKOUTS) / found.folder / found.script).is_file():
        pytest.skip(f"HVS_CHECKOUTS has no {found.folder}/{found.script}")
    if found.needs:
        pytest.importorskip(found.needs)
    return found


def test_the_repos_own_training(repo: Repo, tmp_path: Path) -> None:
    runs = Runs(repo, tmp_path, batch=3, epochs=2)
    untouched = runs.losses("untouched", runs.clone / repo.script)
    assert len(untouched) == 4  # two epochs of two batches
    assert runs.example("off", enabled=False) == untouched
    hard = runs.example("hard")
    assert hard != untouched and len(hard) == 4
    assert not repo.example.is_file() or runs.edited() == hard
    print(f"{repo.heading}: first loss untouched {untouched[0]:.4f}, with hard views {hard[0]:.4f}")


def test_hard_views_are_harder(repo: Repo, tmp_path: Path) -> None:
    if not repo.example.is_file():
        pytest.skip("batches of 12 are too large here for a ResNet at 224 pixels")
    # Batches large enough for BatchNorm to see much the same statistics in scoring, over all candidates, and in training.
    runs = Runs(repo, tmp_path, batch=12, epochs=1, quarters=True)
    hard, drawn = runs.example("hard"), runs.example("drawn", policy="random")
    print(f"{repo.heading}: losses of hard views {hard}, of random ones {drawn}")
    # The first step of both has the same network and the same candidates; after it the networks part.
    assert hard[0] > drawn[0] and sum(hard) > sum(drawn)
