"Every notebook runs from its first cell to its last, and gives the outputs that it shows."

import ast, base64, io, re
from pathlib import Path
import nbformat, pytest
from PIL import Image
from outputs import TRAINED, bare, differences
from run_notebook import run_notebook

root = Path(__file__).parent.parent
skip = {'experiments', 'runs'}  # experiments run through papermill: `test_reproduce`, `test_pretrain`
without_torch = {'core', 'knowledge', 'data', 'statistics', 'lesions', 'phantom', 'report', 'running'}
notebooks = [
    p
    for p in (root / 'nbs').rglob('[!._]*.ipynb')
    if not any(f in skip or f[0] in '._' for f in p.relative_to(root / 'nbs').parts[:-1])
]


def name(path):
    return str(path.relative_to(root / 'nbs').with_suffix(''))


def read(path):
    return nbformat.read(path, 4)


def marked(path):
    "With the mark `trains`, unless the notebook's room computes with NumPy alone"
    room = path.relative_to(root / 'nbs').parts[0]
    return pytest.param(path, id=name(path), marks=() if room in without_torch else pytest.mark.trains)


@pytest.mark.slow
@pytest.mark.parametrize('path', [marked(path) for path in sorted(notebooks)])
def test_it_runs_and_shows_what_it_stores(path, tmp_path):
    made = tmp_path / path.name
    status, printed = run_notebook(path, made)
    assert status == 0, printed[-6000:]
    found = differences(read(path), read(made))
    assert not found, '\n'.join(
        ['stored outputs are not what the notebook gives; look at what `make outputs` makes:', *found]
    )


@pytest.mark.parametrize('path', sorted(notebooks), ids=name)
def test_what_trained_cells_must_show_is_asserted(path):
    assert not bare(read(path)), 'cells tagged `trained` without an assert in their section'


@pytest.mark.parametrize('path', sorted(notebooks), ids=name)
def test_cells_that_are_not_run_here_hold_outputs_where_they_show_something(path):
    "Those with `#| slow`, whose outputs `make outputs` stores"
    for cell in read(path).cells:
        if cell.cell_type == 'code' and re.search(r'^#\| *slow', cell.source, re.MULTILINE):
            shows = isinstance(ast.parse(cell.source).body[-1], ast.Expr)
            assert bool(cell.outputs) == shows, f'run `make outputs`:\n{cell.source[:200]}'


# The check itself: each kind of fault that it is there for, planted into a small notebook.


def png(*greys):
    "A picture with a stripe of each grey, as notebooks store it"
    out, image = io.BytesIO(), Image.new('L', (8, 4 * len(greys)))
    for k, grey in enumerate(greys):
        image.paste(grey, (0, 4 * k, 8, 4 * k + 4))
    image.save(out, 'png')
    return base64.b64encode(out.getvalue()).decode()


def table(*rows):
    "A table as pandas shows it"
    cells = ''.join('<tr>' + ''.join(f'<td>{c}</td>' for c in row) + '</tr>' for row in rows)
    return nbformat.v4.new_output(
        'execute_result',
        {'text/html': f'<div><style>td {{}}</style><table>{cells}</table></div>', 'text/plain': 'ignored'},
    )


def notebook(trained, *outputs):
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell('show()', outputs=list(outputs), metadata={'tags': [TRAINED] * trained})]
    )


def figure(*greys):
    return nbformat.v4.new_output(
        'display_data', {'image/png': png(*greys), 'text/plain': '<Figure size 8x8 with 2 Axes>'}
    )


def printed(text):
    return nbformat.v4.new_output('stream', name='stdout', text=text)


TRACEBACK = 'Exception in thread Thread-5:\nTraceback (most recent call last):\nValueError: no\n'
shown = (
    table(('arm', 'AUC', 'n'), ('real-only', '0.917', 300), ('oracle', '0.931 [0.900, 0.960]', 300)),
    printed('12 lesions, nearest 0.31, weights 0a1b2c3d4e5f'),
    figure(30, 200),
)


