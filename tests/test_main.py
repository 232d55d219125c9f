"""``python -m sslspec_fast``: the self-check and the way to the subcommands."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import sslspec_fast as sf
from sslspec_fast import __main__ as command

from .support.process import fresh_python


def test_self_check_passes_and_names_the_facts(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    printed = capsys.readouterr().out
    assert sf.__version__ in printed
    for key in sf.show_config():
        assert f"{key}: " in printed
    assert "all checks passed" in printed


def test_self_check_reports_a_wrong_value_and_an_exception(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> float:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(command, "CHECKS", (("off", lambda: 0.5), ("broken", fails)))
    assert command.self_check() == 1
    printed = capsys.readouterr().out
    assert "off: WRONG (error 5e-01)" in printed
    assert "broken: FAILED: RuntimeError: no kernel" in printed


@pytest.mark.parametrize("name", command.SUBCOMMANDS)
def test_every_subcommand_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        command.main([name, "--help"])
    assert exit_.value.code == 0
    assert f"sslspec_fast {name}" in capsys.readouterr().out


def test_runs_as_a_module(tmp_path: Path) -> None:
    assert fresh_python(tmp_path, "-m", "sslspec_fast", "--version") == sf.__version__


def test_unknown_subcommand_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        command.main(["nonsense"])
    assert exit_.value.code == 2
    assert "nonsense" in capsys.readouterr().err


def test_import_leaves_the_compiler_and_sparse_matrices_to_their_first_use(tmp_path: Path) -> None:
    """They take longer to import than all of the package."""
    code = """
import sys
import sslspec_fast as sf
print(*sorted({"torch._dynamo", "scipy.sparse", "sklearn"} & set(sys.modules)))
assert "eigsh" in dir(sf) and sf.spectral.vicreg and sf.operators.shift
print(*(name for name in sf.__all__ if not hasattr(sf, name)))
"""
    assert fresh_python(tmp_path, "-c", code) == ""


def test_star_import_without_scikit_learn(tmp_path: Path) -> None:
    """The estimators stay out of `*`; asked for by name, they say what to install."""
    code = """
import sys
sys.modules["sklearn"] = None
from sslspec_fast import *
assert "PairGraph" in globals() and "VICRegEmbedding" not in globals()
try:
    from sslspec_fast import VICRegEmbedding
except ImportError as missing:
    print(missing)
"""
    assert "pip install 'sslspec-fast[sklearn]'" in fresh_python(tmp_path, "-c", code)


def test_star_import_offers_the_estimators() -> None:
    pytest.importorskip("sklearn", minversion="1.6")
    assert {"BarlowTwinsEmbedding", "SimCLREmbedding", "VICRegEmbedding"} <= set(sf.__all__)
    assert all(hasattr(sf, name) for name in sf.__all__)


def test_the_console_script_is_this_command() -> None:
    text = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text("utf-8")
    assert '[project.scripts]\nsslspec = "sslspec_fast.__main__:main"\n' in text


@pytest.mark.parametrize(
    ("typed", "shown"), [("/usr/bin/sslspec", "sslspec"), ("x.py", "python -m sslspec_fast")]
)
def test_help_names_the_command_that_was_typed(
    typed: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [typed])
    for name in command.SUBCOMMANDS:
        with pytest.raises(SystemExit):
            command.main([name, "--no-such-option"])
        assert f"{shown} {name}: error: " in capsys.readouterr().err
