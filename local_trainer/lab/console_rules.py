"""The rules by which the console refuses a reward function's text, without running it.

Facts of the console's checker (docs/reward-lab.md lists them); what it finds by calling the
function is in `local_trainer.lab.check_process`. Runs in the guarded process, because a hostile
text can exhaust a parser, too.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_CHARACTERS = 140_000
ALLOWED_IMPORTS = ("math", "random", "numpy", "scipy", "shapely")
FORBIDDEN_CALLS = ("open", "exec", "eval", "compile", "input")
FORBIDDEN_TEXTS = ("__import__", "load", "fromfile", "genfromtxt", "tofile", "save", "memmap")
"""The longer ones the console names too (savez, loadtxt, …) contain one of these."""

MISSING_PARAMETERS = ("projection_distance", "sim_time", "objects_distance_from_center")
"""Parameters that the dicts the console tries the function with do not have."""

_STYLE_CLASSES = ("E1", "E7", "E9")  # of E and F, all but E2 to E5; W is not selected
_IGNORED_CODES = ("F401", "F841")
_NOQA = re.compile(r"#\s*noqa(?::\s*(?P<codes>[A-Z]\d+(?:[\s,]+[A-Z]\d+)*))?", re.IGNORECASE)
_NOQA_FILE = re.compile(r"^\s*#\s*flake8[:=]\s*noqa\s*$", re.IGNORECASE | re.MULTILINE)
_MAX_SAME = 20

# How the linter numbers what pyflakes finds.
_PYFLAKES_CODES = {
    "UnusedImport": "F401",
    "ImportShadowedByLoopVar": "F402",
    "ImportStarUsed": "F403",
    "LateFutureImport": "F404",
    "ImportStarUsage": "F405",
    "ImportStarNotPermitted": "F406",
    "FutureFeatureNotDefined": "F407",
    "PercentFormatInvalidFormat": "F501",
    "PercentFormatExpectedMapping": "F502",
    "PercentFormatExpectedSequence": "F503",
    "PercentFormatExtraNamedArguments": "F504",
    "PercentFormatMissingArgument": "F505",
    "PercentFormatMixedPositionalAndNamed": "F506",
    "PercentFormatPositionalCountMismatch": "F507",
    "PercentFormatStarRequiresSequence": "F508",
    "PercentFormatUnsupportedFormatCharacter": "F509",
    "StringDotFormatInvalidFormat": "F521",
    "StringDotFormatExtraNamedArguments": "F522",
    "StringDotFormatExtraPositionalArguments": "F523",
    "StringDotFormatMissingArgument": "F524",
    "StringDotFormatMixingAutomatic": "F525",
    "FStringMissingPlaceholders": "F541",
    "TStringMissingPlaceholders": "F542",
    "MultiValueRepeatedKeyLiteral": "F601",
    "MultiValueRepeatedKeyVariable": "F602",
    "TooManyExpressionsInStarredAssignment": "F621",
    "TwoStarredExpressions": "F622",
    "AssertTuple": "F631",
    "IsLiteral": "F632",
    "InvalidPrintSyntax": "F633",
    "IfTuple": "F634",
    "BreakOutsideLoop": "F701",
    "ContinueOutsideLoop": "F702",
    "YieldOutsideFunction": "F704",
    "ReturnOutsideFunction": "F706",
    "DefaultExceptNotLast": "F707",
    "DoctestSyntaxError": "F721",
    "ForwardAnnotationSyntaxError": "F722",
    "RedefinedWhileUnused": "F811",
    "UndefinedName": "F821",
    "UndefinedExport": "F822",
    "UndefinedLocal": "F823",
    "UnusedIndirectAssignment": "F824",
    "DuplicateArgument": "F831",
    "UnusedVariable": "F841",
    "UnusedAnnotation": "F842",
    "RaiseNotImplemented": "F901",
}


@dataclass(frozen=True)
class Refusal:
    """One reason for which the console would refuse the file."""

    rule: str
    """length, syntax, lint, import, call, expression, text, or one of the called rules."""
    line: int | None
    what: str


def refusals_of_text(text: str) -> list[Refusal]:
    """Return every reason for which the console would refuse a text, in order of its lines.

    Args:
        text: Of a reward function file.
    """
    found = [*_length(text), *_forbidden_texts(text)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape is no reason
            tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:  # ValueError: a null character
        line = error.lineno if isinstance(error, SyntaxError) else None
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        return _in_order([*found, Refusal("syntax", line, f"E999 not valid Python: {reason}")])
    found += _lint(text, tree)
    found += _imports(tree)
    found += _names(tree)
    return _in_order(found)


def _in_order(found: list[Refusal]) -> list[Refusal]:
    """Sort by line, and keep a file with one fault a thousand times readable."""
    kept: list[Refusal] = []
    counts: dict[str, int] = {}
    for refusal in sorted(dict.fromkeys(found), key=lambda one: one.line or 0):
        key = refusal.rule + refusal.what[:5]
        counts[key] = counts.get(key, 0) + 1
        if counts[key] <= _MAX_SAME:
            kept.append(refusal)
    return kept


def _length(text: str) -> Iterator[Refusal]:
    if len(text) > MAX_CHARACTERS:
        what = f"must have at most {MAX_CHARACTERS:,} characters, has {len(text):,}"
        yield Refusal("length", None, what)


def _forbidden_texts(text: str) -> Iterator[Refusal]:
    for number, line in enumerate(text.splitlines(), start=1):
        for word in FORBIDDEN_TEXTS:
            if word in line:
                what = f"must not contain {word!r} anywhere, comments and names included"
                yield Refusal("text", number, what)


def _imports(tree: ast.Module) -> Iterator[Refusal]:
    for node, is_inside in _with_scope(tree, False):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["." * node.level + (node.module or "")]
        else:
            continue
        for name in names:
            if name.split(".")[0] not in ALLOWED_IMPORTS:
                what = f"must import only {', '.join(ALLOWED_IMPORTS)}, imports {name}"
                yield Refusal("import", node.lineno, what)
        if is_inside:
            what = f"must import at the top of the file, imports {names[0]} inside a function"
            yield Refusal("import", node.lineno, what)


def _with_scope(node: ast.AST, is_inside: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Yield every node, and whether it lies inside a function."""
    pending = [(node, is_inside)]
    while pending:
        one, inside = pending.pop()
        yield one, inside
        inside = inside or isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        pending += [(child, inside) for child in ast.iter_child_nodes(one)]


