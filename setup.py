"Package metadata comes from settings.ini; pyproject.toml only declares it dynamic."

import sys
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=['='], interpolation=None)
parser.read(here / 'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']
lib = cfg['lib_name']
readme = here / 'README.md'
# Folders outside the package that an installed wheel carries inside it: see `core.files.data_path`,
# `core.files.notebooks_path` and `running.table.workflow_path`.
outside = {f'{lib}._shipped': 'data', f'{lib}._experiments': 'nbs/experiments', f'{lib}._workflow': 'workflow'}
editable = 'editable_wheel' in sys.argv  # `pip install -e` reads them from the checkout
carried = {name: folder for name, folder in outside.items() if (here / folder).is_dir() and not editable}

extras = ('dev', 'studio', 'workflow', 'dicom', 'encoders', 'tracking')

setup(
    version=cfg['version'],
    description=cfg['description'],
    author=cfg['author'],
    license_expression=cfg['license'],
    keywords=cfg['keywords'].split(),
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else '',
    long_description_content_type='text/markdown',
    packages=[*find_packages(include=[lib, f'{lib}.*']), *carried],
    package_dir={lib: lib, **carried},
    package_data={name: ['*', '**/*'] for name in carried},
    exclude_package_data={name: ['.ipynb_checkpoints/*'] for name in carried},
    install_requires=cfg['requirements'].split(),
    extras_require={k: cfg[f'{k}_requirements'].split() for k in extras},
    entry_points=dict(console_scripts=cfg['console_scripts'].split(), nbdev=[f'{lib}={lib}._modidx:d']),
)
