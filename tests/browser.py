"A headless browser and servers on loopback, for the tests that need them."
import os, re, secrets, shutil, socket, subprocess, sys, time, urllib.request
from contextlib import contextmanager
from pathlib import Path
import pytest

REQUIRED = os.environ.get('MEDSOFT_BROWSER') == 'required'
FLAGS = '--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync --force-device-scale-factor=1'


def need_browser():
    "Skip, or fail where the browser is required"
    lacks = [n for n in ('chromium', 'chromedriver') if not shutil.which(n)]
    try: import selenium
    except ImportError: lacks.append('selenium')
    if lacks: (pytest.fail if REQUIRED else pytest.skip)(f"{', '.join(lacks)} not found")


@contextmanager
def browser(folder, width=1280, height=900):
    "A Chromium of its own, with console and network logs"
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which('chromium')
    for flag in FLAGS.split(): options.add_argument(flag)
    options.add_argument(f'--user-data-dir={Path(folder)/"profile"}')
    options.add_argument(f'--window-size={width},{height}')
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
    driver = webdriver.Chrome(options, service=webdriver.ChromeService(shutil.which('chromedriver')))
    try: yield driver
    finally: driver.quit()


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@contextmanager
def server(*words, cwd, port, ready, seconds=60, env=None):
    "A process that serves on `port`, once `ready` (a URL) answers"
    with open(Path(cwd)/'server.log', 'w') as log:
        process = subprocess.Popen([sys.executable, '-m', *map(str, words)], cwd=cwd, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})})
        try:
            end = time.time()+seconds
            while True:
                try: urllib.request.urlopen(ready, timeout=5); break
                except Exception:
                    assert process.poll() is None and time.time() < end, (Path(cwd)/'server.log').read_text()[-3000:]
                    time.sleep(.3)
            yield process
        finally:
            process.terminate()
            try: process.wait(15)
            except subprocess.TimeoutExpired: process.kill()


@contextmanager
def jupyterlab(folder):
    "JupyterLab on loopback with a token; yields the address of a notebook by its name"
    port, token = free_port(), secrets.token_hex(8)
    base = f'http://127.0.0.1:{port}'
    with server('jupyter', 'lab', '--no-browser', '--allow-root', f'--ServerApp.port={port}', '--ServerApp.ip=127.0.0.1', f'--IdentityProvider.token={token}', f'--ServerApp.root_dir={folder}',
            '--LabApp.news_url=', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate', cwd=folder, port=port, ready=f'{base}/api/status?token={token}',
            env={'JUPYTER_CONFIG_DIR': f'{folder}/config', 'JUPYTERLAB_SETTINGS_DIR': f'{folder}/settings', 'OMP_NUM_THREADS': '2'}):
        yield lambda name: f'{base}/doc/tree/{name}?token={token}&reset'


def wait_for(found, seconds=60, every=.2):
    "What `found()` gives once it is true"
    end = time.time()+seconds
    while True:
        try: got = found()
        except Exception as e: got, error = None, e
        else: error = None
        if got: return got
        assert time.time() < end, f'waited {seconds} s in vain ({error})'
        time.sleep(every)


def run_all(driver):
    "Run all cells of the open notebook of JupyterLab, by its menu"
    from selenium.webdriver.common.by import By
    wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, '.jp-Notebook .jp-Cell'), 60)
    wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, '.jp-Toolbar-kernelStatus[title*="Idle"], .jp-Notebook-ExecutionIndicator[data-status="idle"]'), 90)
    for label in ('Run', 'Run All Cells'):
        wait_for(lambda: [e for e in driver.find_elements(By.CSS_SELECTOR, '.lm-MenuBar-itemLabel, .lm-Menu-itemLabel') if e.text.strip() == label and e.is_displayed()], 20)[0].click()


def outside(driver):
    "Requests that left loopback"
    import json
    urls = [m['params']['request']['url'] for e in driver.get_log('performance') if (m := json.loads(e['message'])['message'])['method'] == 'Network.requestWillBeSent']
    return [u for u in urls if not re.match(r'(data|blob|about|chrome|devtools|chrome-extension):|https?://(127\.0\.0\.1|localhost)', u)]
