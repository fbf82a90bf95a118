"What keeps the project in order: layers, imports, notebooks, file sizes."

import ast, json, re, subprocess, sys
from graphlib import TopologicalSorter
from pathlib import Path
import nbformat, papermill, pytest
from command import medsoft
from medsoft_nb.apps.site import ROOMS
from medsoft_nb.models.files import SHIPPED

root = Path(__file__).parent.parent
package = root / 'medsoft_nb'
modules = sorted(p for p in package.rglob('*.py') if not p.name.startswith('_'))
experiments = sorted((root / 'nbs/experiments').glob('*.ipynb'))
pages = [
    p for p in sorted((root / 'nbs').rglob('[!._]*.ipynb')) if not {'_executed', 'runs'} & {*p.relative_to(root).parts}
]


def code_of(path):
    return [c.source for c in nbformat.read(path, 4).cells if c.cell_type == 'code']


def tracked():
    "Files of the project: what git tracks, or everything outside generated folders where there is no git"
    done = subprocess.run(['git', 'ls-files', '-z'], cwd=root, capture_output=True, text=True)
    if done.returncode == 0 and done.stdout:
        return [root / f for f in done.stdout.split('\0') if f and (root / f).is_file()]
    skip = {
        '.venv',
        'runs',
        'build',
        'dist',
        '_proc',
        '_docs',
        '__pycache__',
        '.pytest_cache',
        '.hypothesis',
        '.ruff_cache',
        '.git',
        '.ipynb_checkpoints',
    }
    return [
        f
        for f in root.rglob('*')
        if f.is_file() and not skip & set(f.relative_to(root).parts) and '.egg-info' not in str(f)
    ]


def plain(sources):
    "Python of notebook cells, without lines of magic"
    return '\n'.join(re.sub(r'^\s*[%!].*$', '', s, flags=re.M) for s in sources)


def name_of(path):
    return '.'.join(path.relative_to(package).with_suffix('').parts)


def own_imports(source, module):
    "Modules of the library that `source`, which is that of `module`, imports"
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        if isinstance(node, ast.ImportFrom):
            origin = '.'.join(f'medsoft_nb.{module}'.split('.')[: -node.level]) if node.level else ''
            origin = '.'.join(filter(None, [origin, node.module]))
            names |= {origin, *(f'{origin}.{a.name}' for a in node.names)}
    return {n.removeprefix('medsoft_nb.') for n in names if n.startswith('medsoft_nb.')} & {
        name_of(p) for p in modules
    }


def upward(source, module):
    "Modules of later rooms that `source` imports"
    room = ROOMS.index(module.split('.')[0])
    return {m for m in own_imports(source, module) if ROOMS.index(m.split('.')[0]) > room}


@pytest.mark.parametrize('path', modules, ids=name_of)
def test_a_room_imports_only_from_itself_and_from_rooms_before_it(path):
    assert not upward(path.read_text(), name_of(path))


def test_the_layer_check_sees_an_upward_import():
    assert upward('from ..models.base import load_base', 'painting.window') == set()
    assert upward('from ..painting.window import resize', 'models.base') == {'painting.window'}
    assert upward('def f():\n    from medsoft_nb.apps import cli', 'core.files') == {'apps.cli'}
    assert upward('import medsoft_nb.report.tables', 'evaluation.explain') == {'report.tables'}


def test_no_module_imports_itself_through_others():
    needs = {name_of(p): own_imports(p.read_text(), name_of(p)) for p in modules}
    assert len(list(TopologicalSorter(needs).static_order())) == len(modules)


def test_every_room_and_notebook_has_its_place():
    assert {name_of(p).split('.')[0] for p in modules} == set(ROOMS)
    for path in modules:
        assert (root / 'nbs' / path.relative_to(package)).with_suffix('.ipynb').is_file(), path


@pytest.mark.parametrize('path', modules, ids=name_of)
def test_no_star_imports_in_exported_code(path):
    assert not re.search(r'^\s*from \S+ import \*', path.read_text(), re.M)


