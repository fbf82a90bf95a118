"The documentation site: built once, every link, every picture's text, and a look with a browser."

import functools, http.server, json, threading
from pathlib import Path
import pytest
from browser import browser, low_contrast, need_browser, outside, wait_for

pytestmark = pytest.mark.slow
root = Path(__file__).parent.parent
PAGES = ('index', 'tutorials/quickstart', 'painting/pipeline', 'gallery', 'explanations/method', 'explanations/ledger')


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    from medsoft_nb.apps.site import site

    return site(tmp_path_factory.mktemp('docs') / 'site', root)


@pytest.fixture(scope='module')
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


@pytest.fixture(scope='module')
def driver(tmp_path_factory):
    need_browser()
    with browser(tmp_path_factory.mktemp('browser')) as driver:
        yield driver


def test_no_link_or_anchor_is_broken_and_nothing_comes_from_elsewhere(site):
    from medsoft_nb.apps.links import check_site

    assert check_site(site) == []


def test_no_shell_of_a_notebook_is_left(site):
    "Python would tidy up each at its end, which takes minutes"
    assert not [thread for thread in threading.enumerate() if thread.name == 'CaptureShell-loop']


def test_every_notebook_and_page_is_there(site):
    for p in (root / 'nbs').rglob('*.ipynb'):
        if any(part.startswith(('.', '_')) or part == 'runs' for part in p.relative_to(root / 'nbs').parts):
            continue
        name = p.relative_to(root / 'nbs').with_suffix('.html')
        assert (site / name).is_file(), p
    for page in ('cards', 'faq', 'changelog', 'gallery', 'howto/gpu', 'howto/resume'):
        assert (site / f'{page}.html').is_file()
    assert 'Not for clinical use' in (site / 'index.html').read_text()
    assert (
        '<math' in (site / 'explanations/method.html').read_text()
        and '\\(' not in (site / 'explanations/method.html').read_text().split('<main')[1].split('<pre')[0]
    )


def test_pages_in_the_browser(site, address, driver):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    for width in (1280, 390):
        driver.set_window_size(width, 900)
        for page in PAGES:
            driver.get(f'{address}/{page}.html')
            wide, room = driver.execute_script('return [document.documentElement.scrollWidth, window.innerWidth]')
            assert wide <= room, f'{page} is {wide} wide in a window of {room}'
            broken = driver.execute_script(
                'return [...document.images].filter(i => i.complete && !i.naturalWidth).length'
            )
            assert not broken, page
    assert [l['message'] for l in driver.get_log('browser') if l['level'] == 'SEVERE'] == []
    assert outside(driver) == []
    assert driver.execute_script("return document.querySelectorAll('math').length") >= 0
    driver.set_window_size(1280, 900)
    driver.get(f'{address}/explanations/method.html')
    assert (
        driver.execute_script(
            "return [...document.querySelectorAll('math')].filter(m => m.getBoundingClientRect().width > 5).length"
        )
        > 5
    )
    driver.get(f'{address}/index.html')
    box = wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, '#quarto-search input'))[0]
    box.send_keys('soft mask')
    wait_for(
        lambda: 'soft' in driver.execute_script("return document.querySelector('#quarto-search').innerText").lower()
    )
    driver.find_element(By.TAG_NAME, 'body').send_keys(Keys.TAB)
    tag, style, width = driver.execute_script(
        'const e = document.activeElement, s = getComputedStyle(e);return [e.tagName, s.outlineStyle, s.outlineWidth]'
    )
    assert tag in ('A', 'BUTTON', 'INPUT') and style != 'none' and width != '0px', (tag, style, width)


def test_texts_can_be_read_in_light_and_dark(address, driver):
    from selenium.webdriver.common.by import By

    driver.get(f'{address}/index.html')
    backgrounds = []
    pale = '<p style="color:#aaa;background:#fff">pale</p>'
    driver.execute_script("document.querySelector('main').insertAdjacentHTML('beforeend', arguments[0])", pale)
    assert [f for f in low_contrast(driver)[0] if f.endswith('pale')]
    for _ in ('light', 'dark'):
        for page in (*PAGES, 'experiments/report', 'tutorials/soft-masks', 'faq', 'cards', 'changelog'):
            driver.get(f'{address}/{page}.html')
            try:
                wait_for(lambda: not low_contrast(driver)[0], 3)  # colours fade in
            except AssertionError:
                pass
            found, n = low_contrast(driver)
            assert n > 50 and found == [], page
        backgrounds.append(driver.execute_script('return getComputedStyle(document.body).backgroundColor'))
        driver.find_element(By.CSS_SELECTOR, '.quarto-color-scheme-toggle').click()
        wait_for(
            lambda: driver.execute_script('return getComputedStyle(document.body).backgroundColor') != backgrounds[-1]
        )
    assert backgrounds[0] != backgrounds[1]


def test_experiments_show_their_outputs(site):
    "Outputs come from `nbs/_executed`; `keep_outputs` makes them anew"
    from medsoft_nb.apps.outputs import experiment_code

    def read(p):
        return json.loads(p.read_text(encoding='utf-8'))

    executed = sorted((root / 'nbs/_executed').glob('*.ipynb'))
    assert {p.stem for p in (root / 'nbs/experiments').glob('*.ipynb')} - {'pretrain', 'controller', 'spine'} == {
        p.stem for p in executed
    }
    for p in executed:
        assert experiment_code(read(p)) == experiment_code(read(root / 'nbs/experiments' / p.name)), (
            f'{p.name} was executed with other code'
        )
        assert 'The outputs below are those of one small run' in (site / f'experiments/{p.stem}.html').read_text()
    assert (
        'AUC on held-out patients' in (site / 'experiments/report.html').read_text()
        and (site / 'experiments/report.html').read_text().count('<img') >= 5
    )
