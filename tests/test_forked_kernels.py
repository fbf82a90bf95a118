"Copies of a kernel are what kernels are: they have their own folder, environment and end."

import os, signal, time
import psutil, pytest
from jupyter_client.manager import start_new_kernel

pytestmark = pytest.mark.skipif(os.name != 'posix', reason='kernels are forked on POSIX only')


def answer(client, code):
    "What an expression gives"
    shown = []
    client.execute_interactive(
        f'print({code})', output_hook=lambda m: shown.append(m['content'].get('text', '')), timeout=60
    )
    return ''.join(shown).strip()


@pytest.mark.parametrize('threads, copied', [(None, True), ('3', False)])
def test_a_kernel_has_its_folder_and_environment(tmp_path, threads, copied):
    env = {**os.environ, 'OF_THIS_TEST': 'mine', **({'OMP_NUM_THREADS': threads} if threads else {})}
    manager, client = start_new_kernel(kernel_name='python3', cwd=str(tmp_path), env=env)
    try:
        assert answer(client, '__import__("os").getcwd()') == str(tmp_path)
        assert answer(client, '__import__("os").environ["OF_THIS_TEST"]') == 'mine'
        assert answer(client, '__import__("os").environ.get("OMP_NUM_THREADS")') == str(env.get('OMP_NUM_THREADS'))
        assert answer(client, '"torch" in __import__("sys").modules') == str(copied)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_kernel_is_interrupted_and_ends_with_the_process_that_asked_for_it():
    manager, client = start_new_kernel(kernel_name='python3')
    kernel = psutil.Process(int(answer(client, '__import__("os").getpid()')))
    client.execute('import time; time.sleep(600)', stop_on_error=False)
    while client.get_iopub_msg(timeout=60)['msg_type'] != 'execute_input':
        pass
    time.sleep(1)
    manager.interrupt_kernel()
    assert client.get_shell_msg(timeout=60)['content']['ename'] == 'KeyboardInterrupt'
    assert answer(client, '1 + 1') == '2'
    os.kill(manager.provisioner.pid, signal.SIGKILL)
    assert kernel.wait(30) is None
    client.stop_channels()
