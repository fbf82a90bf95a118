"An installed wheel is complete: shipped data, step notebooks, command."

import shutil, subprocess, sys, zipfile
from pathlib import Path
import pytest
from test_hygiene import root, tracked

pytestmark = pytest.mark.slow


@pytest.fixture(scope='session')
def wheel(tmp_path_factory):
    "A wheel built from the tracked files alone"
    source, out = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
    for f in tracked():
        to = source / f.relative_to(root)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(f, to)
    subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '-w', out, source], check=True, capture_output=True
    )
    (made,) = out.glob('*.whl')
    return made


@pytest.fixture(scope='session')
def installed(wheel, tmp_path_factory):
    "Folder that the wheel was installed into"
    target = tmp_path_factory.mktemp('installed')
    subprocess.run(
        [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', target, wheel],
        check=True,
        capture_output=True,
    )
    return target


def run_installed(installed, folder, code):
    "Python `code` against the installed wheel, away from the checkout"
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=folder,
        env={'PYTHONPATH': str(installed), 'PATH': str(Path(sys.executable).parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_wheel_carries_data_and_notebooks(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    data = {
        f'medsoft_nb/_shipped/{f.relative_to(root / "data")}' for f in tracked() if f.is_relative_to(root / 'data')
    }
    steps = {f'medsoft_nb/_experiments/{p.name}' for p in (root / 'nbs/experiments').glob('*.ipynb')}
    flow = {
        f'medsoft_nb/_workflow/{f.relative_to(root / "workflow")}'
        for f in tracked()
        if f.is_relative_to(root / 'workflow')
    }
    assert len(steps) >= 6 and len(data) >= 2 and len(flow) >= 5 and not (data | steps | flow) - names
    assert not [n for n in names if n.startswith(('tests/', 'nbs/'))]


def test_the_installed_library_finds_them(installed, tmp_path):
    code = '''
from pathlib import Path
import medsoft_nb
from medsoft_nb.core.files import data_path, notebooks_path
from medsoft_nb.running.profile import load_profile
from medsoft_nb.running.layout import plan
from medsoft_nb.running.table import workflow_path
package = Path(medsoft_nb.__file__).parent
assert workflow_path('Snakefile').is_file() and workflow_path().is_relative_to(package)
assert data_path().is_relative_to(package), data_path()
assert notebooks_path().is_relative_to(package), notebooks_path()
print(package.parent, len(plan(load_profile('quick'))))'''
    folder, jobs = run_installed(installed, tmp_path, code).split()
    assert Path(folder) == installed and int(jobs) >= 6


def test_the_shipped_base_loads_from_the_wheel(installed, tmp_path):
    code = '''
from medsoft_nb.running.profile import load_profile
from medsoft_nb.models.base import load_base
print(load_base(load_profile('quick')['finetune']['base'])['unet'].config.in_channels)'''
    assert run_installed(installed, tmp_path, code) == '9'


def test_the_command_is_there(installed, tmp_path):
    assert (installed / 'bin/medsoft').exists()
    assert 'reproduce' in run_installed(installed, tmp_path, "from medsoft_nb.apps.cli import main; main(['--help'])")
