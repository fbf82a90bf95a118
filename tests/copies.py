"""Processes that are copies of one which has imported the large libraries: that takes longer than most of the tests.

A `Copy` stands for `subprocess.Popen` where a test starts the command line, or a part of the library, by itself.
"""

import multiprocessing, os, sys, tempfile, weakref
from pathlib import Path
from forked_kernels import collect_less, PRELOADED

copies = multiprocessing.get_context('forkserver')
copies.set_forkserver_preload(['nbdev.test', 'medsoft_nb.apps.cli', *PRELOADED])
MEDSOFT = 'from medsoft_nb.apps.cli import main; main()'


class Copy:
    "A process that runs Python code, with the methods of `subprocess.Popen` that the tests use; it ends with them"

    def __init__(self, code, *words, cwd='.', threads=1, **env):
        self.logs = tempfile.TemporaryDirectory()
        self.files = [Path(self.logs.name) / name for name in ('out', 'error')]
        env = {**os.environ, 'MEDSOFT_PROGRESS': '0', 'OMP_NUM_THREADS': str(threads), **env}
        self.process = copies.Process(target=_run, args=(code, [str(word) for word in words], cwd, env, self.files))
        self.process.start()
        weakref.finalize(self, self.process.kill)

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.process.exitcode

    def wait(self):
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number):
        if self.process.exitcode is None:
            os.kill(self.process.pid, number)

    def communicate(self, timeout=None):
        "What it printed on both streams, when it is over"
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f'the process does not end within {timeout} seconds')
        return [file.read_text(encoding='utf-8', errors='replace') for file in self.files]


def _run(code, words, cwd, env, files):
    "Make this copy a process of its own: its streams, its folder, its environment, its code"
    import torch

    collect_less()
    for number, file in enumerate(files, 1):
        with open(file, 'w') as f:
            os.dup2(f.fileno(), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    torch.set_num_threads(int(env['OMP_NUM_THREADS']))
    sys.argv = ['medsoft', *words]
    exec(code, {'__name__': '__main__'})
