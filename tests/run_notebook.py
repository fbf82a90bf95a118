"Run a notebook in its folder, as nbdev-test does, and write it with its outputs: `run_notebook.py NOTEBOOK TO`"

import sys
import nbdev.test
from fastcore.nbio import write_nb
from nbdev.config import get_config

notebook, to = sys.argv[1:]
nbdev.test.write_nb = lambda nb, path: write_nb(nb, to)
passed, _ = nbdev.test.test_nb(notebook, skip_flags=get_config().tst_flags.split(), save=True)
sys.exit(not passed)
