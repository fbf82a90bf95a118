"How the tests are shared out: each notebook by itself, every other file as a whole, since its tests share what they made."
import pytest


@pytest.hookimpl(tryfirst=True)   # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.name != 'test_notebooks.py':
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
