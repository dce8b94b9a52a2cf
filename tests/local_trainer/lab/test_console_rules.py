"""Each rule of the console: a minimal file that breaks it, and one that just does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from local_trainer.lab.check import check_reward
from local_trainer.lab.console_rules import (
    ALLOWED_IMPORTS,
    FORBIDDEN_CALLS,
    MAX_CHARACTERS,
    refusals_of_text,
)

GOOD = "def reward_function(params):\n    return 1.0\n"


def rules(text: str) -> list[tuple[str, int | None, str]]:
    """Return rule, line and, of the linter, code of each refusal."""
    return [
        (one.rule, one.line, one.what[:4] if one.rule in ("lint", "syntax") else "")
        for one in refusals_of_text(text)
    ]


def body(*lines: str, top: str = "") -> str:
    inner = "".join(f"    {line}\n" for line in lines)
    return f"{top}def reward_function(params):\n{inner}    return 1.0\n"


def test_a_file_may_have_140000_characters_and_not_one_more() -> None:
    text = GOOD + "#" * (MAX_CHARACTERS - len(GOOD) - 1) + "\n"
    assert len(text) == 140_000
    assert rules(text) == []
    assert rules(text[:-1] + "#\n") == [("length", None, "")]


# The reward function stands in lines 1 and following; line and code the linter finds.
LINT = {
    "E999": ("def reward_function(params)\n    return 1.0\n", 1),
    "E111": ("def reward_function(params):\n  return 1.0\n", 2),
    "E128": (body("print(1,", "  2)"), 3),
    "E701": (body("if params: pass"), 2),
    "E702": (body("x = 1; print(x)"), 2),
    "E703": (body("x = 1;"), 2),
    "E711": (body("print(params == None)"), 2),
    "E712": (body("print(params == True)"), 2),
    "E713": (body("print(not 1 in params)"), 2),
    "E721": (body("print(type(1) == type(params))"), 2),
    "E722": (body("try:", "    print(1)", "except:", "    print(2)"), 4),
    "E731": ("reward_function = lambda params: 1.0\n", 1),
    "E741": (body("l = 1", "print(l)"), 2),
    "F403": ("from math import *\n" + GOOD, 1),
    "F405": ("from math import *  # noqa: F403\n\n\n" + body("print(pi)"), 5),
    "F502": (body("print('%(a)s' % (1,))"), 2),
    "F541": (body("print(f'fast')"), 2),
    "F601": (body("print({'a': 1, 'a': 2})"), 2),
    "F632": (body("print(params is 'a')"), 2),
    "F811": (GOOD + "\n\n" + GOOD, 5),
    "F821": (body("print(sped)"), 2),
    "F823": (body("print(x)", "x = 2", "print(x)", top="x = 1\n\n\n"), 5),
    "F841": (body("unused = 1"), None),
    "F401": ("import math\n\n\n" + GOOD, None),
    "E225": (body("x=1", "print(x)"), None),
    "E302": ("x = 1\n" + GOOD, None),
    "E401": ("import math, random\n\n\n" + body("print(math, random)"), None),
    "E501": (body(f"print('{'x' * 200}')"), None),
    "W291": (body("print(1)   "), None),
}


@pytest.mark.parametrize(("code", "text", "line"), [(k, *v) for k, v in LINT.items()], ids=LINT)
def test_the_linters_classes_are_the_consoles(code: str, text: str, line: int | None) -> None:
    rule = "syntax" if code == "E999" else "lint"
    assert rules(text) == ([(rule, line, code)] if line else [])


def test_what_a_comment_excuses_is_excused_by_its_code() -> None:
    assert rules(body("print(params == None)  # noqa: E711")) == []
    assert rules(body("print(params == None)  # noqa")) == []
    assert rules(body("print(params == None)  # noqa: F401")) == [("lint", 2, "E711")]
    assert rules("# flake8: noqa\n" + body("print(params == None)")) == []


@pytest.mark.parametrize("name", ALLOWED_IMPORTS)
def test_five_modules_and_their_parts_may_be_imported_at_the_top(name: str) -> None:
    text = f"import {name}\nfrom {name}.part import thing\n\n\n" + body(f"print({name}, thing)")
    assert rules(text) == []


IMPORTS = {
    "import": ("import os\n", 1),
    "from": ("from os.path import join\n", 1),
    "relative": ("from . import other\n", 1),
    "second name": ("import math, json\n", 1),
    "in a branch": ("if 1:\n    import time\n", 2),
}


@pytest.mark.parametrize(("text", "line"), IMPORTS.values(), ids=IMPORTS)
def test_other_imports_are_refused(text: str, line: int) -> None:
    assert rules(text + "\n\n" + GOOD) == [("import", line, "")]


def test_imports_inside_a_function_are_refused() -> None:
    assert rules(body("import math", "print(math.pi)")) == [("import", 2, "")]


@pytest.mark.parametrize("name", FORBIDDEN_CALLS)
def test_five_functions_may_not_be_called(name: str) -> None:
    assert rules(body(f"print({name}('1'))")) == [("call", 2, "")]
    assert rules(body(f"print([{name}('1')][0])")) == [("call", 2, "")]
    # A method of the same name is another function; keyword arguments are not looked into.
    assert rules(body(f"print(params.{name}('1'))")) == []
    assert rules(body(f"print(1, end={name}('1'))")) == []


@pytest.mark.parametrize(
    "expression",
    [
        "', '.join(params)",
        "(params - 1).T",
        "params['waypoints'].tolist()",
        "params['f'](1)",
        "[1, 2].count(1)",
    ],
)
def test_dots_and_calls_on_anything_but_names_are_refused(expression: str) -> None:
    assert rules(body(f"print({expression})")) == [("expression", 2, "")]


@pytest.mark.parametrize("expression", ["params.get('a').b", "params.a.b(1)(2)", "f'{params.a}'"])
def test_chains_that_begin_with_a_name_are_fine(expression: str) -> None:
    assert rules(body(f"print({expression})")) == []


@pytest.mark.parametrize(
    "word",
    "__import__ load fromfile genfromtxt loadtxt tofile savez save savetxt memmap".split(),
)
def test_forbidden_words_are_refused_in_comments_and_names_too(word: str) -> None:
    assert set(rules(GOOD + f"# un{word}ed\n")) == {("text", 3, "")}
    assert set(rules(body(f"x{word} = 1"))) == {("text", 2, "")}


# --- by calling ------------------------------------------------------------------------------

CALLED = {
    "two parameters": (
        "def reward_function(params, more=None):\n    return 1.0\n",
        ("signature", 1, "must take exactly one parameter, takes (params, more=None)"),
    ),
    "int": (
        "def reward_function(params):\n    return 1\n",
        ("return", 2, "must return a float, returns 1 (int) in the case 'valid'"),
    ),
    "int in one case": (
        "def reward_function(p):\n    return p['steps'] if p['is_offtrack'] else 1.0\n",
        ("return", 2, "must return a float, returns 1 (int) in the case 'off-track'"),
    ),
    "numpy's single precision": (
        "import numpy\n\n\ndef reward_function(params):\n    return numpy.float32(1)\n",
        ("return", 5, "must return a float, returns np.float32(1.0) (float32) in the case"),
    ),
    "range": (
        "def reward_function(params):\n    return 11.0 * params['steps']\n",
        ("return", 2, "must return a value within +-1e5, returns 110000 in the case 'finish'"),
    ),
    "waypoints are an array": (
        "def reward_function(params):\n    return 1.0 if params['waypoints'] else 0.0\n",
        ("call-fails", 2, "raised ValueError: The truth value of an array"),
    ),
    "import at the call": (
        "import numpy\n\n\ndef reward_function(params):\n"
        "    return float(numpy.polynomial is not None)\n",
        ("import", 5, "must import at the top of the file, imports numpy"),
    ),
    "fails": (
        "def reward_function(params):\n    return 1.0 / (params['speed'] - 5.0)\n",
        ("call-fails", 2, "raised ZeroDivisionError"),
    ),
}


@pytest.mark.parametrize(("text", "refusal"), CALLED.values(), ids=CALLED)
def test_what_the_five_cases_find_is_a_refusal_and_no_error(
    tmp_path: Path, text: str, refusal: tuple[str, int, str]
) -> None:
    path = tmp_path / "my_reward.py"
    path.write_text(text, encoding="utf-8")
    report = check_reward(path)
    (found,) = report.refusals
    rule, line, what = refusal
    assert (found.rule, found.line) == (rule, line)
    assert found.what.startswith(what)
    assert not report.errors and report.is_console_complete


@pytest.mark.parametrize("key", ["projection_distance", "sim_time", "objects_distance_from_center"])
def test_parameters_that_the_console_does_not_give(tmp_path: Path, key: str) -> None:
    path = tmp_path / "my_reward.py"
    path.write_text(body(f"print(params['{key}'])"), encoding="utf-8")
    (found,) = check_reward(path).refusals
    assert (found.rule, found.line) == ("parameter", 2)
    assert found.what == f"must not need params['{key}']: the console's checker has none"
    path.write_text(body(f"print(params.get('{key}'))"), encoding="utf-8")
    assert not check_reward(path).refusals


def test_a_case_that_takes_longer_than_five_seconds(tmp_path: Path) -> None:
    path = tmp_path / "my_reward.py"
    path.write_text(body("while params['steps'] == 10000:", "    pass"), encoding="utf-8")
    report = check_reward(path)
    (found,) = report.refusals
    assert found.rule == "timeout" and found.line in (2, 3)
    assert found.what == "did not return within 5 s in one of the five cases"
    assert not report.errors
