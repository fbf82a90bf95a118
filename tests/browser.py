"A headless browser and servers on loopback, for the tests that need them."

import json, os, re, secrets, shutil, socket, subprocess, sys, time, urllib.request
from contextlib import contextmanager
from pathlib import Path
import pytest

REQUIRED = os.environ.get('MEDSOFT_BROWSER') == 'required'
FLAGS = """
--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --force-device-scale-factor=1
"""


def need_browser():
    "Skip, or fail where the browser is required"
    lacks = [n for n in ('chromium', 'chromedriver') if not shutil.which(n)]
    try:
        import selenium
    except ImportError:
        lacks.append('selenium')
    if lacks:
        (pytest.fail if REQUIRED else pytest.skip)(f"{', '.join(lacks)} not found")


@contextmanager
def browser(folder, width=1280, height=900):
    "A Chromium of its own, with console and network logs"
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which('chromium')
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f'--user-data-dir={Path(folder) / "profile"}')
    options.add_argument(f'--window-size={width},{height}')
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
    driver = webdriver.Chrome(options, service=webdriver.ChromeService(shutil.which('chromedriver')))
    try:
        yield driver
    finally:
        driver.quit()


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@contextmanager
def server(*words, cwd, port, ready, seconds=300, env=None):
    "A process that serves on `port`, once `ready` (a URL) answers"
    with open(Path(cwd) / 'server.log', 'w') as log:
        process = subprocess.Popen(
            [sys.executable, '-m', *map(str, words)],
            cwd=cwd,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
        )
        try:
            end = time.time() + seconds
            while True:
                try:
                    urllib.request.urlopen(ready, timeout=5)
                    break
                except Exception:
                    assert process.poll() is None and time.time() < end, (Path(cwd) / 'server.log').read_text()[-3000:]
                    time.sleep(0.3)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def jupyterlab(folder, theme='JupyterLab Light'):
    "JupyterLab on loopback with a token; yields the address of a notebook by its name"
    settings = Path(folder) / 'settings/@jupyterlab/apputils-extension/themes.jupyterlab-settings'
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({'theme': theme}))
    port, token = free_port(), secrets.token_hex(8)
    base = f'http://127.0.0.1:{port}'
    with server(
        'jupyter',
        'lab',
        '--no-browser',
        '--allow-root',
        f'--ServerApp.port={port}',
        '--ServerApp.ip=127.0.0.1',
        f'--IdentityProvider.token={token}',
        f'--ServerApp.root_dir={folder}',
        '--LabApp.news_url=',
        '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate',
        cwd=folder,
        port=port,
        ready=f'{base}/api/status?token={token}',
        env={'JUPYTER_CONFIG_DIR': f'{folder}/config', 'JUPYTERLAB_SETTINGS_DIR': f'{folder}/settings'},
    ):
        yield lambda name: f'{base}/doc/tree/{name}?token={token}&reset'


def wait_for(found, seconds=300, every=0.2):
    "What `found()` gives once it is true"
    end = time.time() + seconds
    while True:
        try:
            got = found()
        except Exception as e:
            got, error = None, e
        else:
            error = None
        if got:
            return got
        assert time.time() < end, f'waited {seconds} s in vain ({error})'
        time.sleep(every)


def run_all(driver):
    "Run all cells of the open notebook of JupyterLab, by its menu"
    from selenium.webdriver.common.by import By

    wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, '.jp-Notebook .jp-Cell'))
    wait_for(
        lambda: driver.find_elements(
            By.CSS_SELECTOR,
            '.jp-Toolbar-kernelStatus[title*="Idle"], .jp-Notebook-ExecutionIndicator[data-status="idle"]',
        )
    )
    for label in ('Run', 'Run All Cells'):
        wait_for(
            lambda: [
                e
                for e in driver.find_elements(By.CSS_SELECTOR, '.lm-MenuBar-itemLabel, .lm-Menu-itemLabel')
                if e.text.strip() == label and e.is_displayed()
            ]
        )[0].click()


def outside(driver):
    "Requests that left loopback"
    urls = [
        m['params']['request']['url']
        for e in driver.get_log('performance')
        if (m := json.loads(e['message'])['message'])['method'] == 'Network.requestWillBeSent'
    ]
    return [
        u
        for u in urls
        if not re.match(r'(data|blob|about|chrome|devtools|chrome-extension):|https?://(127\.0\.0\.1|localhost)', u)
    ]


CONTRAST = """
const linear = v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; };
const light = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
const colour = s => {
  const m = s.match(/[\\d.]+/g).map(Number);
  const channels = m.slice(0, 3).map(v => s.startsWith('color(') ? v * 255 : v);
  return [...channels, m[3] ?? 1];
};
const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
const behind = e => {
  const all = [];
  for (; e; e = e.parentElement) {
    const c = colour(getComputedStyle(e).backgroundColor);
    all.push(c);
    if (c[3] == 1) break;
  }
  return all.reverse().reduce((b, c) => over(c, b), [255, 255, 255, 1]);
};
const opacity = e => {
  let o = 1;
  for (; e; e = e.parentElement) o *= getComputedStyle(e).opacity;
  return o;
};
const ratio = (a, b) => {
  const [high, low] = [light(a), light(b)].sort((x, y) => y - x);
  return (high + .05) / (low + .05);
};
const found = [];
const walk = document.createTreeWalker(arguments[0] ?? document.body, NodeFilter.SHOW_TEXT);
let n = 0;
while (walk.nextNode()) {
  const text = walk.currentNode.textContent.trim();
  const e = walk.currentNode.parentElement;
  const s = getComputedStyle(e);
  const visible = text && e.getClientRects().length && s.visibility != 'hidden' && opacity(e);
  if (!visible || e.closest(':disabled')) continue;
  const background = behind(e);
  const c = colour(s.color);
  const contrast = ratio(over([...c.slice(0, 3), c[3] * opacity(e)], background), background);
  const size = parseFloat(s.fontSize);
  const large = size >= 24 || size >= 18.66 && s.fontWeight >= 700;
  n++;
  if (contrast < (large ? 3 : 4.5)) {
    const where = background.slice(0, 3).map(Math.round);
    found.push(`${contrast.toFixed(2)} ${s.color} on ${where}: ${text.slice(0, 40)}`);
  }
}
return [n, found];
"""


def low_contrast(driver, element=None):
    "Texts whose contrast is below level AA of WCAG 2.2 (4.5; 3 for large text), and the number of texts"
    n, found = driver.execute_script(CONTRAST, element)
    return found, n