def _names(tree: ast.Module) -> Iterator[Refusal]:
    """Find calls by forbidden names, the way the console looks for them.

    It takes the dotted name of every call and attribute it meets. Where what stands before the
    dot or bracket is no name, its search breaks off, and that refuses the file, too. It does not
    look into the keyword arguments of a call.
    """
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if not isinstance(node, ast.Call | ast.Attribute):
            pending += ast.iter_child_nodes(node)
            continue
        name, arguments = _dotted_name(node)
        pending += arguments
        if name is None:
            shown = " ".join(ast.unparse(node).split())
            what = (
                "must use . and () on names only: give the part before a name of its own in "
                f"{shown if len(shown) <= 60 else shown[:57] + '...'}"
            )
            yield Refusal("expression", node.lineno, what)
        elif name in FORBIDDEN_CALLS:
            what = f"must not call {', '.join(FORBIDDEN_CALLS)}; calls {name}"
            yield Refusal("call", node.lineno, what)


def _dotted_name(node: ast.expr) -> tuple[str | None, list[ast.expr]]:
    """Return the dotted name of a call or attribute, and the arguments passed on the way."""
    parts: list[str] = []
    arguments: list[ast.expr] = []
    while True:
        if isinstance(node, ast.Name):
            return ".".join([node.id, *reversed(parts)]), arguments
        if isinstance(node, ast.Call):
            arguments += node.args
            node = node.func
        elif isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        else:
            return None, arguments


# --- the linter ------------------------------------------------------------------------------


