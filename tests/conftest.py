"""How processes share the tests, and the kernels that they start.

Each notebook is tested by itself, every other file as a whole, since its tests share results.
"""

import os, tempfile
from contextlib import ExitStack
from pathlib import Path
import pytest
from forked_kernels import collect_less, forked_kernels
from xdist.scheduler import LoadScopeScheduling


class ByFileAndNotebook(LoadScopeScheduling):
    def _split_scope(self, nodeid):
        file = nodeid.split('::')[0]
        return nodeid if file.endswith('test_notebooks.py') else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return ByFileAndNotebook(config, log)


def pytest_collection_modifyitems(items):
    "Files, then notebooks; first what trains, which takes longest: short notebooks keep every process busy to the end"
    items.sort(key=lambda item: (item.path.name == 'test_notebooks.py', 'trains' not in item.keywords))


def pytest_collection_finish():
    collect_less()


def pytest_configure(config):
    "The library of this checkout and one server of kernels for all processes"
    if hasattr(config, 'workerinput') or config.option.collectonly or os.name != 'posix':
        return
    roots = [str(Path(__file__).parent.parent), os.environ.get('PYTHONPATH')]
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, roots))  # processes of tests have this checkout's library
    stack = ExitStack()
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    os.environ.update(stack.enter_context(forked_kernels(Path(folder))))
    config.add_cleanup(stack.close)