@pytest.mark.parametrize('trained', [False, True], ids=['untrained', 'trained'])
@pytest.mark.parametrize(
    'fault',
    [
        (
            table(('arm', 'AUC'), ('real-only', '0.917'), ('oracle', '0.931 [0.900, 0.960]')),
            *shown[1:],
        ),  # a column lost
        (table(('arm', 'AUC', 'n'), ('real-only', '0.917', 300)), *shown[1:]),  # a row lost
        (
            table(('arm', 'AUC', 'n'), ('real-only', 'nan', 300), ('oracle', '0.931 [0.900, 0.960]', 300)),
            *shown[1:],
        ),  # not finite
        (
            table(('arm', 'AUC', 'n'), ('real-only', '', 300), ('oracle', '0.931 [0.900, 0.960]', 300)),
            *shown[1:],
        ),  # a number lost
        (
            table(('arm', 'AUC', 'n'), ('real only', '0.917', 300), ('oracle', '0.931 [0.900, 0.960]', 300)),
            *shown[1:],
        ),  # a word changed
        (shown[0], printed('12 images, nearest 0.31, weights 0a1b2c3d4e5f'), shown[2]),  # a word changed
        shown[:2],  # a figure lost
        (*shown, figure(30, 200)),  # a figure more
        (*shown[:2], figure(90, 90)),  # a figure that shows nothing
        (*shown[:2], figure(90, 110)),  # a figure that hardly shows anything
        (nbformat.v4.new_output('stream', name='stderr', text=TRACEBACK), *shown),  # an exception in a thread
        shown[1:],  # a table lost
        (*shown, nbformat.v4.new_output('error', ename='ValueError', evalue='no', traceback=[])),  # an exception
    ],
    ids=[
        'column',
        'row',
        'nan',
        'blank',
        'word in a table',
        'word',
        'figure lost',
        'figure more',
        'figure blank',
        'figure pale',
        'thread',
        'table',
        'exception',
    ],
)
def test_a_planted_fault_is_found(fault, trained):
    assert differences(notebook(trained, *shown), notebook(trained, *fault))


@pytest.mark.parametrize(
    'other',
    [
        (table(('arm', 'AUC', 'n'), ('real-only', '0.926', 300), ('oracle', '0.931 [0.900, 0.960]', 300)), *shown[1:]),
        (shown[0], printed('12 lesions, nearest 0.313, weights 0a1b2c3d4e5f'), shown[2]),
        (*shown[:2], figure(60, 200)),
    ],
    ids=['table', 'text', 'picture'],
)
def test_a_number_off_by_one_percent_is_found_where_nothing_was_trained(other):
    assert differences(notebook(False, *shown), notebook(False, *other))
    assert not differences(notebook(True, *shown), notebook(True, *other))


def plot(row, colour):
    "A picture of a line on white"
    out, image = io.BytesIO(), Image.new('RGB', (80, 60), 'white')
    image.paste(colour, (5, row, 75, row + 1))
    image.save(out, 'png')
    picture = {'image/png': base64.b64encode(out.getvalue()).decode(), 'text/plain': '<Figure size 80x60 with 1 Axes>'}
    return nbformat.v4.new_output('display_data', picture)


@pytest.mark.parametrize('row, colour', [(40, 'navy'), (20, 'red')], ids=['elsewhere', 'colour'])
def test_another_line_is_found_where_nothing_was_trained(row, colour):
    stored = notebook(False, plot(20, 'navy'))
    assert not differences(stored, notebook(False, plot(20, '#000088')))
    assert differences(stored, notebook(False, plot(row, colour)))


def test_what_processors_may_differ_in_is_no_fault():
    other = (
        table(('arm', 'AUC', 'n'), ('real-only', '0.9171', 300), ('oracle', '0.9309 [0.900, 0.960]', 300)),
        printed('12 lesions,  nearest 0.31, weights 9f8e7d6c5b4a'),
        figure(31, 201),
    )
    assert not differences(notebook(False, *shown), notebook(False, *other))
    warning = nbformat.v4.new_output('stream', name='stderr', text='slow')
    assert not differences(notebook(False, *shown), notebook(False, warning, *shown))


def test_an_assert_is_looked_for_in_the_section_of_a_trained_cell():
    def code(source, *tags):
        return nbformat.v4.new_code_cell(source, metadata={'tags': list(tags)})

    def book(*cells):
        return nbformat.v4.new_notebook(cells=list(cells))

    check, section = code('assert auc > .5'), nbformat.v4.new_markdown_cell('## Next')
    assert bare(book(code('auc', TRAINED), section, check)) == [0]
    assert bare(book(check, code('auc', TRAINED))) == [1]
    assert not bare(book(code('auc', TRAINED), nbformat.v4.new_markdown_cell('Words'), code('x = 1'), check))
    assert not bare(book(code('auc\nassert auc > .5', TRAINED), section))


def test_a_cell_that_fails_fails(tmp_path):
    path = tmp_path / 'broken.ipynb'
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell('1/0')],
            metadata={'kernelspec': {'name': 'python3', 'language': 'python', 'display_name': 'python3'}},
        ),
        path,
    )
    status, printed = run_notebook(path, tmp_path / 'made.ipynb')
    assert status and 'ZeroDivisionError' in printed
