"""Limits of style: lines, cells, modules, parameters, format.

`python tests/test_style.py` lists what breaks them today.
"""

import ast, re, subprocess, sys
from pathlib import Path
import nbformat, pytest
from medsoft_nb.apps.site import ROOMS

root = Path(__file__).parent.parent
LINE, CELL, MODULE, NAMES, PARAMETERS = 119, 40, 300, 15, 8
rooms = [p for room in ROOMS for p in sorted((root / 'nbs' / room).glob('[!._]*.ipynb'))]
notebooks = sorted(
    p
    for p in (root / 'nbs').rglob('[!._]*.ipynb')
    if not any(part == 'runs' or part[0] in '._' for part in p.relative_to(root / 'nbs').parts)
)


def name(path):
    return str(path.relative_to(root))


def code(path):
    return [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == 'code']


def exported(path):
    "Code of exported cells, without directives"
    cells = [source for source in code(path) if source.startswith('#| export')]
    return ['\n'.join(line for line in source.splitlines() if not line.startswith('#|')).strip() for source in cells]


def title(source):
    "First line of a definition, without its decorators"
    lines = [line for line in source.splitlines() if line.startswith(('def ', 'class ')) or ' = ' in line]
    return (lines or [source])[0].partition('(')[0].partition(' =')[0].strip(':')


def long_lines():
    "Notebooks with code lines that are too long, and tests"
    sources = {name(path): '\n'.join(code(path)) for path in notebooks}
    sources |= {name(path): path.read_text(encoding='utf-8') for path in sorted((root / 'tests').glob('*.py'))}
    return [
        f'{key}: long lines' for key, text in sources.items() if max(map(len, text.splitlines()), default=0) > LINE
    ]


def long_cells():
    cells = [(path, source) for path in rooms for source in exported(path)]
    return [f'{name(path)}: {title(source)} is a long cell' for path, source in cells if source.count('\n') >= CELL]


def long_modules():
    lines = {path: sum(source.count('\n') + 1 for source in exported(path)) for path in rooms}
    return [f'{name(path)}: long module' for path, n in lines.items() if n > MODULE]


def public_names(path):
    "Functions and classes, without methods that are patched in, and constants"
    found = set()
    for source in exported(path):
        for node in ast.parse(source).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and 'patch' not in decorators(node):
                found.add(node.name)
            if isinstance(node, ast.Assign):
                found |= {t.id for t in node.targets if isinstance(t, ast.Name) and t.id.isupper()}
    return {n for n in found if not n.startswith('_')}


def decorators(node):
    return [ast.unparse(d).partition('(')[0] for d in node.decorator_list]


def many_names():
    return [f'{name(path)}: many names' for path in rooms if len(public_names(path)) > NAMES]


def wide_functions():
    "Functions with many parameters; commands and `__call__` may have them"
    found = []
    for path in rooms:
        nodes = [node for source in exported(path) for node in ast.walk(ast.parse(source))]
        for node in nodes:
            if not isinstance(node, ast.FunctionDef) or node.name == '__call__':
                continue
            if any(d.endswith('command') for d in decorators(node)):
                continue
            count = len(node.args.posonlyargs) + len(node.args.args) + len(node.args.kwonlyargs)
            if count > PARAMETERS:
                found.append(f'{name(path)}: {node.name} has many parameters')
    return found


def unformatted():
    command = [sys.executable, '-m', 'ruff', 'format', '--check', '--no-cache', 'nbs', 'tests']
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    paths = [line.partition(': ')[2] for line in done.stdout.splitlines() if line.startswith('Would reformat')]
    return [f'{path}: not formatted' for path in paths]


def faults():
    "Undefined names, several statements on a line, lambdas with a name"
    command = [sys.executable, '-m', 'ruff', 'check', '--no-cache', '--output-format', 'concise', 'nbs', 'tests']
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    return [line for line in done.stdout.splitlines() if re.match(r'\S+:\d', line) or ':cell ' in line]


CHECKS = (long_lines, long_cells, long_modules, many_names, wide_functions, unformatted, faults)


@pytest.mark.parametrize('check', CHECKS, ids=lambda check: check.__name__)
def test_style(check):
    assert check() == [], 'see CONTRIBUTING.md; `ruff format nbs tests` mends the format'


def test_the_checks_see_what_they_look_for():
    assert title('@app.command()\ndef paint(\n    a,\n): pass') == 'def paint'
    assert title('NAMES = 15') == 'NAMES'
    assert decorators(ast.parse('@app.command("x")\ndef f(): pass').body[0]) == ['app.command']


if __name__ == '__main__':
    print('\n'.join(sorted(line for check in CHECKS for line in check())))
