"""The commands, options, targets and files that the documents name are there."""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
INLINE = re.compile(r"`([^`\n]+)`")


def code(text: str) -> Iterator[str]:
    """Indented and fenced lines, continued ones joined, and inline code."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith(("    ", "End: ", "Try: ", "Look: ", "Probe: ")):
            yield line
    yield from INLINE.findall(text)


def commands(text: str) -> Iterator[list[str]]:
    """Words from each `ps-*` on; what stands for something else, or alternatives, is left out."""
    for line in code(text):
        for match in re.finditer(r"(?:^|[ /])(ps-[a-z]+)([^#|;)]*)", line):
            if match[1] in SCRIPTS:
                try:
                    yield [match[1], *shlex.split(match[2])]
                except ValueError:
                    yield [match[1], *match[2].split()]


def application(script: str) -> typer.core.TyperGroup:
    module, _ = SCRIPTS[script].split(":")
    group = typer.main.get_command(importlib.import_module(module).app)
    assert isinstance(group, typer.core.TyperGroup)
    return group


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_options_exist(document: Path) -> None:
    for words in commands(document.read_text()):
        group = application(words[0])
        if len(words) == 1 or not re.fullmatch(r"[a-z-]+", words[1]):
            continue
        assert words[1] in group.commands, words
        command = group.commands[words[1]]
        if isinstance(command, typer.core.TyperGroup) and len(words) > 2:
            assert words[2] in command.commands, words
            command = command.commands[words[2]]
        known = {
            option
            for parameter in command.params
            for option in (*parameter.opts, *parameter.secondary_opts)
        } | {"--help"}
        own = words[2 : words.index("--")] if "--" in words else words[2:]  # the rest is passed on
        named = [word.partition("=")[0] for word in own if word.startswith("--")]
        assert set(named) <= known, words


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in code(document.read_text()):
        match = re.match(r"\s*make ([a-z-]+)", line)
        if match is not None:
            assert match[1] in targets, line


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_exist(document: Path) -> None:
    text = document.read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    for link in links:
        assert (document.parent / link).exists(), link
    packages = ("planetserve", "abci_app", "overlay", "modelnode", "prober", "localnet", "tests")
    for name in INLINE.findall(text):
        if name.startswith(tuple(f"{package}/" for package in packages)) and "*" not in name:
            assert (ROOT / name).exists(), name


def test_the_numbers_of_paths_are_those_of_the_code() -> None:
    rows = re.findall(
        r"^\| `([\w/]+)\.py` \| `([\w.]+)`[^|]* \| ([^|]+) \|$",
        (ROOT / "docs" / "paths.md").read_text(),
        re.MULTILINE,
    )
    assert len(rows) > 30
    for file, name, value in rows:
        held = importlib.import_module(file.replace("/", "."))
        *owner, attribute = name.split(".")
        if owner:
            defaults = {item.name: item.default for item in fields(getattr(held, owner[0]))}
            held_value = defaults[attribute]
        else:
            held_value = getattr(held, attribute)
        numbers = held_value if isinstance(held_value, tuple) else (held_value,)
        assert [float(number) for number in value.split(",")] == list(numbers), name


def test_the_tables_of_states_are_those_of_the_code() -> None:
    script = runpy.run_path(str(ROOT / "tools" / "state_machines.py"))
    assert script["PAGE"].read_text() == script["page"](), "run tools/state_machines.py"
    assert len(script["machines"]()) >= 8


def test_documents_name_enough_to_be_worth_checking() -> None:
    """So that a change of form cannot silently turn the tests above off."""
    readme = (ROOT / "README.md").read_text()
    assert len(list(commands(readme))) > 15
    assert len(DOCUMENTS) >= 6