def _lint(text: str, tree: ast.Module) -> list[Refusal]:
    if _NOQA_FILE.search(text):
        return []
    lines = text.splitlines()
    found = []
    for line, code, what in (*_pyflakes(tree), *_pycodestyle(text)):
        source = lines[line - 1] if 0 < line <= len(lines) else ""
        if code not in _IGNORED_CODES and not _is_excused(source, code):
            found.append(Refusal("lint", line, f"{code} {what}"))
    return found


def _is_excused(source: str, code: str) -> bool:
    match = _NOQA.search(source)
    if match is None:
        return False
    codes = match["codes"]
    return codes is None or code.startswith(tuple(re.split(r"[\s,]+", codes.upper())))


def _pyflakes(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    from pyflakes.checker import Checker

    for message in Checker(tree).messages:
        code = _PYFLAKES_CODES.get(type(message).__name__, "F")
        yield message.lineno, code, message.message % message.message_args


def _pycodestyle(text: str) -> list[tuple[int, str, str]]:
    import pycodestyle

    found: list[tuple[int, str, str]] = []

    class Report(pycodestyle.BaseReport):  # type: ignore[misc]
        def error(self, line_number: int, offset: int, text: str, check: Any) -> None:
            found.append((line_number, text[:4], text[5:]))

    class Checker(pycodestyle.Checker):  # type: ignore[misc]
        # It would let any "noqa" excuse everything; which it excuses is decided above.
        noqa = property(lambda self: False, lambda self, value: None)

    style = pycodestyle.StyleGuide(parse_argv=False, select=_STYLE_CLASSES, reporter=Report)
    lines = text.splitlines(keepends=True)
    Checker("reward_function.py", lines=lines, options=style.options).check_all()
    return [one for one in found if one[1].startswith(_STYLE_CLASSES)]


# --- what the text tells about the function --------------------------------------------------


def parameter_reads(tree: ast.Module) -> list[tuple[str, int]]:
    """Return names and lines of the parameters that ``reward_function`` asks for by name.

    Found in the text, so that a branch which never runs counts as well.
    """
    reads: list[tuple[str, int]] = []
    for function in ast.walk(tree):
        if not (isinstance(function, ast.FunctionDef) and function.name == "reward_function"):
            continue
        arguments = [*function.args.posonlyargs, *function.args.args]
        if not arguments:
            continue
        name = arguments[0].arg
        for node in ast.walk(function):
            key = _key_read(node, name)
            if key is not None:
                reads.append((key, getattr(node, "lineno", function.lineno)))
    return sorted(set(reads), key=lambda read: read[1])


def _key_read(node: ast.AST, params: str) -> str | None:
    """Return the key if a node reads one: by brackets, ``get``, ``pop`` or ``in``."""
    where: ast.expr
    key: ast.expr
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        where, key = node.value, node.slice
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("get", "pop")
        and node.args
    ):
        where, key = node.func.value, node.args[0]
    elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
        where, key = node.comparators[0], node.left
    else:
        return None
    is_params = isinstance(where, ast.Name) and where.id == params
    if is_params and isinstance(key, ast.Constant) and isinstance(key.value, str):
        return key.value
    return None


def written_at(tree: ast.Module, name: str) -> int | None:
    """Return the first line inside a function at which a global is changed, if one shows it."""
    lines = [
        node.lineno
        for node, is_inside in _with_scope(tree, False)
        if is_inside and isinstance(node, ast.expr | ast.stmt) and _changes(node, name)
    ]
    return min(lines, default=None)


def _changes(node: ast.expr | ast.stmt, name: str) -> bool:
    """Return whether a node sets, deletes or calls a method of something of that name."""
    if isinstance(node, ast.Name):
        return node.id == name and isinstance(node.ctx, ast.Store | ast.Del)
    if isinstance(node, ast.Subscript | ast.Attribute):
        is_stored = isinstance(node.ctx, ast.Store | ast.Del)
        return is_stored and _base_name(node) == name
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr not in ("get", "keys", "items"):
            return _base_name(node.func) == name
        first = node.args[0] if node.args else None  # next(counter)
        is_next = isinstance(node.func, ast.Name) and node.func.id == "next"
        return is_next and isinstance(first, ast.Name) and first.id == name
    return False


def _base_name(node: ast.expr) -> str | None:
    while isinstance(node, ast.Subscript | ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None
