"""Kernels of notebooks, forked from one process that has imported the large libraries.

The imports of torch, diffusers and transformers take longer than most of the tests' notebooks. `conftest.py` starts
the server and puts a kernel named `python3` before the installed one; Jupyter and papermill start it as they start any
kernel, and it asks the server for a copy. What an interpreter reads once, at its start, cannot be given to a copy:
where such a variable differs from the server's, the ordinary kernel is started.

    python forked_kernels.py serve SOCKET          the server, until its standard input ends
    python forked_kernels.py start SOCKET WORDS    a kernel with the words `-f CONNECTION_FILE`
"""

import gc, json, os, signal, socket, subprocess, sys, threading
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

READ_AT_START = ('PYTHON', 'OMP_', 'OPENBLAS_', 'MKL_', 'ATEN_', 'ONEDNN_', 'CUDA_', 'HF_', 'MPL', 'HOME', 'TZ')
LATER = ('PYTHONHASHSEED', 'PYTHONWARNINGS', 'MPLBACKEND')  # The server's hold where a kernel is told none
PRELOADED = (
    'medsoft_nb.evaluation.arms',
    'medsoft_nb.evaluation.quality',
    'medsoft_nb.painting.pipeline',
    'medsoft_nb.report.figures',
    'medsoft_nb.running.missing',
    'medsoft_nb.training.trainer',
)


@contextmanager
def forked_kernels(folder, environment=os.environ):
    "What joins the environment of a process, so that its kernels are copies"
    from medsoft_nb.running.jobs import KERNEL_ENVIRONMENT

    address, program = str(folder / 'kernels'), [sys.executable, str(Path(__file__).resolve())]
    spec = {'argv': [*program, 'start', address, '-f', '{connection_file}'], 'display_name': 'python3'}
    kernel = folder / 'jupyter/kernels/python3'
    kernel.mkdir(parents=True)
    (kernel / 'kernel.json').write_text(json.dumps({**spec, 'language': 'python', 'metadata': {'debugger': True}}))
    env = {**environment, **KERNEL_ENVIRONMENT, 'MPLBACKEND': 'module://matplotlib_inline.backend_inline'}
    server = subprocess.Popen([*program, 'serve', address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
    server.stdout.readline()  # it listens
    paths = [str(folder / 'jupyter'), environment.get('JUPYTER_PATH')]
    try:
        yield {'JUPYTER_PATH': os.pathsep.join(filter(None, paths))}
    finally:
        server.stdin.close()
        server.wait()


def fixed(environment):
    return {name: value for name, value in environment.items() if name.startswith(READ_AT_START)}


def serve(address):
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(16)
    print('listening', flush=True)
    sys.path.remove(str(Path(__file__).resolve().parent))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a copy
    while True:
        connection, _ = listener.accept()
        for name in ('ipykernel.kernelapp', *PRELOADED):
            import_module(name)
        collect_less()
        if os.fork() == 0:
            listener.close()
            be_kernel(connection)
        connection.close()


def collect_less():
    "What was imported is no garbage, and garbage is looked for less often: a tenth of the time of many tests"
    gc.freeze()
    gc.set_threshold(50_000)


def renew_threads():
    "torch makes the pool of its threads anew in a copy, and fails where two threads do it at once"
    import torch

    torch.set_num_threads(torch.get_num_threads())


def be_kernel(connection):
    "What a copy does: it becomes the kernel that was asked for, and ends with the process that asked"
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, files, _, _ = socket.recv_fds(connection, 2**20, 3)
    asked = json.loads(message)
    mine, theirs = fixed(os.environ), fixed(asked['environment'])
    same = {**{name: mine[name] for name in LATER if name in mine}, **theirs} == mine
    connection.send(b'y' if same else b'n')
    if not same:
        os._exit(0)
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(asked['folder'])
    os.environ.clear()
    os.environ.update({**mine, **asked['environment']})
    threading.Thread(target=follow, args=(connection,), daemon=True).start()
    renew_threads()
    sys.argv = ['ipykernel_launcher', *asked['words'], f'--IPKernelApp.parent_handle={os.getppid()}']
    from ipykernel import kernelapp

    try:
        kernelapp.launch_new_instance()
    finally:
        sys.stdout.flush()
        os._exit(0)


def follow(connection):
    "Pass interrupts on, and end with the connection"
    while connection.recv(1):
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(1)


def start(address, words):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    signal.signal(signal.SIGINT, lambda *_: connection.send(b'i'))
    asked = {'environment': dict(os.environ), 'folder': os.getcwd(), 'words': words}
    socket.send_fds(connection, [json.dumps(asked).encode()], [0, 1, 2])
    if connection.recv(1) == b'y':
        connection.recv(1)  # nothing comes but the end
    else:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execv(sys.executable, [sys.executable, '-m', 'ipykernel_launcher', *words])


if __name__ == '__main__':
    serve(sys.argv[2]) if sys.argv[1] == 'serve' else start(sys.argv[2], sys.argv[3:])