def test_no_undefined_names():
    "Hidden globals: names that a notebook has and the exported module lacks"
    done = subprocess.run(
        [sys.executable, '-m', 'ruff', 'check', '--no-cache', 'medsoft_nb', 'tests', 'setup.py'],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def fresh(code):
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_light_rooms_import_without_torch():
    rooms = ('core', 'knowledge', 'data', 'statistics', 'report', 'running')
    light = [m for m in map(name_of, modules) if m.split('.')[0] in rooms] + ['apps.cli']
    code = f"""
import importlib, sys
for module in {light}:
    importlib.import_module('medsoft_nb.' + module)
    heavy = {{'torch', 'diffusers', 'transformers', 'peft'}} & set(sys.modules)
    assert not heavy, (module, heavy)
"""
    fresh(code)


def test_loading_models_gives_no_hints_of_other_libraries():
    "transformers asks for torchvision wherever its image processors are imported"
    code = """
import medsoft_nb.painting.pipeline, medsoft_nb.training.trainer
from medsoft_nb.models.base import load_base
from medsoft_nb.models.controller import load_controller
load_base()
load_controller()
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'torchvision' not in done.stderr, done.stderr


def test_importing_the_package_imports_nothing_heavy():
    "Importing is instant, since it brings in the standard library only"
    code = """
import sys
before = set(sys.modules)
import medsoft_nb
new = {name.split('.')[0] for name in set(sys.modules) - before}
print(new - sys.stdlib_module_names)
"""
    assert ast.literal_eval(fresh(code)) == {'medsoft_nb'}


def test_version_is_that_of_settings():
    stated = re.search(r'^version = (\S+)', (root / 'settings.ini').read_text(), re.M)[1]
    assert fresh('import medsoft_nb; print(medsoft_nb.__version__)') == stated


def test_tracked_files_are_small():
    big = {str(f.relative_to(root)): f.stat().st_size for f in tracked() if f.stat().st_size > 20 * 2**20}
    assert not big


def test_no_folders_of_one_machine_in_tracked_files():
    words = [b'/work' + b'/', b'/home' + b'/', b'/root' + b'/', b'/Users' + b'/', b'/tmp' + b'/bash']
    binary = {'.png', '.safetensors', '.npy', '.tif', '.jpg', '.parquet'}
    found = {
        str(f.relative_to(root)): w for f in tracked() if f.suffix not in binary for w in words if w in f.read_bytes()
    }
    assert not found


@pytest.mark.parametrize('path', experiments, ids=lambda p: p.stem)
def test_experiments_have_a_parameters_cell(path):
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == 'code']
    assert cells and cells[0].metadata.get('tags') == ['parameters']
    assert 'run' in papermill.inspect_notebook(str(path))
    assert all(not c.outputs for c in cells), 'results belong in the run folder'


@pytest.mark.parametrize('path', experiments, ids=lambda p: p.stem)
def test_experiments_hold_calls_not_logic(path):
    tree = ast.parse(plain(code_of(path)))
    assert not [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef, ast.While, ast.Try))]


@pytest.mark.parametrize('path', pages, ids=lambda p: p.stem)
def test_the_first_cell_of_a_page_holds_title_and_description_alone(path):
    "The site shows nothing else of it"
    first = nbformat.read(path, 4).cells[0]
    assert first.cell_type == 'markdown'
    assert [line for line in first.source.splitlines() if line and line[0] not in '#>'] == []


def test_parameter_tags_survive_cleaning(tmp_path):
    "nbdev-clean strips tags unless told otherwise; papermill's values would then be overridden by the defaults"
    nb = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell('n = 1', metadata={'tags': ['parameters'], 'collapsed': True}),
            nbformat.v4.new_code_cell('print(n)'),
        ],
        metadata={'kernelspec': {'name': 'python3', 'display_name': 'python3', 'language': 'python'}},
    )
    path = tmp_path / 'step.ipynb'
    nbformat.write(nb, path)
    subprocess.run(
        [Path(sys.executable).with_name('nbdev-clean'), '--fname', path], cwd=root, check=True, capture_output=True
    )
    cleaned = json.loads(path.read_text())['cells'][0]['metadata']
    assert cleaned == {'tags': ['parameters']}
    done = papermill.execute_notebook(
        str(path), str(tmp_path / 'done.ipynb'), {'n': 7}, progress_bar=False, kernel_name='python3'
    )
    assert done.cells[-1].outputs[0].text == '7\n'


def test_profiles_only_set_what_notebooks_know(tmp_path):
    "One without a benchmark takes a manifest"
    from medsoft_nb.running.profile import load_profile, profile_names
    from medsoft_nb.running.layout import plan

    assert {'quick', 'full'} <= set(profile_names())
    (own := tmp_path / 'manifest.csv').write_text('image_id,patient_id,image,label\na,P,a.png,healthy\n')
    for name in profile_names():
        profile = load_profile(name)
        assert plan(profile, None if profile['prepare'].get('benchmark', 'the default') else own)


def test_constraints_pin_every_requirement():
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = [line for line in (root / 'constraints.txt').read_text().splitlines() if line and not line.startswith('#')]
    assert all(re.fullmatch(r'[\w.-]+==[\w.]+', line) for line in lines), (
        'exact versions only, no paths, no local suffixes'
    )
    pinned = {canonicalize_name(Requirement(line).name): Requirement(line).specifier for line in lines}
    settings = (root / 'settings.ini').read_text()
    for part in ('requirements', 'dev_requirements'):
        for text in re.search(rf'^{part} = (.*(?:\n\s+.*)*)', settings, re.M)[1].split():
            wanted = Requirement(text)
            (exact,) = pinned[canonicalize_name(wanted.name)]
            assert wanted.specifier.contains(exact.version), f'{text} does not admit {exact.version}'


# Numbers of README that are no claims, by the words around them
NO_CLAIMS = ('Python 3.11', 'MICCAI 2025', 'ECCV 2024', 'arXiv:2409.08260')


def test_numbers_of_the_readme_come_from_claims():
    "Each is put in by `quote`, and is what the claim says"
    from medsoft_nb.report.claims import ledger, quoted_texts, unquoted

    page, claims = (root / 'README.md').read_text(encoding='utf-8'), ledger()
    texts = quoted_texts(root / 'nbs/index.ipynb')
    assert len(texts) > 2
    assert unquoted(page, texts, claims, NO_CLAIMS) == [], 'quote a claim; see nbs/report/claims.ipynb'


def test_a_number_of_the_readme_that_is_no_claim_is_found():
    from medsoft_nb.report.claims import ledger, quoted_texts, unquoted

    page, claims = (root / 'README.md').read_text(encoding='utf-8'), ledger()
    texts = quoted_texts(root / 'nbs/index.ipynb')
    oracle = f"{claims.set_index('id').value['full-phantoms/auc/oracle']:.3f}"
    assert unquoted(page + f' It reached {oracle} in 987 patients.', texts, claims, NO_CLAIMS) == [oracle, '987']
    typed = [*texts, f'AUC of {oracle}']
    assert unquoted(page + f' AUC of {oracle}', typed, claims, NO_CLAIMS) == [oracle]
    with pytest.raises(ValueError, match='does not say'):
        unquoted(page.replace(oracle, '0.999'), texts, claims, NO_CLAIMS)
    with pytest.raises(ValueError, match='No claim has the id'):
        unquoted(page, [*texts, '{{full-phantoms/auc/orakel}}'], claims, NO_CLAIMS)


def test_pictures_of_the_readme_have_a_text():
    texts = re.findall(r'!\[(.*?)\]\(', (root / 'README.md').read_text(encoding='utf-8'))
    assert texts and all(len(t) > 20 for t in texts), texts


def test_the_commands_of_contributing_are_understood():
    text = (root / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    commands = re.findall(r'`(?:\.venv/bin/)?(nbdev-[^`]+)`', text)
    assert any('nbdev-test --save' in command for command in commands)
    for command in commands:
        tool, *words = command.split()
        done = subprocess.run([Path(sys.executable).with_name(tool), *words, '--help'], capture_output=True, text=True)
        assert done.returncode == 0, f'{command}: {done.stderr}'


def test_shipped_models_are_those_of_their_checksums():
    "After a change of a shipped model: `record_files` of `core.sums` on its folder"
    for name in SHIPPED:
        code, text = medsoft('verify', name)
        assert code == 0, text
