"The documentation site: built once, every link, every picture's text, and a look with a browser."
import functools, http.server, json, threading
from pathlib import Path
import pytest
from browser import browser, need_browser, outside, wait_for

pytestmark = pytest.mark.slow
root = Path(__file__).parent.parent


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    from medsoft_nb.docs import site
    return site(tmp_path_factory.mktemp('docs')/'site', root)


@pytest.fixture(scope='module')
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


def test_no_link_or_anchor_is_broken_and_nothing_comes_from_elsewhere(site):
    from medsoft_nb.docs import check_site
    assert check_site(site) == []


def test_every_notebook_and_page_is_there(site):
    for p in (root/'nbs').rglob('*.ipynb'):
        if 'runs' in p.parts or p.name.startswith(('.', '_')) or '.ipynb_checkpoints' in p.parts: continue
        name = p.relative_to(root/'nbs').with_suffix('.html')
        assert (site/name.with_name(name.name[3:] if name.name[:2].isdigit() else name.name)).is_file(), p
    for page in ('cards', 'faq', 'changelog', 'gallery', 'howto/gpu', 'howto/resume'): assert (site/f'{page}.html').is_file()
    assert 'Not for clinical use' in (site/'index.html').read_text()
    assert '<math' in (site/'explanations/method.html').read_text() and '\\(' not in (site/'explanations/method.html').read_text().split('<main')[1].split('<pre')[0]


def test_pages_in_the_browser(site, address, tmp_path):
    need_browser()
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    pages = ('index', 'tutorials/quickstart', 'pipeline', 'gallery', 'explanations/method', 'explanations/ledger')
    with browser(tmp_path) as driver:
        for width in (1280, 390):
            driver.set_window_size(width, 900)
            for page in pages:
                driver.get(f'{address}/{page}.html')
                wide, room = driver.execute_script('return [document.documentElement.scrollWidth, window.innerWidth]')
                assert wide <= room, f'{page} is {wide} wide in a window of {room}'
                broken = driver.execute_script('return [...document.images].filter(i => i.complete && !i.naturalWidth).length')
                assert not broken, page
        assert [l['message'] for l in driver.get_log('browser') if l['level'] == 'SEVERE'] == []
        assert outside(driver) == []
        assert driver.execute_script("return document.querySelectorAll('math').length") >= 0
        driver.set_window_size(1280, 900); driver.get(f'{address}/index.html')
        background = lambda: driver.execute_script('return getComputedStyle(document.body).backgroundColor')
        light = background(); driver.find_element(By.CSS_SELECTOR, '.quarto-color-scheme-toggle').click()
        wait_for(lambda: background() != light, 10)
        box = wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, '#quarto-search input'), 10)[0]
        box.send_keys('soft mask')
        wait_for(lambda: 'soft' in driver.execute_script("return document.querySelector('#quarto-search').innerText").lower(), 15)
        driver.find_element(By.TAG_NAME, 'body').send_keys(Keys.TAB)
        driver.save_screenshot(str(tmp_path/'dark.png'))
