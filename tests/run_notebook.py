"""A notebook is run in its folder, as nbdev-test does, in a process of its own.

What a notebook sets (pandas, matplotlib, torch) must not show in another. No cell has a limit of time, since some
processors are several times slower than others. The process is forked from one that has imported the large libraries,
which takes longer than most notebooks.
"""

import os, sys
from pathlib import Path
from copies import copies
from forked_kernels import collect_less, renew_threads

root = Path(__file__).parent.parent


def run_notebook(
    path,  # Notebook
    to,  # Where it is written, with its outputs
):  # Exit status, and what was printed
    log = Path(to).with_suffix('.log')
    process = copies.Process(target=_run, args=(path, to, log))
    process.start()
    process.join()
    return process.exitcode, log.read_text(encoding='utf-8', errors='replace')


def _run(path, to, log):
    import nbdev.test
    from fastcore.nbio import write_nb
    from nbdev.config import get_config

    with open(log, 'w') as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
    os.chdir(root)
    collect_less()
    renew_threads()
    nbdev.test.write_nb = lambda nb, _: write_nb(nb, to)
    passed, _ = nbdev.test.test_nb(path, skip_flags=get_config().tst_flags.split(), save=True, cell_timeout=None)
    sys.exit(not passed)
