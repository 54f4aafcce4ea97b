"""Laws of ``--help``: grouped, as wide as the terminal, names and examples whole, quick to come."""

from __future__ import annotations

import re

import pytest
from typer.main import get_command

from datool.cli import app
from datool.cli.help import MAX_COLUMNS, ORDER

GROUP = get_command(app)
COMMANDS = dict(GROUP.commands)
COMMANDS |= {
    f"{name} {inner}": sub
    for name, each in GROUP.commands.items()
    for inner, sub in getattr(each, "commands", {}).items()
}
NAMES = sorted(COMMANDS)


@pytest.fixture
def shown(monkeypatch):
    """Return what gives a command's help in a terminal of a width; typer's runner has its own, 80."""

    def show(name: str, width: int) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        command, context = GROUP, GROUP.make_context("datool", [], resilient_parsing=True)
        for word in name.split():
            command = command.commands[word]
            context = command.make_context(word, [], parent=context, resilient_parsing=True)
        return command.get_help(context)

    return show


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("name", NAMES)
def test_it_is_as_wide_as_the_terminal(shown, name, width):
    text, _, example = shown(name, width).partition("\nExample: ")
    longest = max(map(len, text.splitlines()))
    assert longest <= min(width, MAX_COLUMNS)
    assert all(len(line) <= 80 for line in f"Example: {example}".splitlines())
    if name in ("predict", "eval"):  # whose texts fill any width
        assert longest > min(width, MAX_COLUMNS) - 12


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name", NAMES)
def test_names_and_examples_stay_whole(shown, name, width):
    text, command = shown(name, width), COMMANDS[name]
    assert command.epilog in text
    words = text.split()
    for item in command.params:
        options = item.opts if item.param_type_name == "option" else []
        assert all(any(word.startswith(option) for word in words) for option in options)
        for hyphened in re.findall(r"[\w/-]+-[\w/-]+", item.help):
            assert any(hyphened in word for word in words), f"{hyphened} is broken"


@pytest.mark.parametrize("name", NAMES)
def test_every_option_stands_in_a_group(shown, name):
    text, command = shown(name, 80), COMMANDS[name]
    titles = re.findall(r"^([A-Z][^:\n]*):$", text, re.M)
    groups = [title for title in titles if title in ORDER]
    assert groups == sorted(groups, key=ORDER.index) and groups[-1] == "General"
    for item in command.params:
        assert item.rich_help_panel in (*ORDER, None)
        assert item.rich_help_panel or item.name in ("help", "version"), item.name


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_sentences_without_marks_of_the_code(shown, name):
    text, command = shown(name, 120), COMMANDS[name]
    assert "x>=" not in text and "``" not in text and "<list" not in text
    assert command.help.split("\n\n")[0].endswith(".")
    for item in command.params:
        assert item.help.endswith("."), f"{name} {item.name}: {item.help}"


def test_the_first_page_names_every_command_whole(shown):
    text = shown("", 80)
    assert "..." not in text.replace("[ARGS]...", "")
    for name in NAMES:
        if " " not in name:
            assert re.search(rf"^  {name} .*\w", text, re.M), name
