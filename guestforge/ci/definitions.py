"""The digest of a part of a Python module: definitions at its top, and those of the same module that they name.

Two versions of a module are compared by it without either being run. Comments, blank lines and the order of what a
module defines do not count.
"""

import ast
import hashlib
from collections.abc import Iterator, Mapping

Top = Mapping[str, ast.Module]  # by name, all statements at a module's top that define it


def top_level(source: str) -> Top:
    """Return what a module defines or imports at its top, by name; raises SyntaxError for what is not Python."""
    top: dict[str, ast.Module] = {}
    for node in ast.parse(source).body:
        for name in _defines(node):
            top.setdefault(name, ast.Module([], [])).body.append(_of_one(node, name))
    return top


def digest_of(top: Top, *names: str) -> str | None:
    """Return a SHA-256 over definitions and all that they lead to; None where one of the names is not there.

    `Class.method` is that method alone, with what it leads to at the module's top.
    """
    wanted = {name: _find(top, name) for name in names}
    if None in wanted.values():
        return None
    found: dict[str, ast.AST] = {}
    waiting = [(name, node) for name, node in wanted.items() if node]
    while waiting:
        name, node = waiting.pop()
        if name not in found:
            found[name] = node
            waiting += [(other, top[other]) for other in _names(node) if other in top]
    text = "".join(f"{name} {ast.dump(found[name])}\n" for name in sorted(found))
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_row(top: Top, value: str) -> str | None:
    """Return the digest of what a module defines by a call with `name="VALUE"`: one row of its table.

    The other rows do not count, nor does what lists them.
    """
    rows = {row: name for name, defined in top.items() if (row := _row(defined))}
    if value not in rows:
        return None
    others = set(rows.values()) - {rows[value]}
    alone = {name: node for name, node in top.items() if name not in others and not others & _names(node)}
    return digest_of(alone, rows[value])


def _row(defined: ast.Module) -> str | None:
    """Return what a row is named by its own keyword."""
    for node in defined.body:
        call = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        for word in call.keywords if isinstance(call, ast.Call) else ():
            if word.arg == "name" and isinstance(word.value, ast.Constant) and isinstance(word.value.value, str):
                return word.value.value
    return None


def _find(top: Top, name: str) -> ast.AST | None:
    holder, _, method = name.partition(".")
    found = top.get(holder)
    if not method or found is None:
        return found
    inside = (each for node in found.body if isinstance(node, ast.ClassDef) for each in node.body)
    return next((each for each in inside if method in _defines(each)), None)


def _defines(node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name
        case ast.Assign():
            yield from (name for target in node.targets for name in _names(target))
        case ast.AnnAssign() | ast.AugAssign():
            yield from _names(node.target)
        case ast.Import() | ast.ImportFrom():
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        case ast.If() | ast.Try():  # such as imports for types alone
            yield from (name for each in ast.iter_child_nodes(node) if isinstance(each, ast.stmt)
                        for name in _defines(each))  # fmt: skip


def _of_one(node: ast.stmt, name: str) -> ast.stmt:
    """Return what defines a name: of a line that imports several, the import of this one."""
    if not isinstance(node, ast.Import | ast.ImportFrom):
        return node
    alone = [alias for alias in node.names if name == (alias.asname or alias.name.partition(".")[0])]
    return ast.Import(alone) if isinstance(node, ast.Import) else ast.ImportFrom(node.module, alone, node.level)


def _names(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
