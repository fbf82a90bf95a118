"The Studio's door: its token stands in no command line, nobody passes without it, and nothing is left when it ends."

import os, re, shutil, signal, subprocess, sys, urllib.error, urllib.parse, urllib.request
from contextlib import suppress
from http.cookiejar import CookieJar
from pathlib import Path
import psutil, pytest
from browser import free_port, wait_for
from command import medsoft
from medsoft_nb.apps.door import end_server, start_server, studio_server
from medsoft_nb.running.notebooks import write_notebook

pytest.importorskip('voila')
pytestmark = pytest.mark.slow
METHODS = ('GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS')
ID = '00000000-0000-0000-0000-000000000000'
KERNEL = f'/api/kernels/{ID}'
COMMAND = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as in a terminal
from medsoft_nb.apps import serve
serve.check_studio = lambda *words, **more: None  # it takes long, and is tested elsewhere
serve.serve_studio(out='kept', port={port})
"""
FILLED = ('x', '', '../../etc/passwd', '%2e%2e%2fx', '%00', 'a/b/c', 'lab/static/voila.js', '%ff', 'x' * 3000)


def answer(url, method='GET', data=None, opener=None):
    "Status, address and text of an answer"
    request = urllib.request.Request(url, data, method=method)
    try:
        with (opener or urllib.request.build_opener()).open(request, timeout=120) as found:
            return found.status, found.geturl(), found.read().decode(errors='replace')
    except urllib.error.HTTPError as error:
        return error.code, error.geturl(), error.read().decode(errors='replace')


def is_up(port):
    return lambda: answer(f'http://127.0.0.1:{port}/')


def tree(process):
    found = psutil.Process(process.pid)
    return [found, *found.children(recursive=True)]


def alive(processes):
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def cannot_be_read(process, token):
    "The token stands in no command line and in no environment of a process"
    for one in tree(process):
        assert token not in ' '.join(one.cmdline()), one.cmdline()
        assert token not in ''.join(one.environ().values()), one.cmdline()


@pytest.fixture(autouse=True)
def kernels_of_its_own(monkeypatch):
    "Kernels that are children of the server, as users have them: copies of `forked_kernels` are not"
    monkeypatch.delenv('JUPYTER_PATH', raising=False)


@pytest.fixture
def small(tmp_path):
    "The server with a small notebook in place of the Studio's"
    folder, port, token = tmp_path / 'server', free_port(), 'secret-of-the-door'
    folder.mkdir()
    book = write_notebook(folder / 'book.ipynb', 'print("the inside")', tags=())
    process = start_server(book, port, token)
    wait_for(is_up(port))
    yield process, f'http://127.0.0.1:{port}', token, folder
    end_server(process)


def routes():
    "Addresses of every handler that the server registers, filled in"
    server = studio_server()(token='x', ip='127.0.0.1', open_browser=False)
    server.initialize(['--template=studio', str(Path(__file__).parent)])
    server.init_settings()
    server.notebook_path = server.notebook_path or __file__
    patterns = [route[0] for route in server.init_handlers()]
    assert len(patterns) > 8
    found = {KERNEL, f'{KERNEL}/channels'}
    for pattern in patterns:
        pattern = re.sub(r'\(\?P<kernel_id>[^)]*\)', ID, pattern)
        found |= {re.sub(r'\(.*\)', filled.replace('\\', '/'), pattern) for filled in FILLED}
    return sorted(found)


def test_every_address_is_closed(small):
    _, address, _, _ = small
    open_to_all = ('/login',)
    for path in routes():
        for method in METHODS:
            status, url, text = answer(address + path, method, b'x=1' if method in ('POST', 'PUT', 'PATCH') else None)
            assert status < 500, (method, path, text)
            assert 'the inside' not in text and 'Traceback' not in text
            if status == 200:
                assert urllib.parse.urlparse(url).path in open_to_all, (method, path)


def test_wrong_tokens_are_refused_and_the_right_one_opens(small):
    process, address, token, _ = small
    for wrong in ('', 'wrong', token[:-1], token.upper(), '%00', '%ff', '<script>'):
        status, url, text = answer(f'{address}/?token={wrong}')
        assert status < 500 and 'the inside' not in text
    status, url, text = answer(f'{address}/?token={token}')
    assert status == 200 and 'the inside' in text and 'login' not in url
    cannot_be_read(process, token)


def test_the_form_takes_the_token_and_a_cookie_keeps_it(small):
    _, address, token, _ = small
    jar = CookieJar()
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    status, _, form = answer(f'{address}/', opener=opener)
    guard = re.search(r'name="_xsrf" value="([^"]+)"', form)[1]
    for password, says in (('wrong', 'not the token'), (token, 'the inside')):
        data = urllib.parse.urlencode(dict(_xsrf=guard, password=password)).encode()
        status, _, text = answer(f'{address}/login', 'POST', data, opener)
        assert says in text, (status, text[:300])
    assert 'the inside' in answer(f'{address}/', opener=opener)[2]
    assert token not in str([cookie.value for cookie in jar])
    assert 'the inside' not in answer(f'{address}/')[2]


@pytest.mark.parametrize('how', ['end', 'SIGTERM', 'SIGHUP', 'SIGINT', 'pipe'])
def test_nothing_of_the_server_is_left(small, how):
    process, address, token, folder = small
    assert answer(f'{address}/?token={token}')[0] == 200
    processes = tree(process)
    assert len(processes) > 1  # a kernel
    if how == 'end':
        end_server(process)
    elif how == 'pipe':
        process.stdin.close()  # as when the command is killed
    else:
        process.send_signal(getattr(signal, how))
    wait_for(lambda: process.poll() is not None and not alive(processes) and not folder.exists(), 60)


def read_alive(processes, what):
    "What the operating system knows of processes; of those that have ended in the meantime, nothing"
    found = []
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            found.append(getattr(one, what)())
    return found


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT', 'SIGHUP'])
def test_the_command_ends_with_all_it_began(tmp_path, name):
    port, token, temporary = free_port(), 'a-token-of-the-user', tmp_path / 'temporary'
    temporary.mkdir()
    words = [sys.executable, '-c', COMMAND.format(port=port)]
    env = {**os.environ, 'TMPDIR': str(temporary), 'MEDSOFT_STUDIO_TOKEN': token}
    with open(tmp_path / 'log', 'w') as log:
        process = subprocess.Popen(words, cwd=tmp_path, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(is_up(port))
        page = urllib.request.urlopen(f'http://127.0.0.1:{port}/?token={token}', timeout=120)  # comes bit by bit
        wait_for(lambda: len(tree(process)) > 2)  # the command, the server, and a kernel
        processes = tree(process)
        assert list(temporary.glob('medsoft-studio-*'))
        words, settings = read_alive(processes, 'cmdline'), read_alive(processes[1:], 'environ')
        assert len(words) > 2 and token not in str(words)
        assert len(settings) > 1 and token not in str(settings)
        process.send_signal(getattr(signal, name))
        wait_for(lambda: process.poll() is not None and not alive(processes), 120)
        page.close()
        assert not list(temporary.glob('medsoft-studio-*')) and not list(temporary.glob('voila_*'))
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(temporary, ignore_errors=True)
    with pytest.raises(urllib.error.URLError):
        answer(f'http://127.0.0.1:{port}/')


def test_no_option_takes_a_token():
    code, said = medsoft('studio', '--token', 'secret')
    assert code == 2 and 'secret' not in said
