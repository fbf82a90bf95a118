"How processes share the tests: each notebook by itself, every other file as a whole, since its tests share results."

import pytest
from xdist.scheduler import LoadScopeScheduling


class ByFileAndNotebook(LoadScopeScheduling):
    def _split_scope(self, nodeid):
        file = nodeid.split('::')[0]
        return nodeid if file.endswith('test_notebooks.py') else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return ByFileAndNotebook(config, log)


def pytest_collection_modifyitems(items):
    "Files first: the notebooks, which are many and short, then keep every process busy to the end"
    items.sort(key=lambda item: item.path.name == 'test_notebooks.py')
